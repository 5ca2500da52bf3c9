"""Calls between clients: ask and answer, refusals, joins of several calls, deadlines, cancellation."""

import asyncio

import anyio
import msgspec
import pytest

from crewkeeper_bus import codec
from crewkeeper_bus import messages as m
from crewkeeper_bus.errors import (
    Cancelled,
    CodecError,
    PeerGone,
    Refused,
    SubjectError,
    Timeout,
    WouldDeadlock,
)
from crewkeeper_bus.subjects import Kind
from support.bus import two_buses, until
from support.crew import Crew, open_crew


async def echo(request):
    return {"to": request.verb, "got": request.body}


async def never(request):
    await anyio.sleep_forever()


def wait_leaves(condition):
    return list(condition.of)


@two_buses
async def test_ask_is_answered(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", "b") as (a, b):
        b.serve()(echo)
        b.serve("approve")(echo)
        assert await a.ask("b", {"plan": 1}) == {"to": "ask", "got": {"plan": 1}}
        assert await a.ask("b", None, verb="approve", timeout_s=90) == {"to": "approve", "got": None}
        request = (await crew.double.told("a", m.Request))[0]
        wait = await crew.double.wait("a", m.WaitBegan)
        assert wait.task == request.task
        assert wait.condition == m.OnCall(call=crew.double.sent("a", m.Request)[0].address.id)
        assert wait.deadline_s is None
        second = await crew.double.wait("a", m.WaitBegan, 2)
        assert second.deadline_s == 90
        assert second.epoch == 2
        assert await crew.double.outcomes("a", 2) == ["met", "met"]


@two_buses
async def test_answer_is_decoded_into_a_type(kind, tmp_path):
    class Plan(msgspec.Struct):
        days: int

    async with open_crew(kind, tmp_path) as crew, crew.joined("a", "b") as (a, b):

        @b.serve(type=Plan)
        async def double_it(request):
            return Plan(days=request.body.days * 2)

        assert await a.ask("b", Plan(days=2), type=Plan) == Plan(days=4)
        with pytest.raises(Refused) as refused:
            await a.ask("b", {"days": "two"})
        assert refused.value.reason == "bad_request"
        with pytest.raises(CodecError):
            await a.ask("b", {"days": 1}, type=int)


@two_buses
async def test_failures_of_the_callee_are_typed(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", "b") as (a, b):

        @b.serve("*")
        async def fail(request):
            match request.verb:
                case "value":
                    raise ValueError("bad plan")
                case "refuse":
                    raise Refused("not today", reason="policy")
                case "odd":
                    raise Refused("no", reason="has a blank")
                case "gone":
                    raise PeerGone("c is gone", peer="c")
                case "ring":
                    raise WouldDeadlock("ring", path=["a waits for b"], finding="F7")
                case "cancelled":
                    raise Cancelled("gave up")
                case "unsendable":
                    return object()
                case _:
                    raise TimeoutError("slow")

        reasons = {}
        for verb in ("value", "refuse", "odd", "unsendable", "slow"):
            with pytest.raises(Refused) as refused:
                await a.ask("b", verb=verb)
            assert refused.value.peer == "b"
            assert "Traceback" not in str(refused.value)
            reasons[verb] = refused.value.reason
        assert reasons == {
            "value": "handler_failed",
            "refuse": "policy",
            "odd": "refused",
            "unsendable": "handler_failed",
            "slow": "timeout",
        }
        with pytest.raises(PeerGone) as peer_gone:
            await a.ask("b", verb="gone")
        assert peer_gone.value.peer == "b"
        with pytest.raises(WouldDeadlock) as ring:
            await a.ask("b", verb="ring")
        assert ring.value.path == ("a waits for b",)
        assert ring.value.finding == "F7"
        with pytest.raises(Cancelled):
            await a.ask("b", verb="cancelled")
        outcomes = await crew.double.outcomes("a", 8)
        assert outcomes == ["failed"] * 5 + ["gone", "broken", "failed"]


@two_buses
async def test_unknown_verb_is_refused_once_the_crew_has_begun(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", "b") as (a, b):
        b.serve("known")(echo)
        with pytest.raises(Refused, match="known") as refused:
            await a.ask("b", verb="other")
        assert refused.value.reason == "no_handler"


@two_buses
async def test_call_waits_for_a_handler_that_is_registered_before_the_beginning(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,), await crew.member("b") as b:
        call = await a.call("b", 1)
        await until(lambda: b._membership.serving.queued(), "the call came")
        b.serve()(echo)
        assert await call.answer(90) == {"to": "ask", "got": 1}
        late = await a.call("b", 1, verb="late")
        await until(lambda: b._membership.serving.queued(), "the second call came")
        await crew.begin(b)
        with pytest.raises(Refused):
            await late.answer(90)


@two_buses
async def test_supervisor_answers_for_a_peer_that_is_gone(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,):
        async with anyio.create_task_group() as group:

            async def ask() -> None:
                with pytest.raises(PeerGone) as gone:
                    await a.ask("b")
                assert gone.value.peer == "b"

            group.start_soon(ask)
            await crew.double.wait("a", m.WaitBegan)
            call = crew.double.sent("a", m.Request)[0].address.id
            await crew.double.answer("a", call, error=m.Fault(code="peer_gone", text="b never joined"))
        assert (await crew.double.wait("a", m.WaitEnded)).outcome == "gone"


@two_buses
@pytest.mark.parametrize("stranger", ["c", "b-1"])
async def test_replies_of_strangers_are_dropped(kind, tmp_path, stranger):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", "b", stranger) as (a, b, c):
        await crew.double.command("a", m.Begin, peers=("a", "b", stranger))
        called = anyio.Event()
        release = anyio.Event()

        @b.serve()
        async def slow(request):
            called.set()
            await release.wait()
            return "true answer"

        call = await a.call("b")
        await called.wait()
        c._membership.outgoing.send(Kind.REP, "a", call.id, m.Reply, body=codec.encode_body("forged"))
        await until(lambda: a.dropped, "the forged reply was dropped")
        assert call.is_open
        release.set()
        assert await call.answer(90) == "true answer"


@two_buses
async def test_role_shares_calls_among_its_agents(kind, tmp_path):
    async with (
        open_crew(kind, tmp_path) as crew,
        crew.joined("a") as (a,),
        await crew.member("worker-1", "worker") as w1,
        await crew.member("worker-2", "worker") as w2,
    ):
        for worker in (w1, w2):

            @worker.serve()
            async def who(request, worker=worker):
                return worker.agent

        answers = {await a.ask("worker", timeout_s=90) for _ in range(30)}
        assert answers == {"worker-1", "worker-2"}


@two_buses
async def test_cancelling_a_call_to_a_role_reaches_the_agent_that_has_it(kind, tmp_path):
    async with (
        open_crew(kind, tmp_path) as crew,
        crew.joined("a") as (a,),
        await crew.member("worker-1", "worker") as worker,
    ):
        worker.serve()(never)
        known = await a.call("worker")
        await until(lambda: known.callee == "worker-1", "it is known who has it")
        await crew.double.wait("worker-1", m.CallStarted)
        await known.cancel()
        await crew.double.wait("worker-1", m.TaskEnded)
        unknown = await a.call("worker")
        await unknown.cancel()
        started = await crew.double.wait("worker-1", m.CallStarted, 2)
        await crew.double.wait("worker-1", m.TaskEnded, task=started.task)
        to = [each.address.to for each in crew.double.sent("a", m.Cancel)]
        assert to == ["worker-1", "worker", "worker-1"]


async def start(crew: Crew, *clients):
    """Handlers that never answer, and an event for each call that started."""
    for client in clients:
        client.serve()(never)


@two_buses
async def test_timeout_cancels_the_call_at_the_callee(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", "b") as (a, b):
        await start(crew, b)
        with pytest.raises(Timeout) as timeout:
            await a.ask("b", timeout_s=1.0)  # long enough for the call to be begun
        assert timeout.value.limit_s == pytest.approx(1.0)
        await crew.double.wait("a", m.Cancel)
        assert (await crew.double.wait("a", m.WaitEnded)).outcome == "timeout"
        started = await crew.double.wait("b", m.CallStarted)
        await crew.double.wait("b", m.TaskEnded, task=started.task)
        assert not (await crew.double.told("b", m.Reply))
        assert (await crew.double.probe("b")).tasks == ()


@two_buses
async def test_wait_without_a_deadline_has_the_client_limit(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", limit_s=0.1) as (a,):
        with pytest.raises(Timeout):
            await a.ask("nobody")
        wait = await crew.double.wait("a", m.WaitBegan)
        assert wait.deadline_s is None
        assert (await crew.double.wait("a", m.WaitEnded)).outcome == "timeout"


@two_buses
async def test_cancellation_cascades_through_the_callee(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", "b", "c") as (a, b, c):
        await start(crew, c)

        @b.serve()
        async def pass_on(request):
            return await b.ask("c")

        async with anyio.create_task_group() as group:
            group.start_soon(a.ask, "b")
            started = await crew.double.wait("c", m.CallStarted)
            group.cancel_scope.cancel()
        await crew.double.wait("b", m.Cancel)
        await crew.double.wait("c", m.TaskEnded, task=started.task)
        handler = await crew.double.wait("b", m.CallStarted)
        await crew.double.wait("b", m.TaskEnded, task=handler.task)
        assert (await crew.double.wait("b", m.WaitEnded)).outcome == "cancelled"
        assert (await crew.double.wait("a", m.WaitEnded)).outcome == "cancelled"


@two_buses
async def test_native_cancellation_ends_the_wait(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", "b") as (a, b):
        await start(crew, b)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(a.ask("b"), 0.2)
        await crew.double.wait("a", m.Cancel)
        assert (await crew.double.wait("a", m.WaitEnded)).outcome == "cancelled"


@two_buses
async def test_queued_call_that_is_cancelled_never_starts(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", "b") as (a, b):
        await start(crew, b)
        first = await a.call("b")
        await crew.double.wait("b", m.CallStarted)
        second = await a.call("b")
        assert await until(lambda: b._membership.serving.queued(), "queued") == (second.id,)
        await second.cancel()
        await until(lambda: not b._membership.serving.queued(), "dropped")
        await first.cancel()
        await crew.double.wait("b", m.TaskEnded)
        assert len(await crew.double.told("b", m.CallStarted)) == 1
        with pytest.raises(Cancelled):
            await second.answer()


@two_buses
async def test_ask_all_answers_in_order(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", "b", "c") as (a, b, c):
        b.serve()(echo)
        c.serve("other")(echo)
        assert await a.ask_all([]) == []
        answers = await a.ask_all([("b", 1), ("c", 2, "other"), ("b", 3)])
        assert [answer["got"] for answer in answers] == [1, 2, 3]
        wait = await crew.double.wait("a", m.WaitBegan)
        calls = [each.address.id for each in crew.double.sent("a", m.Request)]
        assert wait.condition == m.OnAll(of=tuple(m.OnCall(call=call) for call in calls))


@two_buses
async def test_ask_all_fails_with_the_first_failure_and_cancels_the_rest(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", "b", "c") as (a, b, c):
        await start(crew, b)

        @c.serve()
        async def refuse(request):
            await crew.double.wait("b", m.CallStarted)
            raise Refused("no", reason="policy")

        with pytest.raises(Refused):
            await a.ask_all([("b", 1), ("c", 2)])
        cancel = crew.double.sent("a", m.Cancel) or [await crew.double.wait("a", m.Cancel)]
        assert len(cancel) == 1
        await crew.double.wait("b", m.TaskEnded)


@two_buses
async def test_ask_any_takes_the_first_good_answer_and_cancels_the_losers(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", "b", "c", "d") as (a, b, c, d):
        await start(crew, b)

        @c.serve()
        async def refuse(request):
            raise ValueError("no")

        @d.serve()
        async def late(request):
            await crew.double.wait("c", m.Reply)
            await crew.double.wait("b", m.CallStarted)
            return "good"

        assert await a.ask_any([("b", 1), ("c", 2), ("d", 3)]) == ("d", "good")
        wait = await crew.double.wait("a", m.WaitBegan)
        assert isinstance(wait.condition, m.OnSome)
        assert wait.condition.k == 1
        assert len(wait_leaves(wait.condition)) == 3
        await crew.double.wait("b", m.TaskEnded)
        assert [each.address.to for each in crew.double.sent("a", m.Cancel)] == ["b"]


async def test_ask_any_takes_the_earlier_of_two_answers_that_come_together(tmp_path):
    async with open_crew("memory", tmp_path) as crew, crew.joined("a") as (a,):
        answers: list = []

        async def ask() -> None:
            answers.append(await a.ask_any([("b", 1), ("c", 2)]))
            answers.append(await a.gather(1, [("b", 1), ("c", 2)]))

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            for count in (1, 2):
                await crew.double.wait("a", m.WaitBegan, count)
                calls = {each.address.to: each.address.id for each in crew.double.sent("a", m.Request)}
                await crew.double.answer("a", calls["c"], body=codec.encode_body("early"))
                await crew.double.answer("a", calls["b"], body=codec.encode_body("late"))
        assert answers == [("c", "early"), {1: "early"}]
        assert not (await crew.double.told("a", m.Cancel))


@two_buses
async def test_ask_any_fails_when_all_fail(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", "b") as (a, _b):
        with pytest.raises(Refused):
            await a.ask_any([("b", 1, "x"), ("b", 2, "y")])
        with pytest.raises(ValueError, match="1 <= k"):
            await a.ask_any([])


@two_buses
async def test_gather_takes_exactly_k(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", "b", "c", concurrency=4) as (a, b, c):
        b.serve()(echo)
        b.serve("hang")(never)
        c.serve()(echo)
        answers = await a.gather(2, [("b", 0, "hang"), ("b", 1), ("c", 2)])
        assert {index: answer["got"] for index, answer in answers.items()} == {1: 1, 2: 2}
        answers = await a.gather(1, [("b", 0), ("b", 1), ("c", 2)])
        assert len(answers) == 1
        with pytest.raises(Refused):
            await a.gather(2, [("b", 0, "hang"), ("c", 1, "no"), ("c", 2, "nor")])
        with pytest.raises(ValueError, match="3 answers of 2"):
            await a.gather(3, [("b", 0), ("c", 1)])


@two_buses
async def test_join_is_broken_as_one_wait(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", "b", concurrency=3) as (a, b):
        await start(crew, b)

        async def ask() -> None:
            with pytest.raises(WouldDeadlock):
                await a.ask_all([("b", 1), ("b", 2)])

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await crew.double.break_wait("a", await crew.double.wait("a", m.WaitBegan))
        await crew.double.wait("a", m.Cancel, 2)
        assert (await crew.double.wait("a", m.WaitEnded)).outcome == "broken"


@two_buses
async def test_what_cannot_be_sent_is_refused_before_it_takes_a_number(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", "b") as (a, b):
        b.serve()(echo)
        deep: list = []
        for _ in range(64):
            deep = [deep]
        for body in ({"x": "y" * 300_000}, object(), deep):
            with pytest.raises(CodecError):
                await a.ask("b", body)
            with pytest.raises(CodecError):
                await a.tell("b", body)
        with pytest.raises(SubjectError):
            await a.ask("b.c", 1)
        with pytest.raises(SubjectError):
            await a.ask("b", 1, verb="no verb")
        with pytest.raises(ValueError, match="timeout_s"):
            await a.ask("b", 1, timeout_s=-1)
        with pytest.raises(CodecError):
            await a.ask_all([("b", 1), ("b", object())])
        assert await a.ask("b", 1) == {"to": "ask", "got": 1}
        await crew.double.wait("a", m.Cancel)


@two_buses
async def test_progress_reaches_the_caller(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", "b") as (a, b):
        release = anyio.Event()

        @b.serve()
        async def work(request):
            await request.progress("half")
            await release.wait()

        call = await a.call("b")
        await until(lambda: call.progress == "half", "progress")
        release.set()
        assert await call.answer(90) is None
