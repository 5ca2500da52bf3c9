"""Contexts: names for servers and what is needed to reach them, kept in files; those of `nats` are only read.

Ours are under `~/.config/crewkeeper/contexts`, one JSON file each, mode 0600; theirs under `~/.config/nats/context`,
named `nats:NAME` here.
"""

import os
import re
from contextvars import ContextVar
from pathlib import Path
from typing import Final, Literal, TypeVar

import msgspec
from msgspec import Struct

from crewkeeper_bus.credentials import Credentials, write_private
from crewkeeper_bus.errors import ConfigError
from crewkeeper_supervisor.shell.errors import ContextNotFound

chosen: ContextVar[str] = ContextVar("crewkeeper_context", default="")
"""The context that the command line names; no child process gets to know it."""
NATS_PREFIX: Final = "nats:"
FILE_MAX_BYTES: Final = 64 * 1024
_Kind = TypeVar("_Kind")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z")
_JWT: Final = re.compile(r"-----BEGIN NATS USER JWT-----\s+(\S+)\s+-+END NATS USER JWT-+")
_SEED: Final = re.compile(r"-----BEGIN USER NKEY SEED-----\s+(\S+)\s+-+END USER NKEY SEED-+")
_UNREADABLE: Final = ("token", "nkey", "cert", "key", "ca", "nsc", "socks_proxy", "windows_cert_store")
"""Keys of the `nats` command's contexts that cannot be followed here."""


class Context(Struct, frozen=True, kw_only=True):
    """One context. Its representation never shows a secret."""

    name: str
    url: str
    user: str = ""
    password: str = ""
    creds: str = ""
    """Path of a credentials file as `nsc` writes it."""
    origin: Literal["own", "nats"] = "own"

    def __repr__(self) -> str:
        return f"Context(name={self.name!r}, url={self.url!r}, user={self.user!r}, creds={self.creds!r})"

    def credentials(self) -> Credentials:
        """What to connect with.

        Raises:
            ConfigError: The credentials file cannot be read, or is none.
        """
        if not self.creds:
            return Credentials(url=self.url, user=self.user, password=self.password)
        path = Path(self.creds).expanduser()
        text = _read(path).decode("utf-8", "replace")
        jwt, seed = _JWT.search(text), _SEED.search(text)
        if jwt is None or seed is None:
            raise ConfigError(f"{path} is no credentials file: it has no user JWT, or no seed")
        return Credentials(url=self.url, jwt=jwt[1], seed=seed[1])


def folder() -> Path:
    """Where our contexts are; it need not exist."""
    return _config() / "crewkeeper" / "contexts"


def _config() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")


def _nats_folder() -> Path:
    return _config() / "nats" / "context"


def _in_use_file() -> Path:
    return _config() / "crewkeeper" / "context"


def ls() -> list[str]:
    """Names of all contexts, ours first."""
    own = sorted(file.stem for file in folder().glob("*.json") if _NAME.match(file.stem))
    return own + sorted(NATS_PREFIX + file.stem for file in _nats_folder().glob("*.json"))


def get(name: str) -> Context:
    """One context.

    Raises:
        ContextNotFound: There is none of this name.
        ConfigError: Its file is no context, or asks for what cannot be followed here.
    """
    if name.startswith(NATS_PREFIX):
        return _of_nats(name)
    path = folder() / f"{name}.json"
    if not _NAME.match(name) or not path.is_file():
        theirs = _NAME.match(name) and (_nats_folder() / f"{name}.json").is_file()
        hint = f"the nats command has one, which is {NATS_PREFIX}{name} here; " if theirs else ""
        raise ContextNotFound(f"no context {name[:60]!r}: {hint}`supervisor context ls` lists them")
    return _decoded(path, Context)


class _NatsFile(Struct):
    url: str = ""
    user: str = ""
    password: str = ""
    creds: str = ""


def _of_nats(name: str) -> Context:
    bare = name.removeprefix(NATS_PREFIX)
    path = _nats_folder() / f"{bare}.json"
    if not _NAME.match(bare) or not path.is_file():
        raise ContextNotFound(f"the nats command has no context {bare[:60]!r}: `supervisor context ls` lists them")
    found = _decoded(path, dict[str, object])
    asked = [key for key in _UNREADABLE if found.get(key)]
    if asked:
        remedy = "add one with `supervisor context add`, with a user or a credentials file"
        raise ConfigError(f"{path}: {', '.join(asked)}: cannot be used here; {remedy}")
    said = msgspec.convert({key: value for key, value in found.items() if isinstance(value, str)}, _NatsFile)
    return Context(
        name=name,
        url=said.url or "nats://127.0.0.1:4222",
        user=said.user,
        password=said.password,
        creds=said.creds,
        origin="nats",
    )


def add(context: Context, *, replace: bool = False) -> Path:
    """Keep a context of ours; returns its file.

    Raises:
        ConfigError: The name cannot be one, or is taken.
    """
    if not _NAME.match(context.name):
        raise ConfigError(
            f"{context.name[:80]!r} cannot name a context: write 1 to 63 letters, digits, '.', '_' or '-'"
        )
    path = folder() / f"{context.name}.json"
    if path.exists() and not replace:
        raise ConfigError(f"there is a context {context.name!r} already: take it away first, or say --replace")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(path, msgspec.json.format(msgspec.json.encode(context)) + b"\n")
    return path


def remove(name: str) -> None:
    """Forget a context of ours.

    Raises:
        ContextNotFound: There is none of this name.
        ConfigError: It is one of the `nats` command.
    """
    if name.startswith(NATS_PREFIX):
        raise ConfigError(f"{name} belongs to the nats command: take it away with `nats context rm`")
    path = folder() / f"{name}.json"
    if not _NAME.match(name) or not path.is_file():
        raise ContextNotFound(f"no context {name[:60]!r}: `supervisor context ls` lists them")
    path.unlink()
    if in_use() == name:
        use("")


def in_use() -> str:
    """The context that counts where nothing nearer names a server; empty: none."""
    try:
        return _read(_in_use_file()).decode("utf-8", "replace").strip()
    except ConfigError:
        return ""


def use(name: str) -> None:
    """Let a context count from now on where nothing nearer names a server; empty: none.

    Raises:
        ContextNotFound: There is none of this name.
        ConfigError: Its file is no context.
    """
    if not name:
        _in_use_file().unlink(missing_ok=True)
        return
    get(name)
    _in_use_file().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(_in_use_file(), name.encode() + b"\n")


def _decoded(path: Path, kind: type[_Kind]) -> _Kind:
    try:
        return msgspec.json.decode(_read(path), type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no context: {str(error)[:200]}") from None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(FILE_MAX_BYTES)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
