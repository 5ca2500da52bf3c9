"""Keys: the private keys of an embedded server, made once for a state directory, and what is signed with them.

The form of what is signed is in `claims`, the server's configuration in `server`. Keys are never shown, logged or
overwritten: whoever has the operator's key can make every other, so the folder is its owner's alone.
"""

import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, TypeVar

import msgspec

from crewkeeper_bus import claims
from crewkeeper_bus.claims import ClaimsError, Key
from crewkeeper_bus.credentials import Credentials
from crewkeeper_bus.errors import ServerError
from crewkeeper_bus.subjects import Permissions

FOLDER: Final = "keys"
"""Where keys are, in a state directory."""
KEYRING_FILE: Final = "embedded.json"
JOURNAL_KEY_FILE: Final = "journal.json"
_FILE_MAX_BYTES: Final = 64 * 1024

Model = TypeVar("Model", bound=msgspec.Struct)
Role = Literal["callout", "system", "supervisor"]
_ACCOUNTS: Final[Mapping[Role, str]] = {"callout": "auth", "system": "system", "supervisor": "crews"}


class Keyring(msgspec.Struct, frozen=True, kw_only=True):
    """Seeds of everything that an embedded server trusts. Its representation shows none.

    Attributes:
        operator: Signs the accounts.
        system: The account that servers report to.
        auth: The account that logins are decided in.
        crews: The account that agents and supervisors work in.
        system_user: Who asks the server to look at connections and to close them.
        callout_user: Who decides about logins.
        supervisor_user: The supervisor, with every right in `crews`.
        nobody_user: Who a client without credentials of its own is until the callout has decided; may do nothing.
    """

    operator: str
    system: str
    auth: str
    crews: str
    system_user: str
    callout_user: str
    supervisor_user: str
    nobody_user: str

    def __repr__(self) -> str:
        return "Keyring(***)"

    def public(self, name: str) -> str:
        """The public name of a key.

        Raises:
            ServerError: The key is damaged.
        """
        return self.key(name).public

    def key(self, name: str) -> Key:
        """The key of this name, e.g. `operator`.

        Raises:
            ServerError: It is damaged.
        """
        try:
            return Key(getattr(self, name))
        except ClaimsError as error:
            raise ServerError(
                f"the key {name!r} of {KEYRING_FILE} is damaged ({error}): restore the folder {FOLDER} from a backup, "
                "or remove it to have new keys made; journals are then no longer found"
            ) from None

    def user(self, role: Role, url: str) -> Credentials:
        """The credentials of one of the supervisor's own users; they do not expire, and do not pass the callout.

        Raises:
            ServerError: A key is damaged.
        """
        own, name = self.key(f"{role}_user"), f"_{role}"
        jwt = claims.user(self.key(_ACCOUNTS[role]), subject=own.public, name=name, permissions=None)
        return Credentials(url=url, user=name, jwt=jwt, seed=own.seed)

    def account(self, name: Literal["system", "auth", "crews"], mappings: Mapping[str, str] | None = None) -> str:
        """The JWT of an account.

        Args:
            name: Which.
            mappings: Subject mappings, see `claims.account`.

        Raises:
            ServerError: A key is damaged.
        """
        is_auth = name == "auth"
        return claims.account(
            self.key("operator"),
            subject=self.public(name),
            name=name.upper(),
            jetstream=name == "crews",
            subs=claims.SUBS_MAX if name == "crews" else claims.UNLIMITED,
            mappings=mappings,
            auth_users=[self.public("callout_user")] if is_auth else (),
            allowed_accounts=[self.public("crews")] if is_auth else (),
        )

    def operator_jwt(self) -> str:
        """The JWT of the operator.

        Raises:
            ServerError: A key is damaged.
        """
        return claims.operator(self.key("operator"), name="crewkeeper", system_account=self.public("system"))

    def nobody_jwt(self) -> str:
        """The JWT of who a client without one is until the callout has decided.

        Raises:
            ServerError: A key is damaged.
        """
        public, nothing = self.public("nobody_user"), Permissions((), ())
        return claims.user(self.key("auth"), subject=public, name="_nobody", permissions=nothing, bearer=True)


