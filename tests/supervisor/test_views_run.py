"""One deadlocked run, told, drawn, listed and explained."""

import io
import json

import jsonschema_rs
import msgspec
import pytest
from told_runs import RUN, START_S, Telling, crew, deadlocked

from crewkeeper_bus import messages as m
from crewkeeper_bus.subjects import HOST, Kind
from crewkeeper_supervisor.core.commands import SetAccess
from crewkeeper_supervisor.core.crew import Agent, Response, Responses, Webhook
from crewkeeper_supervisor.core.findings import Edge, Finding, Victim
from crewkeeper_supervisor.views.agent_page import agent_page, page_lines
from crewkeeper_supervisor.views.entry import entry_schema, event_document
from crewkeeper_supervisor.views.fold import Fold
from crewkeeper_supervisor.views.graph import dot, mermaid, sentences, wait_graph
from crewkeeper_supervisor.views.incident import page, ring_text
from crewkeeper_supervisor.views.live import render
from crewkeeper_supervisor.views.printer import StoryPrinter
from crewkeeper_supervisor.views.snapshot import RunView, ring, snapshot
from crewkeeper_supervisor.views.story import Story
from crewkeeper_supervisor.views.tables import (
    agents_table,
    incidents_table,
    new_console,
    plain_lines,
    questions_table,
    runs_table,
    write_table,
)

INCIDENT = next(iter(deadlocked().fold.supervisor.incidents))
EVIL = "\x1b[31m[red]boo[/red]\u202e"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.fixture(scope="module")
def telling():
    return deadlocked()


@pytest.fixture(scope="module")
def view(telling):
    return snapshot(telling.fold)


def told(telling, show_all=False):
    story = Story(telling.run)
    lines = [line for entry in telling.entries for line in story.feed(entry)[1]]
    return [line for line in lines if show_all or line.weight != "detail"]


def texts(telling, show_all=False):
    return [line.text for line in told(telling, show_all)]


# --- snapshot ---


def test_the_snapshot_says_who_waits_for_whom_since_when(view):
    rows = {row.name: row for row in view.agents}
    assert rows["planner"].waits_for == ("reviewer",)
    assert rows["reviewer"].waits_for == ("planner",)
    assert rows["executor"].waits_for == ()
    assert rows["executor"].waiting_since is None
    assert rows["planner"].waiting_since < rows["reviewer"].waiting_since
    assert rows["planner"].queued == 1
    assert rows["planner"].progress == "three days in Lisbon"
    assert all(edge.deadlocked for edge in view.waits)
    assert view.state == "running"
    assert not view.ended


def test_the_snapshot_holds_the_incident(view):
    (incident,) = view.incidents
    assert incident.kind == "deadlock"
    assert set(incident.ring) == {"planner", "reviewer"}
    assert incident.ring[0] == incident.ring[-1] == incident.victim.agent
    assert view.open_incidents == (incident,)
    assert incident.steps


def test_json_has_utc_times_decimal_money_and_a_version(view):
    document = json.loads(msgspec.json.encode(view))
    assert document["schema_version"] == 1
    assert document["began_at"].endswith("Z")
    assert document["waits"][0]["since"].endswith("Z")
    assert document["usage"]["cost_usd"] == "0.000000"
    assert {row["what"]: row["limit"] for row in document["budget"]} == {
        "usd": "5.000000",
        "tokens": "400000",
        "wall_s": "1800.0",
    }
    assert msgspec.json.decode(msgspec.json.encode(view), type=RunView) == view


def test_usage_counts_against_the_budget():
    telling = Telling()
    telling.declare()
    telling.join("planner")
    telling.note("planner", m.TaskBegan, task="main", name="main")
    telling.note("planner", m.Usage, task="main", input_tokens=1000, output_tokens=200, cost_microusd=31_200)
    view = snapshot(telling.fold, START_S + 900)
    used = {row.what: str(row.used) for row in view.budget}
    assert used["usd"] == "0.031200"
    assert used["tokens"] == "1200"
    assert used["wall_s"] == "900.0"


