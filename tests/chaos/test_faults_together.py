"""Two faults of one kind on one thing at the same time: both count, and each lasts until its own end."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from crewkeeper_supervisor.chaos.faults import limits
from crewkeeper_supervisor.chaos.faults.holds import Holds
from crewkeeper_supervisor.chaos.faults.registry import KINDS
from crewkeeper_supervisor.chaos.plan.library import FIRST
from crewkeeper_supervisor.chaos.plan.scenario import Fault, Scenario, parse
from crewkeeper_supervisor.chaos.real.own_clock import OwnClock
from crewkeeper_supervisor.chaos.real.proxy import Proxy
from crewkeeper_supervisor.chaos.sim.stage import SimStage, play

GOOD = FIRST.format(id="x").replace("{ask: {to: b}}]", "{ask: {to: b}}, {work: 5s}]")
LOOK_S = 0.02
TOOLS = """
v: 1
id: x
title: x
modes: [sim]
guarantees: [G5]
tools: {search: {answer: fine, timeout: 5s}}
agents:
  a:
    tools: [search]
    main: [{repeat: {times: 40, do: [{catch: {do: [{tool: {name: search}}], error: refused}}, {work: 100ms}]}}]
faults:
  - {do: tool_fails, target: "tool:search", at: 500ms, for: 2s}
  - {do: tool_fails, target: "tool:search", at: 1s, for: 500ms}
expect:
  - {event: tool_ran, where: {ok: false}, least: 5, after: fault.1.end, within: 900ms}
  - {event: tool_ran, where: {ok: true}, least: 1, after: fault.0.end}
never:
  - {event: deadlock}
"""


def together(first: str, second: str) -> Scenario:
    """The first scenario with these two instead of its fault."""
    faults = f"  - {first}\n  - {second}\n"
    return parse(GOOD.replace("  - {do: kill_supervisor, after: truth.deadlock, for: 1s}\n", faults).encode(), "x.yaml")


def moments(scenario: Scenario, what: Any, at: tuple[float, ...]) -> tuple[list[Any], list[int]]:
    """What holds of the world at some moments since the crew began, and how often each fault has struck."""
    stage, looks = SimStage(scenario, 1), []
    clock = stage.world.clock

    def look() -> None:
        looks.append((clock.now_s, what(stage.world)))
        clock.after(LOOK_S, look)

    clock.after(2.0, look)  # agents are there by then
    played = stage.run()
    zero_s = stage.timeline.anchors["start"]
    found = [next(seen for looked_s, seen in looks if looked_s >= zero_s + at_s) for at_s in at]
    return found, [each.fired for each in played.observed.struck]


@pytest.mark.parametrize(
    ("word", "at_work"),
    [
        ("freeze", lambda world: world.members["a"].actor.frozen),
        ("slow", lambda world: world.members["a"].actor.pace > 1),
        ("partition", lambda world: not world.members["a"].connected),
    ],
)
def test_an_agent_is_let_go_by_the_last_fault_that_holds_it(word: str, at_work: Any) -> None:
    first = f"{{do: {word}, target: agent:a, at: 500ms, for: 1s}}"
    for second in ("at: 600ms, for: 200ms", "at: 1s, for: 2s"):
        scenario = together(first, f"{{do: {word}, target: agent:a, {second}}}")
        end_s = max(fault.at_s + fault.for_s for fault in scenario.faults)
        found, fired = moments(scenario, at_work, (0.7, 1.3, end_s - 0.1, end_s + 0.1))
        assert found == [True, True, True, False], second
        assert all(fired)


def test_messages_that_two_faults_touch_count_for_both() -> None:
    for word in ("drop", "delay", "duplicate", "reorder"):
        first = f"{{do: {word}, target: agent:a, at: 0, for: 8s}}"
        played = play(together(first, f"{{do: {word}, target: agent:a, at: 100ms, for: 7s}}"), 1)
        assert all(each.fired for each in played.observed.struck), word


def test_calls_of_a_tool_that_two_faults_spoil_count_for_both() -> None:
    played = play(parse(TOOLS.encode(), "x.yaml"), 1)
    assert played.verdict.word == "pass", played.verdict.reasons
    long, short = (each.fired for each in played.observed.struck)
    assert long > short > 0


def test_a_thing_is_as_before_the_first_fault_after_the_last() -> None:
    holds = Holds()
    first, second = holds.take("x", "right"), holds.take("x", "wrong")
    assert first() is None
    assert first() is None, "harmless when repeated"
    last = second()
    assert last is not None
    assert last.before == "right"
    assert second() is None
    third = holds.take("x", "anew")()
    assert third is not None
    assert third.before == "anew"


def test_a_clock_that_two_faults_move_goes_back_in_two_steps(tmp_path: Path) -> None:
    clock = OwnClock(tmp_path / "clock")
    first, second = clock.shift(60.0), clock.shift(-3600.0)
    assert clock.ahead_s == -3540.0
    first()
    first()
    assert clock.ahead_s == -3600.0
    second()
    assert clock.ahead_s == 0.0


async def test_files_can_be_opened_again_after_the_last_of_two_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    soft = {7: 1024}

    def set_(pid: int, new: int) -> int:
        before, soft[pid] = soft[pid], new
        return before

    monkeypatch.setattr(limits, "_set", set_)
    stage = SimpleNamespace(
        holds=Holds(),
        cast=SimpleNamespace(instances={"a": "a"}),
        processes=SimpleNamespace(pid=lambda _name: 7),
        agent_log=lambda _name: Path("/nowhere"),
    )
    strike = KINDS["no_files"].real
    assert strike is not None
    fault = Fault(index=0, name="0", do="no_files", target="agent:a")
    first, second = await strike(stage, fault, "a"), await strike(stage, fault, "a")
    await first.heal()
    assert soft[7] == limits.NO_MORE
    await second.heal()
    await first.heal()
    assert soft[7] == 1024


def test_frames_that_two_faults_touch_count_for_both() -> None:
    proxy = Proxy(lambda: "", seed=1)
    frame = b"PUB crew.x 1\r\n1\r\n"

    async def touched() -> list[tuple[float, bytes] | None]:
        return proxy._touched(frame, "out")

    delays = [proxy.tamper("delay", "out", 1.0, 5.0) for _ in range(2)]
    twice = proxy.tamper("duplicate", "out", 1.0, 0.0)
    (due_s, _), again = (each for each in anyio.run(touched) if each is not None)
    assert again == (due_s, frame)
    assert [each.fired for each in (*delays, twice)] == [1, 1, 1]
    drops = [proxy.tamper("drop", "out", 1.0, 0.0) for _ in range(2)]
    assert anyio.run(touched) == []
    assert [each.fired for each in drops] == [1, 1]
