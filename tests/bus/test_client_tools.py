"""Tools from the caller's side: results and refusals, repetition, approvals, grants; the test plays the gate."""

import anyio
import pytest
from msgspec import Raw

from crewkeeper_bus import codec, tool_calls
from crewkeeper_bus import messages as m
from crewkeeper_bus import tool_messages as t
from crewkeeper_bus.errors import (
    ApprovalDenied,
    BadArguments,
    BudgetSpent,
    GateClosed,
    Pending,
    PolicyDenied,
    Refused,
    SubjectError,
    Timeout,
    ToolFailed,
    ToolLost,
    ToolRefused,
    ToolTimeout,
    UnknownTool,
    WouldDeadlock,
)
from crewkeeper_bus.subjects import Kind
from support.bus import two_buses, until
from support.crew import open_crew


def body(value):
    return Raw(codec.encode(value))


async def asked(crew, type_=t.ToolCall, count=1):
    """The call id and the message of the newest call, once there are so many."""
    await crew.double.wait("a", type_, count)
    address, message = crew.double.sent("a", type_)[count - 1]
    assert (address.kind, address.to) == (Kind.TOOL, "_")
    return address.id, message


@two_buses
async def test_a_call_is_a_declared_wait_and_brings_the_result(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,), anyio.create_task_group() as group:

        async def answer():
            call, message = await asked(crew)
            wait = await crew.double.wait("a", m.WaitBegan)
            assert (message.tool, bytes(message.args), message.deadline_s) == ("add", b'{"x":1}', 90)
            assert wait.condition == m.OnTool(call=call, tool="add")
            assert (wait.task, wait.deadline_s) == (message.task, 90)
            beat = await crew.double.probe("a")
            assert [told.wait.condition for told in beat.tasks if told.wait] == [wait.condition]
            await crew.double.answer("a", call, body=body({"sum": 2}))

        group.start_soon(answer)
        assert await a.call_tool("add", {"x": 1}, limit_s=90) == {"sum": 2}
        assert await crew.double.outcomes("a", 1) == ["met"]
        assert not await crew.double.told("a", t.CallGivenUp)


@two_buses
async def test_refusals_are_typed_and_readable(kind, tmp_path):
    codes = {
        "unknown_tool": UnknownTool,
        "bad_arguments": BadArguments,
        "too_large": BadArguments,
        "denied": PolicyDenied,
        "budget_spent": BudgetSpent,
        "approval_denied": ApprovalDenied,
        "tool_failed": ToolFailed,
        "tool_timeout": ToolTimeout,
        "tool_lost": ToolLost,
        "gate_closed": GateClosed,
        "rate_limited": ToolRefused,
        "would_deadlock": WouldDeadlock,
    }
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,), anyio.create_task_group() as group:

        async def answer():
            for count, code in enumerate(codes, 1):
                call, _ = await asked(crew, count=count)
                await crew.double.answer("a", call, error=m.Fault(code=code, text=f"no: {code}"))

        group.start_soon(answer)
        for code, kind_ in codes.items():
            with pytest.raises(kind_, match=f"no: {code}") as refused:
                await a.call_tool("pay", {"usd": 1})
            if kind_ is not WouldDeadlock:
                assert type(refused.value) is kind_
                assert (refused.value.code, refused.value.text, refused.value.tool) == (code, f"no: {code}", "pay")
                assert isinstance(refused.value, Refused)


@two_buses
async def test_of_what_cannot_be_sent_the_gate_is_told(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,), anyio.create_task_group() as group:
        all_args = (({"x": "y" * 2**20}, "too_large"), ({"x": object()}, "bad_arguments"), ({"x": 1}, ""))
        for count, (args, code) in enumerate(all_args, start=1):
            group.start_soon(a.call_tool, "pay", args)
            _, said = await asked(crew, count=count)
            assert (said.unsent.code if said.unsent else "", len(said.args) < 20) == (code, True)
        with pytest.raises(SubjectError):
            await a.call_tool("pay", {}, call_id="a b")
        group.cancel_scope.cancel()


