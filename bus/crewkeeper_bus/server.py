"""Embedded server: a private nats-server for one state directory, and how other commands find it.

What runs inside it (streams, runs, agents) is not known here. One directory has at most one server, and the server
cannot outlive the process that started it. It runs in operator mode: it believes the keys of its directory (`keys`),
and whoever logs in without a JWT that they have signed is let in by whoever serves the callout, or by nobody.
"""

import fcntl
import json
import os
import shutil
import signal
import socket
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import anyio
import msgspec

from crewkeeper_bus.credentials import Credentials, write_private
from crewkeeper_bus.errors import ServerError
from crewkeeper_bus.keys import FOLDER, JOURNAL_KEY_FILE, Keyring, journal_key, keyring
from crewkeeper_bus.orphan_guard import kill_group, open_guarded, release
from crewkeeper_bus.server_binary import check_version as check_version
from crewkeeper_bus.server_binary import find_binary as find_binary

if TYPE_CHECKING:
    from anyio.abc import Process

PAYLOAD_MAX_BYTES: Final = 1024 * 1024
READY_S: Final = 15.0
"""How long the server may take until it listens."""
STOP_S: Final = 5.0
"""How long the server may take to end after SIGTERM before it is killed."""
LOGIN_S: Final = 2
"""How long whoever serves the callout may take to decide about a login."""
INGEST_MAX_MESSAGES: Final = 1_000_000
"""How many published messages may wait to be stored. Beyond it the server drops them, and publishers are not told; its
own limit of 100,000 is passed by half a second of an agent that does not stop."""
INGEST_MAX_BYTES: Final = 256 * 1024 * 1024
INCLUDE_KEY: Final = '\n  include "FILE",'
LOG_MAX_BYTES: Final = 10 * 1024 * 1024
POLL_S: Final = 0.005


class ServerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What `<state>/server.json` says of a running server.

    Attributes:
        url: Where it listens.
        user: The supervisor's user.
        jwt: Its JWT; not in `repr`.
        seed: Its private key; not in `repr`.
        pid: The nats-server's process.
    """

    url: str
    user: str
    jwt: str
    seed: str
    pid: int

    def __repr__(self) -> str:
        return f"ServerRecord(url={self.url!r}, user={self.user!r}, pid={self.pid})"

    @property
    def credentials(self) -> Credentials:
        """The supervisor's credentials."""
        return Credentials(url=self.url, user=self.user, jwt=self.jwt, seed=self.seed)


def find(state_dir: str | os.PathLike[str]) -> ServerRecord | None:
    """The server that runs on a state directory, if one does: its process lives and its port answers."""
    try:
        record = msgspec.json.decode((Path(state_dir) / "server.json").read_bytes(), type=ServerRecord)
        os.kill(record.pid, 0)
        address = urlsplit(record.url)
        with socket.create_connection((address.hostname or "", address.port or 0), timeout=1.0) as connection:
            greeting = connection.recv(5)
    except (OSError, ValueError, msgspec.MsgspecError):
        return None
    return record if greeting == b"INFO " else None


