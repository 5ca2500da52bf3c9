"""Scripted agents inside one loop on the memory bus: what every kind of step does."""

import json

import anyio
import pytest
from agent_process import LIMIT_S

from crewkeeper_agents.runtime import Status
from crewkeeper_agents.script import parse
from crewkeeper_agents.scripted import ScriptFailed, agent_of
from crewkeeper_bus import messages as m
from crewkeeper_bus import tool_messages as t
from crewkeeper_bus.errors import PeerGone, Refused, Timeout, WouldDeadlock
from support.bus import until
from support.crew import open_crew


def agent(script, name="a"):
    return agent_of(parse(json.dumps(script).encode()), name)


async def play(crew, steps, *, name="a", on_error="continue", **handlers):
    """Play steps as the main of one agent; what its exit status would be."""
    script = {"main": steps, "handlers": handlers, "on_error": on_error, "leave_when_done": True}
    with anyio.fail_after(LIMIT_S):
        async with await crew.member(name) as client:
            await crew.double.command(name, m.Begin)
            return await agent(script).serve_on(client)


def said(crew, name="a"):
    return [each.text for each in crew.double.all(name, m.Progress)]


async def serve(crew, group, name, handlers):
    """A scripted agent with handlers only, until the group is cancelled."""

    async def live(*, task_status):
        async with await crew.member(name) as client:
            served = agent({"handlers": handlers}, name)
            await crew.double.command(name, m.Begin)
            task_status.started()
            await served.serve_on(client)

    await group.start(live)


async def test_calls_wait_for_their_answers(tmp_path):
    ask = {"to": "b", "verb": "add", "body": 1}
    steps = [
        {"ask": ask | {"timeout": 10}},
        {"ask_all": [ask, {"to": "c"}]},
        {"ask_any": {"of": [ask, {"to": "c"}], "timeout": 10}},
        {"gather": {"k": 2, "of": [ask, ask, {"to": "c"}]}},
        {"call": ask | {"as": "c1"}},
        {"await": ["c1"]},
        {"tell": {"to": "b", "body": 1}},
        {"flood": {"to": "b", "count": 5}},
    ]
    async with open_crew("memory", tmp_path) as crew, anyio.create_task_group() as group:
        await serve(crew, group, "b", {"add": [{"reply": {"sum": 2}}]})
        await serve(crew, group, "c", {"*": [{"progress": "c works"}]})
        assert await play(crew, steps) is Status.LEFT
        conditions = [type(each.condition) for each in (await crew.double.told("a", m.WaitBegan))]
        assert conditions == [m.OnCall, m.OnAll, m.OnSome, m.OnSome, m.OnCall]
        assert len(await crew.double.told("a", m.Message)) == 6
        assert said(crew, "c")
        group.cancel_scope.cancel()


async def test_a_script_receives_what_it_is_told(tmp_path):
    async with open_crew("memory", tmp_path) as crew, anyio.create_task_group() as group:

        async def tell():
            await crew.double.wait("a", m.WaitBegan)
            await play(crew, [{"tell": {"to": "a", "body": "x"}}], name="b")

        group.start_soon(tell)
        assert await play(crew, [{"receive": {"from": ["b"]}}, {"progress": "got it"}]) is Status.LEFT
        assert (await crew.double.told("a", m.WaitBegan))[0].condition == m.OnMessage(senders=("b",))
        assert said(crew) == ["got it"]


async def test_locks_semaphores_people_and_time(tmp_path):
    steps = [
        {"lock": {"name": "report", "do": [{"progress": "locked"}]}},
        {"semaphore": {"name": "gpu", "capacity": 4, "units": 2, "do": [{"progress": "two units"}]}},
        {"ask_human": {"text": "Really?", "who": "ops"}},
        {"sleep": 0.001},
        {"work": 0.001},
        {"usage": {"model": "m", "input_tokens": 1, "output_tokens": 2, "cost_microusd": 3}},
        {"checkpoint": True},
        {"log": "a line"},
    ]
    async with open_crew("memory", tmp_path) as crew, anyio.create_task_group() as group:

        async def supervise():
            for number in (1, 2):
                asked = await crew.double.wait("a", m.Acquire, number)
                await crew.double.command("a", m.Granted, resource=asked.resource, ticket=asked.ticket, revision=number)
            question = await crew.double.wait("a", m.AskHuman)
            await crew.double.answer("a", question.question, body=m.Raw(b'"yes"'))

        group.start_soon(supervise)
        assert await play(crew, steps) is Status.LEFT
        assert said(crew) == ["locked", "two units"]
        assert [each.units for each in (await crew.double.told("a", m.Acquire))] == [1, 2]
        assert len(await crew.double.told("a", m.Release)) == 2
        assert (await crew.double.told("a", m.Usage))[0].cost_microusd == 3
        assert isinstance((await crew.double.told("a", m.WaitBegan))[-1].condition, m.OnTimer)


async def test_tools_are_called_and_refusals_caught(tmp_path):
    pay = {"tool": {"name": "pay", "args": {"usd": 1}, "call_id": "order-7"}}
    caught = {"catch": {"do": [{"tool": {"name": "pya"}}], "error": "refused", "then": [{"progress": "refused"}]}}
    async with open_crew("memory", tmp_path) as crew, anyio.create_task_group() as group:

        async def gate():
            await crew.double.wait("a", t.ToolCall)
            await crew.double.answer("a", "order-7", body=m.Raw(b'"paid"'))
            await crew.double.wait("a", t.ToolCall, 2)
            address, message = crew.double.sent("a", t.ToolCall)[1]
            assert (message.tool, bytes(message.args)) == ("pya", b"{}")
            await crew.double.answer("a", address.id, error=m.Fault(code="unknown_tool", text="did you mean pay?"))

        group.start_soon(gate)
        assert await play(crew, [pay, {"progress": "paid"}, caught]) is Status.LEFT
        assert said(crew) == ["paid", "refused"]


