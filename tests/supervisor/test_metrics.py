"""Metrics: what is counted, what a label can be, and that page, table, rules, dashboard and manual name the same."""

import json
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from crewkeeper_bus import messages as m
from crewkeeper_supervisor.cli.main import run
from crewkeeper_supervisor.cli.metrics import DASHBOARD, RULES
from crewkeeper_supervisor.core.booking import Booking
from crewkeeper_supervisor.core.commands import AnswerCall, TellAgent
from crewkeeper_supervisor.core.crew import Agent, Budget
from crewkeeper_supervisor.core.rules import Rule
from crewkeeper_supervisor.shell.journal import Entry
from crewkeeper_supervisor.shell.metric_table import BY_NAME, METRICS, MODELS_MAX
from crewkeeper_supervisor.shell.metrics import Metrics
from crewkeeper_supervisor.shell.observing import Observers
from support.gate_room import Room, crew_of

MANUAL = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
NAME = re.compile(r"\bsupervisor_[a-z_]+\b")


def shown(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Every sample of a page: name and values of labels, in the order of their names."""
    families = text_string_to_metric_families(metrics.text().decode())
    return {
        (sample.name, *(sample.labels[key] for key in sorted(sample.labels))): sample.value
        for family in families
        for sample in family.samples
    }


def entries(*subjects: str) -> list[Entry]:
    return [Entry(n, float(n), subject, b"{}") for n, subject in enumerate(subjects, start=1)]


def booking(act: str, *, what: str = "pay", agent: str = "a", **amounts: int) -> AnswerCall:
    booked = Booking(act=act, agent=agent, call="c", what=what, amounts=amounts or {"tool_calls": 1})
    return AnswerCall(id="1-0", agent=agent, call="c", booking=booked)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def metered(metrics: Metrics, room: Room | None = None):
    room = room or Room()
    meter = metrics.run("r1", room.core)
    meter.owned()
    return room, meter


# --- counting ---


def test_what_the_gate_decides_is_counted_when_it_is_sent_for_the_first_time(metrics):
    room, meter = metered(metrics)
    begun = len(room.commands)
    room.ask("c1")
    room.ran("c1")
    room.ask("c2", "stroll")
    room.model("c3")
    room.spent("c3", 10, 20)
    for command in room.commands[begun:]:
        meter.sent(command, 1, "", 2.0)
        meter.sent(command, 2, "", 2.0)
    page = shown(metrics)
    assert page["supervisor_tool_calls_total", "room", "allow", "pay"] == 1
    assert page["supervisor_tool_calls_total", "room", "deny", "other"] == 1
    assert page["supervisor_refusals_total", "unknown_tool", "room"] == 1
    assert page["supervisor_model_calls_total", "room", "allow", "m1"] == 1
    assert page["supervisor_tokens_total", "a", "room", "input", "m1"] == 10
    assert page["supervisor_tokens_total", "a", "room", "output", "m1"] == 20
    assert page["supervisor_cost_usd_total", "a", "room", "m1"] == pytest.approx(50e-6)
    assert page["supervisor_cost_usd_total", "a", "room", "none"] == 1.0
    assert page["supervisor_gate_decision_seconds_count",] == 3
    assert page["supervisor_gate_decision_seconds_sum",] == pytest.approx(0.006)
    assert (
        page["supervisor_effects_total", "AnswerCall", "sent"]
        == page["supervisor_effects_total", "AnswerCall", "again"]
    )


def test_an_approval_is_asked_for_and_pending(metrics):
    room = Room(crew_of(rules=(Rule(id="ask", do="approve", tools=("pay",)),)))
    _, meter = metered(metrics, room)
    room.ask("c1")
    for command in room.commands:
        meter.sent(command, 1, "", 1.0)
    page = shown(metrics)
    assert page["supervisor_tool_calls_total", "room", "ask", "pay"] == 1
    assert page["supervisor_approvals_pending", "room"] == 1
    assert page["supervisor_gate_calls_open", "room"] == 1
    room.decide(room.approval(), "deny")
    assert shown(metrics)["supervisor_approvals_pending", "room"] == 0


def test_gauges_are_read_off_the_core(metrics):
    room, _ = metered(metrics, Room(crew_of(budget=Budget(microusd=4_000_000))))
    room.ask("c1")
    page = shown(metrics)
    assert page["supervisor_budget_used_ratio", "room", "microusd"] == 0.25
    assert page["supervisor_agents", "room", "up"] == 1
    assert page["supervisor_runs", "running"] == 1


def test_of_several_runs_of_a_crew_budgets_show_the_most_and_all_else_adds_up(metrics):
    one, _ = metered(metrics, Room(crew_of(budget=Budget(microusd=4_000_000))))
    two = Room(crew_of(budget=Budget(microusd=4_000_000)))
    metrics.run("r2", two.core).owned()
    one.ask("c1")
    two.ask("c1")
    two.ask("c2")
    page = shown(metrics)
    assert page["supervisor_budget_used_ratio", "room", "microusd"] == 0.5
    assert page["supervisor_gate_calls_open", "room"] == 3
    assert page["supervisor_runs", "running"] == 2


def test_a_finding_counts_once_and_its_delay_is_journal_time(metrics):
    room = Room(crew_of(Agent(name="a"), Agent(name="b")))
    _, meter = metered(metrics, room)
    for agent, to, call in (("a", "b", "c1"), ("b", "a", "c2")):
        room.call(agent, "t", call, to)
        room.wait(agent, "t", m.OnCall(call=call))
    for _ in range(3):
        room.tick(1.0)
        for agent in ("a", "b"):
            room.affirm(agent)
    meter.took(entries("crew.r1.note.a._.n1"))
    meter.took(entries("crew.r1.note.a._.n2"))
    page = shown(metrics)
    assert page["supervisor_incidents_total", "room", "deadlock", "error"] == 1
    assert page["supervisor_incidents_open", "room", "deadlock"] == 1
    assert page["supervisor_detection_delay_seconds_count",] == 1


def test_what_an_earlier_owner_counted_is_not_counted_again(metrics):
    room = Room()
    room.ask("c1", "stroll")
    room.op(m.OwnerChanged(term=2, owner="one"))
    room.store("crew.r1.hb.a._.h1", b"not a heartbeat")
    room.op(m.OwnerChanged(term=3, owner="two"))
    meter = metrics.run("r1", room.core)
    meter.took([Entry(n, *entry) for n, entry in enumerate(room.entries, start=1)])
    assert shown(metrics)["supervisor_runs", "catching_up"] == 1
    meter.owned()
    meter.took(entries("crew.r1.req.a.b.c4", "crew.r1.nonsense.a.b.c4", "crew"))
    page = shown(metrics)
    assert page["supervisor_messages_total", "room", "hb"] == 1
    assert page["supervisor_messages_total", "room", "other"] == 2
    counted = [key[2] for key in page if key[0] == "supervisor_incidents_total"]
    assert counted == ["malformed"]


def test_the_first_owner_counts_from_the_first_entry_on(metrics):
    room = Room()
    room.ask("c1", "stroll")
    meter = metrics.run("r1", room.core)
    meter.took([Entry(1, 1.0, "crew.r1.op._host._.d", b""), *entries("crew.r1.note.a._.n", "crew.r1.op._._.owned")])
    meter.owned()
    page = shown(metrics)
    assert page["supervisor_messages_total", "room", "note"] == 1
    assert page["supervisor_messages_total", "room", "op"] == 2
    assert page["supervisor_incidents_total", "room", "unknown_tool", "warning"] == 1


def test_what_a_snapshot_holds_is_not_counted_again(metrics):
    room = Room()
    room.ask("c1", "stroll")
    seen = len(room.entries)
    room.op(m.OwnerChanged(term=2, owner="one"))
    meter = metrics.run("r1", room.core)
    meter.took([Entry(n, *entry) for n, entry in enumerate(room.entries[seen:], start=seen + 1)])
    meter.owned()
    page = shown(metrics)
    assert page["supervisor_messages_total", "room", "op"] == 1
    assert not [key for key in page if key[0] == "supervisor_incidents_total"]


def test_a_run_that_is_let_go_leaves_its_counters_and_takes_its_gauges(metrics):
    _, meter = metered(metrics)
    meter.took(entries("crew.r1.req.a.b.c1"))
    meter.left("lost")
    page = shown(metrics)
    assert page["supervisor_messages_total", "room", "req"] == 1
    assert page["supervisor_ownerships_total", "lost"] == 1
    assert not [key for key in page if key[0] in ("supervisor_runs", "supervisor_agents")]


# --- labels ---


def test_hostile_names_make_no_series(metrics):
    _, meter = metered(metrics)
    before = len(shown(metrics))
    for n in range(3000):
        meter.sent(booking("refuse", what=f"model-{n}", model_calls=1), 1, "", 1.0)
        meter.sent(booking("settle", what=f"m{n}", model_calls=1, input_tokens=1), 1, "", 1.0)
        meter.sent(booking("refuse", what=f"tool{n}\n\x1b[31m"), 1, "", 1.0)
        meter.sent(booking("settle", agent=f"helper{n}", microusd=1), 1, "", 1.0)
        meter.took(entries(f"crew.r1.kind{n}.a.b.c"))
        metrics.webhook(f"h{n}.example", "failed")
    page = shown(metrics)
    assert len(page) - before < 100 + MODELS_MAX
    assert page["supervisor_cost_usd_total", "other", "room", "none"] == pytest.approx(0.003)
    assert page["supervisor_tokens_total", "a", "room", "input", "other"] == 3000 - MODELS_MAX
    assert page["supervisor_labels_folded_total", "model"] > 0


def test_refused_models_take_no_place_from_granted_ones(metrics):
    _, meter = metered(metrics)
    for n in range(50):
        meter.sent(booking("refuse", what=f"made-up-{n}", model_calls=1), 1, "", 1.0)
    meter.sent(booking("reserve", what="m1", model_calls=1), 1, "", 1.0)
    page = shown(metrics)
    assert page["supervisor_model_calls_total", "room", "allow", "m1"] == 1
    assert page["supervisor_model_calls_total", "room", "deny", "other"] == 50


# --- harm ---


class Broken:
    """An observer that fails at everything."""

    def run(self, run, fold):
        return self

    def __getattr__(self, name):
        raise RuntimeError(name)


def test_an_observer_that_fails_harms_nobody_and_is_counted(metrics):
    observers = Observers({"broken": Broken(), "metrics": metrics})
    observed = observers.run("r1", Room().core)
    observed.owned()
    observed.took(entries("crew.r1.req.a.b.c1"))
    observed.sent(TellAgent(id="1-0", agent="a", message=m.Pause(id="1-0")), 1, "", 1.0)
    observers.webhook("h", "dead")
    observed.left("over")
    metrics.errors = observers.errors
    page = shown(metrics)
    assert page["supervisor_telemetry_errors_total", "broken"] == 5
    assert page["supervisor_messages_total", "room", "req"] == 1
    assert page["supervisor_webhook_deliveries_total", "h", "dead"] == 1


# --- one set of names ---


def test_the_page_shows_what_the_table_says(metrics):
    families = {family.name: family for family in text_string_to_metric_families(metrics.text().decode())}
    for metric in METRICS:
        family = families[metric.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.kind, metric.help), metric.name
    ours = {name for name in families if name.startswith("supervisor_")}
    assert ours == {metric.name.removesuffix("_total") for metric in METRICS}


def known(name: str) -> bool:
    return re.sub(r"_(bucket|sum|count)$", "", name) in BY_NAME


def test_every_metric_stands_in_the_manual_with_its_labels():
    rows = dict(re.findall(r"^\| `(supervisor_\w+)` \| \w+ \| (.*?) \|", MANUAL.read_text(), re.MULTILINE))
    assert list(rows) == [metric.name for metric in METRICS]
    for metric in METRICS:
        assert re.findall(r"`(\w+)`", rows[metric.name]) == list(metric.labels), metric.name
    assert [name for name in NAME.findall(MANUAL.read_text()) if not known(name)] == []


def test_rules_are_as_prometheus_reads_them_and_name_metrics_that_exist():
    document = yaml.safe_load(RULES.read_text())
    assert set(document) == {"groups"}
    alerts = []
    for group in document["groups"]:
        assert set(group) == {"name", "rules"}
        for rule in group["rules"]:
            assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
            assert {"summary", "description"} == set(rule["annotations"]), rule["alert"]
            assert rule["labels"]["severity"] in ("warning", "critical")
            assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))
            used(rule["expr"])
            alerts.append(rule["alert"])
    assert len(alerts) == len(set(alerts)) > 10
    assert sorted(alerts) == sorted(re.findall(r"^\| `(Crewkeeper\w+)` \|", MANUAL.read_text(), re.MULTILINE))


def test_what_is_rare_and_bad_is_told_at_its_first_time():
    """A counter that appears has not increased, as Prometheus sees it: `increase` of one sample is nothing."""
    rules = {rule["alert"]: rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}
    at_once = [rule["expr"] for rule in rules.values() if "for" not in rule and rule["expr"].startswith("increase(")]
    rare = [expression for expression in at_once if re.search(r"\) > 0\b", expression)]
    assert len(rare) == 2
    for expression in rare:
        metric, window = re.findall(r"increase\((supervisor_\w+\{[^}]*\})\[(\w+)\]\)", expression)[0]
        assert expression.endswith(f"or ({metric} unless {metric} offset {window})")


def used(expression: str) -> set[str]:
    """The metrics of an expression; each exists, with the labels that are asked of it."""
    names = set(NAME.findall(expression))
    assert [name for name in names if not known(name)] == [], expression
    for pair in ("()", "{}", "[]"):
        assert expression.count(pair[0]) == expression.count(pair[1]), expression
    for name, matchers in re.findall(r"(supervisor_\w+)\{([^}]*)\}", expression):
        labels = BY_NAME[re.sub(r"_(bucket|sum|count)$", "", name)].labels
        asked = re.findall(r"(\w+)\s*[!=]", matchers)
        assert set(asked) <= {*labels, "le"}, expression
    return names


def test_the_dashboard_uses_every_metric_and_none_besides():
    document = json.loads(DASHBOARD.read_text())
    expressions = [target["expr"] for panel in document["panels"] for target in panel.get("targets", ())]
    names = set().union(*map(used, expressions))
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in names} == set(BY_NAME)
    ids = [panel["id"] for panel in document["panels"]]
    assert len(ids) == len(set(ids))


def test_commands_print_them(capsys):
    assert run(["metrics", "rules"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(RULES.read_text())
    assert run(["metrics", "dashboard"]) == 0
    assert json.loads(capsys.readouterr().out)["uid"] == "crewkeeper"
    assert run(["metrics", "ls", "-o", "name"]) == 0
    assert capsys.readouterr().out.split() == [metric.name for metric in METRICS]
