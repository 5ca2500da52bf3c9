"""Remote host: a machine's long-running process that takes agents of any run of a server; it decides nothing.

It registers itself, answers when asked whether it is there, and follows every run whose agents are spread. What it
starts is its own: a controller may come and go, and when this process ends, by whatever means, all it started ends.
"""

import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Final

import anyio
import anyio.abc

from crewkeeper_supervisor.core.crew import Crew
from crewkeeper_supervisor.shell import bucket
from crewkeeper_supervisor.shell.authority import SIGNED_LIFE_S
from crewkeeper_supervisor.shell.errors import HostNameTaken, RunNotFound, ShellError, StoreUnavailable
from crewkeeper_supervisor.shell.ground import Ground
from crewkeeper_supervisor.shell.host_registry import (
    BEATS,
    LISTED_MAX,
    PING_LIMIT_S,
    TTL_S,
    HostInfo,
    HostRegistry,
    Registration,
    ping_subject,
)
from crewkeeper_supervisor.shell.logbook import logger
from crewkeeper_supervisor.shell.nats_link import LINK_ERRORS, Link, insist
from crewkeeper_supervisor.shell.registry import ENDED, Registry, RunInfo
from crewkeeper_supervisor.shell.remote_run import RemoteRun, declared_crew, localized
from crewkeeper_supervisor.shell.signals import heed_signals

SLOTS: Final = 16
"""How many agents a host takes at a time, unless it is said."""
TAKE_LIMIT_S: Final = 4.0
"""Beyond the time to live: how long a host waits for its name, which an earlier process that died keeps so long."""
RETRY_S: Final = 0.5

Tell = Callable[[str], None]


