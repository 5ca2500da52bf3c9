"""Scenario files: what is refused and where, the schema beside them, and that their words are those of real agents."""

import json
from pathlib import Path

import pytest
import yaml
from jsonschema import ValidationError, validators

from crewkeeper_agents import script
from crewkeeper_supervisor.chaos.faults.registry import KINDS
from crewkeeper_supervisor.chaos.plan.library import FIRST
from crewkeeper_supervisor.chaos.plan.scenario import ScenarioError, load, parse
from crewkeeper_supervisor.chaos.plan.schema import schema
from crewkeeper_supervisor.chaos.plan.steps import FORMS
from crewkeeper_supervisor.chaos.sim.player import _PLAYS, real_step
from crewkeeper_supervisor.cli.main import run

FOLDER = Path(__file__).resolve().parents[2] / "scenarios"
FILES = sorted(FOLDER.glob("*.yaml"))
GOOD = FIRST.format(id="x")
BY_SCHEMA = validators.validator_for(schema())(schema())


def problems(text: str) -> list[tuple[str, int, int]]:
    with pytest.raises(ScenarioError) as refused:
        parse(text.encode(), "x.yaml")
    return [(each.code, each.line, each.column) for each in refused.value.problems]


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


def at(text: str, part: str) -> tuple[int, int]:
    before = text[: text.index(part)]
    return before.count("\n") + 1, len(before) - before.rfind("\n")


