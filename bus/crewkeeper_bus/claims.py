"""Claims: NATS JWTs, version 2, made and read: operator, account, user, and the two of a login through the callout.

Which keys there are and where they are kept is `keys`; who is let in is decided elsewhere. A JWT here is three parts
of base64url, `header.claims.signature`, signed with Ed25519 by a key whose own name (an *nkey*) says what it may sign.

Only what this system needs is written, and nothing is left to a default that means "everything": an identity without
a single subject to publish on is denied all of them, because the server reads an empty list as no restriction.
"""

import base64
import binascii
import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
import nkeys
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from crewkeeper_bus.errors import CodecError
from crewkeeper_bus.subjects import Permissions

REQUEST_MAX_BYTES: Final = 64 * 1024
"""A request for a login is larger than this only if it is none: the server bounds what a client may send."""
REQUEST_AUDIENCE: Final = "nats-authorization-request"
UNLIMITED: Final = -1
SUBS_MAX: Final = 10_000
"""How many subscriptions one connection may have in the agents' account. An agent needs a dozen, a supervisor a few for
each run; without a limit an agent could fill the server's memory with subscriptions to its own subjects."""

KeyKind = Literal["operator", "account", "user", "server"]

_PREFIXES: Final[Mapping[str, int]] = {
    "operator": nkeys.PREFIX_BYTE_OPERATOR,
    "account": nkeys.PREFIX_BYTE_ACCOUNT,
    "user": nkeys.PREFIX_BYTE_USER,
    "server": nkeys.PREFIX_BYTE_SERVER,
}
_KEY_CHARS: Final = 56
"""Length of an encoded public key: one byte for its kind, 32 of the key, two of checksum, in base32."""
_ALLOW_NOTHING: Final = {"deny": [">"]}


class ClaimsError(CodecError):
    """A key, a JWT or a login request is not what it claims to be. The text never holds a secret."""


class Key:
    """A private key and its public name.

    Attributes:
        public: The name, e.g. `A…` for an account.
    """

    def __init__(self, seed: str) -> None:
        """Read a seed.

        Args:
            seed: As `nk` and `nsc` write it: `SO…`, `SA…`, `SU…`.

        Raises:
            ClaimsError: It is not a seed.
        """
        self._seed = seed.strip()
        try:
            prefix, raw = nkeys.decode_seed(self._seed.encode("ascii"))
            good = nkeys.encode_seed(bytes(raw), prefix).decode("ascii") == self._seed  # nkeys checks no checksum
        except (nkeys.NkeysError, ValueError, IndexError):
            good = False
        if not good:
            raise ClaimsError("not the seed of an nkey: expected 58 characters beginning with SO, SA, SU or SN")
        self._signing = SigningKey(bytes(raw))
        self.public = _encoded(prefix, bytes(self._signing.verify_key))

    @classmethod
    def make(cls, kind: KeyKind) -> "Key":
        """A new random key."""
        return cls(nkeys.encode_seed(bytes(SigningKey.generate()), _PREFIXES[kind]).decode("ascii"))

    @property
    def seed(self) -> str:
        """The secret."""
        return self._seed

    def __repr__(self) -> str:
        return f"Key({self.public})"

    def sign(self, claims: Mapping[str, Any]) -> str:
        """The JWT of these claims, which it completes by `iss`, `iat` and `jti`."""
        dated = {"iat": int(time.time()), "iss": self.public, **claims}
        digest = hashlib.sha256(msgspec.json.encode(dated)).digest()
        whole = {"jti": base64.b32encode(digest).decode("ascii").rstrip("="), **dated}
        signed = f"{_HEADER}.{_part(msgspec.json.encode(whole))}"
        return f"{signed}.{_part(self._signing.sign(signed.encode('ascii')).signature)}"


class LoginRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a server says of somebody who wants to log in. Its representation never shows a secret.

    Attributes:
        server_id: Public key of the server that asks; the answer is good for it alone.
        server_name: Its name.
        user_nkey: The key that the answer's user JWT must be made out to.
        cid: The connection's number on that server.
        host: Where it connects from.
        user: The user name given; empty if none.
        password: The password given.
        token: The token given.
        name: The name the client gives its connection: anything.
        kind: What sort of client it is, e.g. `nats`, `websocket`.
    """

    server_id: str
    server_name: str
    user_nkey: str
    cid: int
    host: str
    user: str
    password: str
    token: str
    name: str
    kind: str

    def __repr__(self) -> str:
        return f"LoginRequest(user={self.user[:80]!r}, cid={self.cid}, server={self.server_name[:80]!r})"


def is_public(value: str, kind: KeyKind) -> bool:
    """Whether a string is the public name of a key of this kind."""
    return _decoded(value, _PREFIXES[kind]) is not None


def operator(key: Key, *, name: str, system_account: str) -> str:
    """An operator's JWT, signed by itself.

    Args:
        key: The operator's.
        name: For people.
        system_account: Public key of the account that servers report to.
    """
    body = {"type": "operator", "version": 2, "system_account": system_account}
    return key.sign({"name": name, "sub": key.public, "nats": body})


def account(
    key: Key,
    *,
    subject: str,
    name: str,
    jetstream: bool = False,
    subs: int = UNLIMITED,
    mappings: Mapping[str, str] | None = None,
    signing_keys: Sequence[str] = (),
    auth_users: Sequence[str] = (),
    allowed_accounts: Sequence[str] = (),
) -> str:
    """An account's JWT, without limits of its own.

    Args:
        key: The operator's.
        subject: Public key of the account.
        name: For people.
        jetstream: Whether it may have streams.
        subs: How many subscriptions each connection may have.
        mappings: What is published on the key goes to the value instead, in server syntax.
        signing_keys: Public keys that sign its users beside its own.
        auth_users: Users who log in without the callout; if given, everybody else needs it.
        allowed_accounts: Public keys of the accounts that the callout may place users in; `*` for every one.
    """
    limits = dict.fromkeys(("data", "payload", "imports", "exports", "conn", "leaf"), UNLIMITED)
    storage = UNLIMITED if jetstream else 0
    limits |= dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), storage)
    body: dict[str, Any] = {
        "type": "account",
        "version": 2,
        "limits": {**limits, "subs": subs, "wildcards": True},
        "default_permissions": {"pub": {}, "sub": {}},
    }
    if mappings:
        body["mappings"] = {source: [{"subject": target, "weight": 100}] for source, target in mappings.items()}
    if signing_keys:
        body["signing_keys"] = list(signing_keys)
    if auth_users:
        body["authorization"] = {"auth_users": list(auth_users), "allowed_accounts": list(allowed_accounts)}
    return key.sign({"name": name, "sub": subject, "nats": body})


def user(
    key: Key,
    *,
    subject: str,
    name: str,
    permissions: Permissions | None,
    expires_at: int = 0,
    payload_bytes: int = UNLIMITED,
    subs: int = UNLIMITED,
    issuer_account: str = "",
    audience: str = "",
    bearer: bool = False,
) -> str:
    """A user's JWT: who it is, what it may do, until when.

    Args:
        key: The account's, or one of its signing keys.
        subject: Public key of the user.
        name: The name the server lists its connections under.
        permissions: What it may do; None: everything in its account.
        expires_at: When the server closes its connection, unix seconds; 0: never.
        payload_bytes: Largest message it may publish; nats-server 2.15 ignores it where the callout let the user in.
        subs: How many subscriptions it may have; ignored likewise, unlike the limit of the account.
        issuer_account: The account's public key, if `key` is one of its signing keys.
        audience: In answers to a server without operator: the name of the account that it is placed in.
        bearer: Whether the JWT alone is enough to log in, without the user's private key.
    """
    body: dict[str, Any] = {"type": "user", "version": 2, "subs": subs, "data": UNLIMITED, "payload": payload_bytes}
    for right in ("pub", "sub"):
        body[right] = {}
    if permissions is not None:
        body["pub"] = {"allow": list(permissions.publish)} if permissions.publish else _ALLOW_NOTHING
        body["sub"] = {"allow": list(permissions.subscribe)} if permissions.subscribe else _ALLOW_NOTHING
    if issuer_account and issuer_account != key.public:
        body["issuer_account"] = issuer_account
    if bearer:
        body["bearer_token"] = True
    claims: dict[str, Any] = {"name": name, "sub": subject, "nats": body}
    if audience:
        claims["aud"] = audience
    if expires_at:
        claims["exp"] = expires_at
    return key.sign(claims)


def response(key: Key, *, subject: str, server_id: str, jwt: str = "", error: str = "") -> bytes:
    """The answer to a login request: a user JWT, or why there is none.

    Args:
        key: The callout account's.
        subject: `user_nkey` of the request.
        server_id: `server_id` of the request.
        jwt: A user JWT for that subject.
        error: Why the login is refused; the server logs it and does not tell the client.

    Raises:
        ValueError: Neither `jwt` nor `error` is given, or both are.
    """
    if bool(jwt) == bool(error):
        raise ValueError("a login is either let in by a JWT or refused by an error")
    outcome = {"jwt": jwt} if jwt else {"error": error}
    body = {"type": "authorization_response", "version": 2, **outcome}
    return key.sign({"aud": server_id, "sub": subject, "nats": body}).encode("ascii")


def login_request(data: bytes) -> LoginRequest:
    """Read a login request: signed by the server that it names, for somebody's key, and meant for a callout.

    Whether that server is one of ours is known from where the request came in: nobody else may publish there. Its
    expiry is not looked at: clocks differ, and a late answer is refused by the server itself.

    Raises:
        ClaimsError: It is too large, encrypted, not signed by its server, or not a login request.
    """
    if len(data) > REQUEST_MAX_BYTES:
        raise ClaimsError(f"login request of {len(data)} bytes; the limit is {REQUEST_MAX_BYTES}")
    claims = _verified(data)
    server, client, given = claims.nats.server_id, claims.nats.client_info, claims.nats.connect_opts
    if claims.aud != REQUEST_AUDIENCE or claims.nats.type != "authorization_request":
        raise ClaimsError("a JWT, but not a login request")
    if claims.iss != server.id:
        raise ClaimsError("login request in the name of another server than its signer")
    if not is_public(claims.nats.user_nkey, "user"):
        raise ClaimsError("login request without a user's key")
    return LoginRequest(
        server_id=server.id,
        server_name=server.name,
        user_nkey=claims.nats.user_nkey,
        cid=client.id,
        host=client.host,
        user=given.user,
        password=given.password,
        token=given.auth_token,
        name=given.name,
        kind=client.type,
    )


def unverified(jwt: str) -> dict[str, Any]:
    """The claims of a JWT, whoever signed it: for showing and for tests, never for a decision.

    Raises:
        ClaimsError: It is no JWT.
    """
    try:
        return msgspec.json.decode(_unpart(jwt.split(".")[1].encode("ascii")), type=dict[str, Any])
    except (ValueError, IndexError, RecursionError):
        raise ClaimsError("not a JWT") from None


def signed_by(jwt: str, kind: KeyKind) -> dict[str, Any]:
    """The claims of a JWT that is truly signed by the key that it names, which is of this kind.

    Whether that key is one to trust is for the caller to say.

    Raises:
        ClaimsError: It is no JWT, or not signed so.
    """
    claims = unverified(jwt)
    try:
        signed, _, signature = jwt.encode("ascii").rpartition(b".")
        head = msgspec.json.decode(_unpart(signed.partition(b".")[0]), type=_Header)
        signer = _decoded(str(claims.get("iss", "")), _PREFIXES[kind])
        if signer is None or head.alg != "ed25519-nkey":
            raise ValueError
        VerifyKey(signer).verify(signed, _unpart(signature))
    except (BadSignatureError, ValueError, RecursionError):
        raise ClaimsError(f"a JWT without a right signature of a {kind}'s key") from None
    return claims


# --- the wire form of a request ---


class _Header(msgspec.Struct, frozen=True):
    typ: str
    alg: str


class _Server(msgspec.Struct, frozen=True):
    id: str
    name: str = ""


class _ClientInfo(msgspec.Struct, frozen=True):
    id: int = 0
    host: str = ""
    type: str = ""


class _Given(msgspec.Struct, frozen=True):
    user: str = ""
    password: str = msgspec.field(default="", name="pass")
    auth_token: str = ""
    name: str = ""


class _RequestBody(msgspec.Struct, frozen=True):
    server_id: _Server
    user_nkey: str
    type: str
    version: int
    client_info: _ClientInfo = _ClientInfo()
    connect_opts: _Given = _Given()


class _RequestClaims(msgspec.Struct, frozen=True):
    iss: str
    aud: str
    nats: _RequestBody


def _verified(data: bytes) -> _RequestClaims:
    parts = data.split(b".")
    if len(parts) != 3:
        raise ClaimsError("login request that is no JWT; encryption of requests (xkey) is not supported")
    try:
        header = msgspec.json.decode(_unpart(parts[0]), type=_Header)
        claims = msgspec.json.decode(_unpart(parts[1]), type=_RequestClaims)
        signature = _unpart(parts[2])
    except (ValueError, RecursionError):  # what msgspec and base64 raise are ValueErrors; their text may quote secrets
        raise ClaimsError("login request that cannot be read") from None
    if header.typ.lower() != "jwt" or header.alg != "ed25519-nkey" or claims.nats.version != 2:
        raise ClaimsError("login request of another kind or version: expected ed25519-nkey, version 2")
    signer = _decoded(claims.iss, _PREFIXES["server"])
    if signer is None:
        raise ClaimsError("login request that no server has signed")
    try:
        VerifyKey(signer).verify(parts[0] + b"." + parts[1], signature)
    except (BadSignatureError, ValueError):
        raise ClaimsError("login request with a wrong signature") from None
    return claims


# --- encodings ---


def _part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def _unpart(data: bytes) -> bytes:
    return base64.b64decode(data + b"=" * (-len(data) % 4), altchars=b"-_", validate=True)


def _encoded(prefix: int, raw: bytes) -> str:
    named = bytes([prefix]) + raw
    return base64.b32encode(named + nkeys.crc16_checksum(named)).decode("ascii").rstrip("=")


def _decoded(public: str, prefix: int) -> bytes | None:
    """The 32 bytes of a public key, if it is one of this kind."""
    if len(public) != _KEY_CHARS:
        return None
    try:
        raw = base64.b32decode(public)
    except (binascii.Error, ValueError):
        return None
    if raw[0] != prefix or bytes(nkeys.crc16_checksum(raw[:-2])) != raw[-2:]:
        return None
    return raw[1:-2]


_HEADER: Final = _part(msgspec.json.encode({"typ": "JWT", "alg": "ed25519-nkey"}))
