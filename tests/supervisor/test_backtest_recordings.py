"""Recorded runs under other rules: what would have been decided, what that saves, and from where on it is a guess."""

import json
from decimal import Decimal
from pathlib import Path

import pytest
from msgspec.structs import replace

from crewkeeper_supervisor.cli import failure
from crewkeeper_supervisor.cli.main import run
from crewkeeper_supervisor.core.crew import Budget, Response
from crewkeeper_supervisor.core.rules import Rule
from crewkeeper_supervisor.shell.recording import Reader
from crewkeeper_supervisor.views.backtest import Backtest, page

RECORDINGS = sorted((Path(__file__).parents[1] / "data" / "recordings").glob("*.audit.gz"))
NAMED = {path.name.partition(".")[0]: path for path in RECORDINGS}
each = pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name.partition(".")[0])


def tried(path, change=None, **options):
    """Try a policy, or the run's own crew with something changed."""
    with Reader(path) as reader:
        entries = [entry for batch in reader.entries() for entry in batch]
    if change is not None:
        own = Backtest(reader.header.run)
        own.take(entries[0])
        options["crew"] = change(own._old.core.crew)
    trying = Backtest(reader.header.run, **options)
    for entry in entries:
        trying.take(entry)
    return trying.finish()


@each
def test_the_same_crew_decides_the_same(path):
    found = tried(path, lambda crew: crew)
    assert found.is_same
    assert found.first_seq is None
    assert (found.saved_usd, found.stopped_calls, found.strangers) == (0, 0, ())
    assert page(found)[-1] == "nothing would have been decided otherwise"
    assert tried(path).is_same


def test_a_smaller_budget_stops_calls_and_saves_what_they_cost():
    found = tried(NAMED["tools"], lambda crew: replace(crew, budget=Budget(microusd=3_000_000)))
    assert (found.stopped_calls, found.stopped_tasks, found.saved_usd) == (2, 2, Decimal(2))
    assert {change.after.code for change in found.changed} == {"budget_spent"}
    assert found.first_seq == min(change.after.seq for change in found.changed)
    larger = tried(NAMED["tools"], lambda crew: replace(crew, budget=Budget(microusd=7_000_000)))
    assert (larger.stopped_calls, larger.freed_calls, larger.freed_usd) == (0, 2, Decimal(2))


def test_other_rules_refuse_ask_and_let_go():
    denied = tried(NAMED["tools"], rules=[Rule(id="none", tools=("pay",), do="deny", because="no")])
    assert denied.policy_before != denied.policy_after
    assert denied.saved_usd == Decimal(5)
    assert all(change.after.rule == "none" for change in denied.changed)
    asked = tried(NAMED["tools"], rules=[Rule(id="ask", tools=("pay",), do="approve")])
    verdicts = {change.after.verdict for change in asked.changed}
    assert verdicts == {"asks a person"}
    free = tried(NAMED["rules"], rules=[])
    assert [(change.what, change.after.verdict) for change in free.changed if change.before.rule == "unicorns"] == [
        ("prices", "granted")
    ]
    assert any(row.what == "policy_denied" and (row.before, row.after) == (1, 0) for row in free.findings)


def test_other_responses_change_interventions():
    def only_told(crew):
        return replace(crew, responses=replace(crew.responses, deadlock=Response(do=("warn",))))

    found = tried(NAMED["deadlock"], only_told)
    assert ("TellAgent(Break) upon deadlock", 1, 0) in [
        (row.what, row.before, row.after) for row in found.interventions
    ]
    assert "Other decisions" in page(found)


def test_agents_that_the_new_crew_lacks_are_named():
    found = tried(NAMED["two-agents"], lambda crew: replace(crew, agents=crew.agents[:1]))
    assert len(found.strangers) == 1
    assert any("is not in the new crew" in line for line in page(found))


def test_the_command_tries_files(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("CREWKEEPER_STATE", str(tmp_path))
    policy = tmp_path / "policy.yaml"
    policy.write_text("rules:\n  - {id: none, tools: [pay], do: deny, because: not now}\n")
    file = str(NAMED["tools"])
    assert run(["backtest", file, "--policy", str(policy)]) == 0
    shown = capfd.readouterr().out
    assert "stopped   5 calls of 5 tasks; $5.00 not spent" in shown
    assert "exact up to entry" in shown
    assert run(["backtest", file, "--policy", str(policy), "--exit-code", "-o", "json"]) == failure.FAILED
    assert json.loads(capfd.readouterr().out)["stopped_calls"] == 5
    assert run(["backtest", file]) == failure.USAGE
    policy.write_text("rules: [{id: x}]\n")
    assert run(["backtest", file, "--policy", str(policy)]) == failure.INVALID