@two_buses
async def test_any_invented_name_can_be_asked_for(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,), anyio.create_task_group() as group:

        async def answer():
            for count in (1, 2, 3):
                call, _ = await asked(crew, count=count)
                await crew.double.answer("a", call, error=m.Fault(code="unknown_tool", text="no"))

        group.start_soon(answer)
        for name in ("x" * 100_000, "\ud800", "päy.now()"):
            with pytest.raises(UnknownTool):
                await a.call_tool(name)


@two_buses
async def test_a_call_is_repeated_under_its_id_until_it_is_answered(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(tool_calls, "AGAIN_S", 0.02)
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,), anyio.create_task_group() as group:

        async def answer():
            call, _ = await asked(crew, count=3)
            said = crew.double.sent("a", t.ToolCall)
            assert {each.address.id for each in said} == {"order-7"} == {call}
            assert len({(each.message.tool, bytes(each.message.args)) for each in said}) == 1
            await crew.double.answer("a", call, body=body(1))
            await crew.double.answer("a", call, body=body(2))

        group.start_soon(answer)
        assert await a.call_tool("pay", {"usd": 1}, call_id="order-7") == 1
        count = len(await crew.double.told("a", t.ToolCall))
        await a.sleep(0.2)
        assert len(await crew.double.told("a", t.ToolCall)) == count


@two_buses
async def test_a_call_id_is_shared_by_whoever_asks_the_same(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,), anyio.create_task_group() as group:
        results = []

        async def ask():
            results.append(await a.call_tool("pay", {"usd": 1}, call_id="c1"))

        group.start_soon(ask)
        group.start_soon(ask)
        call, _ = await asked(crew, count=2)
        with pytest.raises(ToolRefused) as refused:
            await a.call_tool("pay", {"usd": 2}, call_id="c1")
        assert refused.value.code == "call_id_reused"
        await crew.double.answer("a", call, body=body("paid"))
        await until(lambda: results == ["paid", "paid"], "both are answered")


@two_buses
async def test_an_approval_is_waited_for_or_told_as_pending_and_resumed(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,), anyio.create_task_group() as group:

        async def answer():
            for count in (1, 2):
                call, _ = await asked(crew, count=count)
                await crew.double.answer("a", call, body=body({"pending": "ap1"}), final=False)
            call, _ = await asked(crew, count=3)
            await crew.double.answer("a", call, body=body({"pending": "ap1"}), final=False)
            await crew.double.answer("a", call, body=body("paid"))

        group.start_soon(answer)
        with pytest.raises(Pending, match="ap1") as pending:
            await a.call_tool("pay", {"usd": 1}, call_id="c1", wait=False)
        assert (pending.value.approval, pending.value.call) == ("ap1", "c1")
        with pytest.raises(Pending):
            await a.call_tool("pay", {"usd": 1}, call_id="c1", limit_s=1.0)
        assert await a.call_tool("pay", {"usd": 1}, call_id="c1") == "paid"
        assert not await crew.double.told("a", t.CallGivenUp)
        assert await crew.double.outcomes("a", 3) == ["met", "timeout", "met"]


@two_buses
async def test_a_deadline_keeps_the_call_and_a_cancellation_gives_it_up(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,):
        with pytest.raises(Timeout, match="call id c1"):
            await a.call_tool("pay", call_id="c1", limit_s=0.05)
        with anyio.move_on_after(0.05):
            await a.call_tool("pay", call_id="c2")
        assert [each.address.id for each in crew.double.sent("a", t.CallGivenUp)] == []
        await crew.double.wait("a", t.CallGivenUp)
        assert [each.address.id for each in crew.double.sent("a", t.CallGivenUp)] == ["c2"]


@two_buses
async def test_a_grant_runs_with_the_gates_arguments_and_is_settled(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,), anyio.create_task_group() as group:

        async def answer():
            for count in (1, 2, 3):
                call, message = await asked(crew, count=count)
                assert message.inside
                limit_s = 0.05 if count == 3 else 60.0
                granted = {"grant": "g", "args": {"q": "[redacted]"}, "limit_s": limit_s}
                await crew.double.answer("a", call, body=body(granted))

        group.start_soon(answer)
        async with a.grant_tool("search", {"q": "secret"}, call_id="c1") as grant:
            assert grant.args == {"q": "[redacted]"}
            grant.result = ["found"]
            grant.cost(microusd=7)
        with pytest.raises(KeyError):
            async with a.grant_tool("search", {"q": "x"}):
                raise KeyError("no such row")
        with pytest.raises(ToolTimeout):
            async with a.grant_tool("search", {"q": "x"}):
                await anyio.sleep_forever()
        await crew.double.wait("a", t.Settled, 3)
        first, failed, cut = crew.double.sent("a", t.Settled)
        assert (first.address.id, first.message.ok, first.message.cost_microusd) == ("c1", True, 7)
        assert bytes(first.message.result) == b'["found"]'
        assert (failed.message.ok, failed.message.error) == (False, "KeyError: 'no such row'")
        assert (cut.message.ok, cut.message.error) == (False, "cut after 0.05 s")


