"""Top: what agents do and cost a minute, and who comes first."""

import contextlib
import io
from decimal import Decimal

from told_runs import START_S, Telling, deadlocked

from crewkeeper_bus import messages as m
from crewkeeper_supervisor.cli import top as command
from crewkeeper_supervisor.cli import watching
from crewkeeper_supervisor.views.tables import plain_lines
from crewkeeper_supervisor.views.top import Meter, head_lines, ordered, top_table
from crewkeeper_supervisor.views.wording import moment


def spending(every_s, times, quiet_s=0.0):
    """A planner that spends 100 tokens and a cent at a time."""
    telling = Telling()
    telling.declare()
    telling.join("planner", "reviewer", "executor")
    telling.note("planner", m.TaskBegan, task="main", name="main")
    for _ in range(times):
        telling.wait_s(every_s)
        telling.note("planner", m.Usage, task="main", input_tokens=60, output_tokens=40, cost_microusd=10_000)
    telling.wait_s(quiet_s)
    return telling


def metered(telling, now_s=None):
    meter = Meter(telling.run)
    for entry in telling.entries:
        meter.feed(entry)
    view, rows = meter.rows(telling.entries[-1].at_s if now_s is None else now_s)
    return view, {row.agent.name: row for row in rows}


def test_rates_are_of_the_last_minute():
    _, rows = metered(spending(every_s=2.0, times=200))
    planner = rows["planner"]
    assert 2700 <= planner.tokens_per_min <= 3100, "30 a minute, of 100 each; a sample is up to 5 s old"
    assert Decimal("0.27") <= planner.usd_per_min <= Decimal("0.31")
    assert planner.agent.usage.cost_usd == Decimal("2.00")
    assert rows["reviewer"].usd_per_min == 0


def test_what_is_quiet_costs_nothing():
    telling = spending(every_s=2.0, times=50)
    _, rows = metered(telling, telling.entries[-1].at_s + 300)
    assert rows["planner"].usd_per_min == 0
    assert rows["planner"].tokens_per_min == 0


def test_a_burst_after_a_quiet_time_counts_whole():
    telling = spending(every_s=2.0, times=10, quiet_s=600)
    for _ in range(6):
        telling.note("planner", m.Usage, task="main", input_tokens=100, cost_microusd=1_000)
    _, rows = metered(telling)
    assert rows["planner"].tokens_per_min == 600


def test_a_run_that_is_young_is_measured_by_its_age():
    _, rows = metered(spending(every_s=1.0, times=10))
    assert 5000 <= rows["planner"].tokens_per_min <= 6100, "1000 in 10 s"


def test_what_is_remembered_is_bounded():
    meter = Meter("trip-000001")
    for entry in spending(every_s=1.0, times=600).entries:
        meter.feed(entry)
    assert len(meter._samples) < 20


def test_trouble_comes_first_then_who_waits_then_who_spends():
    telling = deadlocked()
    telling.note("executor", m.TaskBegan, task="e", name="e")
    telling.note("executor", m.Usage, task="e", input_tokens=60, cost_microusd=10_000)
    view, rows = metered(telling)
    first = ordered(list(rows.values()), "trouble")
    assert [row.agent.name for row in first] == ["planner", "reviewer", "executor"]
    assert [row.deadlocked for row in first] == [True, True, False]
    assert ordered(first, "rate")[0].agent.name == "executor"
    assert ordered(first, "cost")[0].agent.name == "executor"
    assert [row.agent.name for row in ordered(first, "name")] == ["executor", "planner", "reviewer"]
    table = top_table(first, view.last_at)
    assert "RUN" not in table.columns
    assert [row[1] for row in table.rows] == ["DEADLOCK", "DEADLOCK", "up"]
    assert "reviewer for " in plain_lines(table)[1]
    (head,) = head_lines([view], first, view.last_at)
    assert "3 of 3 agents up" in head
    assert "1 open" in head


def test_only_what_fits_is_shown(monkeypatch, capsys):
    view, rows = metered(deadlocked())
    monkeypatch.setenv("LINES", "7")
    monkeypatch.setenv("COLUMNS", "200")
    assert command._head([view] * 8, list(rows.values()), moment(START_S)) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "… and 2 more runs"
    monkeypatch.setenv("LINES", "25")
    assert command._head([view], list(rows.values()), moment(START_S)) == 20


def test_it_is_repeated_on_a_terminal_alone(monkeypatch):
    shown = []
    monkeypatch.setattr(command.anyio, "run", lambda _top, *args: shown.append(args[-1]))
    monkeypatch.setattr(command, "repeat", lambda show: [show(), show()])
    monkeypatch.setattr(command, "is_live", lambda _out: True)
    command.top.main([], standalone_mode=False)
    command.top.main(["-o", "json"], standalone_mode=False)
    assert shown == [True, True, False]


def test_what_is_repeated_keeps_what_it_has_read(monkeypatch):
    seen = []

    def show():
        seen.append(watching.kept_readers.get())
        if len(seen) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(watching.time, "sleep", lambda _s: None)
    monkeypatch.setattr(watching.sys, "stdout", io.StringIO())
    with contextlib.suppress(KeyboardInterrupt):
        watching.repeat(show)
    assert seen[0] is seen[1] is not None
    assert watching.kept_readers.get() is None