def test_an_empty_fold_is_a_view_too():
    view = snapshot(Fold("nothing-yet"))
    assert view.began_at is None
    assert view.agents == view.waits == view.incidents == view.budget == ()


def edge(task, *targets):
    return Edge(
        task=task,
        agent=task.split("/")[0],
        waits_for=targets,
        agents=tuple(target.split("/")[0] for target in targets),
        kind="call",
        message="c",
        epoch=1,
        since_s=START_S,
        text=f"{task} waits",
    )


def finding(edges, victim=""):
    tasks = tuple(edge.task for edge in edges)
    return Finding(
        id="F1-0",
        kind="deadlock",
        at_s=START_S,
        seq=1,
        summary="deadlock",
        agents=tasks,
        core=(tasks,),
        edges=tuple(edges),
        victim=Victim(task=victim, agent=victim.split("/")[0], epoch=1, why="cheap") if victim else None,
    )


def test_a_ring_begins_with_the_victim():
    edges = [edge("a/1", "b/1"), edge("b/1", "c/1"), edge("c/1", "a/1")]
    assert ring(finding(edges)) == ("a", "b", "c", "a")
    assert ring(finding(edges, "c/1")) == ("c", "a", "b", "c")


def test_a_knot_is_no_ring():
    knot = [edge("a/1", "b/1"), edge("a/1", "c/1"), edge("b/1", "a/1"), edge("c/1", "a/1")]
    assert ring(finding(knot)) == ()


def test_an_agent_twice_in_a_row_is_named_once():
    assert ring(finding([edge("a/1", "a/2"), edge("a/2", "b/1"), edge("b/1", "a/1")])) == ("a", "b", "a")


# --- story ---


def test_the_story_reads_in_order(telling):
    lines = texts(telling)
    wanted = [
        "crew trip declared: 3 agents (planner, reviewer, executor)",
        "planner joined the crew (process 4000)",
        "the crew begins",
        "planner: three days in Lisbon",
        "planner asks reviewer 'approve'",
        "reviewer asks planner 'choose_hotel'",
        f"DEADLOCK {INCIDENT}: reviewer → planner → reviewer",
    ]
    places = [lines.index(line) for line in wanted]
    assert places == sorted(places)
    assert lines[places[-1] + 1].startswith("broke reviewer's wait: ")


def test_noise_is_told_only_on_request(telling):
    quiet, full = texts(telling), texts(telling, show_all=True)
    for noise in ("tick", "asks planner whether it still waits", "planner is alive (1 tasks, 1 queued)"):
        assert noise not in quiet
        assert noise in full
    assert len({line.seq for line in told(telling, show_all=True)}) == len(telling.entries)


def test_the_end_of_a_deadlock_is_told():
    telling = deadlocked(crew(escalate=(Webhook(webhook="http://localhost/hook"),)))
    telling.note("reviewer", m.WaitEnded, task="h1", epoch=1, outcome="broken")
    telling.carry_out()
    left = snapshot(telling.fold).waits
    assert [edge.agent for edge in left] == ["planner"]
    assert not left[0].deadlocked
    lines = texts(telling)
    assert any(line.startswith(f"told people by webhook about {INCIDENT} opened: 204") for line in lines)
    assert any(line.startswith(f"deadlock {INCIDENT} is resolved after") for line in lines)
    assert any(line.startswith(f"told people by webhook about {INCIDENT} resolved: 204") for line in lines)


def test_an_incident_that_the_end_of_the_run_closes_is_not_told_as_good_news():
    telling = deadlocked()
    telling.op(m.RunEnded(state="stopped", why="enough"))
    lines = texts(telling)
    assert f"deadlock {INCIDENT} is closed: the run is over" in lines
    assert not any("is resolved" in line for line in lines)


def test_a_crew_that_begins_without_some_says_without_whom():
    telling = Telling()
    telling.declare()
    telling.join("planner", "reviewer")
    telling.wait_s(31)
    telling.op(m.Tick())
    telling.carry_out()
    assert "the crew begins without executor: not joined in time" in texts(telling)


