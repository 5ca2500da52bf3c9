"""Traces of a controller, as a collector receives them; and a collector that fails, which costs a count."""

import socket

import msgspec
import pytest

from crewkeeper_bus import codec, trace_export, tracing
from crewkeeper_bus import messages as m
from crewkeeper_bus.errors import ConfigError
from crewkeeper_bus.messages import Kind
from crewkeeper_bus.tool_messages import SpendAsked, ToolCall
from crewkeeper_bus.trace_export import exporting, is_asked_for
from crewkeeper_bus.tracing import root_of
from crewkeeper_supervisor.core.crew import Agent
from crewkeeper_supervisor.core.rules import Rule
from crewkeeper_supervisor.shell import run_traces, telemetry
from crewkeeper_supervisor.shell.journal import Entry
from support.collector import collecting
from support.gate_room import Room, crew_of

RUN = "r1"
TRACE = root_of(RUN).split("-")[1]
ROOT = root_of(RUN).split("-")[2]
HERE = f"00-{TRACE}-00000000000000aa-01"


@pytest.fixture
def collector(monkeypatch):
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        yield collector


class Told:
    """A room whose journal and commands are told to the traces of a controller, as an owner does."""

    def __init__(self, room: Room, traces: run_traces.Traces) -> None:
        self.room = room
        self.seen, self.sent = 0, 0
        self.trace = traces.run(RUN, room.core)

    def on(self) -> None:
        entries = [Entry(n, *entry) for n, entry in enumerate(self.room.entries[self.seen :], start=self.seen + 1)]
        self.seen += len(entries)
        self.trace.took(entries)
        for command in self.room.commands[self.sent :]:
            self.trace.sent(command, 1, "", 1.0)
        self.sent = len(self.room.commands)


def test_a_decision_hangs_on_the_call_that_asked_for_it(collector):
    rules = (Rule(id="never", do="deny", tools=("look",)), Rule(id="ask", do="approve", when="args.n > 5"))
    with run_traces.exporting() as traces:
        told = Told(Room(crew_of(rules=rules)), traces)
        told.trace.owned()
        told.on()
        told.room.ask("c1", trace=HERE)
        told.room.ask("c2", "look", trace=HERE)
        told.room.ask("c3", args={"n": 9}, trace=HERE)
        told.room.ask("c4", "stroll", trace="no context")
        told.on()
        for command in told.room.commands:
            told.trace.sent(command, 2, "", 1.0)  # sent again, and decided once
    (allowed,) = collector.named("crewkeeper.decide allow")
    denied, unknown = collector.named("crewkeeper.decide deny")
    (asked,) = collector.named("crewkeeper.decide ask")
    assert {span.trace for span in collector.spans} == {TRACE}
    assert [span.parent for span in (allowed, denied, asked)] == ["00000000000000aa"] * 3
    assert (denied.attributes["crewkeeper.rule"], denied.attributes["crewkeeper.code"]) == ("never", "denied")
    assert asked.attributes["crewkeeper.rule"] == "ask"
    assert allowed.attributes["gen_ai.tool.name"] == "pay"
    assert unknown.attributes["crewkeeper.code"] == "unknown_tool"
    assert unknown.resource["service.name"] == "crewkeeper-supervisor"
    begin_s = dict(zip(("c1", "c2", "c3"), (span.begin_ns / 1e9 for span in (allowed, denied, asked)), strict=True))
    assert begin_s["c1"] == pytest.approx(told.room.now_s, abs=60)  # journal time, not this machine's