@two_buses
async def test_an_answer_that_comes_twice_is_taken_once_and_one_for_another_incarnation_never(kind, tmp_path):
    granted = body({"grant": "c1", "limit_s": 60.0})
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,), anyio.create_task_group() as group:

        async def answer(count, *replies):
            call, message = await asked(crew, count=count)
            for reply in replies:
                await crew.double.publish(Kind.REP, "a", call, m.SupervisorReply(**reply(message)))

        def mine(message):
            return {"id": "7-0", "body": granted, "inc": message.inc}

        def late(message):
            return {"id": "9-0", "error": m.Fault(code="tool_lost", text="it was granted before")}

        group.start_soon(answer, 1, mine, mine)
        async with a.grant_tool("search", {"q": "x"}, call_id="c1"):
            pass
        await until(lambda: crew.double.sent("a", t.Settled))
        group.start_soon(answer, 2, mine, lambda message: mine(message) | {"id": "8-0", "inc": "another"}, late)
        with pytest.raises(ToolLost):
            async with a.grant_tool("search", {"q": "x"}, call_id="c1"):
                raise AssertionError("granted by an old answer")


@two_buses
async def test_a_refused_grant_runs_nothing_and_settles_nothing(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,), anyio.create_task_group() as group:

        async def answer():
            call, _ = await asked(crew)
            await crew.double.answer("a", call, error=m.Fault(code="denied", text="not on sundays"))

        group.start_soon(answer)
        with pytest.raises(PolicyDenied, match="not on sundays"):
            async with a.grant_tool("search", {"q": "x"}):
                raise AssertionError("it must not run")
        assert await crew.double.told("a", t.Settled) == []


@two_buses
async def test_a_model_call_is_charged_in_full_unless_its_usage_is_said(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,), anyio.create_task_group() as group:

        async def answer():
            for count in (1, 2):
                call, message = await asked(crew, t.ModelCall, count)
                assert (message.model, message.input_tokens, message.max_output_tokens) == ("gpt-5", 100, 500)
                await crew.double.answer("a", call, body=body({"grant": "g", "limit_s": 60, "max_output_tokens": 200}))

        group.start_soon(answer)
        async with a.model_call("gpt-5", input_tokens=100, max_output_tokens=500) as grant:
            assert grant.max_output_tokens == 200
            grant.usage(90, 12, cached_tokens=40)
        with pytest.raises(OSError, match="cut off"):
            async with a.model_call("gpt-5", input_tokens=100, max_output_tokens=500):
                raise OSError("cut off")
        await crew.double.wait("a", t.Settled, 2)
        said, silent = crew.double.all("a", t.Settled)
        assert (said.ok, said.input_tokens, said.output_tokens, said.cached_tokens) == (True, 90, 12, 40)
        assert (silent.ok, silent.input_tokens, silent.output_tokens) == (False, 100, 200)


@two_buses
async def test_proposals_are_told_in_pieces(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,):
        await a.propose([f"tool{number}" for number in range(200)])
        await crew.double.wait("a", t.Proposed, 2)
        assert sum(len(each.tools) for each in crew.double.all("a", t.Proposed)) == 200


@two_buses
async def test_a_break_ends_the_wait_for_a_tool(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,), anyio.create_task_group() as group:

        async def break_it():
            await crew.double.break_wait("a", await crew.double.wait("a", m.WaitBegan))

        group.start_soon(break_it)
        with pytest.raises(WouldDeadlock):
            await a.call_tool("pay", call_id="c1")
        await crew.double.wait("a", t.CallGivenUp)
