"""Whose answer counts: the agent's that was asked, an instance's of the role that was asked, the supervisor's."""

import anyio
import pytest

from crewkeeper_bus import codec
from crewkeeper_bus import messages as m
from crewkeeper_bus.subjects import Kind
from support.bus import two_buses, until
from support.crew import open_crew


@two_buses
@pytest.mark.parametrize("stranger", ["worker-3", "worker-x", "worker-01", "worker-1-1", "worker", "c"])
async def test_an_answer_for_a_role_counts_only_from_its_instances(kind, tmp_path, stranger):
    async with (
        open_crew(kind, tmp_path) as crew,
        crew.joined("a", stranger) as (a, c),
        await crew.member("worker-2", "worker") as worker,
    ):
        await crew.double.command("a", m.Begin, peers=("a", stranger), replicas={"worker": 2})
        called, release = anyio.Event(), anyio.Event()

        @worker.serve()
        async def slow(request):
            called.set()
            await release.wait()
            return "true answer"

        call = await a.call("worker" if stranger != "worker" else "worker-2")
        await called.wait()
        forged = codec.encode_body("forged")
        c._membership.outgoing.send(Kind.PROG, "a", call.id, m.CallProgress, text="mine")
        c._membership.outgoing.send(Kind.REP, "a", call.id, m.Reply, body=forged)
        await until(lambda: a._membership.dropped["stranger"] == 2, "both were dropped")
        assert call.is_open
        assert call.progress == ""
        release.set()
        assert await call.answer(90) == "true answer"
        assert call.callee == "worker-2"


@two_buses
async def test_before_it_is_known_how_many_there_are_any_ordinal_of_the_role_counts(kind, tmp_path):
    async with (
        open_crew(kind, tmp_path, check=False) as crew,
        await crew.member("a") as a,
        await crew.member("worker-7", "worker") as worker,
    ):
        worker.serve()(_echo)
        assert await a.ask("worker", 5, timeout_s=90) == 5


async def _echo(request):
    return request.body


@two_buses
async def test_an_answer_that_comes_late_is_no_strangers(kind, tmp_path):
    async with open_crew(kind, tmp_path, check=False) as crew, crew.joined("a", "b") as (a, b):
        b.serve()(_echo)
        assert await a.ask("b", 1, timeout_s=90) == 1
        request = crew.double.sent("a", m.Request)[0].address.id
        b._membership.outgoing.send(Kind.REP, "a", request, m.Reply, body=codec.encode_body("again"))
        await until(lambda: a.dropped, "dropped")
        assert a._membership.dropped == {"unexpected": 1}


@two_buses
async def test_a_message_that_is_delivered_again_after_it_was_read_is_read_once(kind, tmp_path):
    async with open_crew(kind, tmp_path, check=False) as crew, crew.joined("a", "b") as (a, b):
        id_ = await a.tell("b", 1)
        assert (await b.receive(timeout_s=90)).body == 1
        sent = await crew.double.wait("a", m.Message)
        await crew.double.publish(Kind.MSG, "b", id_, sent, sender="a")
        await until(lambda: b.dropped, "dropped")
        assert (await crew.double.probe("b")).unread == ()
