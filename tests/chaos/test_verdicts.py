"""Verdicts: a run that proves nothing is vacuous, exit codes, journals that replay, reports that hold no live name."""

import itertools
import json
import re
import signal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest

from crewkeeper_supervisor.chaos.plan.library import FIRST
from crewkeeper_supervisor.chaos.plan.scenario import Scenario, parse
from crewkeeper_supervisor.chaos.product_mutations import applied
from crewkeeper_supervisor.chaos.sim.stage import play
from crewkeeper_supervisor.chaos.trial import record as records
from crewkeeper_supervisor.chaos.trial import runner
from crewkeeper_supervisor.chaos.trial.drawing import lanes
from crewkeeper_supervisor.chaos.trial.played import Played
from crewkeeper_supervisor.chaos.trial.record import Result
from crewkeeper_supervisor.chaos.trial.report import html
from crewkeeper_supervisor.chaos.trial.runner import run_sim
from crewkeeper_supervisor.chaos.trial.verdict import Observed, Struck
from crewkeeper_supervisor.cli import chaos_run
from crewkeeper_supervisor.cli.main import run

GOOD = FIRST.format(id="x")
NO_FAULT = GOOD.replace("  - {do: kill_supervisor, after: truth.deadlock, for: 1s}\n", "")


def scenario(text: str) -> Scenario:
    return parse(text.encode(), "x.yaml")


def with_fault(fault: str) -> Scenario:
    return scenario(GOOD.replace("{do: kill_supervisor, after: truth.deadlock, for: 1s}", fault))


def reasons(text: Scenario) -> tuple[str, list[str]]:
    verdict = play(text, 0).verdict
    return verdict.word, [f"{check.what}: {check.detail}" for check in verdict.reasons]


def test_a_fault_that_is_never_due_is_vacuous() -> None:
    word, why = reasons(with_fault("{do: kill, target: agent:a, after: event.flood}"))
    assert word == "vacuous"
    assert why == ["fault 0: kill agent:a: not injected: event.flood never happened"]


def test_a_fault_that_comes_too_late_is_vacuous() -> None:
    word, why = reasons(with_fault("{do: kill, target: agent:a, at: 25s}"))
    assert word == "vacuous", why


def test_a_fault_that_hits_nothing_is_vacuous_and_so_is_what_comes_after_it() -> None:
    text = GOOD.replace("{do: kill_supervisor, after: truth.deadlock, for: 1s}", "{do: webhook_down, at: 0, for: 1s}")
    word, why = reasons(scenario(text.replace("after: truth.deadlock}", "after: fault.0}")))
    assert word == "vacuous"
    assert "fault 0: webhook_down webhook: injected into webhook and had no effect" in why
    assert any("fault.0 had no effect" in each for each in why)


def test_an_action_that_is_never_done_is_vacuous() -> None:
    text = GOOD.replace("expect:", "actions:\n  - {do: pause, agent: a, after: event.flood}\nexpect:")
    assert reasons(scenario(text)) == ("vacuous", ["action 0: pause a: not done: event.flood never happened"])
    word, why = reasons(scenario(text.replace("after: event.flood", "at: 25s")))
    assert (word, why) == ("vacuous", ["action 0: pause a: not done: the run was over before it was due"])


ASKING = """
v: 1
id: x
title: x
modes: [sim]
guarantees: [G5]
timeout: 60s
crew: {rules: [{id: big, tools: [pay], do: approve, because: money}], approvals: {expire: 20s}}
tools: {pay: {answer: paid, timeout: 40s}}
agents:
  buyer: {tools: [pay], main: [{work: 2s}, {catch: {do: [{tool: {name: pay}}], error: refused}}, {work: 1s}]}
  asker: {main: [{work: 3s}, {ask_human: {text: may I}}, {work: 1s}]}
  idle: {replicas: 2, main: [{work: 8s}]}
actions:
  - {do: approve, at: 100ms}
  - {do: answer, at: 100ms}
expect:
  - {event: tool_ran, where: {tool: pay, ok: true}, count: 1}
  - {event: done, where: {agent: asker}}
never:
  - {event: deadlock}
"""


