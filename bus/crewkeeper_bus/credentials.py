"""Credentials: who connects where, as a struct, a private JSON file and a client's options; nothing is issued here."""

import os
import secrets
import stat
from collections import UserString
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from crewkeeper_bus.addresses import each_of
from crewkeeper_bus.errors import ConfigError

FILE_MAX_BYTES: Final = 64 * 1024
"""A credentials file that is larger is not one."""
_CREDS_FILE: Final = (
    "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n"
    "-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
)


class Credentials(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one identity needs to connect: a password, or a private key with or without a JWT for it, or nothing.

    No secret ever shows in `repr` or `str`.

    Attributes:
        url: The server, e.g. `nats://127.0.0.1:4222`; several of one cluster with commas between them.
        user: The name the server knows the identity by.
        password: Its secret.
        jwt: A user JWT; needs `seed`.
        seed: The user's private key, `SU…`; it signs the server's challenge and is not sent. Without a JWT, the server
            must know the public key from its configuration.
        expires_at: When the server stops taking them, unix seconds; None: they do not expire.
        session_s: How long one connection may live before the server ends it; None: no limit. Where it is set, a
            supervisor decides about every login, and the client makes itself known as one process (`nats_transport`).
    """

    url: str
    user: str = ""
    password: str = ""
    jwt: str = ""
    seed: str = ""
    expires_at: float | None = None
    session_s: float | None = None

    def __repr__(self) -> str:
        hidden = "".join(f"{name}='***', " for name in ("password", "jwt", "seed") if getattr(self, name))
        return (
            f"Credentials(url={redacted(self.url)!r}, user={self.user!r}, {hidden}"
            f"expires_at={self.expires_at}, session_s={self.session_s})"
        )

    def options(self, mark: str = "") -> dict[str, Any]:
        """The keyword arguments that make nats-py's `connect` log in with them; the address is not among them.

        Args:
            mark: Goes behind a password, for whoever decides about logins.
        """
        if self.seed and self.jwt:
            # What is no plain str is taken for the content of a credentials file, not for its path.
            return {"user_credentials": UserString(_CREDS_FILE.format(jwt=self.jwt, seed=self.seed))}
        if self.seed:
            return {"nkeys_seed_str": self.seed}
        if self.user or self.password:
            return {"user": self.user or None, "password": self.password + mark or None}
        return {}

    def to_file(self, path: str | os.PathLike[str]) -> None:
        """Write them to `path` in one step, readable by the owner only."""
        write_private(Path(path), msgspec.json.format(msgspec.json.encode(self)) + b"\n")


def from_file(path: str | os.PathLike[str], *, check_permissions: bool = False) -> Credentials:
    """Read credentials from a JSON file `{"url", "user", "password", "expires_at", "jwt", "seed"}`, url required.

    Args:
        path: The file; read anew at every call, so that a rewritten file takes effect.
        check_permissions: Refuse a file that others than its owner can read.

    Raises:
        ConfigError: The file is missing, too large, readable by others, or not such a JSON object.
    """
    file = Path(path)
    try:
        with file.open("rb") as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            data = stream.read(FILE_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"credentials file {file}: {error.strerror}; ask the host for a new one") from None
    if check_permissions and mode & 0o077:
        raise ConfigError(f"credentials file {file} has mode {mode:04o}, so others can read it: chmod 600 {file}")
    if len(data) > FILE_MAX_BYTES:
        raise ConfigError(f"credentials file {file} has more than {FILE_MAX_BYTES} bytes: it is another file")
    try:
        return msgspec.json.decode(data, type=Credentials)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"credentials file {file}: {error}; expected a JSON object with url, user, password, expires_at"
        ) from None


def redacted(url: str) -> str:
    """The url without user, password, path and query: what may be shown. Of several, each."""
    return ",".join(map(_redacted, each_of(url)))


def _redacted(url: str) -> str:
    try:
        parts = urlsplit(url if "://" in url else f"nats://{url}")
        host = parts.hostname or "?"
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "<invalid url>"
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{port}"


def write_private(path: Path, data: bytes) -> None:
    """Replace `path` by `data` in one step, mode 0600 from the first byte on."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
