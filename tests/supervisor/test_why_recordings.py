"""Explanations and timelines of recorded runs: every finding and decision says what it rests on."""

import json
from pathlib import Path

import pytest

from crewkeeper_supervisor.cli import failure
from crewkeeper_supervisor.cli.main import run
from crewkeeper_supervisor.shell.recording import Reader
from crewkeeper_supervisor.views.timeline import Timeline
from crewkeeper_supervisor.views.why import Inquiry
from crewkeeper_supervisor.views.why_page import page

RECORDINGS = sorted((Path(__file__).parents[1] / "data" / "recordings").glob("*.audit.gz"))
NAMED = {path.name.partition(".")[0]: path for path in RECORDINGS}
each = pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name.partition(".")[0])


def everything(path):
    with Reader(path) as reader:
        return reader.header.run, list(reader.records), [entry for batch in reader.entries() for entry in batch]


def asked(path, target):
    name, records, entries = everything(path)
    inquiry = Inquiry(name, target, records)
    for entry in entries:
        inquiry.take(entry)
    return inquiry.answer()


@each
def test_every_decision_of_a_run_is_explained(path):
    _, records, _ = everything(path)
    for record in records[1:6]:
        found = asked(path, record.id)
        assert (found.kind, found.seq) == ("decision", record.cause_seq)
        assert [d.record for d in found.decisions] == [record.n]
        assert found.decisions[0].command == record.command
        assert found.causes[-1].seq == record.cause_seq
        assert found.then.view.seq == record.cause_seq
        booking = record.command.get("booking") or {}
        assert found.decisions[0].policy == booking.get("policy", "")
        assert page(found)


@each
def test_every_finding_of_a_run_is_explained(path):
    whole = asked(path, "")
    assert (whole.kind, whole.state) == ("run", "done")
    assert whole.causes[-1].text.startswith("the run is over")
    for row in whole.findings:
        found = asked(path, row.id)
        assert (found.kind, found.seq, found.finding.id) == ("finding", row.seq, row.id)
        assert row.id in [each.id for each in found.then.view.open_incidents]
        assert f"responses.{row.kind}" in found.rule
        assert page(found)


def test_a_deadlock_names_its_messages_its_ring_and_what_followed():
    row = asked(NAMED["deadlock"], "").findings[0]
    found = asked(NAMED["deadlock"], row.id)
    assert {edge.text.split()[0] for edge in found.waits if edge.deadlocked} == {"planner", "reviewer"}
    assert any("asks reviewer 'approve'" in told.text for told in found.causes)
    assert any("broke" in told.text for told in found.followed)
    assert any("told people by webhook" in told.text for told in found.followed)
    assert any("TellAgent(Break)" in d.decision.kind and d.record for d in found.decisions)
    assert found.rule.startswith("responses.deadlock: {do: [break, escalate], confirm: ")
    assert "climb" not in found.rule  # nor any other key that deadlocks do not have
    text = "\n".join(page(found))
    for part in ("DEADLOCK", "What led to it", "By what rule", "Decided", "At that moment: waits", "What followed"):
        assert part in text


def test_a_call_is_told_from_its_asking_to_its_end():
    found = asked(NAMED["tools"], "order-0")
    assert (found.kind, found.state) == ("call", "settle")
    assert [d.decision.act for d in found.decisions] == ["reserve", "settle"]
    assert found.inputs["args"] == {"item": "bread", "count": 1}
    assert found.then.budgets.crew["microusd"].held == 1_000_000
    assert any("ran" in told.text for told in found.followed)


def test_a_refusal_says_by_which_rule_and_version_and_upon_what():
    _, records, _ = everything(NAMED["rules"])
    refused = next(r for r in records if (r.command.get("booking") or {}).get("rule") == "unicorns")
    found = asked(NAMED["rules"], refused.command["call"])
    assert found.state == "refuse denied"
    assert found.rule == "rule unicorns of the policy"
    assert found.policy == refused.command["booking"]["policy"]
    assert found.inputs["args"] == {"item": "unicorn"}
    assert "they are not for sale" in found.decisions[0].because
    spent = next(r for r in records if (r.command.get("booking") or {}).get("code") == "budget_spent")
    assert asked(NAMED["rules"], spent.id).rule.startswith("a limit of the budget")


def test_an_agent_is_told_by_its_turns_and_decisions():
    found = asked(NAMED["tools"], "buyer")
    assert (found.kind, found.state) == ("agent", "gone")
    assert [told.text for told in found.causes][-1] == "buyer's process ended"
    assert sum(found.counts.values()) > 20
    assert found.findings
    assert "the last 12" in "\n".join(page(found))


def test_the_command_finds_its_target_and_says_what_there_is(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("CREWKEEPER_STATE", str(tmp_path))
    file = str(NAMED["deadlock"])
    row = asked(NAMED["deadlock"], "").findings[0]
    assert run(["why", file, row.id.lower()]) == 0
    assert row.id in capfd.readouterr().out
    assert run(["why", row.id, "--run", file, "-o", "json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert (told["target"], told["schema_version"]) == (row.id, 1)
    assert run(["why", file]) == 0
    assert capfd.readouterr().out.startswith("run ")
    assert run(["why", file, "plannr"]) == failure.NOT_FOUND
    assert "did you mean 'planner'" in capfd.readouterr().err
    assert run(["why", file, "a", "b"]) == failure.USAGE
    assert run(["why", "F1-0"]) == failure.UNREACHABLE


@each
def test_a_timeline_tells_every_turn_and_counts_the_rest(path, capfd):
    name, _, entries = everything(path)
    timeline = Timeline(name)
    told = [event for entry in entries for event in timeline.take(entry)] + timeline.finish()
    assert [event.seq for event in told] == sorted(event.seq for event in told)
    assert told[0].text.startswith("crew ")
    assert len(told) < len(entries)
    whole = asked(path, "")
    text = "\n".join(event.line() for event in told)
    for row in whole.findings:
        assert f" {row.id}: " in text
    assert timeline.summary().startswith(f"run {name}: done after ")
    assert run(["timeline", str(path), "-o", "jsonl", "--all"]) == 0
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert len(lines) >= len([event for event in told if not event.counted])
    assert run(["timeline", str(path)]) == 0
    assert capfd.readouterr().out.splitlines()[-1] == timeline.summary()