def test_what_people_decide_waits_until_somebody_asks_for_it() -> None:
    played = play(scenario(ASKING), 0)
    assert played.verdict.word == "pass", played.verdict.reasons
    seen = [each.event for each in played.observed.seen if each.event in ("approval_asked", "action")]
    assert seen[0] == "approval_asked"


@pytest.mark.parametrize(
    ("action", "why"),
    [
        ("{do: approve, at: 4s}", "no approval had been asked for that was not decided"),
        ("{do: answer, at: 4s}", "no agent had asked a person anything that was not answered"),
        ("{do: pause, agent: buyer, at: 5s}", "buyer had ended"),
        ("{do: pause, agent: idle, at: 30s}", "the run was over before it was due"),
    ],
)
def test_an_action_that_nobody_could_notice_is_vacuous(action: str, why: str) -> None:
    text = ASKING.replace("expect:", f"  - {action}\nexpect:", 1)
    word, reasons_ = reasons(scenario(text))
    assert word == "vacuous", reasons_
    assert [each.partition("not done: ")[2] for each in reasons_] == [why]


def test_a_person_speaks_to_every_instance_of_a_role() -> None:
    text = ASKING.replace(
        "expect:", "  - {do: pause, agent: idle, at: 1s}\n  - {do: resume, agent: idle, at: 2s}\nexpect:", 1
    )
    played = play(scenario(text), 0)
    assert played.verdict.word == "pass", played.verdict.reasons
    for event in ("paused", "resumed"):
        agents = {each.fields["agent"] for each in played.observed.seen if each.event == event}
        assert agents == {"idle-1", "idle-2"}


def test_an_anchor_that_never_happens_is_vacuous() -> None:
    text = NO_FAULT.replace("{ask: {to: a}}", "{work: 1s}").replace("faults:\n", "")
    word, why = reasons(scenario(text))
    assert word == "vacuous"
    assert all("truth.deadlock never happened" in each for each in why)


def test_a_deadline_is_counted_from_its_anchor() -> None:
    text = NO_FAULT.replace("faults:\n", "").replace("within: 8s", "within: 50ms")
    assert reasons(scenario(text))[0] == "fail"
    assert reasons(scenario(text.replace("within: 50ms", "within: 1s")))[0] == "pass"


def test_never_and_too_many_fail() -> None:
    text = NO_FAULT.replace("faults:\n", "")
    assert reasons(scenario(text.replace("{event: false_deadlock}", "{event: deadlock}")))[0] == "fail"
    assert reasons(scenario(text.replace("count: 1, within: 8s", "count: 2, within: 8s")))[0] == "fail"
    assert reasons(scenario(text.replace("count: 1, within: 8s", "most: 1, within: 8s")))[0] == "pass"


def test_what_is_not_steady_before_the_first_fault_fails() -> None:
    text = GOOD.replace("faults:", "steady: [incidents]\nfaults:").replace(
        "{do: kill_supervisor, after: truth.deadlock, for: 1s}", "{do: kill, target: agent:b, after: event.deadlock}"
    )
    word, why = reasons(scenario(text))
    assert word == "fail"
    assert any("before the first fault: 1 incidents are open, first deadlock" in each for each in why)


