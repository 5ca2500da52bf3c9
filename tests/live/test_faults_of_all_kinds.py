"""Several faults of real processes in one run: each of them strikes, is undone, and what holds holds."""

import pytest

from crewkeeper_supervisor.chaos.plan.scenario import parse
from crewkeeper_supervisor.chaos.real.runner import run_real

pytestmark = pytest.mark.live
SCENARIO = """
v: 1
id: everything
title: clocks, fail points, models and a thief at once
modes: [real]
guarantees: [G1, G7]
timeout: 120s
crew: {budget: {usd: 0.01}, responses: {deadlock: {confirm: 100ms, do: [break]}}}
agents:
  asker: {asks_model: {calls: 12, every: 100ms}}
  pair: {replicas: 2, main: [{work: 4s}]}
  ann: {main: [{repeat: {times: 30, do: [{progress: working}, {work: 100ms}]}}]}
steady: [owner]
faults:
  - {do: kill_at, point: "recorded:2", at: 100ms, for: 3s}
  - {do: clock_back, target: "supervisor:all", at: 100ms, for: 4s}
  - {do: clock_forward, target: "agent:ann", at: 100ms, for: 4s}
  - {do: model_fails, percent: 50, at: 0, for: 6s}
  - {do: delay, target: "agent:pair", at: 0, for: 3s, by: 50ms}
expect:
  - {metric: spent_microusd, least: 1, most: 10000}
  - {event: model_ran, where: {agent: asker, ok: false}, least: 1}
  - {event: model_ran, where: {agent: asker, ok: true}, least: 1}
  - {event: run_ended, where: {state: done}}
never:
  - {event: deadlock}
"""


def test_each_strikes_and_is_undone() -> None:
    result = run_real(parse(SCENARIO.encode(), "everything.yaml"))
    assert result.told is not None
    assert result.verdict == "pass", [check for check in result.told.checks if check.word != "pass"]
    assert {(each.do, each.target) for each in result.told.observed.struck if each.do == "delay"} == {
        ("delay", "pair-1"),
        ("delay", "pair-2"),
    }
    assert all(each.fired and each.end_s is not None for each in result.told.observed.struck)
