"""Pins: which definitions of tools are known, in a private file; a definition that has changed since is not used.

A server is trusted with what it said of its tools when they were first seen. What models are told of a tool decides
what they do with it, so a server that says something else later is taken for another one until a person has looked at
it (`supervisor tools diff`, `supervisor tools pin`).
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from crewkeeper_bus.credentials import write_private
from crewkeeper_supervisor.mcp.definitions import TOOLS_MAX, Definition
from crewkeeper_supervisor.shell.errors import ShellError

FILE_NAME: Final = "tool-pins.json"
FILE_MAX_BYTES: Final = 64 * 1024 * 1024
SERVERS_MAX: Final = 200
LOCK_S: Final = 10.0
_LOCK_STEP_S: Final = 0.02


class PinsUnusable(ShellError):  # noqa: N818 - what is the case
    """Pins cannot be read or kept; without them no tool is offered."""


class Pin(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One definition, and when it was seen first. `by`: who looked at it; empty: nobody, it was the first."""

    digest: str
    told: dict[str, Any]
    at_s: float
    by: str = ""


class Pinned(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One tool: what is known of it, and what its server says instead; one of both may be missing."""

    pin: Pin | None = None
    changed: Pin | None = None


class Judged(Struct, frozen=True, kw_only=True):
    """What became of the definitions of a listing, by name."""

    good: dict[str, Definition]
    changed: dict[str, Definition]
    """Not to be used. The pins file holds them for a person to look at."""


class _File(Struct, kw_only=True):
    version: int = 1
    servers: dict[str, dict[str, Pinned]] = {}


class Pins:
    """The pins file of one state directory. Cheap to make; safe between processes.

    Args:
        state: The state directory; made if it is not there.
        strict: Use nothing that nobody has looked at, not even what is seen for the first time.
    """

    def __init__(self, state: Path, *, strict: bool = False) -> None:
        """Remember where."""
        self.path = state / FILE_NAME
        self._strict = strict

    def judge(self, server: str, definitions: Iterable[Definition]) -> Judged:
        """Compare what a server says with what is pinned, and pin what was not seen before. Blocks for a moment.

        A name that is told more than once, in different words, has changed.

        Raises:
            PinsUnusable: The file cannot be read or written.
        """
        told: dict[str, list[Definition]] = {}
        for definition in definitions:
            known = told.setdefault(definition.name, [])
            if all(each.digest != definition.digest for each in known):
                known.append(definition)
        judged = Judged(good={}, changed={})
        with self._changing() as file:
            tools = file.servers.setdefault(server, {})
            if len(file.servers) > SERVERS_MAX:
                raise PinsUnusable(
                    f"{self.path} knows {SERVERS_MAX} servers, the limit; remove some: supervisor tools ls"
                )
            for name, versions in told.items():
                self._judge_one(tools, name, versions, judged)
        return judged

    def _judge_one(self, tools: dict[str, Pinned], name: str, versions: list[Definition], judged: Judged) -> None:
        found = tools.get(name)
        if found is None and len(tools) >= TOOLS_MAX:
            judged.changed[name] = versions[0]
            return
        pin = found.pin if found is not None else None
        if found is None and not self._strict:
            tools[name] = Pinned(pin=_pin(versions[0]))
            pin = tools[name].pin
        others = [each for each in versions if pin is None or each.digest != pin.digest]
        if not others:
            judged.good[name] = versions[0]
            if tools[name].changed is not None:  # it says again what it said at first
                tools[name] = Pinned(pin=pin)
            return
        judged.changed[name] = others[0]
        before = tools[name].changed if name in tools else None
        if before is None or before.digest != others[0].digest:
            tools[name] = Pinned(pin=pin, changed=_pin(others[0]))

    def ls(self) -> dict[str, dict[str, Pinned]]:
        """All there are: server to tool to what is known of it.

        Raises:
            PinsUnusable: The file cannot be read.
        """
        return self._read().servers

    def accept(self, server: str, names: Iterable[str], by: str) -> list[str]:
        """Pin what a server says now of these tools. Returns those for which anything was waiting.

        Raises:
            PinsUnusable: The file cannot be read or written.
        """
        accepted = []
        with self._changing() as file:
            tools = file.servers.get(server, {})
            for name in names:
                found = tools.get(name)
                if found is not None and found.changed is not None:
                    now = msgspec.structs.replace(found.changed, by=by[:200], at_s=time.time())
                    tools[name] = Pinned(pin=now)
                    accepted.append(name)
        return accepted

    def forget(self, server: str) -> bool:
        """Remove all that is known of a server; whether anything was.

        Raises:
            PinsUnusable: The file cannot be read or written.
        """
        with self._changing() as file:
            return file.servers.pop(server, None) is not None

    # --- the file ---

    def _read(self) -> _File:
        try:
            with self.path.open("rb") as stream:
                data = stream.read(FILE_MAX_BYTES + 1)
        except FileNotFoundError:
            return _File()
        except OSError as error:
            raise PinsUnusable(f"{self.path}: {error.strerror}; without pins no tool is offered") from None
        try:
            if len(data) > FILE_MAX_BYTES:
                raise ValueError(f"more than {FILE_MAX_BYTES} bytes")
            return msgspec.json.decode(data, type=_File)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise PinsUnusable(
                f"{self.path} cannot be read ({str(error)[:200]}); restore it, or remove it to pin all tools anew"
            ) from None

    @contextlib.contextmanager
    def _changing(self) -> Iterator[_File]:
        """The file, for one change at a time; written if it is another one afterwards."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise PinsUnusable(
                f"pins cannot be kept in {self.path.parent}: {error.strerror}; name another directory with --state"
            ) from None
        try:
            _take(lock, self.path)
            file = self._read()
            before = msgspec.json.encode(file)
            yield file
            after = msgspec.json.encode(file)
            if after != before:
                if len(after) > FILE_MAX_BYTES:
                    raise PinsUnusable(
                        f"{self.path} would have more than {FILE_MAX_BYTES} bytes: remove servers from it"
                    )
                try:
                    write_private(self.path, after)
                except OSError as error:
                    raise PinsUnusable(f"{self.path}: {error.strerror}; without pins no tool is offered") from None
        finally:
            os.close(lock)


def _take(lock: int, path: Path) -> None:
    end_s = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end_s:
                raise PinsUnusable(f"{path} is locked by another process for more than {LOCK_S:g} s") from None
            time.sleep(_LOCK_STEP_S)
        else:
            return


def _pin(definition: Definition) -> Pin:
    return Pin(digest=definition.digest, told=definition.told, at_s=time.time())