def test_a_deadlock_is_linked_to_its_calls_and_the_run_has_the_id_that_all_know(collector):
    with run_traces.exporting() as traces:
        told = Told(Room(crew_of(Agent(name="a"), Agent(name="b"))), traces)
        told.trace.owned()
        for agent, to, call, span in (("a", "b", "c1", "a1"), ("b", "a", "c2", "b1")):
            context = f"00-{TRACE}-{span:0>16}-01"
            request = m.Request(inc="i", seq=1, task="t", body=msgspec.Raw(b"{}"), trace=context)
            told.trace.took([Entry(1, 1000.0, f"crew.r1.req.{agent}.{to}.{call}", msgspec.json.encode(request))])
            told.room.call(agent, "t", call, to)
            told.room.wait(agent, "t", m.OnCall(call=call))
        for _ in range(3):
            told.room.tick(1.0)
            for agent in ("a", "b"):
                told.room.affirm(agent)
            told.on()
        told.room.op(m.RunEnded(state="failed"), sender="_host")
        told.on()
        told.trace.left("over")
    (found,) = collector.named("crewkeeper.finding deadlock")
    assert found.links == ["00000000000000a1", "00000000000000b1"]
    assert found.parent == ROOT
    assert found.attributes["crewkeeper.finding.agents"] == ["a", "b"]
    (broke,) = collector.named("crewkeeper.act break")
    assert broke.attributes["crewkeeper.finding.id"] == found.attributes["crewkeeper.finding.id"]
    assert len(broke.links) == 1
    assert set(broke.links) < set(found.links)
    (run,) = collector.named("invoke_workflow room")
    assert (run.trace, run.id, run.parent, run.failed) == (TRACE, ROOT, "", True)
    assert run.attributes["gen_ai.workflow.name"] == "room"
    assert len({span.id for span in collector.spans}) == len(collector.spans)


def test_a_model_call_through_the_proxy_has_a_span_made_here(collector):
    with run_traces.exporting() as traces:
        told = Told(Room(), traces)
        told.trace.owned()
        told.on()
        began = m.TaskBegan(inc="i", seq=9, task="t", trace=HERE)
        told.trace.took([Entry(1, 1.0, "crew.r1.note.a._.n", msgspec.json.encode(began))])
        told.room.model("c1")
        told.on()
        told.room.spent("c1", 10, 20)
        told.on()
    (chat,) = collector.named("chat m1")
    assert chat.parent == "00000000000000aa"
    assert chat.attributes["gen_ai.usage.input_tokens"] == 10
    assert chat.attributes["gen_ai.usage.output_tokens"] == 20
    assert chat.attributes["gen_ai.agent.name"] == "a"
    assert chat.attributes["crewkeeper.cost.usd"] == pytest.approx(50e-6)


def test_a_model_call_through_the_proxy_belongs_to_the_request_that_made_it(collector):
    with run_traces.exporting() as traces:
        told = Told(Room(), traces)
        told.trace.owned()
        asked = SpendAsked(agent="a", task="t", call="c1", model="m1", input_tokens=1, max_output_tokens=1, trace=HERE)
        told.trace.took([Entry(1, 1.0, "crew.r1.op._model._.c1", codec.encode(asked))])
        told.room.model("c1")
        told.on()
        told.room.spent("c1", 10, 20)
        told.on()
    (decided,) = collector.named("crewkeeper.decide allow")
    (chat,) = collector.named("chat m1")
    assert decided.parent == chat.parent == "00000000000000aa"


def test_an_agent_cannot_take_the_place_of_anothers_call(collector):
    agents = [Agent(name=name, tools=("pay",)) for name in "ab"]
    with run_traces.exporting() as traces:
        told = Told(Room(crew_of(*agents)), traces)
        told.trace.owned()
        told.room.ask("c1", agent="b", trace=f"00-{TRACE}-00000000000000bb-01")
        told.room.ask("c1", agent="a", trace=HERE)
        told.on()
    parents = {span.attributes["crewkeeper.agent"]: span.parent for span in collector.named("crewkeeper.decide allow")}
    assert parents == {"a": "00000000000000aa", "b": "00000000000000bb"}


