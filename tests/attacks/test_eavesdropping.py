"""Who listens where it must not: the server refuses the subscription, and nothing is overheard."""

import uuid

import pytest

from crewkeeper_bus.claims import SUBS_MAX
from crewkeeper_supervisor.shell.brake import SUBSCRIPTIONS_MAX
from support.bus import until
from support.raw_nats import raw
from support.siege import Siege

pytestmark = pytest.mark.live

OVERHEARING = {
    "everything": ">",
    "the recorded side": "crew.>",
    "the whole run": "crew.{run}.>",
    "the delivery side": "out.>",
    "the whole run's deliveries": "out.crew.{run}.>",
    "every run's": "out.crew.*.msg.*.eve.*",
    "another's messages": "out.crew.{run}.msg.*.bob.*",
    "everybody's messages": "out.crew.{run}.msg.*.*.*",
    "another's commands": "out.crew.{run}.ctl.*.bob.*",
    "the host's commands": "out.crew.{run}.ctl.*._host.*",
    "what the supervisor is told": "out.crew.{run}.note.*._.*",
    "its own notes": "out.crew.{run}.note.eve._.*",
    "facts": "out.crew.{run}.op.*.*.*",
    "tool calls": "out.crew.{run}.tool.*.*.*",
    "a role it does not have": "out.crew.{run}.req.*.worker.*",
    "its own, one token more": "out.crew.{run}.msg.*.eve.*.>",
    "its own, one token less": "out.crew.{run}.msg.*.eve",
    "another crew": "out.crew.other.msg.*.eve.*",
    "an inbox": "_INBOX.>",
    "the journal's interface": "$JS.>",
    "the buckets": "$KV.>",
    "the servers": "$SYS.>",
    "the held": "held.>",
    "the decisions": "ledger.>",
    "the services": "$SRV.>",
}


@pytest.mark.parametrize("attack", OVERHEARING)
async def test_the_server_refuses_to_subscribe(siege: Siege, attack: str):
    marker = uuid.uuid4().hex[:16].encode()
    pattern = OVERHEARING[attack].format(run=siege.run)
    async with siege.link() as link, raw(siege.credentials("eve")) as eve:
        eve.sub(pattern)
        eve.sub(pattern, "eve")
        eve.sub(pattern, "worker")
        own = eve.sub(f"out.crew.{siege.run}.msg.*.eve.*")
        assert await eve.sync()
        assert len(eve.refusals("subscription")) == 3, eve.errors
        id_ = marker.decode()
        for subject in (
            siege.subject("msg", "keeper", "bob", id_),
            siege.subject("req", "keeper", "worker", id_),
            siege.subject("ctl", "_", "mallory", id_),
            siege.subject("msg", "keeper", "eve", id_),
            f"_INBOX.x.{id_}",
            f"$KV.X.{id_}",
        ):
            await link.publish(subject, marker)
        await eve.until(
            lambda: any(each.sid == own and each.payload == marker for each in eve.heard), "its own message"
        )
        assert await eve.sync()
        assert {each.sid for each in eve.heard} == {own}


async def test_an_instance_hears_its_role_in_the_roles_queue_group_only(siege: Siege):
    async with siege.link() as link:
        worker = (await siege.issued(link, "worker-1")).credentials
    async with raw(worker) as thief:
        for queue in ("", "thieves", "worker-1", "eve"):
            thief.sub(f"out.crew.{siege.run}.req.*.worker.*", queue)
        assert await thief.sync()
        assert len(thief.refusals("subscription")) == 4, thief.errors
        thief.sub(f"out.crew.{siege.run}.req.*.worker.*", "worker")
        assert await thief.sync()
        assert len(thief.refusals("subscription")) == 4, "the group of its role is its own"


async def test_the_number_of_subscriptions_is_limited(siege: Siege):
    async with raw(siege.credentials("eve")) as eve:
        for number in range(SUBS_MAX + 99):
            eve.sub(f"out.crew.{siege.run}.msg.x{number}.eve.*")
        whole = await eve.sync()  # it may be cut off for it before the server is through
        refused = sum("maximum subscriptions" in each.lower() for each in eve.errors)
        assert refused == 99 or (not whole and eve.is_closed), eve.errors[-3:]


async def test_who_subscribes_to_more_than_an_agent_needs_is_cut_off(siege: Siege):
    async with siege.link() as link, raw(siege.credentials("bob")) as bob, raw(siege.credentials("eve")) as eve:
        for number in range(SUBSCRIPTIONS_MAX + 1):
            eve.sub(f"out.crew.{siege.run}.msg.x{number}.eve.*")
        for number in range(SUBSCRIPTIONS_MAX):
            bob.sub(f"out.crew.{siege.run}.msg.x{number}.bob.*")
        assert await bob.sync()
        await until(lambda: eve.is_closed, "it is cut off")
        await siege.violation(link, "eve", "denied")
        await siege.finding(link, "forgery", "eve")
        assert await bob.sync()


async def test_what_was_refused_is_told_of(siege: Siege):
    async with siege.link() as link, raw(siege.credentials("mallory")) as mallory:
        mallory.sub("out.crew.>")
        assert await mallory.sync()
        await siege.violation(link, "mallory", "denied")
        await siege.finding(link, "forgery", "mallory")
        assert (await until(lambda: mallory.refusals("subscription"), "the server said no")) != []