def test_a_crew_does_not_wait_for_agents_that_are_started_elsewhere():
    telling = Telling()
    elsewhere = Agent(name="executor", external=True)
    telling.declare(crew(agents=(*crew().agents[:2], elsewhere)))
    telling.join("planner", "reviewer")
    telling.carry_out()
    assert "the crew begins; not there yet, and started elsewhere: executor" in texts(telling)


def test_what_is_no_agent_is_named_by_its_kind():
    telling = Telling()
    telling.declare()
    telling.join("planner", "reviewer", "executor")
    telling.note("planner", m.TaskBegan, task="main", name="main")
    telling.note("planner", m.WaitBegan, task="main", epoch=1, condition=m.OnTimer(after_s=60))
    row = next(row for row in snapshot(telling.fold).agents if row.name == "planner")
    assert row.waits_for == ()
    assert row.wait_kinds == ("timer",)


def test_every_kind_of_message_has_a_sentence():
    telling = Telling()
    telling.declare()
    telling.join("planner", "reviewer")
    say = telling.note
    body = msgspec.Raw(b"1")
    say(
        "planner",
        m.WaitBegan,
        task="t",
        epoch=1,
        condition=m.OnAll(of=(m.OnCall(call="x"), m.OnHuman(who="ops", question="q0"))),
    )
    say("planner", m.WaitEnded, task="t", epoch=1, outcome="timeout")
    some = m.OnSome(k=2, of=(m.OnMessage(senders=("reviewer",)), m.OnMessage(), m.OnTimer(after_s=5)))
    say("planner", m.WaitBegan, task="t", epoch=2, condition=some)
    say("planner", m.Acquire, task="t", resource="report", ticket="k")
    say("planner", m.Release, task="t", resource="report", ticket="k")
    say("planner", m.AskHuman, task="t", question="q1", who="ops", text="Book it?")
    say("planner", m.Standing, state="paused")
    say("planner", m.Taken, task="t", sender="reviewer", message="m1")
    telling.agent("planner", Kind.MSG, m.Message, {"task": "t", "body": body}, "reviewer")
    telling.agent("planner", Kind.PROG, m.CallProgress, {"text": "half"}, "reviewer", "c9")
    telling.agent("reviewer", Kind.REP, m.Reply, {"error": m.Fault(code="refused", text="no")}, "planner", "c1")
    telling.agent("planner", Kind.CANCEL, m.Cancel, {"why": "late"}, "reviewer", "c9")
    telling.op(m.OperatorAsked(action="kill", agent="planner", by="ann@desk", why="stuck"))
    telling.op(m.ProcessExited(agent="planner", pid=4000, code=-9, restart=True), HOST)
    telling.op(m.RestartsExhausted(agent="planner", intensity=3, period_s=60), HOST)
    telling.op(m.OwnerChanged(term=2, owner="controller-2"))
    telling.put(Kind.NOTE, "planner", "_", "bad", b"[[[[")
    say("reviewer", m.Left, why="told to")
    telling.op(m.RunEnded(state="failed", why="planner gave up"), HOST)
    lines = texts(telling, show_all=True)
    for sentence in (
        "planner waits for all of: the answer to (call x), ops (a person)",
        "planner's wait timed out",
        "planner waits for 2 of: a message of reviewer, a message of anybody, 5.0s to pass",
        "planner asks for 'report'",
        "planner gives back 'report'",
        "planner asks ops (a person): Book it? [question q1]",
        "planner is paused",
        "planner takes reviewer's message",
        "planner tells reviewer something",
        "planner on (call c9) for reviewer: half",
        "reviewer cannot answer planner (call c1): refused: no",
        "planner gives up (call c9) at reviewer: late",
        "ann@desk asks to kill planner: stuck",
        "planner's process was killed, it is started again",
        "gave up on planner: more than 3 restarts in 1m00s",
        "controller controller-2 takes charge (term 2)",
        "reviewer left: told to",
        "the run is over: failed: planner gave up",
    ):
        assert sentence in lines, "\n".join(lines)
    assert any(line.startswith("rejected a malformed message of planner") for line in lines)


