"""Who speaks in another's name, or where only the supervisor may: the server lets none of it through."""

import uuid

import pytest

from support.raw_nats import raw
from support.siege import Siege

pytestmark = pytest.mark.live

FORGED = {
    "a call in another's name": "crew.{run}.req.bob.keeper.{id}",
    "a forged reply": "crew.{run}.rep.bob.keeper.{id}",
    "another's heartbeat": "crew.{run}.hb.bob._.{id}",
    "another's note": "crew.{run}.note.bob._.{id}",
    "another's cancel": "crew.{run}.cancel.bob.keeper.{id}",
    "another's tool call": "crew.{run}.tool.bob.search.{id}",
    "the supervisor's reply": "crew.{run}.rep._.keeper.{id}",
    "the supervisor's cancel": "crew.{run}.cancel._.keeper.{id}",
    "a command": "crew.{run}.ctl._.keeper.{id}",
    "a command in its own name": "crew.{run}.ctl.eve.keeper.{id}",
    "a command to the host": "crew.{run}.ctl._._host.{id}",
    "a fact": "crew.{run}.op._._.{id}",
    "a fact in its own name": "crew.{run}.op.eve._.{id}",
    "the host's fact": "crew.{run}.op._host._.{id}",
    "another crew": "crew.other.msg.eve.bob.{id}",
    "a name with a wildcard": "crew.{run}.msg.*.bob.{id}",
    "a name that is a wildcard": "crew.{run}.msg.>",
    "a token too few": "crew.{run}.msg.eve.bob",
    "a token too many": "crew.{run}.msg.eve.bob.{id}.more",
    "an unknown kind": "crew.{run}.frob.eve.bob.{id}",
    "the delivery side": "out.crew.{run}.msg.bob.keeper.{id}",
    "the delivery side in its own name": "out.crew.{run}.msg.eve.bob.{id}",
    "the delivery side of commands": "out.crew.{run}.ctl._.keeper.{id}",
    "the journal's interface": "$JS.API.STREAM.PURGE.CREW_{run}",
    "a consumer on the journal": "$JS.API.CONSUMER.CREATE.CREW_{run}",
    "a direct get": "$JS.API.DIRECT.GET.CREW_{run}",
    "an acknowledgement": "$JS.ACK.CREW_{run}.c.1.1.1.1.1",
    "flow control": "$JS.FC.CREW_{run}.c.1",
    "the records of access": "$KV.ACCESS.{run}.eve",
    "the registry": "$KV.RUNS.{run}",
    "the lease": "$KV.LEASES.{run}",
    "the ledger": "ledger.{run}",
    "an inbox": "_INBOX.abc.{id}",
    "a server's request": "$SYS.REQ.SERVER.PING",
    "a callout's answer": "$SYS.REQ.USER.AUTH",
    "a held message in another's name": "held.{run}.msg.bob.keeper.{id}",
    "a held command": "held.{run}.ctl._.keeper.{id}",
    "a held message of another run": "held.other.msg.eve.bob.{id}",
    "a service": "$SRV.PING",
    "anything": "anything",
}


@pytest.mark.parametrize("attack", FORGED)
async def test_the_server_refuses_to_publish(siege: Siege, attack: str):
    marker = uuid.uuid4().hex[:16]
    subject = FORGED[attack].format(run=siege.run, id=marker)
    async with siege.link() as link, raw(siege.credentials("eve")) as eve:
        witness: list[str] = []

        async def saw(message):
            if message.data == marker.encode():  # a report of the refusal only quotes it
                witness.append(message.subject)

        for everything in (
            "crew.>",
            "out.>",
            "held.>",
            "ledger.>",
            "$KV.>",
            "$JS.>",
            "_INBOX.abc.>",
            "anything",
            "$SRV.>",
        ):
            await link.nc.subscribe(everything, cb=saw)
        await link.nc.flush()
        await link.nc.flush()
        before = len(eve.refusals("publish"))
        eve.pub(subject, marker.encode())
        eve.pub(subject, marker.encode(), reply=f"crew.{siege.run}.ctl._.keeper.{marker}")
        eve.pub(subject, marker.encode(), headers=b"Nats-Msg-Id: 1")
        eve.pub(siege.subject("msg", "eve", "bob", marker), marker.encode())  # its own: what the witness must see
        assert await eve.sync()
        assert len(eve.refusals("publish")) == before + 3, eve.errors
        await _eventually(link, lambda: len(witness) >= 2)
        assert sorted(witness) == sorted(
            (siege.subject("msg", "eve", "bob", marker), "out." + siege.subject("msg", "eve", "bob", marker))
        )


async def _eventually(link, condition):
    from support.bus import until

    await until(condition, "what is permitted has come")
    await link.nc.flush()


async def test_what_was_refused_is_told_of(siege: Siege):
    async with siege.link() as link, raw(siege.credentials("mallory")) as mallory:
        mallory.pub(f"crew.{siege.run}.ctl._.keeper.x1", b"{}")
        assert await mallory.sync()
        told = await siege.violation(link, "mallory", "denied")
        assert told.count >= 1
        found = await siege.finding(link, "forgery", "mallory")
        assert "mallory" in found.summary