def keyring(state_dir: Path) -> Keyring:
    """The keys of a state directory, made now if it has none.

    Raises:
        ServerError: They are readable by others, or cannot be read or written.
    """
    found = load_keyring(state_dir)
    if found is not None:
        return found
    accounts = {name: Key.make("account").seed for name in ("system", "auth", "crews")}
    users = ("system_user", "callout_user", "supervisor_user", "nobody_user")
    made = Keyring(operator=Key.make("operator").seed, **accounts, **{name: Key.make("user").seed for name in users})
    write_once(state_dir / FOLDER / KEYRING_FILE, made)
    return load_keyring(state_dir) or made  # somebody else's, if two made them at once


class JournalKey(msgspec.Struct, frozen=True, kw_only=True):
    """What stored streams are encrypted with. Its representation does not show it.

    Attributes:
        key: 32 random bytes, base64.
        cipher: In the words of the server's configuration.
    """

    key: str
    cipher: Literal["aes", "chachapoly"] = "aes"

    def __repr__(self) -> str:
        return "JournalKey(***)"


def journal_key(state_dir: Path) -> Path:
    """The file with the key of a state directory's streams, made now if it has none; the server includes it.

    Raises:
        ServerError: It is readable by others, or cannot be read or written.
    """
    path = state_dir / FOLDER / JOURNAL_KEY_FILE
    if read_private(path, JournalKey) is None:
        write_once(path, JournalKey(key=secrets.token_urlsafe(32)))
        read_private(path, JournalKey)
    return path


def load_keyring(state_dir: Path) -> Keyring | None:
    """The keys of a state directory; None if it has none.

    Raises:
        ServerError: They are readable by others, or cannot be read.
    """
    return read_private(state_dir / FOLDER / KEYRING_FILE, Keyring)


def write_once(path: Path, content: msgspec.Struct) -> bool:
    """Write a file that only its owner can read, in a folder that only its owner can enter, unless it exists.

    Returns:
        Whether it was written; an existing file is left as it is.

    Raises:
        ServerError: It cannot be written.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        for folder in (path.parent.parent, path.parent):  # the mode is for the last folder of a path alone
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_private(path.parent)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(msgspec.json.format(msgspec.json.encode(content)) + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
            os.link(draft, path)  # unlike a rename it never replaces
        finally:
            draft.unlink(missing_ok=True)
    except FileExistsError:
        return False
    except OSError as error:
        raise ServerError(f"{path} cannot be written: {error.strerror}") from None
    return True


def read_private(path: Path, model: type[Model]) -> Model | None:
    """Read a file with secrets; None if there is none.

    Raises:
        ServerError: Others than its owner can read it or enter its folder, or it is not of the model.
    """
    try:
        with path.open("rb") as stream:
            _check_private(path.parent)
            _check_private(path)
            data = stream.read(_FILE_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ServerError(f"{path} cannot be read: {error.strerror}") from None
    try:
        if len(data) > _FILE_MAX_BYTES:
            raise ValueError("too large")
        return msgspec.json.decode(data, type=model)
    except (ValueError, RecursionError):  # without the text: it may quote a secret
        raise ServerError(f"{path} is damaged: restore it from a backup, or remove it to have it made anew") from None


def _check_private(path: Path) -> None:
    """Refuse what others could have read.

    Raises:
        ServerError: Its mode lets others in, or it is somebody else's.
    """
    status = path.stat()
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        right = "700" if stat.S_ISDIR(status.st_mode) else "600"
        raise ServerError(
            f"{path} has mode {mode:04o}, so others may have read its keys: if nobody has, chmod {right} {path}"
        )
    if status.st_uid not in (os.geteuid(), 0):
        raise ServerError(f"{path} belongs to user {status.st_uid}, not to us ({os.geteuid()}): chown it, or remove it")
