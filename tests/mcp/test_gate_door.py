"""A proxy's door: a real client of the bus, and a double that plays the gate."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec import Raw
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from crewkeeper_bus import membership
from crewkeeper_bus import messages as m
from crewkeeper_bus.client import Client, connect
from crewkeeper_bus.errors import ConnectionLost
from crewkeeper_bus.tool_messages import CallGivenUp, Proposed, Settled, ToolCall
from crewkeeper_bus.tracing import Tracing
from crewkeeper_supervisor.mcp import rpc
from crewkeeper_supervisor.mcp.gate_door import GateDoor
from crewkeeper_supervisor.mcp.offer import Refusal
from support.bus import RUN, until
from support.crew import Crew, open_crew


class Stand:
    def __init__(self, crew: Crew, door: GateDoor) -> None:
        self.double = crew.double
        self.door = door

    async def asked(self, count: int = 1) -> tuple[str, ToolCall]:
        """The newest call put to the gate, with its id."""
        await self.double.wait("desk", ToolCall, count)
        return [(each.address.id, each.message) for each in self.double.sent("desk", ToolCall)][count - 1]

    async def grant(self, call: str, args: bytes = b'{"a":1}', limit_s: float = 30.0) -> None:
        body = Raw(b'{"grant":"g1","args":%s,"limit_s":%f}' % (args, limit_s))
        await self.double.answer("desk", call, body=body)


@asynccontextmanager
async def standing(tmp_path: Path, **limits: float) -> AsyncIterator[Stand]:
    async with open_crew("memory", tmp_path, check=False) as crew:

        @asynccontextmanager
        async def client() -> AsyncIterator[Client]:
            transport = await crew.bus.connect("desk", "")
            yield connect(run=RUN, agent="desk", transport=transport, heartbeat_s=60.0)

        door = GateDoor(client, **limits)
        async with anyio.create_task_group() as group:
            group.start_soon(door.run)
            await crew.double.wait("desk", m.Joined)
            yield Stand(crew, door)
            group.cancel_scope.cancel()


async def refused(door: GateDoor, **args: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        async with door.grant("fs.read", args):
            pytest.fail("it was granted")
    return caught.value


async def test_a_grant_is_settled_by_what_came_of_it(tmp_path: Path) -> None:
    async with standing(tmp_path) as stand, anyio.create_task_group() as group:

        async def gate() -> None:
            call, asked = await stand.asked()
            assert (asked.tool, bytes(asked.args), asked.inside) == ("fs.read", b'{"a":1}', True)
            await stand.grant(call, b'{"a":2}')
            call, _ = await stand.asked(2)
            await stand.grant(call)

        group.start_soon(gate)
        async with stand.door.grant("fs.read", {"a": 1}) as granted:
            assert granted.args == {"a": 2}
            granted.result = {"content": []}
        settled = await stand.double.wait("desk", Settled)
        assert (settled.ok, bytes(settled.result)) == (True, b'{"content":[]}')
        with pytest.raises(ValueError, match="broken"):
            async with stand.door.grant("fs.read", {"a": 1}):
                raise ValueError("broken")
        settled = await stand.double.wait("desk", Settled, 2)
        assert settled.ok is False
        assert "broken" in settled.error


async def test_a_proxy_that_traces_is_between_its_client_and_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    monkeypatch.setattr(membership, "tracing_of", lambda run, agent: Tracing(run, agent, provider))
    params = {"_meta": {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "progressToken": 7}}
    async with standing(tmp_path) as stand, anyio.create_task_group() as group:

        async def gate() -> None:
            call, _ = await stand.asked()
            await stand.grant(call)

        group.start_soon(gate)
        with rpc.context_of(rpc.request(1, "tools/call", params)):
            async with stand.door.grant("fs.read", {"a": 1}):
                passed_on = rpc.traced(params)["_meta"]
        _, asked = await stand.asked()
    (span,) = spans.get_finished_spans()
    own = f"00-{'a' * 32}-{span.context.span_id:016x}-01"
    assert span.name == "execute_tool fs.read"
    assert f"{span.parent.span_id:016x}" == "b" * 16
    assert (asked.trace, passed_on) == (own, {"progressToken": 7, "traceparent": own})


async def test_a_call_that_runs_too_long_is_cut(tmp_path: Path) -> None:
    async with standing(tmp_path) as stand, anyio.create_task_group() as group:

        async def gate() -> None:
            call, _ = await stand.asked()
            await stand.grant(call, limit_s=0.1)

        group.start_soon(gate)
        with pytest.raises(Refusal) as caught:
            async with stand.door.grant("fs.read", {"a": 1}):
                await anyio.sleep_forever()
        assert caught.value.code == "tool_timeout"
        assert (await stand.double.wait("desk", Settled)).ok is False


async def test_what_the_gate_says_is_what_the_model_reads(tmp_path: Path) -> None:
    async with standing(tmp_path) as stand, anyio.create_task_group() as group:

        async def gate() -> None:
            call, _ = await stand.asked()
            await stand.double.answer("desk", call, error=m.Fault(code="budget_spent", text="nothing is left"))

        group.start_soon(gate)
        refusal = await refused(stand.door, a=1)
        assert (refusal.code, str(refusal)) == ("budget_spent", "nothing is left")


async def test_a_silent_gate_refuses_and_the_call_is_given_up(tmp_path: Path) -> None:
    async with standing(tmp_path, answer_s=0.2) as stand:
        refusal = await refused(stand.door, a=1)
        assert refusal.code == "gate_unavailable"
        assert "nothing was executed" in str(refusal)
        call, _ = await stand.asked()
        await stand.double.wait("desk", CallGivenUp)
        assert stand.double.sent("desk", CallGivenUp)[0].address.id == call


async def test_a_person_who_decides_late_is_heard_when_the_call_is_made_again(tmp_path: Path) -> None:
    async with standing(tmp_path, answer_s=60, approval_s=4.0) as stand, anyio.create_task_group() as group:

        async def gate() -> None:
            call, _ = await stand.asked()
            await stand.double.answer("desk", call, body=Raw(b'{"pending":"A7"}'), final=False)

        group.start_soon(gate)
        refusal = await refused(stand.door, a=1)
        assert refusal.code == "approval_pending"
        assert "A7" in str(refusal)
        first, _ = await stand.asked()
        asked = len(stand.double.all("desk", ToolCall))
        assert stand.double.all("desk", CallGivenUp) == []

        async def approve() -> None:
            again, _ = await stand.asked(asked + 1)
            assert again == first
            await stand.grant(again)

        group.start_soon(approve)
        async with stand.door.grant("fs.read", {"a": 1}):
            pass
        assert (await stand.double.wait("desk", Settled)).ok is True


async def test_an_unknown_tool_is_told(tmp_path: Path) -> None:
    async with standing(tmp_path) as stand:
        await stand.door.tell_unknown("fs.raed")
        assert (await stand.double.wait("desk", Proposed)).tools == ("fs.raed",)
        await stand.door.tell_unsafe(["fs.read"], "it has changed")
        told = await stand.double.wait("desk", Proposed, 2)
        assert (told.tools, told.unsafe) == (("fs.read",), "it has changed")


@pytest.mark.live
async def test_an_agent_that_is_stopped_ends_the_door(tmp_path: Path) -> None:
    async with open_crew("nats", tmp_path, check=False) as crew:

        @asynccontextmanager
        async def client() -> AsyncIterator[Client]:
            yield connect(run=RUN, agent="desk", transport=await crew.bus.connect("desk", ""), heartbeat_s=60.0)

        door = GateDoor(client)
        async with anyio.create_task_group() as group:

            async def stop() -> None:
                await crew.double.wait("desk", m.Joined)
                await crew.double.command("desk", m.Stop, why="enough", grace_s=0.1)

            group.start_soon(stop)
            with anyio.fail_after(120):
                await door.run()


async def test_without_a_connection_every_call_is_refused_at_once() -> None:
    tries = []

    @asynccontextmanager
    async def nowhere() -> AsyncIterator[Client]:
        tries.append(1)
        raise ConnectionLost("nothing runs here")
        yield

    door = GateDoor(nowhere)
    async with anyio.create_task_group() as group:
        group.start_soon(door.run)
        await until(lambda: tries, "it is tried")
        refusal = await refused(door, a=1)
        assert refusal.code == "gate_unavailable"
        assert "nothing runs here" in str(refusal)
        await until(lambda: len(tries) > 1, "it is tried again")
        group.cancel_scope.cancel()
