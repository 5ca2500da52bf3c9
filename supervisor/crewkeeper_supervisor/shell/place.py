"""Place: where a supervisor's state and its NATS server are, from flags, environment and files; connects to nothing."""

import os
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

import msgspec
from msgspec import Struct

from crewkeeper_bus.addresses import each_of
from crewkeeper_bus.credentials import Credentials
from crewkeeper_bus.errors import ConfigError
from crewkeeper_supervisor.shell import contexts
from crewkeeper_supervisor.shell.authority import Authority
from crewkeeper_supervisor.shell.errors import NothingRuns

STATE_NAME: Final = ".crewkeeper"
_SCHEMES: Final = ("nats", "tls", "ws", "wss")
SERVERS_MAX: Final = 16
"""Addresses of one cluster that may be named at once."""
SERVER_FILE: Final = "server.json"
"""Written by the embedded server, mode 0600: url, user, jwt, seed, pid."""


class Place(Struct, frozen=True, kw_only=True):
    """One state directory and the access to its server. Its representation never shows a secret."""

    state: Path
    url: str
    """Without credentials; of several servers of one cluster with commas between them."""
    user: str = ""
    password: str = ""
    jwt: str = ""
    seed: str = ""

    def __repr__(self) -> str:
        return f"Place(state={str(self.state)!r}, url={self.url!r}, user={self.user!r})"

    def __rich_repr__(self) -> Any:
        yield "state", str(self.state)
        yield "url", self.url
        yield "user", self.user

    @property
    def host(self) -> str:
        """Host and port of the server, for messages; of several each."""
        return ", ".join(urlsplit(each).netloc or each for each in each_of(self.url))

    @property
    def credentials(self) -> Credentials:
        """What to connect with."""
        return Credentials(url=self.url, user=self.user, password=self.password, jwt=self.jwt, seed=self.seed)

    def authority(self) -> Authority:
        """What the state directory lets us sign for this server; that may be nothing.

        Raises:
            ServerError: The keys are readable by others, or damaged.
        """
        return Authority.load(self.state, self.url) or Authority.observing(self.url)

    @classmethod
    def of(cls, state: Path, credentials: Credentials) -> "Place":
        """The place that these credentials give access to."""
        given = credentials
        return cls(state=state, url=given.url, user=given.user, password=given.password, jwt=given.jwt, seed=given.seed)

    @classmethod
    def find(cls, state: Path | None = None, nats: str | None = None) -> "Place":
        """Find the server to talk to.

        `nats`, then the context that the command line names, then CREWKEEPER_NATS_URL (addresses may carry
        `user:password@`), then `server.json` of the state directory, then, unless that directory is named or there, the
        context in use.

        Raises:
            NothingRuns: None of them names a server, or the one named is no longer there.
            ContextNotFound: There is no such context.
            ConfigError: What they name is no NATS server.
        """
        directory = state_dir(state)
        if nats:
            return cls.of_url(nats, directory)
        if name := contexts.chosen.get():
            return cls.of_context(name, directory)
        if url := os.environ.get("CREWKEEPER_NATS_URL", ""):
            return cls.of_url(url, directory)
        try:
            return cls._of_file(directory)
        except NothingRuns:
            # What ran in a folder is looked for there, also when it has ended: no order must reach another server.
            name = contexts.in_use()
            if not name or state is not None or os.environ.get("CREWKEEPER_STATE") or directory.is_dir():
                raise
            return cls.of_context(name, directory)

    @classmethod
    def of_context(cls, name: str, state: Path) -> "Place":
        """The place that a context names; without a user or a file in it, the state directory's keys are used.

        Raises:
            ContextNotFound: There is no such context.
            ConfigError: It is the context of something else than a NATS server.
        """
        context = contexts.get(name)
        bare = cls.of_url(context.url, state)
        given = context.credentials()
        return bare if not (given.user or given.seed) else cls.of(state, msgspec.structs.replace(given, url=bare.url))

    @classmethod
    def of_url(cls, url: str, state: Path) -> "Place":
        """Take a server's address apart; credentials may stand in it, percent-encoded.

        Several servers of one cluster have commas between them, and one login: it may stand in each of them, or in one.
        Without any, the keys that the state directory holds for an existing server are used.

        Raises:
            ConfigError: It is the address of something else than a NATS server, or names several logins.
            ServerError: The keys are readable by others, or damaged.
        """
        parts = [_parts(each) for each in each_of(url)]
        if len(parts) > SERVERS_MAX:
            raise ConfigError(f"{len(parts)} servers are more than {SERVERS_MAX}: name a few, they name the others")
        if len({each.scheme in ("ws", "wss") for each in parts}) > 1:
            raise ConfigError("servers of one cluster are reached all over websockets or all without: ws:// or nats://")
        logins = {(unquote(each.username or ""), unquote(each.password or "")) for each in parts if each.username}
        if len(logins) > 1:
            raise ConfigError(
                "servers of one cluster take one login: write the same user and password, or in one alone"
            )
        hosts = [each._replace(netloc=each.netloc.rpartition("@")[2], query="", fragment="") for each in parts]
        bare = ",".join(urlunsplit(each) for each in hosts)
        user, password = next(iter(logins), ("", ""))
        authority = None if user else Authority.load(state, bare)
        if authority is not None:
            return cls.of(state, authority.supervisor)
        return cls(state=state, url=bare, user=user, password=password)

    @classmethod
    def _of_file(cls, directory: Path) -> "Place":
        path = directory / SERVER_FILE
        remedy = "start one with `supervisor up crew.yaml`, or name a server with --nats URL or --context NAME"
        try:
            found = msgspec.json.decode(path.read_bytes(), type=_ServerFile)
        except FileNotFoundError:
            raise NothingRuns(f"nothing runs here: there is no {path} and no CREWKEEPER_NATS_URL; {remedy}") from None
        except (OSError, msgspec.MsgspecError, ValueError) as error:
            raise NothingRuns(f"{path} cannot be read ({str(error)[:200]}); {remedy}") from None
        if found.pid and not _is_alive(found.pid):
            raise NothingRuns(f"the server of {path} (process {found.pid}) is gone; {remedy}")
        return cls.of(directory, found)


def _parts(url: str) -> SplitResult:
    parts = urlsplit(url if "://" in url else f"nats://{url}")
    if parts.scheme not in _SCHEMES:
        raise ConfigError(f"{parts.scheme}:// is not how a NATS server is reached: write nats://host:4222")
    try:
        _ = parts.port
    except ValueError:  # it may be a part of a password: it is not shown
        text = "a server's port is no number up to 65535: write nats://host:4222, and %2C for a comma in a password"
        raise ConfigError(text) from None
    return parts


class _ServerFile(Credentials, frozen=True, kw_only=True):
    pid: int = 0


def state_dir(state: Path | None = None) -> Path:
    """The state directory, absolute; it need not exist.

    `state`, then CREWKEEPER_STATE, then the nearest `.crewkeeper/` from the working directory upwards, then
    `.crewkeeper` here.
    """
    if state is not None:
        return state.absolute()
    named = os.environ.get("CREWKEEPER_STATE", "")
    if named:
        return Path(named).absolute()
    here = Path.cwd()
    for directory in (here, *here.parents):
        if (directory / STATE_NAME).is_dir():
            return directory / STATE_NAME
    return here / STATE_NAME


def is_loopback(host: str) -> bool:
    """Whether a host, by name or address, can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
