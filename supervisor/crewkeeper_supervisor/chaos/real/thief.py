"""Thief: a process that has got hold of a copy of an agent's credentials and uses them beside the agent."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from crewkeeper_bus.credentials import Credentials, from_file, write_private

PROGRAM: Final = "crewkeeper_supervisor.chaos.real.rogue"
_PREFIX: Final = "CREWKEEPER_"


class NothingToSteal(OSError):  # noqa: N818 - what it is
    """The agent does not run, or has no credentials where a thief could find them."""


def copied(pid: int) -> Credentials:
    """What a process connects with, read from its environment as any other process of the same user can.

    Raises:
        NothingToSteal: It is gone, or has nothing.
    """
    if pid <= 0:
        raise NothingToSteal("it does not run")
    try:
        rows = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError as error:
        raise NothingToSteal(f"process {pid} cannot be looked into: {error.strerror}") from None
    env: Mapping[str, str] = {name: value for name, _, value in (os.fsdecode(row).partition("=") for row in rows)}
    if file := env.get(_PREFIX + "CREDENTIALS"):
        return from_file(file)
    url, user, password = (env.get(_PREFIX + name, "") for name in ("URL", "USER", "PASSWORD"))
    if not user:
        raise NothingToSteal(f"process {pid} has no {_PREFIX}USER")
    return Credentials(url=url, user=user, password=password)


def missing() -> str:
    """What this machine lacks for it, in words; empty if nothing."""
    return "" if Path("/proc/self/environ").exists() else "the environment of a process can be read on Linux only"


class Loot:
    """What was stolen from one agent, as the file that the thief logs in with.

    Args:
        folder: Where.
        agent: From whom.
        own: Its credentials.
        url: The server's address; that of the agent may be a proxy.
    """

    def __init__(self, folder: Path, agent: str, own: Credentials, url: str) -> None:
        copies = len(list(folder.glob(f"{agent}.stolen*.json")))  # each thief of one agent has files of its own
        self._file = folder / f"{agent}.stolen{copies or ''}.json"
        self._logins = self._file.with_suffix(".logins")
        self._agent = agent
        write_private(self._file, msgspec.json.encode(msgspec.structs.replace(own, url=url)))

    def command(self, run: str) -> list[str]:
        """The thief's command line."""
        return [sys.executable, "-m", PROGRAM, run, self._agent, str(self._file), str(self._logins)]

    @property
    def logins(self) -> int:
        """How often the server let the thief in."""
        return self._logins.stat().st_size if self._logins.exists() else 0
