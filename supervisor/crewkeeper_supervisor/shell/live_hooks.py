"""Live hooks: the Python hooks of a run's policy, asked while calls wait for them; what answers mean is the core's.

Every hook has a process of its own, so that one that hangs holds up nobody else's. Nothing here blocks whoever hands
over a question, and a hook that gives no answer in time is told as failed, which denies the call.
"""

from collections import OrderedDict, deque
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from crewkeeper_bus.errors import ConnectionLost
from crewkeeper_bus.tool_messages import HookAnswered
from crewkeeper_supervisor.core.commands import AskHook
from crewkeeper_supervisor.core.crew import Crew
from crewkeeper_supervisor.gate.call import Call
from crewkeeper_supervisor.gate.policy import HookFailed
from crewkeeper_supervisor.gate.resource_uri import plain
from crewkeeper_supervisor.shell import journal
from crewkeeper_supervisor.shell.hooks import HookProcess
from crewkeeper_supervisor.shell.logbook import logger
from crewkeeper_supervisor.shell.nats_link import Link

AT_ONCE: Final = 8
"""Questions to one hook that are under way; others wait, and the core's limit goes on meanwhile."""
WAITING_MAX: Final = 1000
ANSWERS_MAX: Final = 1000
"""Answers that are remembered, for questions that are put again because the answer was lost."""


class LiveHooks:
    """Asks the hooks of one run. `work` must run for answers to come; it ends the processes when it is cancelled."""

    def __init__(self, link: Link, run: str) -> None:
        self._link = link
        self._run = run
        self._processes: dict[str, HookProcess] = {}
        self._limits: dict[str, anyio.CapacityLimiter] = {}
        self._under_way: set[str] = set()
        self._answers: OrderedDict[str, HookAnswered] = OrderedDict()
        self._waiting: deque[tuple[AskHook, Path]] = deque()
        self._cold: list[tuple[str, Path]] = []
        self._changed = anyio.Event()

    def give(self, command: AskHook, crew: Crew | None) -> None:
        """Take a question over. One that is under way is not put twice; one too many is left for the core to put again.

        Args:
            command: The question.
            crew: Whose folder has the modules of its hooks.
        """
        if command.id in self._under_way or len(self._under_way) >= WAITING_MAX:
            return
        self._waiting.append((command, Path(crew.folder if crew is not None and crew.folder else ".")))
        self._under_way.add(command.id)
        self._changed.set()

    def warm(self, crew: Crew | None) -> None:
        """Start the processes of a crew's hooks before the first call waits for one."""
        if crew is not None:
            self._cold += [(rule.hook, Path(crew.folder or ".")) for rule in crew.rules if rule.hook]
            self._changed.set()

    async def work(self) -> None:
        """Answer questions until cancelled."""
        try:
            async with anyio.create_task_group() as tasks:
                while True:
                    while self._cold:
                        tasks.start_soon(self._start, *self._cold.pop())
                    while self._waiting:
                        tasks.start_soon(self._answer, *self._waiting.popleft())
                    self._changed = anyio.Event()
                    await self._changed.wait()
        finally:
            for process in self._processes.values():
                process.close()

    async def _answer(self, command: AskHook, folder: Path) -> None:
        answer = self._answers.get(command.id)
        if answer is None:
            answer = await anyio.to_thread.run_sync(self._ask, command, folder, limiter=self._limit(command.hook))
            self._answers[command.id] = answer
            if len(self._answers) > ANSWERS_MAX:
                self._answers.popitem(last=False)
        self._under_way.discard(command.id)
        try:
            await journal.publish_op(self._link, self._run, answer)
        except ConnectionLost:
            logger().warning("hook.unsaid", crew=self._run, hook=command.hook)  # the core asks again

    async def _start(self, hook: str, folder: Path) -> None:
        try:
            wrong = await anyio.to_thread.run_sync(self._process(hook, folder).check, limiter=self._limit(hook))
        except HookFailed as error:
            wrong = {hook: str(error)}
        for name, error_text in wrong.items():
            logger().warning("hook.unusable", crew=self._run, hook=name, cause=error_text[:300])

    def _limit(self, hook: str) -> anyio.CapacityLimiter:
        """Of threads: who waits for one hook keeps none that another needs."""
        return self._limits.setdefault(hook, anyio.CapacityLimiter(AT_ONCE))

    def _process(self, hook: str, folder: Path) -> HookProcess:
        return self._processes.setdefault(hook, HookProcess((hook,), folder))

    def _ask(self, command: AskHook, folder: Path) -> HookAnswered:
        process = self._process(command.hook, folder)
        asked = command.asked
        call = plain(Call(**{name: getattr(asked, name) for name in asked.__struct_fields__}))
        try:
            applies = process.ask(command.hook, call, command.deadline_s)
        except HookFailed as error:
            return _said(command, "failed", str(error))
        return _said(command, "yes" if applies else "no", applies if isinstance(applies, str) else "")


def _said(command: AskHook, answer: str, because: str) -> HookAnswered:
    return HookAnswered(
        command=command.id,
        agent=command.agent,
        call=command.call,
        hook=command.hook,
        answer=answer,
        because=because[:2000],
    )