async def test_a_step_repeats(tmp_path):
    async with open_crew("memory", tmp_path) as crew:
        await play(crew, [{"repeat": {"times": 3, "do": [{"progress": "again"}]}}])
        assert said(crew) == ["again"] * 3


async def test_a_failing_step_fails_main(tmp_path):
    async with open_crew("memory", tmp_path) as crew:
        with pytest.raises(ScriptFailed, match="broken"):
            await play(crew, [{"fail": "broken"}, {"progress": "never"}])
        assert said(crew) == []
        assert not (await crew.double.told("a", m.Left))[0].done


async def test_a_barrier_has_a_limit(tmp_path):
    async with open_crew("memory", tmp_path) as crew:
        with pytest.raises(ScriptFailed, match="did not appear within"):
            await play(crew, [{"barrier": {"file": str(tmp_path / "never"), "timeout": 0.01}}])


@pytest.mark.parametrize(
    ("error", "step"),
    [
        ("timeout", {"receive": {"timeout": 0.001}}),
        ("any", {"receive": {"timeout": 0.001}}),
        ("refused", {"ask": {"to": "a", "verb": "nobody"}}),
        ("would_deadlock", {"receive": {"from": "b"}}),
    ],
)
async def test_an_error_is_caught_by_its_name(tmp_path, error, step):
    async with open_crew("memory", tmp_path) as crew, anyio.create_task_group() as group:
        await serve(crew, group, "b", {"ask": []})
        if error == "refused":
            step = {"ask": {"to": "b", "verb": "nobody"}}
        if error == "would_deadlock":

            async def break_it():
                await crew.double.break_wait("a", await crew.double.wait("a", m.WaitBegan))

            group.start_soon(break_it)
        steps = [{"catch": {"do": [step, {"progress": "not here"}], "error": error, "then": [{"progress": "caught"}]}}]
        assert await play(crew, steps) is Status.LEFT
        assert said(crew) == ["caught"]
        group.cancel_scope.cancel()


async def test_another_error_is_not_caught(tmp_path):
    async with open_crew("memory", tmp_path) as crew:
        with pytest.raises(Timeout):
            await play(crew, [{"catch": {"do": [{"receive": {"timeout": 0.001}}], "error": "refused"}}])


async def test_a_broken_wait_fails_main_where_the_script_says_so(tmp_path):
    async with open_crew("memory", tmp_path) as crew, anyio.create_task_group() as group:

        async def break_it():
            await crew.double.break_wait("a", await crew.double.wait("a", m.WaitBegan))

        group.start_soon(break_it)
        with pytest.raises(WouldDeadlock):
            await play(crew, [{"receive": {}}], on_error="fail")


async def test_activities_run_beside_main_and_are_waited_for(tmp_path):
    steps = [
        {"task": {"name": "left", "do": [{"receive": {"from": "b"}}, {"progress": "left"}]}},
        {"task": {"name": "right", "do": [{"progress": "right"}]}},
        {"progress": "main"},
    ]
    script = {"main": steps}
    async with open_crew("memory", tmp_path) as crew, anyio.create_task_group() as group:

        async def tell():
            await until(lambda: len(said(crew)) == 2, "main and the activity that waits for nobody")
            await play(crew, [{"tell": {"to": "a"}}], name="b")

        group.start_soon(tell)
        async with await crew.member("a", concurrency=3) as client:
            await crew.double.command("a", m.Begin)
            assert await agent(script).serve_on(client) is Status.LEFT
        assert [each.name for each in (await crew.double.told("a", m.TaskBegan)) if each.slot] == [
            "main",
            "left",
            "right",
        ]
        assert sorted(said(crew)[:2]) == ["main", "right"]
        assert said(crew)[2:] == ["left"]


async def test_a_failing_activity_is_raised_alone(tmp_path):
    steps = [{"task": {"do": [{"fail": "aside"}]}}, {"receive": {}}]
    async with open_crew("memory", tmp_path) as crew, await crew.member("a", concurrency=2) as client:
        await crew.double.command("a", m.Begin)
        with pytest.raises(ScriptFailed, match="aside"):
            await agent({"main": steps}).serve_on(client)


async def test_an_error_in_a_handler_reaches_the_caller(tmp_path):
    async with open_crew("memory", tmp_path) as crew, anyio.create_task_group() as group:
        await serve(crew, group, "b", {"ask": [{"fail": "no"}]})
        async with crew.joined("a") as (client,):
            with pytest.raises(Refused, match="no") as caught:
                await client.ask("b")
            assert caught.value.reason == "handler_failed"
        group.cancel_scope.cancel()


async def test_main_may_be_all_until_asked(tmp_path):
    served = agent({"main": [{"progress": "x"}], "handlers": {"ask": []}})
    async with open_crew("memory", tmp_path) as crew, await crew.member("a") as client:
        await crew.double.command("a", m.Begin)
        with anyio.fail_after(LIMIT_S):
            assert await served.serve_on(client, until="main") is Status.LEFT


async def test_peer_gone_is_caught(tmp_path):
    async with open_crew("memory", tmp_path) as crew, anyio.create_task_group() as group:

        async def bury():
            await crew.double.wait("a", m.WaitBegan)
            call = crew.double.sent("a", m.Request)[0].address.id
            await crew.double.answer("a", call, error=m.Fault(code="peer_gone", text="z is gone"))

        group.start_soon(bury)
        then = [{"progress": PeerGone.__name__}]
        await play(crew, [{"catch": {"do": [{"ask": {"to": "z"}}], "error": "peer_gone", "then": then}}])
        assert said(crew) == ["PeerGone"]
