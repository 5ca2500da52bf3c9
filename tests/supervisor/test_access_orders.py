"""Orders about access: carried out in turn for each agent, except that a kill waits for nothing."""

import contextlib
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from crewkeeper_bus.codec import decode_supervisor
from crewkeeper_bus.messages import AccessSet
from crewkeeper_bus.subjects import parse
from crewkeeper_supervisor.core.commands import SetAccess
from crewkeeper_supervisor.shell import access_orders
from crewkeeper_supervisor.shell.access_orders import AccessOrders
from crewkeeper_supervisor.shell.enforcer import Done
from support.bus import until


class Slow:
    """An enforcer whose pauses and resumes end when `go` is set, and whose kills end at once."""

    def __init__(self) -> None:
        self.began: list[tuple[str, str]] = []
        self.go = anyio.Event()

    async def kill(self, run: str, agent: str, *, why: str, term: int) -> Done:
        self.began.append(("kill", agent))
        return Done(ok=True)

    async def pause(self, run: str, agent: str, *, why: str, term: int, keep: bool) -> Done:
        self.began.append(("pause", agent))
        await self.go.wait()
        return Done(ok=True)

    async def resume(self, run: str, agent: str, *, why: str, term: int) -> Done:
        self.began.append(("resume", agent))
        await self.go.wait()
        return Done(ok=True)


class Stage:
    def __init__(self) -> None:
        self.enforcer = Slow()
        self.told: list[AccessSet] = []
        powers: Any = SimpleNamespace(enforcer=self.enforcer, lacks="")
        link: Any = SimpleNamespace(publish=self._publish)
        self.orders = AccessOrders(link, "r1", 1, powers, lambda: 0.0)

    async def _publish(self, subject: str, payload: bytes) -> None:
        fact = decode_supervisor(parse(subject).kind, payload)
        assert isinstance(fact, AccessSet)
        self.told.append(fact)

    def give(self, id_: str, agent: str, state: Any) -> None:
        self.orders.give(SetAccess(id=id_, agent=agent, state=state, why="test"), 1000)

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        await until(condition, what)

    def outcomes(self) -> dict[str, bool]:
        return {fact.command: fact.ok for fact in self.told}


@contextlib.asynccontextmanager
async def staged() -> AsyncIterator[Stage]:
    stage = Stage()
    async with anyio.create_task_group() as group:
        group.start_soon(stage.orders.work)
        yield stage
        group.cancel_scope.cancel()


async def test_one_agents_orders_are_carried_out_in_turn_and_none_twice():
    async with staged() as stage:
        for id_, state in (("1", "paused"), ("2", "running"), ("1", "paused"), ("3", "paused")):
            stage.give(id_, "a", state)
        await stage.until(lambda: bool(stage.enforcer.began), "the first is begun")
        assert stage.enforcer.began == [("pause", "a")]
        stage.enforcer.go.set()
        await stage.until(lambda: len(stage.told) == 3, "all are told")
        assert [fact.command for fact in stage.told] == ["1", "2", "3"]


async def test_a_kill_breaks_off_a_slow_resume_and_goes_before_what_waits():
    async with staged() as stage:
        stage.give("slow", "a", "running")
        await stage.until(lambda: stage.enforcer.began == [("resume", "a")], "the resume is being carried out")
        stage.give("later", "a", "paused")
        stage.give("end", "a", "killed")
        await stage.until(lambda: "end" in stage.outcomes(), "the kill is told")
        assert [fact.command for fact in stage.told] == ["slow", "end"]
        assert stage.outcomes() == {"slow": False, "end": True}
        assert "broken off" in stage.told[0].detail
        stage.enforcer.go.set()
        await stage.until(lambda: "later" in stage.outcomes(), "what waited is told, too")


@pytest.mark.parametrize("has_line", [False, True])
async def test_kills_find_a_free_hand_while_all_others_wait(has_line):
    async with staged() as stage:
        for number in range(2 * access_orders.AT_ONCE):
            stage.give(f"s{number}", f"slow-{number}", "running")
        await stage.until(lambda: len(stage.enforcer.began) == access_orders.AT_ONCE, "all hands are busy")
        if has_line:
            stage.give("before", "a", "paused")
        stage.give("end", "a", "killed")
        await stage.until(lambda: stage.outcomes().get("end", False), "the kill is told")
        stage.enforcer.go.set()
        await stage.until(lambda: len(stage.told) == 2 * access_orders.AT_ONCE + 1 + has_line, "all are told")
        assert all(stage.outcomes().values())
