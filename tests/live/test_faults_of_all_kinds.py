"""Several faults of real processes in one run: each of them strikes and is undone, and what must hold holds."""

import pytest

from crewkeeper_supervisor.chaos.plan.scenario import parse
from crewkeeper_supervisor.chaos.real.runner import run_real

pytestmark = pytest.mark.live
SCENARIO = """
v: 1
id: everything
title: clocks, the network of replicas, a model and a fail point in one run
modes: [real]
guarantees: [G1, G7]
timeout: 180s
crew: {budget: {usd: 0.01}, responses: {deadlock: {confirm: 100ms, do: [break]}}}
agents:
  asker: {asks_model: {calls: 8, every: 100ms}}
  pair: {replicas: 2, main: [{work: 2s}]}
steady: [owner]
faults:
  - {do: clock_back, target: "supervisor:all", at: 0, for: 5s}
  - {do: delay, target: "agent:pair", at: 0, for: 5s, by: 50ms}
  - {do: kill_at, point: "recorded:2", after: event.model_ran, for: 500ms}
expect:
  - {metric: spent_microusd, least: 1, most: 10000}
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