class RemoteHost:
    """A host that takes agents: `serve` until told to end.

    Attributes:
        name: Its name.
        inc: Its incarnation.
        leaving: Whether it is about to end.
        interrupted_by: Name of the signal that ended it; empty if none did.
    """

    def __init__(
        self,
        ground: Ground,
        link: Link,
        *,
        name: str = "",
        labels: Mapping[str, str] | None = None,
        slots: int = SLOTS,
        ttl_s: int = TTL_S,
        folder: Path,
        tell: Tell,
        inherited: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare; nothing is started yet.

        Args:
            ground: The server.
            link: A connection to it.
            name: Its name; by default the machine's.
            labels: What agents may want of it.
            slots: How many agents it takes at a time.
            ttl_s: How long its registration lasts without being renewed.
            folder: Its working directory: stands for the folder of crew files.
            tell: Where lines for people go.
            inherited: What the agents' environment is made from; by default this process's.
        """
        self.name = name or host_name()
        self.inc = secrets.token_hex(8)
        self.leaving = False
        self.interrupted_by = ""
        self._ground = ground
        self._link = link
        self._labels = dict(labels or {})
        self._slots = slots
        self._ttl_s = ttl_s
        self._folder = folder
        self._tell = tell
        self._inherited = dict(os.environ if inherited is None else inherited)
        self._since_s = time.time()
        self._registry = HostRegistry(link)
        self._registration = Registration(link, self.name, self.inc, ttl_s)
        self._runs: dict[str, RemoteRun] = {}
        self._ends: dict[str, anyio.Event] = {}
        """By run that is followed: set when it has ended."""
        self._changed = anyio.Event()
        self._end = anyio.Event()

    def has_room(self) -> bool:
        """Whether a slot is free."""
        return sum(len(run.agents) for run in self._runs.values()) < self._slots

    def tell(self, text: str) -> None:
        """Tell people on this machine."""
        self._tell(text)

    def changed(self) -> None:
        """What it runs has changed: say so at the next moment."""
        self._changed.set()

    async def serve(self, *, signals: bool = True) -> None:
        """Take agents until told to end; then end them in order.

        Args:
            signals: Whether SIGINT, SIGTERM and SIGHUP end it; a second one kills its agents.

        Raises:
            HostNameTaken: Another process has the name, or has taken it while this one could not renew it; nothing
                runs here any more then.
            StoreUnavailable: The server did not answer at the start.
        """
        await insist(self._registry.open)
        await insist(Registry(self._link).open)
        await insist(self._take)
        taken: list[HostNameTaken] = []
        async with bucket.answering(self._link, ping_subject(self.inc)), anyio.create_task_group() as tasks:
            if signals:
                await tasks.start(heed_signals, self._interrupt, self.kill, self._tell)
            tasks.start_soon(self._beat, taken)
            tasks.start_soon(self._watch_link)
            tasks.start_soon(self._watch_runs, tasks)
            if self._ground.authority.mode == "signing":
                tasks.start_soon(self._renew)
            await self._end.wait()
            if not taken and not self._link.closed.is_set():
                await self._leave()
            self.kill()
            tasks.cancel_scope.cancel()
        await self._registration.release()
        for cause in taken:
            raise cause

    def stop(self) -> None:
        """End every agent in order, and then itself."""
        self._end.set()

    def kill(self) -> None:
        """SIGKILL every agent now."""
        for run in self._runs.values():
            run.kill()

    # --- being there ---

    def _info(self) -> HostInfo:
        counts = {run: len(each.agents) for run, each in self._runs.items() if each.agents}
        agents = [(run, agent) for run, each in self._runs.items() for agent in each.agents]
        return HostInfo(
            name=self.name,
            inc=self.inc,
            labels=self._labels,
            slots=self._slots,
            since_s=self._since_s,
            machine=socket.gethostname(),
            pid=os.getpid(),
            leaving=self.leaving,
            agents=tuple(agents[:LISTED_MAX]),
            counts=counts,
        )

    async def _take(self) -> None:
        """Register; an earlier process of this machine that has just died has the name for a moment yet."""
        until_s, told = anyio.current_time() + self._ttl_s + TAKE_LIMIT_S, False
        while True:
            try:
                return await self._registration.take(self._info())
            except HostNameTaken:
                other = await self._registry.get(self.name)
                here = other is None or other.machine == socket.gethostname()
                if other is not None and await bucket.is_answered(self._link, ping_subject(other.inc), PING_LIMIT_S):
                    raise
                if not here or anyio.current_time() > until_s:
                    raise
            if not told:
                self._tell(f"host {self.name} is still registered by an earlier process; waiting for that to lapse")
                told = True
            await anyio.sleep(RETRY_S)

    async def _beat(self, taken: list[HostNameTaken]) -> None:
        while True:
            self._changed = anyio.Event()
            try:
                await self._registration.renew(self._info())
                wait_s = self._ttl_s / BEATS
            except StoreUnavailable:
                wait_s = RETRY_S
            except HostNameTaken as error:
                taken.append(error)
                self._end.set()
                return
            with anyio.move_on_after(wait_s):
                await self._changed.wait()
                await anyio.sleep(RETRY_S / 5)  # what comes together is said together

    async def _watch_link(self) -> None:
        await self._link.closed.wait()
        self._tell("the server has closed the connection for good: ending every agent")
        self._end.set()

    # --- runs ---

    async def _watch_runs(self, tasks: anyio.abc.TaskGroup) -> None:
        while True:
            try:
                async with aclosing(Registry(self._link).watch()) as lists:
                    async for infos in lists:
                        self._compare(infos, tasks)
            except LINK_ERRORS as error:
                logger().warning("registry.retry", cause=type(error).__name__)
                await anyio.sleep(RETRY_S)

    def _compare(self, infos: list[RunInfo], tasks: anyio.abc.TaskGroup) -> None:
        going = {info.run for info in infos if info.spread and info.state not in ENDED}
        for run, ended in self._ends.items():
            if run not in going:
                ended.set()
        for run in sorted(going - set(self._ends)):
            self._ends[run] = anyio.Event()
            tasks.start_soon(self._follow, run, self._ends[run])

    async def _follow(self, run: str, ended: anyio.Event) -> None:
        try:
            crew = await self._read(run, ended)
            if crew is not None:
                await self._serve_run(run, localized(crew, self._folder), ended)
            await ended.wait()  # one that cannot be read is not tried again at every change of others
        finally:
            del self._ends[run]

    async def _read(self, run: str, ended: anyio.Event) -> Crew | None:
        """The crew of a run; None if it has ended before it could be read, or holds none."""
        while not ended.is_set():
            try:
                return await declared_crew(self._link, run)
            except RunNotFound as error:
                logger().error("host.run_unread", crew=run, error=str(error)[:200])
                return None
            except StoreUnavailable as error:
                logger().warning("host.run_retry", crew=run, error=str(error)[:200])
            with anyio.move_on_after(RETRY_S * 2):
                await ended.wait()
        return None

    async def _serve_run(self, run: str, crew: Crew, ended: anyio.Event) -> None:
        remote = RemoteRun(self._link, self._ground, run, crew, self, self._inherited)
        self._runs[run] = remote
        try:
            await remote.serve(ended)
        finally:
            del self._runs[run]
            self.changed()

    async def _renew(self) -> None:
        """Keep credentials files ahead of their end, where credentials cannot be taken back."""
        while True:
            await anyio.sleep(SIGNED_LIFE_S / 3)
            for remote in list(self._runs.values()):
                try:
                    await remote.renew()
                except (ShellError, OSError) as error:  # two more turns before they end
                    logger().warning("host.renewal", crew=remote.run, error=str(error)[:300])

    # --- the end ---

    async def _leave(self) -> None:
        self.leaving = True
        self.changed()
        async with anyio.create_task_group() as leaves:
            for remote in list(self._runs.values()):
                leaves.start_soon(remote.leave, "it was told to end, and has ended its agents")

    def _interrupt(self, name: str) -> None:
        self.interrupted_by = name
        count = sum(len(remote.agents) for remote in self._runs.values())
        if count:
            self._tell(f"{name}: stopping {count} agent{'' if count == 1 else 's'} in order; again to kill them")
        self.stop()


def host_name() -> str:
    """The machine's name, as the name of a host: what a subject may hold of it."""
    kept = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "-_") else "-" for letter in socket.gethostname()
    )
    return kept.strip("-_")[:32] or "host"
