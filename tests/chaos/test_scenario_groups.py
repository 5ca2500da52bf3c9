"""Groups of agents and changes of policy in scenarios: what they become, and what is refused and where."""

import pytest

from crewkeeper_supervisor.chaos.plan.library import FIRST
from crewkeeper_supervisor.chaos.plan.scenario import Scenario, ScenarioError, parse
from crewkeeper_supervisor.chaos.sim.stage import play
from crewkeeper_supervisor.chaos.trial.metrics import Metric

GROUPED = """\
v: 1
id: x
title: several pairs
modes: [sim]
guarantees: [G3]
timeout: 40s
crew:
  responses: {deadlock: {confirm: 100ms, do: [break, escalate]}}
  escalation: {per_minute: 2}
  escalate: [{webhook: "${CHAOS_WEBHOOK}", secret: "${CHAOS_SECRET}", allow_private: true}]
agents:
  lone: {main: [{work: 10ms}, {ask: {to: b-1}}]}
groups:
  pair:
    count: 3
    agents:
      a:
        may_call: [b, lone]
        main:
          - {work: 100ms}
          - {repeat: {times: 1, do: [{ask_all: [{to: b, body: {to: b}}]}]}}
          - {catch: {do: [{receive: {from: [b], timeout: 10ms}}], error: timeout, then: [{tell: {to: lone}}]}}
        handlers: {ask: [{reply: {to: b}}]}
      b: {main: [{work: 100ms}, {ask: {to: a}}], handlers: {ask: [{reply: ok}]}}
expect:
  - {event: deadlock, count: 3}
"""
RULES = "actions: [{do: policy, at: 1s, rules: [{id: never, tools: [pay], do: deny}]}]\n"


def scenario(text: str) -> Scenario:
    return parse(text.encode(), "x.yaml")


def problems(text: str) -> list[tuple[str, int]]:
    with pytest.raises(ScenarioError) as refused:
        scenario(text)
    return [(each.code, each.line) for each in refused.value.problems]


def line(text: str, part: str) -> int:
    return text[: text.index(part)].count("\n") + 1


def amount(metrics: list[Metric], name: str, **fields: str) -> int:
    return sum(much for metric, of, much in metrics if metric == name and of == fields)


def test_a_group_becomes_agents_that_speak_of_their_own_copy() -> None:
    made = scenario(GROUPED)
    assert [player.name for player in made.players] == ["lone", "a-1", "b-1", "a-2", "b-2", "a-3", "b-3"]
    second = {player.name: player.script for player in made.players}["a-2"]
    assert second["main"][1] == {"repeat": {"times": 1, "do": [{"ask_all": [{"to": "b-2", "body": {"to": "b"}}]}]}}
    assert second["main"][2]["catch"]["do"] == [{"receive": {"from": ["b-2"], "timeout": 0.01}}]
    assert second["main"][2]["catch"]["then"] == [{"tell": {"to": "lone"}}]
    assert second["handlers"] == {"ask": [{"reply": {"to": "b"}}]}, "an answer is the author's own"
    assert made.crew is not None
    assert {agent.name: agent.may_call for agent in made.crew.agents}["a-2"] == ("b-2", "lone")


def test_copies_deadlock_apart_and_people_are_told_of_all_of_them() -> None:
    observed = play(scenario(GROUPED), 0).observed
    found = [each.fields["agents"] for each in observed.seen if each.event == "deadlock"]
    assert sorted(map(sorted, found)) == [["a-1", "b-1"], ["a-2", "b-2"], ["a-3", "b-3"]]
    opened = [each for each in observed.seen if each.event == "webhook" and each.fields["type"] == "opened"]
    assert len(opened) == 2, "the others come in a digest"
    assert amount(observed.metrics, "incidents_told", kind="deadlock") == 3


@pytest.mark.parametrize(
    ("old", "new", "code", "where"),
    [
        ("{ask: {to: a}}", "{ask: {to: z}}", "SCN-118", "{ask: {to: z}}"),
        ("  lone:", "  a-2: {main: [{work: 1s}]}\n  lone:", "SCN-107", "      a:"),
        ("count: 3", "count: 0", "SCN-115", "count: 0"),
        ("{to: b-1}", "{to: b}", "SCN-118", "{to: b}"),
        ("      b: {main", "      b: {replicas: 2, main", "SCN-119", "      b: {rep"),
        ("may_call: [b, lone]", "may_call: [b, zoe]", "SCN-118", "may_call"),
        ("      a:\n", "      a-name-that-only-just-fits-into:\n", "SCN-115", "      a-name"),
    ],
)
def test_what_is_wrong_with_a_group_is_said_with_its_place(old: str, new: str, code: str, where: str) -> None:
    assert old in GROUPED
    text = GROUPED.replace(old, new, 1)
    assert (code, line(text, where)) in problems(text)


def with_actions(actions: str) -> str:
    return FIRST.format(id="x").replace("agents:", "tools: {pay: {answer: paid}}\nagents:", 1) + actions


def test_a_policy_is_read_as_in_a_policy_file() -> None:
    (action,) = scenario(with_actions(RULES)).actions
    assert [rule["id"] for rule in action.rules] == ["never"]
    assert (action.default, len(action.version) > 8) == ("allow", True)
    assert "policy_changed" in {each.event for each in play(scenario(with_actions(RULES)), 0).observed.seen}


@pytest.mark.parametrize(
    ("actions", "code"),
    [
        ("actions: [{do: policy, at: 1s}]\n", "SCN-111"),
        ("actions: [{do: pause, agent: a, rules: []}]\n", "SCN-119"),
        (RULES.replace("do: deny", "do: dney"), "SCN-116"),
        (RULES.replace("tools: [pay]", "tolls: [pay]"), "SCN-110"),
        (RULES.replace("do: deny", "do: deny, when: 'args.'"), "SCN-123"),
    ],
)
def test_what_is_wrong_with_a_policy_is_said_with_its_place(actions: str, code: str) -> None:
    text = with_actions(actions)
    assert (code, line(text, "actions:")) in problems(text)
