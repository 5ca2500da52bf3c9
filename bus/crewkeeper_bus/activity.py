"""Activity: work that no call started, declared so that it takes a slot and is a task in the wait graph."""

from types import TracebackType
from typing import TYPE_CHECKING

import anyio

from crewkeeper_bus.errors import Refused
from crewkeeper_bus.slots import Claim
from crewkeeper_bus.tasks import Task
from crewkeeper_bus.tracing import Span

if TYPE_CHECKING:
    from crewkeeper_bus.membership import Membership


class Activity:
    """Async context manager around an activity; `Client.task` makes one. For one use."""

    def __init__(self, membership: "Membership", name: str) -> None:
        self._membership = membership
        self._name = name
        self._task: Task | None = None
        self._span: Span | None = None

    async def __aenter__(self) -> Task:
        membership = self._membership
        assert self._task is None, "an activity object is for one use: make another"
        await membership.checkpoint.hold()
        around = membership.tasks.bound()
        if around is not None and around.slot:
            raise Refused(
                f"activity {self._name!r} inside task {around.id}: one at a time; start it in its own asyncio task",
                reason="nested_task",
            )
        membership.tasks.end_implicit()
        await self._take_slot()
        tracing = membership.tracing
        if tracing is not None:
            self._span = tracing.work(tracing.agent, agent_name=tracing.agent, task=self._name)
        try:
            trace = "" if self._span is None else self._span.traceparent
            self._task = membership.tasks.begin_activity(self._name, trace)
        except BaseException as error:
            if self._span is not None:
                self._span.end(error)
            membership.slots.release()
            raise
        membership.tasks.bind(self._task)
        if self._span is not None:
            self._span.__enter__()
        return self._task

    async def _take_slot(self) -> None:
        """Wait for a slot. Raises Killed if there will be none."""
        decided = anyio.Event()
        taken = False

        def start() -> None:
            nonlocal taken
            taken = True
            decided.set()

        claim = Claim(start, decided.set)
        self._membership.slots.enter(claim)
        try:
            await decided.wait()
        except BaseException:
            if taken:
                self._membership.slots.release()
            else:
                self._membership.slots.withdraw(claim)
            raise
        if not taken:
            await self._membership.checkpoint.hold()
            raise AssertionError("slots are closed, but the agent is not stopped")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        if self._span is not None:
            self._span.__exit__(kind, error, trace)
        if not self._task.ended:
            self._membership.tasks.end(self._task, failed=error is not None)
        self._membership.slots.release()