def test_a_failing_run_is_shrunk_to_the_fault_that_it_takes() -> None:
    faults = "\n".join(
        [
            "  - {do: slow, target: agent:a, at: 100ms, for: 300ms}",
            "  - {do: kill_supervisor, after: truth.deadlock, for: 5s}",
            "  - {do: delay, target: agent:b, at: 0, for: 1s, by: 20ms}",
        ]
    )
    text = GOOD.replace("  - {do: kill_supervisor, after: truth.deadlock, for: 1s}", faults)
    result = run_sim(scenario(text.replace("within: 8s", "within: 900ms")), range(1), shrink=True)
    assert result.verdict == "fail"
    assert result.told is not None
    assert result.told.kept == ("plan:1:0",)
    said = [check.detail[:8] for check in result.told.checks if check.what.startswith("fault ")]
    assert said == ["left out", "fired 1", "left out"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (GOOD, 0),
        (GOOD.replace("within: 8s", "within: 1ms"), 1),
        (GOOD.replace("title:", "titel:"), 2),
        (GOOD.replace("after: truth.deadlock, for: 1s", "after: event.flood"), 3),
        (GOOD.replace("modes: [sim, real]", "modes: [real]"), 4),
    ],
)
def test_exit_codes(tmp_path: Path, text: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.yaml").write_text(text)
    command = ["chaos", "run", str(tmp_path / "x.yaml"), "--mode", "sim", "--seeds", "0..1"]
    assert run([*command, "--journal", str(tmp_path / "j.json")]) == code
    capsys.readouterr()


def test_a_file_that_is_not_there_or_refused_is_a_bad_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.yaml").write_text(GOOD)
    (tmp_path / "crew.yaml").write_text("crew: [")
    for words in ("run none.yaml", "validate none.yaml", "list none.yaml", "run x.yaml --crew crew.yaml"):
        command = [str(tmp_path / word) if word.endswith(".yaml") else word for word in words.split()]
        assert run(["chaos", *command]) == 2, words
        assert "error: " in capsys.readouterr().err


def test_what_was_run_is_kept_when_the_rest_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    journal, one, left = tmp_path / "j.json", chaos_run._one, [True, False]

    def interrupted(*arguments: Any) -> Result:
        if left.pop(0):
            return one(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(chaos_run, "_one", interrupted)
    for name in ("x", "z"):
        (tmp_path / f"{name}.yaml").write_text(FIRST.format(id=name))
    command = ["chaos", "run", str(tmp_path), "--seeds", "0..0", "--journal", str(journal)]
    assert run(command) == 130
    assert [each.scenario["id"] for each in records.read(journal).results] == ["x"]
    left[:] = [False]
    assert run(command) == 130
    assert len(records.read(journal).results) == 1, "nothing new is no reason to forget what is known"
    capsys.readouterr()


def test_a_scenario_that_sigterm_breaks_off_is_kept_with_its_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    journal, right = tmp_path / "j.json", runner.play

    def played(which: Scenario, seed: int, kept: frozenset[str] | None = None) -> Played:
        if seed == 2:
            signal.raise_signal(signal.SIGTERM)
        return right(which, seed, kept)

    monkeypatch.setattr(runner, "play", played)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    (tmp_path / "x.yaml").write_text(FIRST.format(id="x"))
    assert run(["chaos", "run", str(tmp_path / "x.yaml"), "--journal", str(journal)]) == 130
    assert "interrupted after 2 seeds, which passed" in capsys.readouterr().out
    (result,) = records.read(journal).results
    assert [each.seed for each in result.runs] == [0, 1]
    assert result.verdict == "skipped"
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    text = FIRST.format(id="x").replace("within: 8s", "within: 1ms")
    (tmp_path / "x.yaml").write_text(text)
    assert run(["chaos", "run", str(tmp_path / "x.yaml"), "--journal", str(journal)]) == 130
    assert records.read(journal).word == "fail", "what has failed stays failed"
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("run x.yaml --tag nope", "no scenario has the tag 'nope'"),
        ("run x.yaml --journal x.yaml/j.json", "cannot be written"),
        ("run x.yaml --report x.yaml/r.html", "cannot be written"),
        ("run x.yaml --all --mode sim", "--all plays every mode"),
        ("run x.yaml --crew x.yaml --mode sim", "real programs"),
        ("run x.yaml --mode real --shrink", "takes a simulation"),
        ("run x.yaml --mode sim --mutate no-kick", "leave out --mode sim"),
        ("run x.yaml --mutate none", "'none' is no mutation"),
        ("run x.yaml --seeds 0..9999999", "the limit is 1000000"),
        ("run empty", "no file in this folder ends in .yaml"),
        ("init x.yaml", "exists; nothing was written"),
        ("init x", "supervisor chaos init "),
        ("init on.yaml", "'on' is read as true or false"),
        ("init no good.yaml", "nothing was written"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_run(
    tmp_path: Path, words: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.yaml").write_text(GOOD)
    first, _, rest = words.partition(" ")
    command = [rest] if first == "init" else rest.split()
    assert run(["chaos", first, *command]) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.out == ""
    assert sorted(each.name for each in tmp_path.iterdir()) == ["empty", "x.yaml"]


def test_a_journal_replays_and_says_where_it_does_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.yaml").write_text(GOOD)
    journal, junit = tmp_path / "j.json", tmp_path / "j.xml"
    command = ["chaos", "run", str(tmp_path / "x.yaml"), "--seeds", "3..5", "--journal", str(journal)]
    assert run([*command, "--junit", str(junit)]) == 0
    assert run(["chaos", "replay", str(journal)]) == 0
    assert [case.get("name") for case in ElementTree.parse(junit).iter("testcase")] == ["seed 3", "seed 4", "seed 5"]
    with applied("no-confirmation"):
        assert run(["chaos", "replay", str(journal)]) == 1
    assert "0 of 3 runs" in capsys.readouterr().out
    record = records.read(journal)
    assert records.scenario_of(record.results[0].scenario) == parse(GOOD.encode(), str(tmp_path / "x.yaml"))
    assert run(["chaos", "replay", str(tmp_path / "none.json")]) == 5


def test_a_journal_without_a_simulated_run_cannot_be_replayed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records.write(records.Record(), tmp_path / "j.json")
    assert run(["chaos", "replay", str(tmp_path / "j.json")]) == 4
    assert "no simulated run" in capsys.readouterr().err


def test_names_of_faults_that_begin_together_stand_beside_each_other() -> None:
    struck = [Struck(index=index, do="tool_fails", target="pay", at_s=1.0, end_s=2.0) for index in range(3)]
    drawn = lanes(
        Observed(seen=[], anchors={}, struck=struck, metrics=[], unsteady=[], unhealed=[], spans=[], end_s=9.0)
    )
    places = [float(found) for found in re.findall(r"<text x=([0-9.]+) [^>]*>tool_fails<", drawn)]
    assert len(places) == 3
    assert all(next_ - before > 50 for before, next_ in itertools.pairwise(places))


def test_a_report_is_whole_in_itself_and_hostile_names_stay_text(tmp_path: Path) -> None:
    result = run_sim(scenario(GOOD), range(1))
    hostile = "<script>alert(1)</script>\u202e\"'><img src=x onerror=alert(1)>"
    text = json.dumps(msgspec.to_builtins(records.Record(results=[result]))).replace('"a"', json.dumps(hostile))
    record = msgspec.json.decode(text.encode(), type=records.Record)
    record.results[0].scenario["title"] = hostile
    record.mutation = record.crew = hostile
    page = html(record)
    assert hostile not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"<(script|img|link|iframe)|https?://|url\(|@import", page)
    assert "default-src 'none'" in page
    assert "<svg" in page
    tags = {tag.lower() for tag in re.findall(r"<([a-zA-Z]+)", page)}
    assert tags <= {
        *(
            "html",
            "meta",
            "title",
            "style",
            "h",
            "p",
            "span",
            "table",
            "tr",
            "th",
            "td",
            "a",
            "div",
            "svg",
            "rect",
            "b",
        ),
        *("text", "path", "line", "circle", "details", "summary", "br", "ul", "li"),
    }