def test_what_agents_write_cannot_reach_the_terminal():
    telling = Telling()
    telling.declare()
    telling.join("planner")
    telling.note("planner", m.TaskBegan, task="main", name="main")
    telling.note("planner", m.Progress, task="main", text=EVIL)
    telling.note("planner", m.AskHuman, task="main", question="q1", who="ops", text=EVIL)
    telling.note("planner", m.Left, why=EVIL)
    view = snapshot(telling.fold)
    shown = [str(line) for line in told(telling, show_all=True)]
    shown += plain_lines(agents_table(view.agents, view.last_at, wide=True))
    shown += plain_lines(questions_table(view.questions, view.last_at)) if view.questions else []
    shown += page_lines(agent_page(telling.fold, telling.fold.supervisor.agents["planner"], "log"), view.last_at)
    out = Terminal()
    write_table(agents_table(view.agents, view.last_at), out, color=False)
    new_console(out, color=False).print(render([view], told(telling), view.last_at))
    shown += out.getvalue().splitlines()
    assert all(line.isprintable() for line in shown)
    assert sum("[red]boo[/red]" in line for line in shown) >= 4


def test_stored_events_as_data(telling):
    story = Story(RUN)
    documents = [event_document(RUN, story.feed(entry)[0]) for entry in telling.entries]
    assert [document["seq"] for document in documents] == list(range(1, len(documents) + 1))
    request = next(document for document in documents if document["type"] == "Request")
    assert request["from"] == "planner"
    assert request["to"] == "reviewer"
    assert request["message"]["verb"] == "approve"
    assert request["message"]["body"] == {}
    schema = jsonschema_rs.validator_for(entry_schema())
    for document in documents:
        schema.validate(msgspec.to_builtins(msgspec.json.decode(msgspec.json.encode(document))))


def test_a_rejected_entry_is_data_without_its_content():
    telling = Telling()
    telling.declare()
    entry = telling.put(Kind.OP, "mallory", "_", "x", b'{"t":"tick"}')
    event, _ = Story(RUN).feed(entry)
    document = event_document(RUN, event)
    assert jsonschema_rs.is_valid(entry_schema(), msgspec.json.decode(msgspec.json.encode(document)))
    assert not jsonschema_rs.is_valid(entry_schema(), {"seq": 1})
    assert document["forged"]
    assert "message" not in document


def test_story_lines_on_a_terminal_and_elsewhere(telling):
    plain, terminal, colorless = io.StringIO(), Terminal(), Terminal()
    for out, color in ((plain, True), (terminal, True), (colorless, False)):
        printer = StoryPrinter(out, color=color, name_runs=True)
        for line in told(telling, show_all=True):
            printer.write(line)
    assert "\x1b" not in plain.getvalue() + colorless.getvalue()
    assert "\x1b" in terminal.getvalue()
    assert plain.getvalue() == colorless.getvalue()
    assert f"{RUN}: DEADLOCK" in plain.getvalue()
    assert "tick" not in plain.getvalue()


# --- graph ---


def test_the_graph_in_sentences_names_the_deadlock_first(view):
    lines = sentences(wait_graph(view), view.last_at)
    assert lines[0] == "DEADLOCK: planner, reviewer"
    assert lines[1].startswith("  ✗ planner waits for reviewer to answer 'approve'")
    assert sentences(wait_graph(snapshot(Fold("x"))), view.last_at) == ["Nobody waits for anybody."]


def test_a_wait_outside_a_ring_is_no_deadlock():
    telling = Telling()
    telling.declare()
    telling.join("planner", "reviewer", "executor")
    telling.note("planner", m.TaskBegan, task="main", name="main")
    telling.ask("planner", "reviewer", "c1", "main", "approve")
    view = snapshot(telling.fold)
    graph = wait_graph(view)
    assert graph.rings == ()
    (line,) = sentences(graph, view.last_at)
    assert line.startswith("planner waits for reviewer")
    assert "red" not in dot(graph)


def test_dot_and_mermaid_mark_the_deadlock(view):
    graph = wait_graph(view)
    drawn = dot(graph)
    assert '"planner/main" -> "reviewer/h1" [label="call c1", color=red, penwidth=2];' in drawn
    assert drawn.startswith("digraph")
    assert drawn.endswith("}")
    assert "class t0,t1 deadlock" in mermaid(graph)
    assert graph.rings == (("planner/main", "reviewer/h1"),)


