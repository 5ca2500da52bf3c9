"""What is sent again, by whoever sent it first or by another: it is taken once, and changes nothing the second time."""

import json
import uuid

import anyio
import pytest

from crewkeeper_bus.subjects import Kind
from support.bus import until
from support.raw_nats import raw
from support.siege import Siege, join

pytestmark = pytest.mark.live


async def test_a_call_that_is_sent_again_runs_once(siege: Siege):
    async with siege.client("bob") as bob, raw(siege.credentials("eve")) as eve:
        runs: list[int] = []

        @bob.serve()
        async def count(request):
            runs.append(request.body)
            return len(runs)

        inc, id_ = join(siege, eve, "eve"), uuid.uuid4().hex[:16]
        own = eve.sub(f"out.crew.{siege.run}.rep.bob.eve.*")
        call = {"inc": inc, "seq": 2, "task": "t", "verb": "ask", "body": 1}
        for seq in (2, 2, 3, 2):  # as it was, and in a new place of its stream
            eve.pub(siege.subject("req", "eve", "bob", id_), json.dumps(call | {"seq": seq}).encode())
        eve.pub(siege.subject("req", "eve", "bob", id_ + "b"), json.dumps(call | {"seq": 4, "body": 2}).encode())
        await eve.until(
            lambda: any(each.subject.endswith(f"{id_}b".encode()) for each in eve.heard if each.sid == own),
            "the last answer",
        )
        assert runs == [1, 2]


async def test_a_message_that_is_sent_again_is_read_once(siege: Siege):
    async with siege.client("bob") as bob, raw(siege.credentials("eve")) as eve:
        inc, id_ = join(siege, eve, "eve"), uuid.uuid4().hex[:16]
        said = {"inc": inc, "seq": 2, "task": "t", "body": "once"}
        eve.pub(siege.subject("msg", "eve", "bob", id_), json.dumps(said).encode())
        assert (await bob.receive(timeout_s=90)).body == "once"
        for _ in range(3):
            eve.pub(siege.subject("msg", "eve", "bob", id_), json.dumps(said).encode())
        eve.pub(siege.subject("msg", "eve", "bob", id_ + "b"), json.dumps(said | {"seq": 3, "body": "next"}).encode())
        assert (await bob.receive(timeout_s=90)).body == "next"
        assert bob._membership.dropped["unexpected"] >= 3  # commands that the supervisor repeats are counted, too


async def test_what_was_overheard_cannot_be_said_again_in_anothers_name(siege: Siege):
    async with siege.client("bob") as bob, raw(siege.credentials("eve")) as eve:
        heard = eve.sub(f"out.crew.{siege.run}.msg.*.eve.*")
        await eve.sync()
        await bob.tell("eve", "pay 5 to keeper")
        await eve.until(lambda: any(each.sid == heard for each in eve.heard), "what bob said")
        [said] = [each for each in eve.heard if each.sid == heard]
        inner = said.subject.decode().removeprefix("out.")
        for subject in (inner, inner.replace(".eve.", ".keeper."), said.subject.decode()):
            eve.pub(subject, said.payload, headers=said.headers)
        assert await eve.sync()
        assert len(eve.refusals("publish")) == 3


async def test_a_replayed_state_of_an_agent_is_old(siege: Siege):
    """A heartbeat of the past, with calls and grants that are over, brings nothing back."""
    async with raw(siege.credentials("mallory")) as mallory, siege.link() as link:
        inc = join(siege, mallory, "mallory")
        past = {"inc": inc, "seq": 2, "role": "mallory", "tasks": [{"task": "ghost", "call": ""}]}
        now = {"inc": inc, "seq": 3, "role": "mallory"}
        for said in (past, now, past, past):
            mallory.pub(siege.subject("hb", "mallory", "_", uuid.uuid4().hex[:12]), json.dumps(said).encode())
        assert await mallory.sync()

        async def all_came():
            beats = [e for e in await siege.stored(link) if f".{Kind.HB}.mallory." in e.subject]
            return len(beats) >= 4

        await until(all_came, "all four are in the journal")
        view = (await siege.fold(link)).supervisor.agents["mallory"]
        assert view.last_seq == 3
        assert not view.tasks


async def test_a_command_cannot_be_replayed(siege: Siege):
    """What the supervisor said to one is refused from anybody else, and obeyed once by the one it was said to."""
    async with siege.client("bob") as bob, raw(siege.credentials("eve")) as eve, siege.link() as link:
        await bob.ready(90)
        begins = [e for e in await siege.stored(link) if ".ctl._.bob." in e.subject]
        assert begins, "bob was told to begin"
        for subject in (begins[-1].subject, "out." + begins[-1].subject):
            eve.pub(subject, begins[-1].payload)
        assert await eve.sync()
        assert len(eve.refusals("publish")) == 2
        control, obeyed = bob._membership.control, []
        obey = control._obey
        control._obey = lambda command: obeyed.append(command.id) or obey(command)
        before = bob._membership.dropped["unexpected"]
        await link.publish(begins[-1].subject, begins[-1].payload)  # were it possible
        await until(lambda: bob._membership.dropped["unexpected"] > before, "it was dropped")
        assert json.loads(begins[-1].payload)["id"] not in obeyed
        with anyio.fail_after(120):
            assert await bob.ask("worker", 1) == "ok"
