"""Authority: what a supervisor may sign, as whom it talks to a server, and what that lets it enforce.

Four modes, from strongest to none: `operator` (an embedded server, whose keys are all ours), `config` (an existing
cluster with one `auth_callout` block), `signing` (nothing but a signing key of an account) and `observe`. Who is let
in, and as what, is decided in `access` and `callout`; the keys of an embedded server are `crewkeeper_bus.keys`.
"""

from pathlib import Path
from typing import Final, Literal

import msgspec
from msgspec import Struct

from crewkeeper_bus import claims, keys
from crewkeeper_bus.claims import ClaimsError, Key
from crewkeeper_bus.credentials import Credentials
from crewkeeper_bus.errors import ConfigError, ServerError
from crewkeeper_bus.keys import Keyring
from crewkeeper_bus.subjects import Permissions

Mode = Literal["operator", "config", "signing", "observe"]

AUTHORITY_FILE: Final = "authority.json"
SIGNED_LIFE_S: Final = 60
"""How long credentials live in mode `signing`, where nothing but their end takes them away."""

_CANNOT_ENFORCE: Final[dict[Mode, str]] = {
    "operator": "The server enforces everything: who an agent is, what it may send and hear, pause and kill.",
    "config": (
        "The server enforces everything. A paused agent is disconnected, and what it sends while it is paused is "
        "refused instead of held back."
    ),
    "signing": (
        "The server confines every agent to its own name, but cannot be told to cut it off: an agent that ignores "
        f"pause or kill goes on until its credentials end, at most {SIGNED_LIFE_S} s later. Stolen credentials cannot "
        "be seen and cannot be revoked sooner."
    ),
    "observe": (
        "Nothing is enforced: all agents connect as the host does, so any of them can speak in another's name and "
        "reach everything the host can; pause and kill are requests, and a kill is a signal to a process of this host."
    ),
}


class AuthorityFile(Struct, frozen=True, kw_only=True):
    """What `<state>/keys/authority.json` holds of an existing server. Its representation shows no key.

    Attributes:
        mode: `config` or `signing`.
        signer: Seed of the account key that signs users: the callout's issuer, or the signing key.
        account: The account agents work in: its name (`config`) or public key (`signing`).
        auth_account: Name of the account that logins are decided in; `config` only.
        system_account: Name of the account that servers report to; `config` only.
        callout_user: Seed; `config` only.
        system_user: Seed; `config` only.
        supervisor_user: Seed.
        keep_users: Users of the cluster that log in without the callout; `config` only.
    """

    mode: Literal["config", "signing"]
    signer: str
    account: str
    supervisor_user: str
    auth_account: str = ""
    system_account: str = ""
    callout_user: str = ""
    system_user: str = ""
    keep_users: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"AuthorityFile(mode={self.mode!r}, account={self.account!r})"