def test_names_cannot_break_out_of_dot_or_mermaid(view):
    evil = msgspec.structs.replace(view.waits[0], task='a"];x->y;["\n', message='"|b')
    graph = wait_graph(msgspec.structs.replace(view, waits=(evil,)))
    assert '"a\\"];x->y;[\\"\\\\n"' in dot(graph)
    assert '"];x' not in mermaid(graph)


# --- pages and tables ---


def test_the_incident_page_has_all_there_is_to_know(view):
    text = "\n".join(page(view.incidents[0], view.last_at))
    for part in (
        f"DEADLOCK {INCIDENT}",
        "reviewer → planner → reviewer",
        "call c1",
        "Victim",
        "policy: break",
        "Timeline",
    ):
        assert part in text
    assert ring_text(view.incidents[0]) == "reviewer → planner → reviewer"


def test_shadow_mode_says_would():
    shadow = Responses(deadlock=Response(do=("break",), shadow=True))
    view = snapshot(deadlocked(crew(responses=shadow)).fold)
    assert "  would do: break" in page(view.incidents[0], view.last_at)


def test_who_is_held_or_ended_is_shown_as_that():
    telling = Telling()
    telling.declare()
    telling.join("planner", "reviewer", "executor")
    telling.op(m.OperatorAsked(action="pause", agent="planner", grace_s=0.0, why="lunch"))
    telling.op(m.OperatorAsked(action="pause", agent="executor"))
    telling.op(m.OperatorAsked(action="kill", agent="reviewer", grace_s=0.0, why="it lies"))
    rows = {row.name: row for row in snapshot(telling.fold).agents}
    assert {name: row.confinement for name, row in rows.items()} == {
        "planner": "pausing",
        "executor": "pausing",
        "reviewer": "ending",
    }
    (held,) = [each for each in telling.commands if isinstance(each, SetAccess) and each.agent == "planner"]
    telling.op(m.AccessSet(command=held.id, agent="planner", state="paused", ok=True))
    view = snapshot(telling.fold)
    assert {row.name: row.confinement for row in view.agents}["planner"] == "held"
    assert "held" in "\n".join(plain_lines(agents_table(view.agents, view.last_at)))
    shown = agent_page(telling.fold, telling.fold.supervisor.agents["reviewer"], "r.log")
    text = "\n".join(page_lines(shown, view.last_at))
    assert "ending" in text
    assert "it lies" in text


def test_the_agent_page(telling, view):
    lines = page_lines(
        agent_page(telling.fold, telling.fold.supervisor.agents["planner"], "/x/planner.log"), view.last_at
    )
    text = "\n".join(lines)
    for part in ("planner in run", "/x/planner.log", "Waits\n", "Waited for by\n", f"{INCIDENT} deadlock", "transient"):
        assert part in text


def test_piped_tables_are_aligned_and_bare(view):
    out = io.StringIO()
    write_table(agents_table(view.agents, view.last_at), out)
    head, first, *_ = out.getvalue().splitlines()
    assert head.index("STATUS") == first.index("up")
    assert "\x1b" not in out.getvalue()
    terminal = Terminal()
    write_table(agents_table(view.agents, view.last_at), terminal)
    assert "\x1b" in terminal.getvalue()


def test_wide_tables_have_more_columns(view):
    for make, rows in ((agents_table, view.agents), (incidents_table, view.incidents)):
        assert len(make(rows, view.last_at, wide=True).columns) > len(make(rows, view.last_at).columns)
    row = runs_table([view], view.last_at).rows[0]
    assert row[:4] == (RUN, "trip", "running", "3/3")
    assert row[6] == "1 open"


def test_the_live_picture_of_few_and_of_many_runs(view):
    for views in ([view], [view] * 5):
        out = io.StringIO()
        new_console(out).print(render(views, [], view.last_at))
        assert f"deadlock {INCIDENT}: reviewer → planner → reviewer" in out.getvalue()
    assert out.getvalue().count("trip-000001") == 5