def test_who_takes_over_writes_no_span_again_and_those_that_nobody_wrote(collector):
    room = Room()
    room.ask("c1", "stroll")
    room.op(m.OwnerChanged(term=2, owner="one"))
    room.store("crew.r1.hb.a._.h1", b"not a heartbeat")
    room.op(m.OwnerChanged(term=3, owner="two"))
    with run_traces.exporting() as traces:
        told = Told(room, traces)
        told.trace.took([Entry(n, *entry) for n, entry in enumerate(room.entries, start=1)])
        told.trace.owned()
        told.trace.took([])
        told.trace.left("lost")
    assert [span.name for span in collector.spans] == ["crewkeeper.finding malformed"]


def test_what_is_no_message_is_passed_over(collector, monkeypatch):
    monkeypatch.setattr(run_traces, "CALLS_MAX", 3)
    with run_traces.exporting() as traces:
        told = Told(Room(), traces)
        for payload in (b'{"trace":"', b'{"trace":7}', b'\xff"trace":"', b'{"t":"spend_asked","call":[]}'):
            told.trace.took(
                [Entry(1, 1.0, f"crew.r1.{kind}.{who}._.c", payload) for kind, who in (("req", "a"), ("op", "_model"))]
            )
        for n in range(10):
            call = ToolCall(inc="i", seq=1, task="t", tool="x", args=msgspec.Raw(b"{}"), trace=HERE)
            told.trace.took([Entry(1, 1.0, f"crew.r1.{Kind.TOOL}.a._.c{n}", msgspec.json.encode(call))])
        told.trace.took([Entry(1, 1.0, "", b'"trace":"')])
        assert len(told.trace._contexts) == 3


# --- a collector that fails ---


def span_of(provider) -> None:
    provider.get_tracer("t").start_span("s").end()


def test_a_collector_that_refuses_costs_a_count(collector, monkeypatch):
    collector.status = 400
    sending = exporting("t", {})
    span_of(sending.provider)
    sending.provider.force_flush()
    assert sending.counts() == {"exported": 0, "failed": 1, "dropped": 0}
    collector.status = 200
    span_of(sending.provider)
    sending.close(60)
    assert sending.counts() == {"exported": 1, "failed": 1, "dropped": 0}


def test_what_waits_for_a_dead_collector_is_bounded(monkeypatch):
    monkeypatch.setattr(trace_export, "QUEUE_MAX", 600)
    with socket.create_server(("127.0.0.1", 0), backlog=1) as silent:  # takes connections, and answers nothing
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "30")
        sending = exporting("t", {})
        for _ in range(2000):
            span_of(sending.provider)
        assert sending.counts()["dropped"] == 1400
        sending.close(0.01)


def test_what_cannot_be_exported_is_said_before_anything_starts(monkeypatch):
    monkeypatch.setattr(trace_export, "_NEEDED", ("opentelemetry.no.such",))
    with pytest.raises(ConfigError, match=r"pip install 'crewkeeper\[otel\]'"):
        exporting("t", {})


async def test_a_controller_serves_without_traces_that_cannot_be_exported(monkeypatch, capsys):
    monkeypatch.setattr(trace_export, "_NEEDED", ("opentelemetry.no.such",))
    async with telemetry.opened("", traces=True) as (observer, _):
        assert observer is not None
        observer.run(RUN, Room().core).owned()
    assert observer.errors == {}
    assert "traces.not_exported" in capsys.readouterr().err


async def test_telemetry_hands_spans_on_and_counts_them(collector):
    async with telemetry.opened("", traces=True) as (observer, _):
        assert observer is not None
        room = Room()
        observed = observer.run(RUN, room.core)
        observed.owned()
        observed.left("over")  # which is not true of a running run
        assert observer.errors == {"traces": 1}
        room.op(m.RunEnded(state="done"), sender="_host")
        observed.left("over")
    assert observer.errors == {"traces": 1}
    assert [span.name for span in collector.spans] == ["invoke_workflow room"]


def test_only_who_is_told_to_exports():
    assert not is_asked_for({})
    assert not is_asked_for({"CREWKEEPER_TRACES": "yes"})
    assert is_asked_for({"CREWKEEPER_TRACES": "otlp"})
    assert tracing.parsed(root_of("x" * 32)) is not None