class Authority:
    """The right to sign for one server. Make it with `of`, `load` or `observing`.

    Attributes:
        mode: How much the server can be made to enforce.
        callout: Credentials for the account that logins are decided in; empty in `signing` and `observe`.
        system: Credentials for the system account; empty in `signing` and `observe`.
        supervisor: Credentials with every right in the agents' account; empty in `observe`.
        account: The agents' account, as the server's reports name it; empty in `observe`.
    """

    def __init__(
        self,
        mode: Mode,
        *,
        url: str = "",
        account: str = "",
        signer: Key | None = None,
        answerer: Key | None = None,
        keyring: Keyring | None = None,
        users: dict[str, Credentials] | None = None,
    ) -> None:
        """Not for callers: see the class methods.

        Args:
            mode: How much the server can be made to enforce.
            url: The server.
            account: Name or public key of the agents' account.
            signer: Signs users.
            answerer: Signs answers to login requests.
            keyring: Every key, in mode `operator`.
            users: Credentials by role: callout, system, supervisor.
        """
        given = users or {}
        self.mode: Final = mode
        self.account: Final = account
        self.callout: Final = given.get("callout", Credentials(url=""))
        self.system: Final = given.get("system", Credentials(url=""))
        self.supervisor: Final = given.get("supervisor", Credentials(url=url))
        self._signer = signer
        self._answerer = answerer
        self._keyring = keyring

    def __repr__(self) -> str:
        return f"Authority(mode={self.mode!r}, account={self.account!r})"

    # --- where it comes from ---

    @classmethod
    def load(cls, state_dir: Path, url: str = "") -> "Authority | None":
        """The authority that a state directory holds.

        Args:
            state_dir: The state directory.
            url: Address of the server; empty: of the embedded one of this directory, if one runs, else whatever the
                directory has keys for.

        Returns:
            None if it has no keys for that server: all that is left is `observing`.

        Raises:
            ServerError: The keys are readable by others, or damaged.
        """
        embedded = _embedded_url(state_dir)
        if embedded and url in ("", embedded):
            return cls._of_keyring(state_dir, embedded)
        return cls._of_file(state_dir, url) or (None if url else cls._of_keyring(state_dir, ""))

    @classmethod
    def observing(cls, url: str = "") -> "Authority":
        """The authority over a server that trusts no key of ours: none."""
        return cls("observe", url=url)

    @classmethod
    def _of_keyring(cls, state_dir: Path, url: str) -> "Authority | None":
        found = keys.load_keyring(state_dir)
        if found is None:
            return None
        users = {
            "callout": found.user("callout", url),
            "system": found.user("system", url),
            "supervisor": found.user("supervisor", url),
        }
        crews = found.key("crews")
        return cls(
            "operator",
            url=url,
            account=crews.public,
            signer=crews,
            answerer=found.key("auth"),
            keyring=found,
            users=users,
        )

    @classmethod
    def _of_file(cls, state_dir: Path, url: str) -> "Authority | None":
        path = state_dir / keys.FOLDER / AUTHORITY_FILE
        found = keys.read_private(path, AuthorityFile)
        if found is None:
            return None
        try:
            return _of_config(found, url) if found.mode == "config" else _of_signing(found, url)
        except ClaimsError as error:
            raise ServerError(f"{path} is damaged ({error}): restore it from a backup, or remove it") from None

    # --- what it can do ---

    @property
    def enforces(self) -> bool:
        """Whether the server can be made to pause and kill: the modes with a callout."""
        return self.mode in ("operator", "config")

    @property
    def cannot_enforce(self) -> str:
        """What this mode leaves open, in plain words, for people: one to three whole sentences."""
        return _CANNOT_ENFORCE[self.mode]

    def user_jwt(
        self,
        *,
        subject: str,
        name: str,
        permissions: Permissions,
        expires_at: int,
        payload_bytes: int,
        subs: int,
    ) -> str:
        """A user JWT in the agents' account.

        Args:
            subject: Public key of the user: `user_nkey` of a login request, or a key made for it.
            name: Name that the server lists its connections under.
            permissions: Exactly what it may do; empty means nothing.
            expires_at: When the server closes its connection, unix seconds.
            payload_bytes: Largest message it may publish.
            subs: How many subscriptions it may have.

        Raises:
            ConfigError: Mode `observe`: there is nothing to sign with.
        """
        account = self.account
        return claims.user(
            self._key(self._signer),
            subject=subject,
            name=name,
            permissions=permissions,
            expires_at=expires_at,
            payload_bytes=payload_bytes,
            subs=subs,
            audience=account if self.mode == "config" else "",
            issuer_account=account if self.mode == "signing" else "",
        )

    def response(self, *, subject: str, server_id: str, jwt: str = "", error: str = "") -> bytes:
        """The answer to a login request; exactly one of `jwt` and `error`.

        Args:
            subject: `user_nkey` of the request.
            server_id: `server_id` of the request.
            jwt: The user JWT to let it in with.
            error: Why it is refused; only the server sees it.

        Raises:
            ConfigError: A mode without a callout.
        """
        return claims.response(self._key(self._answerer), subject=subject, server_id=server_id, jwt=jwt, error=error)

    def account_claims(self, mappings: dict[str, str]) -> str:
        """The JWT of the agents' account with these subject mappings and no others, for `$SYS.REQ.CLAIMS.UPDATE`.

        Raises:
            ConfigError: Another mode than `operator`.
        """
        if self._keyring is None:
            raise ConfigError(f"mode {self.mode} cannot map subjects: that takes the operator's key")
        return self._keyring.account("crews", mappings)

    def _key(self, key: Key | None) -> Key:
        if key is None:
            raise ConfigError(f"mode {self.mode} has no key for this. {self.cannot_enforce}")
        return key