@pytest.mark.parametrize(
    ("old", "new", "code", "where"),
    [
        ("title:", "titel:", "SCN-110", "titel"),
        ("timeout: 30s", "on: 30s", "SCN-113", "on: 30s"),
        ("timeout: 30s", "timeout: 1:30", "SCN-113", "1:30"),
        ("timeout: 30s", "timeout: soon", "SCN-114", "soon"),
        ("agents:\n  a:", "agents:\n  a: &a", "SCN-106", "&a"),
        ("modes: [sim, real]", "modes: [sim, mars]", "SCN-116", "mars"),
        ("modes: [sim, real]", "modes: [sim, sim]", "SCN-107", "sim]"),
        ("{ask: {to: b}}", "{ask: {to: bb}}", "SCN-118", "bb}"),
        ("{work: 500ms}", "{wrok: 500ms}", "SCN-110", "wrok"),
        ("main: [{work: 500ms}", "main: [{reply: 1}, {work: 500ms}", "SCN-119", "reply: 1"),
        ("do: kill_supervisor", "do: freeze_nats", "SCN-119", "freeze_nats"),
        ("after: truth.deadlock, for", "after: truth.dedlock, for", "SCN-118", "truth.dedlock"),
        ("count: 1, within: 8s", "count: 1, most: 2, within: 8s", "SCN-119", "1, most"),
        ("{event: deadlock, where: {agents", "{event: deadlock, where: {agentz", "SCN-110", "agentz"),
        ("- {event: false_deadlock}", "- {event: flase_deadlock}", "SCN-118", "flase_deadlock"),
        ("id: x", "id: z", "SCN-119", "z\n"),
        ("do: kill_supervisor,", "do: kill_supervisor, percent: 50,", "SCN-119", "percent"),
        ("do: kill_supervisor,", "do: kill_supervisor, name: '1',", "SCN-117", "'1'"),
        ("{do: kill_supervisor, after: truth.deadlock,", "{do: kill, target: agent,", "SCN-116", "agent, for"),
        ("after: truth.deadlock, for", "at: 30s, for", "SCN-119", "30s, for"),
        ("after: truth.deadlock, for", "after: fault.0.end, for", "SCN-119", "fault.0.end, for"),
        ("faults:", "actions: [{do: approve, agent: a}]\nfaults:", "SCN-119", "agent: a}"),
        ("faults:", "actions: [{do: budget, add_microusd: 1}]\nfaults:", "SCN-119", "{do: budget"),
        ("faults:", "actions: [{do: budget}]\nfaults:", "SCN-111", "{do: budget"),
        ("{agents: [a, b]}", "{agents: a}", "SCN-114", "a}, count"),
        ("{agents: [a, b]}", "{timed: 1}", "SCN-114", "1}, count"),
        ("count: 1, within: 8s", "least: 0", "SCN-119", "0, after"),
        ("count: 1, within: 8s", "least: 2, most: 1", "SCN-119", "2, most"),
        ("{event: wait_broken, count: 1,", "{metric: webhooks, count: 1,", "SCN-119", "within: 9s"),
        ("confirm: 100ms", "confirm: often", "SCN-114", "often"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(old: str, new: str, code: str, where: str) -> None:
    text = changed(old, new)
    assert (code, *at(text, where)) in problems(text)


def test_every_mistake_is_said_at_once_and_in_the_words_of_scenarios() -> None:
    text = changed("title:", "titel:").replace("{work: 500ms}", "{wrok: 1}").replace("timeout: 30s", "timeout: &x 1s")
    with pytest.raises(ScenarioError) as refused:
        parse(text.encode(), "x.yaml")
    assert len(refused.value.problems) >= 4
    assert "crew file" not in str(refused.value)


def test_the_crew_that_a_scenario_makes_is_checked_too() -> None:
    text = changed("  b:\n", "  b:\n    may_call: [zoe]\n")
    ((code, line, _), *_rest) = problems(text)
    assert (code, line) == ("SCN-118", at(text, "    may_call")[0])


def test_a_circle_of_anchors_is_refused_once_and_what_hangs_on_it_is_not() -> None:
    faults = [
        "{do: freeze, target: agent:a, name: one, after: action.0}",
        "{do: freeze, target: agent:a, after: fault.one}",
        "{do: freeze, target: agent:a, after: fault.3}",
        "{do: freeze, target: agent:b, after: truth.deadlock}",
    ]
    text = changed(
        "  - {do: kill_supervisor, after: truth.deadlock, for: 1s}\n", "".join(f"  - {each}\n" for each in faults)
    )
    text = text.replace("faults:", "actions: [{do: resume, agent: a, after: fault.one.end}]\nfaults:")
    with pytest.raises(ScenarioError) as refused:
        parse(text.encode(), "x.yaml")
    (problem,) = refused.value.problems
    assert (problem.line, problem.column) == at(text, "action.0}")
    assert "fault.0 after action.0 after fault.0" in str(refused.value)


def test_a_scenario_that_cannot_fail_is_refused() -> None:
    text = GOOD[: GOOD.index("expect:")]
    assert [code for code, _, _ in problems(text)] == ["SCN-111"]


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_a_scenario_is_valid_by_the_schema_and_its_scripts_are_those_of_real_agents(file: Path) -> None:
    scenario = load(file)
    BY_SCHEMA.validate(yaml.safe_load(file.read_text()))
    for player in scenario.players:
        made = {key: value for key, value in player.script.items() if key not in ("main", "handlers")}
        made["main"] = [real_step(step) for step in player.script.get("main", [])]
        made["handlers"] = {
            verb: [real_step(step) for step in steps] for verb, steps in player.script.get("handlers", {}).items()
        }
        if player.obeys and not player.model_calls:
            script.parse(json.dumps(made).encode())


def test_the_schema_refuses_what_the_loader_refuses() -> None:
    BY_SCHEMA.check_schema(schema())
    for old, new in (("title:", "titel:"), ("{work: 500ms}", "{wrok: 1}"), ("modes: [sim, real]", "modes: []")):
        with pytest.raises(ValidationError):
            BY_SCHEMA.validate(yaml.safe_load(changed(old, new)))


def test_steps_mean_the_same_in_a_simulation_and_in_a_process() -> None:
    assert set(FORMS) == set(script.FORMS) - {"barrier"} == set(_PLAYS)


def test_every_fault_says_what_it_does_and_where_it_can() -> None:
    for kind in KINDS.values():
        assert kind.doc.endswith(".")
        assert kind.modes
        assert kind.default_target.partition(":")[0] in kind.targets


def test_init_writes_a_scenario_that_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "new" / "first.yaml"
    assert run(["chaos", "init", str(file)]) == 0
    assert run(["chaos", "init", str(file)]) == 2
    assert run(["chaos", "validate", str(file)]) == 0
    assert json.loads((tmp_path / "new" / "scenario.schema.json").read_text())["title"]
    assert run(["chaos", "run", str(file), "--seeds", "0..1", "--journal", str(tmp_path / "j.json")]) == 0
    capsys.readouterr()
    assert run(["chaos", "list", str(file), "-o", "name"]) == 0
    assert capsys.readouterr().out.strip() == str(file)


def test_validate_says_all_and_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(changed("title:", "titel:"))
    assert run(["chaos", "validate", str(tmp_path)]) == 2
    assert f"{file}:4:1" in capsys.readouterr().err
    assert run(["chaos", "run", str(file)]) == 2
