"""Traces of clients: one trace over agents, contexts that are content, and nothing of it where nobody traces."""

import subprocess
import sys

import anyio
import anyio.lowlevel
import msgspec
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from crewkeeper_bus import membership, tracing
from crewkeeper_bus import messages as m
from crewkeeper_bus.errors import Refused
from crewkeeper_bus.subjects import Kind
from crewkeeper_bus.tool_messages import ModelCall, Settled, ToolCall
from crewkeeper_bus.tracing import Tracing, parsed, root_of
from support.bus import RUN, until
from support.crew import open_crew


class Seen:
    """The spans that ended."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def of(self, agent: str, name: str = ""):
        found = [span for span in self.exporter.get_finished_spans() if span.attributes["crewkeeper.agent"] == agent]
        return [span for span in found if not name or span.name == name]

    def the(self, agent: str, name: str):
        (span,) = self.of(agent, name)
        return span


@pytest.fixture
def seen(monkeypatch):
    """Every client traces."""
    spans = Seen()
    monkeypatch.setattr(membership, "tracing_of", lambda run, agent: Tracing(run, agent, spans.provider))
    return spans


def ids(span) -> tuple[int, int]:
    return span.context.trace_id, span.context.span_id


def parent(span) -> tuple[int, int]:
    return span.parent.trace_id, span.parent.span_id


def root() -> tuple[int, int]:
    trace_id, span_id, _ = parsed(root_of(RUN))
    return trace_id, span_id


async def test_a_call_through_three_agents_is_one_trace(seen, tmp_path):
    async with open_crew("memory", tmp_path) as crew, crew.joined("a", "b", "c") as (a, b, c):

        @b.serve("plan")
        async def plan(request):
            return await b.ask("c", request.body, verb="check")

        @c.serve("check")
        async def check(request):
            assert trace.get_current_span().get_span_context().is_valid
            return "fine"

        async with a.task("main"):
            assert await a.ask("b", 1, verb="plan") == "fine"
    main, asked = seen.the("a", "invoke_agent a"), seen.the("a", "invoke_agent b")
    served, onward = seen.the("b", "invoke_agent b"), seen.the("b", "invoke_agent c")
    last = seen.the("c", "invoke_agent c")
    assert parent(main) == root()
    assert [parent(asked), parent(served), parent(onward), parent(last)] == list(
        map(ids, (main, asked, served, onward))
    )
    assert (asked.kind, served.kind) == (trace.SpanKind.CLIENT, trace.SpanKind.SERVER)
    assert asked.attributes["gen_ai.operation.name"] == "invoke_agent"
    assert asked.attributes["gen_ai.agent.name"] == "b"
    assert asked.attributes["gen_ai.conversation.id"] == RUN
    assert served.attributes["crewkeeper.call.id"] == asked.attributes["crewkeeper.call.id"]
    assert main.attributes["crewkeeper.task"] == "main"


async def test_calls_side_by_side_keep_their_own_parents(seen, tmp_path):
    async with open_crew("memory", tmp_path) as crew, crew.joined("a", "b", concurrency=8) as (a, b):

        @b.serve()
        async def answer(request):
            await anyio.lowlevel.checkpoint()
            return request.body

        assert await a.ask_all([("b", n) for n in range(5)]) == list(range(5))
    assert {parent(span) for span in seen.of("b")} == {ids(span) for span in seen.of("a")}
    assert len(seen.of("b")) == 5


async def test_what_fails_says_so_and_nothing_stays_open(seen, tmp_path):
    async with open_crew("memory", tmp_path) as crew, crew.joined("a", "b") as (a, b):

        @b.serve()
        async def fail(request):
            raise ValueError("no")

        with pytest.raises(Refused):
            await a.ask("b", 1)
        with pytest.raises(Refused):
            await a.ask("b", 1, verb="none")
    asked = seen.of("a", "invoke_agent b")
    assert [span.attributes["error.type"] for span in asked] == ["handler_failed", "no_handler"]
    assert seen.of("b")[0].status.status_code is trace.StatusCode.ERROR
    assert all(span.end_time for span in seen.exporter.get_finished_spans())


async def test_a_message_is_linked_to_who_sent_it(seen, tmp_path):
    async with open_crew("memory", tmp_path) as crew, crew.joined("a", "b") as (a, b):
        await a.tell("b", 1)
        await b.receive()
    sent, taken = seen.the("a", "send b"), seen.the("b", "receive a")
    assert [(link.context.trace_id, link.context.span_id) for link in taken.links] == [ids(sent)]
    assert parent(taken) == root()
    assert (sent.kind, taken.kind) == (trace.SpanKind.PRODUCER, trace.SpanKind.CONSUMER)


async def test_tools_and_models_have_spans_that_the_gate_hears_of(seen, tmp_path):
    async with open_crew("memory", tmp_path) as crew, crew.joined("a") as (a,), anyio.create_task_group() as group:

        async def work():
            async with a.task("main"):
                await a.call_tool("search", {"q": 1}, call_id="t1")
                async with a.model_call("m1", input_tokens=9, max_output_tokens=9, call_id="m1") as grant:
                    grant.usage(5, 6, cached_tokens=2)

        group.start_soon(work)
        asked = await crew.double.wait("a", ToolCall)
        await crew.double.answer("a", "t1", body=msgspec.Raw(b"{}"))
        wanted = await crew.double.wait("a", ModelCall)
        await crew.double.answer("a", "m1", body=msgspec.Raw(b'{"limit_s":9}'))
        await crew.double.wait("a", Settled)
    tool, model = seen.the("a", "execute_tool search"), seen.the("a", "chat m1")
    assert parsed(asked.trace)[:2] == ids(tool)
    assert parsed(wanted.trace)[:2] == ids(model)
    assert parent(tool) == parent(model) == ids(seen.the("a", "invoke_agent a"))
    assert (tool.attributes["gen_ai.tool.name"], tool.attributes["gen_ai.tool.call.id"]) == ("search", "t1")
    used = [model.attributes[f"gen_ai.usage.{name}"] for name in ("input_tokens", "output_tokens")]
    assert used == [5, 6]


async def test_names_that_are_no_text_trace_as_text_that_nothing_obeys(seen):
    tracing_ = Tracing("r", "a", seen.provider)
    names = ("\ud800", "x" * 5000, "\x1b[31m", "a\r\nb", "\u202eevil\u200b", 7)
    for name in names:
        with tracing_.tool(name, name) as span:
            span.note(finding_agents=(name,))
            span.fail(str(name))
    spans = seen.of("a")
    assert len(spans) == len(names)
    for span in spans:
        told = [span.name, *(each for value in span.attributes.values() for each in _texts(value))]
        assert all(each.isprintable() and len(each.encode()) < 250 for each in told)
    assert spans[2].name == r"execute_tool \x1b[31m"


def _texts(value) -> list[str]:
    return [str(each) for each in value] if isinstance(value, tuple) else [str(value)]


THERE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


def test_what_is_carried_is_current_also_for_what_else_traces(seen):
    tracing_ = Tracing("r", "a", seen.provider)
    with tracing.carrying(THERE):
        assert tracing.current() == tracing_.here() == THERE
        with tracing_.tool("t", "c") as span:
            assert tracing.current() == span.traceparent
        with tracing.carrying("x"), tracing.carrying(7), tracing.carrying(None):
            assert tracing.current() == THERE, "what is none changes nothing"
    assert tracing.current() == ""
    assert f"{seen.the('a', 'execute_tool t').parent.span_id:016x}" == "b" * 16


def test_what_is_carried_needs_no_opentelemetry():
    program = (
        "import sys\n"
        "from crewkeeper_bus.tracing import carrying, current\n"
        f"with carrying({THERE!r}):\n"
        f"    assert current() == {THERE!r}\n"
        "sys.exit(current() != '' or any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


async def test_what_is_carried_goes_to_the_gate_though_nobody_traces_here(tmp_path):
    async with open_crew("memory", tmp_path) as crew, crew.joined("a") as (a,), anyio.create_task_group() as group:
        assert a._membership.tracing is None

        async def work():
            with tracing.carrying(THERE):
                await a.call_tool("search", {}, call_id="t1")
            await a.call_tool("search", {}, call_id="t2")

        group.start_soon(work)
        asked = await crew.double.wait("a", ToolCall)
        await crew.double.answer("a", "t1", body=msgspec.Raw(b"{}"))
        later = await crew.double.wait("a", ToolCall, 2)
        await crew.double.answer("a", "t2", body=msgspec.Raw(b"{}"))
    assert (asked.trace, later.trace) == (THERE, "")


async def test_a_tracer_that_fails_is_not_why_a_call_does(seen, tmp_path, monkeypatch):
    class Broken:
        def start_span(self, *_: object) -> None:
            raise RuntimeError("no span")

    async with open_crew("memory", tmp_path) as crew, crew.joined("a", "b") as (a, b):
        monkeypatch.setattr(a._membership.tracing, "_tracer", Broken())

        @b.serve()
        async def answer(request):
            return request.body

        assert await a.ask("b", 1) == 1
    assert parent(seen.of("b")[0]) == root()


HOSTILE = [
    "00-" + "0" * 32 + "-" + "1" * 16 + "-01",
    "ff-" + "1" * 32 + "-" + "1" * 16 + "-01",
    "00-" + "G" * 32 + "-" + "1" * 16 + "-01",
    "x" * 64,
    "\x1b[31m\n",
    "",
]


@pytest.mark.parametrize("context", HOSTILE)
async def test_a_context_that_is_none_changes_nothing(context, seen, tmp_path):
    assert parsed(context) is None
    async with open_crew("memory", tmp_path, check=False) as crew, crew.joined("b") as (b,):

        @b.serve()
        async def answer(request):
            return request.body

        request = m.Request(inc="i", seq=1, task="t", trace=context, body=msgspec.Raw(b"1"))
        await crew.double.publish(Kind.REQ, "b", "c1", request, sender="evil")
        reply = await crew.double.wait("b", m.Reply)
        assert reply.body == msgspec.Raw(b"1")
        await until(lambda: seen.of("b"))
    assert parent(seen.the("b", "invoke_agent b")) == root()


async def test_without_opentelemetry_nothing_is_sent_or_kept(tmp_path):
    async with open_crew("memory", tmp_path) as crew, crew.joined("a", "b") as (a, b):
        b.serve()(lambda request: anyio.lowlevel.checkpoint())
        await a.ask("b", 1)
        assert a._membership.tracing is None
    requests = [each.message for each in crew.double.record if isinstance(each.message, m.Request)]
    assert [request.trace for request in requests] == [""]
    assert b"trace" not in msgspec.json.encode(requests[0])


def test_a_provider_that_a_program_has_set_up_is_used_and_none_else(monkeypatch):
    assert tracing.tracing_of("r", "a") is None
    provider = TracerProvider(shutdown_on_exit=False)
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    found = tracing.tracing_of("r", "a")
    assert found is not None
    assert found.here() == root_of("r")


def test_all_processes_know_the_trace_of_a_run_without_asking():
    assert root_of("r1") == root_of("r1") != root_of("r2")
    assert parsed(root_of("r1")) is not None


def test_a_client_imports_nothing_of_it():
    program = (
        "import sys, crewkeeper_bus.client, crewkeeper_bus.trace_export, crewkeeper_agents.runtime\n"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