def make_config_block(
    state_dir: Path,
    *,
    account: str = "CREWS",
    auth_account: str = "CREWS_AUTH",
    system_account: str = "SYS",
    keep_users: tuple[str, ...] = (),
) -> str:
    """The block for the configuration of an existing cluster, and keys for it in the state directory.

    Keys are made once: called again, it returns the block of the keys that are there. The block holds public keys only.

    Args:
        state_dir: Where the keys go, `keys/authority.json`.
        account: Name of the account that agents will work in.
        auth_account: Name of the account that logins are decided in.
        system_account: Name of the cluster's system account.
        keep_users: Users of the cluster (names or public keys) that log in as they do now.

    Raises:
        ConfigError: A name is no plain word, or the directory has the keys of something else.
        ServerError: The keys cannot be written, or others can read them.
    """
    for name in (account, auth_account, system_account, *keep_users):
        if not name or not set(name) <= _WORD:
            raise ConfigError(f"{name[:80]!r} is no name for a server's configuration: use letters, digits, _ - . @")
    path = state_dir / keys.FOLDER / AUTHORITY_FILE
    wanted = AuthorityFile(
        mode="config",
        signer=Key.make("account").seed,
        account=account,
        supervisor_user=Key.make("user").seed,
        auth_account=auth_account,
        system_account=system_account,
        callout_user=Key.make("user").seed,
        system_user=Key.make("user").seed,
        keep_users=keep_users,
    )
    keys.write_once(path, wanted)
    found = keys.read_private(path, AuthorityFile)
    assert found is not None
    for field in ("mode", "account", "auth_account", "system_account", "keep_users"):
        there, asked = getattr(found, field), getattr(wanted, field)
        if there != asked:
            raise ConfigError(f"{path} has keys for {field} {there!r}, not {asked!r}: use another state directory")
    return _block(found)


def store_signing_key(state_dir: Path, *, account: str, seed: str) -> None:
    """Keep a signing key of an account, for mode `signing`.

    Args:
        state_dir: Where it goes, `keys/authority.json`.
        account: Public key of the account, `A…`.
        seed: The signing key, `SA…`; not a scoped one, whose permissions are not ours to choose.

    Raises:
        ConfigError: They are not what they should be, or the directory has the keys of something else.
        ServerError: It cannot be written, or others can read it.
    """
    if not claims.is_public(account, "account"):
        raise ConfigError("an account's public key has 56 characters and begins with A")
    try:
        signer = Key(seed)
    except ClaimsError as error:
        raise ConfigError(str(error)) from None
    if not claims.is_public(signer.public, "account"):
        raise ConfigError("a signing key of an account begins with SA")
    path = state_dir / keys.FOLDER / AUTHORITY_FILE
    wanted = AuthorityFile(mode="signing", signer=signer.seed, account=account, supervisor_user=Key.make("user").seed)
    keys.write_once(path, wanted)
    found = keys.read_private(path, AuthorityFile)
    assert found is not None
    if (found.mode, found.signer, found.account) != ("signing", signer.seed, account):
        raise ConfigError(f"{path} has keys of something else: use another state directory")


_WORD: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.@")


def _of_config(found: AuthorityFile, url: str) -> Authority:
    issuer = Key(found.signer)
    users = {
        "callout": Credentials(url=url, seed=Key(found.callout_user).seed),
        "system": Credentials(url=url, seed=Key(found.system_user).seed),
        "supervisor": Credentials(url=url, seed=Key(found.supervisor_user).seed),
    }
    return Authority("config", url=url, account=found.account, signer=issuer, answerer=issuer, users=users)


def _of_signing(found: AuthorityFile, url: str) -> Authority:
    signer, own = Key(found.signer), Key(found.supervisor_user)
    jwt = claims.user(signer, subject=own.public, name="_supervisor", permissions=None, issuer_account=found.account)
    users = {"supervisor": Credentials(url=url, jwt=jwt, seed=own.seed)}
    return Authority("signing", url=url, account=found.account, signer=signer, users=users)


def _block(found: AuthorityFile) -> str:
    issuer, callout, system, supervisor = (
        Key(seed).public for seed in (found.signer, found.callout_user, found.system_user, found.supervisor_user)
    )
    kept = "".join(f", {name}" for name in found.keep_users)
    return f"""\
# For the configuration of every server of the cluster. Nothing in it is secret. Where there is an `accounts` or an
# `authorization` already, put these lines into it: a second one would replace the first. Whoever is not listed in
# `auth_users` is let in by a supervisor, or not at all.
accounts {{
  {found.auth_account} {{ users: [ {{ nkey: {callout} }} ] }}
  {found.account} {{
    jetstream: enabled
    limits: {{ max_subs: {claims.SUBS_MAX} }}
    users: [ {{ nkey: {supervisor} }} ]
  }}
  {found.system_account} {{ users: [ {{ nkey: {system} }} ] }}
}}
system_account: {found.system_account}
authorization {{
  timeout: 2
  auth_callout {{
    issuer: {issuer}
    account: {found.auth_account}
    auth_users: [ {callout}, {supervisor}, {system}{kept} ]
  }}
}}
"""


class _ServerFile(Struct):
    url: str
    jwt: str = ""


def _embedded_url(state_dir: Path) -> str:
    """Where the embedded server of a state directory listens; empty if `server.json` is not there or not of one."""
    try:
        found = msgspec.json.decode((state_dir / "server.json").read_bytes(), type=_ServerFile)
    except (OSError, ValueError):
        return ""
    return found.url if found.jwt else ""