class EmbeddedServer:
    """A nats-server with JetStream on a loopback port of its own choice.

    `async with EmbeddedServer(state_dir) as server:`, or `start` and `stop`. Not for use by several event loops.

    Args:
        state_dir: Its directory, made if missing, mode 0700. Journals live in it.
        sync_interval: How often stored messages are flushed to disk, e.g. `1s`, or `always`: before each goes on.
    """

    def __init__(self, state_dir: str | os.PathLike[str], *, sync_interval: str = "1s", operator: bool = False) -> None:
        self.state_dir = Path(state_dir).absolute()
        self._operator = operator
        self._keyring: Keyring | None = None
        self._sync_interval = sync_interval
        self._process: Process | None = None
        self._lock_fd = -1
        self._url = ""

    async def __aenter__(self) -> "EmbeddedServer":
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # --- life ---

    @property
    def url(self) -> str:
        """Where it listens; empty unless it runs."""
        return self._url

    @property
    def pid(self) -> int:
        """Its process; 0 unless it runs."""
        return self._process.pid if self._process is not None else 0

    @property
    def credentials(self) -> Credentials:
        """The supervisor's: every right in the crews' account.

        Raises:
            ServerError: It has never been started, so it may have no keys yet.
        """
        if self._keyring is None:
            raise ServerError(f"the server on {self.state_dir} has not been started")
        return self._keyring.user("supervisor", self._url)

    async def start(self) -> None:
        """Start it and return when it takes connections.

        Raises:
            ServerError: No usable nats-server, the directory is in use, or it does not come up in time.
        """
        if self._process is not None:
            raise ServerError(f"the server on {self.state_dir} runs already, pid {self.pid}")
        binary = find_binary()
        await anyio.to_thread.run_sync(check_version, binary)
        _check_ours(self.state_dir)
        self.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.state_dir.chmod(0o700)
        self._lock_fd = await _take_lock(self.state_dir / "lock")
        try:
            await self._launch(binary)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.stop()
            raise

    async def _launch(self, binary: Path) -> None:
        for stale in self.state_dir.glob("*.ports"):
            stale.unlink(missing_ok=True)
        (self.state_dir / "server.json").unlink(missing_ok=True)
        self._write_config()
        output = os.open(self._output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            # The server inherits the lock, so that the directory stays taken for as long as either lives.
            self._process = await open_guarded(
                [str(binary), "-c", str(self._config)], stdout=output, stderr=output, pass_fds=(self._lock_fd,)
            )
        finally:
            os.close(output)
        self._url = await self._wait_for_port(self._process)
        own = self.credentials
        record = ServerRecord(url=own.url, user=own.user, jwt=own.jwt, seed=own.seed, pid=self._process.pid)
        write_private(self.state_dir / "server.json", msgspec.json.encode(record))

    async def stop(self) -> None:
        """End it, by force if it takes longer than `STOP_S`. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            kill_group(process.pid, signal.SIGTERM)
            with anyio.move_on_after(STOP_S):
                await process.wait()
            if process.returncode is None:
                kill_group(process.pid, signal.SIGKILL)
                with anyio.CancelScope(shield=True), anyio.move_on_after(STOP_S):
                    await process.wait()
            release(process.pid)
            await process.aclose()
            (self.state_dir / "server.json").unlink(missing_ok=True)
        self._url = ""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    async def wait(self) -> int:
        """Return its exit status when it has ended, whatever ended it."""
        if self._process is None:
            raise ServerError(f"the server on {self.state_dir} does not run: start it")
        return await self._process.wait()

    # --- files ---

    @property
    def _config(self) -> Path:
        return self.state_dir / "nats-server.conf"

    @property
    def _log(self) -> Path:
        return self.state_dir / "nats-server.log"

    @property
    def _output(self) -> Path:
        return self.state_dir / "nats-server.out"

    def _write_config(self) -> None:
        config = {  # JSON is valid server configuration
            "listen": "127.0.0.1:-1",
            "ports_file_dir": str(self.state_dir),
            "jetstream": {
                "store_dir": str(self.state_dir / "store"),
                "sync_interval": self._sync_interval,
                "max_buffered_msgs": INGEST_MAX_MESSAGES,
                "max_buffered_size": INGEST_MAX_BYTES,
            },
            "max_payload": PAYLOAD_MAX_BYTES,
            "logfile": str(self._log),
            "logfile_size_limit": LOG_MAX_BYTES,
            "logfile_max_num": 2,
            "authorization": {"timeout": LOGIN_S},
            **self._trust(),
        }
        text = json.dumps(config, indent=1)
        # An existing store is encrypted when it is first opened with a key. The key is in its own file alone.
        _check_readable(
            self.state_dir, self.state_dir / "store" / "jetstream" / keyring(self.state_dir).public("crews")
        )
        key = journal_key(self.state_dir).relative_to(self.state_dir)
        text = text.replace('"jetstream": {', '"jetstream": {' + INCLUDE_KEY.replace("FILE", str(key)), 1)
        write_private(self._config, text.encode())

    def _trust(self) -> dict[str, Any]:
        """Whom the server believes: the operator, so its accounts, so their users; about all others it asks."""
        ring = self._keyring = keyring(self.state_dir)
        _adopt(self.state_dir / "store" / "jetstream", ring.public("crews"))
        accounts = self.state_dir / "accounts"
        shutil.rmtree(accounts, ignore_errors=True)  # what was pushed to an earlier server ended with it
        return {
            "operator": ring.operator_jwt(),
            "system_account": ring.public("system"),
            "resolver": {"type": "full", "dir": str(accounts)},
            "resolver_preload": {ring.public(name): ring.account(name) for name in ("system", "auth", "crews")},
            "default_sentinel": ring.nobody_jwt(),
        }

    async def _wait_for_port(self, process: "Process") -> str:
        url = ""
        with anyio.move_on_after(READY_S):
            while not url and process.returncode is None:
                url = self._listening(process.pid)
                if not url:
                    await anyio.sleep(POLL_S)
        if not url:
            why = "ended at once" if process.returncode is not None else f"did not listen within {READY_S} s"
            raise ServerError(f"nats-server {why}: {self._last_words()}; see {self._log}")
        return url

    def _listening(self, pid: int) -> str:
        """The url in the ports file, or nothing while it is not there, not whole, or nobody listens yet."""
        try:
            url = str(json.loads((self.state_dir / f"nats-server_{pid}.ports").read_bytes())["nats"][0])
            address = urlsplit(url)
            with socket.create_connection((address.hostname or "", address.port or 0), timeout=1.0):
                return url
        except (OSError, ValueError, LookupError, TypeError):
            return ""

    def _last_words(self) -> str:
        for file in (self._output, self._log):
            if file.is_file():
                lines = file.read_text("utf-8", "replace").strip().splitlines()
                if lines:
                    return lines[-1][:300]
        return "it said nothing"


def _adopt(store: Path, account: str) -> None:
    """Keep the streams of a directory whose server still named its account `CREWS` instead of by its key."""
    old, new = store / "CREWS", store / account
    if old.is_dir() and not new.exists():
        old.rename(new)


def _check_readable(state_dir: Path, store: Path) -> None:
    """Refuse to open an encrypted store with a new key: the server would go on as if nothing were in it.

    Raises:
        ServerError: The key that the store was encrypted with is not there.
    """
    key = state_dir / FOLDER / JOURNAL_KEY_FILE
    if not key.exists() and next(store.glob("streams/*/meta.key"), None) is not None:
        raise ServerError(
            f"{key} is gone, and the journals in {store} are encrypted with it: restore it from a backup, or remove "
            f"{store} to begin without them"
        )


def _check_ours(state_dir: Path) -> None:
    """Refuse a directory that holds somebody else's files: it is about to be closed to everybody but its owner.

    Raises:
        ServerError: It is not empty and was no state directory before.
    """
    entries = {entry.name for entry in state_dir.iterdir()} if state_dir.is_dir() else set()
    if entries and not entries & {"lock", "server.json", "nats-server.conf", "runs", "controller.log", "keys"}:
        raise ServerError(
            f"{state_dir} is not empty and no state directory of a supervisor (it holds {min(entries)!r}): "
            "name another, new or empty"
        )


async def _take_lock(path: Path) -> int:
    """Lock the directory; returns the descriptor that holds the lock.

    Raises:
        ServerError: Somebody else holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with anyio.move_on_after(STOP_S):
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
                    if _lives(holder):
                        raise ServerError(
                            f"{path.parent} is in use by process {holder}: stop that one, or use another directory"
                        ) from None
                    await anyio.sleep(POLL_S)  # its starter is dead: the server is about to be ended
                else:
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
                    return descriptor
        raise ServerError(f"{path.parent} is still in use by a nats-server whose starter is dead: end that process")
    except BaseException:
        os.close(descriptor)
        raise


def _lives(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ValueError:
        return True  # whoever holds the lock has not written its number yet
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
