"""Hooks of a run that are asked side by side."""

import threading
from typing import Any

import anyio
import pytest

from crewkeeper_bus.tool_messages import HookAnswered
from crewkeeper_supervisor.core.commands import AskHook
from crewkeeper_supervisor.core.gate_rules import Asked
from crewkeeper_supervisor.gate.call import Call
from crewkeeper_supervisor.shell import live_hooks
from crewkeeper_supervisor.shell.live_hooks import AT_ONCE, LiveHooks
from support.bus import LIMIT_S, until


async def test_a_hook_that_hangs_keeps_nobody_from_another(monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    answered: list[HookAnswered] = []

    class Process:
        """One that hangs until it is let go, by its name."""

        def __init__(self, names: tuple[str, ...], *_: Any) -> None:
            self._hangs = names == ("judges:hangs",)

        def ask(self, hook: str, call: Call, deadline_s: float) -> bool:
            return not self._hangs or go.wait(deadline_s)

        def close(self) -> None:
            pass

    async def publish(_link: Any, _run: str, message: HookAnswered) -> None:
        answered.append(message)

    monkeypatch.setattr(live_hooks, "HookProcess", Process)
    monkeypatch.setattr(live_hooks.journal, "publish_op", publish)
    hooks = LiveHooks(None, "r1")  # type: ignore[arg-type]
    asked = Asked(agent="a", role="a", hop="tool", tool="pay")
    names = [f"h{number}" for number in range(2 * AT_ONCE)]
    for id_ in (*names, "q"):
        hook = "judges:quick" if id_ == "q" else "judges:hangs"
        hooks.give(AskHook(id=id_, agent="a", call=id_, hook=hook, deadline_s=LIMIT_S, asked=asked), None)
    async with anyio.create_task_group() as group:
        group.start_soon(hooks.work)
        try:
            await until(lambda: answered, "the other one answers")
            assert [(each.call, each.answer) for each in answered] == [("q", "yes")]
        finally:
            go.set()
        await until(lambda: len(answered) == len(names) + 1, "all are answered")
        group.cancel_scope.cancel()
