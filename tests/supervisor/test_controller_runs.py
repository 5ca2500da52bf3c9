"""The controller on a real server, with the real core: decisions, effects, recovery, takeover, fencing."""

import asyncio
import contextlib
import os
import signal

import anyio
import pytest
from nats_process import LIMIT_S, crew, linked, python, until

from crewkeeper_bus import codec, subjects
from crewkeeper_bus import messages as m
from crewkeeper_bus.subjects import HOST, Kind
from crewkeeper_supervisor.core.commands import TellAgent
from crewkeeper_supervisor.core.crew import Crew, Webhook
from crewkeeper_supervisor.core.supervisor import Supervisor
from crewkeeper_supervisor.shell import (
    audit,
    audit_keys,
    controller,
    journal,
    ledger,
    members,
    nats_link,
    owner,
    source,
)
from crewkeeper_supervisor.shell.controller import Settings
from crewkeeper_supervisor.shell.effects import Effects
from crewkeeper_supervisor.shell.errors import StoreUnavailable
from crewkeeper_supervisor.shell.receiver import Receiver
from crewkeeper_supervisor.shell.registry import Registry

pytestmark = pytest.mark.live
SECRET = "whsec_" + "Y2FuYXJ5LWNhbmFyeS1jYW5hcnktY2FuYXJ5"
FAST = Settings(lease_ttl_s=30, retries_s=(0.01,) * 11, timing=owner.Timing(resend_s=30.0, ended_s=1))
"""Nothing is lost here, so that nothing is to be sent again just because a slow machine shows its trace late."""
LOSSY = Settings(lease_ttl_s=30, timing=owner.Timing(resend_s=0.2, ended_s=1))


@contextlib.asynccontextmanager
async def serving(server, name="one", **options):
    """A controller in this process; stopped and its lease given back at the end."""
    options.setdefault("settings", FAST)
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: controller.serve(server.place, name, **options))
        yield
        group.cancel_scope.cancel()


async def declare(link, run="r1", declared: Crew | None = None):
    registry = Registry(link)
    await registry.open()
    await journal.create_run(link, run, declared or crew(), "here")
    await registry.declare(run, "trip", "here")
    return registry


async def entries(link, run="r1"):
    """Everything in the journal, decoded: (subject's address, message, entry)."""
    found = []
    for entry in await journal.read_all(link, run):
        address = subjects.parse(entry.subject)
        side = codec.decode_supervisor if address.sender in ("_", HOST) else lambda kind, payload: None
        found.append((address, side(address.kind, entry.payload), entry))
    return found


async def of_type(link, type_, run="r1"):
    return [message for _, message, _ in await entries(link, run) if isinstance(message, type_)]


async def ask(link, action, run="r1", **fields):
    return await journal.publish_op(link, run, m.OperatorAsked(action=action, by="test", **fields))


async def start(link, run="r1"):
    """What a host and two agents say at the start."""
    for agent in ("a", "b"):
        await journal.publish_op(link, run, m.ProcessStarted(agent=agent, pid=1), sender=HOST, to=agent)
        joined = m.Joined(inc="i1", seq=1, role=agent, heartbeat_s=300)
        await journal.publish(link, f"crew.{run}.note.{agent}._.n1", codec.encode(joined))


async def end(link, run="r1"):
    await journal.publish_op(link, run, m.RunEnded(state="done"), sender=HOST)


async def test_it_owns_a_run_acts_and_lets_go_when_it_ends(tmp_path):
    async with linked(tmp_path) as (server, link):
        registry = await declare(link)
        async with serving(server):
            await until(lambda: of_type(link, m.OwnerChanged))
            await start(link)
            await until(lambda: of_type(link, m.Begin))
            await ask(link, "pause", agent="a")
            (pause,) = await until(lambda: of_type(link, m.Pause))
            (changed,) = await of_type(link, m.OwnerChanged)
            assert pause.term == changed.term > 0
            (address,) = [a for a, message, _ in await entries(link) if isinstance(message, m.Pause)]
            assert (address.kind, address.sender, address.to, address.id) == (Kind.CTL, "_", "a", pause.id)
            recorded = await ledger.read(link, "r1")
            assert [record.id for record in recorded] == [f"term-{changed.term}", pause.id]
            assert ledger.verify(recorded) == []
            await end(link)
            await until(lambda: ended(registry))
        assert await of_type(link, m.Pause) == [pause]


async def ended(registry, run="r1"):
    return (await registry.get(run)).state == "done"


async def test_what_was_decided_while_nobody_owned_the_run_is_carried_out_once(tmp_path):
    async with linked(tmp_path) as (server, link):
        await declare(link)
        await start(link)
        await ask(link, "pause", agent="a")
        async with serving(server):
            await until(lambda: of_type(link, m.Pause))
        async with serving(server, "two"):
            await until(lambda: two_owners(link))
            await ask(link, "pause", agent="b")
            pauses = await until(lambda: count(link, m.Pause, 2))
        assert len({pause.id for pause in pauses}) == 2
        assert pauses[1].term > pauses[0].term


async def two_owners(link):
    return await count(link, m.OwnerChanged, 2)


async def count(link, type_, at_least):
    found = await of_type(link, type_)
    return found if len(found) >= at_least else None


async def test_a_run_that_its_host_has_ended_while_nobody_owned_it_is_finished(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_HOOK_SECRET", SECRET)
    async with linked(tmp_path) as (server, link):
        with Receiver(SECRET) as receiver:
            told = Webhook(webhook=receiver.url, secret="${TEST_HOOK_SECRET}", allow_private=True)
            registry = await declare(link, declared=crew(escalate=(told,)))
            await start(link)
            await journal.publish(link, "crew.r1.ctl.a.b.x1", codec.encode(m.Resume(id="1-0")))
            await end(link)
            await registry.set_state("r1", "done", unfinished=True)
            async with serving(server):
                await until(lambda: receiver.received)
                await until(lambda: is_over(registry))
        report = await audit.examine(await source.of_run(link, "r1"), key=audit_keys.load(tmp_path))
        assert (report.problems, report.final) == ([], True)


async def test_an_end_that_could_not_be_recorded_is_recorded_later(tmp_path, monkeypatch):
    monkeypatch.setattr(nats_link, "OPEN_LIMIT_S", 0.0)
    failures, set_state = iter(range(1)), Registry.set_state

    async def late(registry, run, state):
        if next(failures, None) is not None:
            raise StoreUnavailable("no answer")
        return await set_state(registry, run, state)

    async with linked(tmp_path) as (server, link):
        registry = await declare(link)
        await end(link)
        monkeypatch.setattr(Registry, "set_state", late)
        async with serving(server):
            await until(lambda: is_over(registry))


async def is_over(registry, run="r1"):
    return (await registry.get(run)).is_over


async def test_the_clock_is_kept_by_ticks_and_only_when_needed(tmp_path):
    async with linked(tmp_path) as (server, link):
        async with serving(server):
            await until(lambda: members.ls(link))
            await declare(link, declared=crew(start_timeout_s=1.5))
            # Nobody joins: the crew begins without them when the time is up, which only a tick can tell: what is said
            # by whoever takes the run was said long before.
            await until(lambda: state_is_running(link))
        ticks = await of_type(link, m.Tick)
        assert 1 <= len(ticks) < 20


async def state_is_running(link):
    fold = Supervisor("r1")
    for entry in await journal.read_all(link, "r1"):
        fold.handle(fold.read(*entry))
    return fold.state != "starting"


async def test_an_effect_without_a_trace_is_sent_again_under_the_same_id(tmp_path, monkeypatch):
    sent = []
    carry_out = Effects.carry_out

    async def lossy(self, command, declared, **how):
        sent.append(command)
        if len([each for each in sent if each.id == command.id]) >= 3:
            await carry_out(self, command, declared, **how)

    monkeypatch.setattr(Effects, "carry_out", lossy)
    async with linked(tmp_path) as (server, link):
        await declare(link)
        await start(link)
        async with serving(server, settings=LOSSY):
            await ask(link, "pause", agent="a")
            (pause, *_) = await until(lambda: of_type(link, m.Pause))
            tries = [command for command in sent if isinstance(command, TellAgent) and command.id == pause.id]
            assert len(tries) >= 3, "twice it was lost, and once more it may be sent before its trace is read"
        recorded = [record.id for record in await ledger.read(link, "r1")]
        assert recorded.count(pause.id) == 1


async def test_a_crash_between_the_record_and_the_effect_is_made_good_by_the_next_owner(tmp_path, monkeypatch):
    async with linked(tmp_path) as (server, link):
        await declare(link)
        await start(link)
        with monkeypatch.context() as patch:

            async def hang(self, command, declared, **_how):
                await anyio.sleep_forever()

            patch.setattr(Effects, "carry_out", hang)
            await ask(link, "pause", agent="a")
            async with serving(server, "one"):
                recorded = await until(lambda: recorded_kinds(link, "Owner", "TellAgent"))
        assert await of_type(link, m.Pause) == []
        async with serving(server, "two"):
            (pause,) = await until(lambda: of_type(link, m.Pause))
        after = await ledger.read(link, "r1")
        assert [record.id for record in after if record.kind != "Owner"] == [recorded[1].id] == [pause.id]
        assert pause.term == after[-1].term > recorded[1].term


async def recorded_kinds(link, *kinds):
    records = await ledger.read(link, "r1")
    return records if tuple(record.kind for record in records) == kinds else None


async def test_hostile_bytes_are_findings_and_people_are_told(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("TEST_HOOK_SECRET", SECRET)
    with Receiver(SECRET) as receiver:
        monkeypatch.setenv("TEST_HOOK", receiver.url)
        escalate = (Webhook(webhook="${TEST_HOOK}", secret="${TEST_HOOK_SECRET}", allow_private=True),)
        async with linked(tmp_path) as (server, link):
            await declare(link, declared=crew(escalate=escalate))
            await start(link)
            async with serving(server):
                await until(lambda: of_type(link, m.OwnerChanged))
                for payload in (os.urandom(200), b"[" * 1000, b"{}" * 30_000, b'{"a":1}', b""):
                    await journal.publish(link, "crew.r1.req.a.b.x1", payload)
                await journal.publish(link, "crew.r1.ctl.a.b.x2", codec.encode(m.Resume(id="1-0")))
                (outcome,) = await until(lambda: of_type(link, m.Outcome))
                assert outcome.ok
                assert outcome.detail.startswith("204 from 127.0.0.1 in ")
                await ask(link, "pause", agent="a")
                await until(lambda: of_type(link, m.Pause))
        (received,) = receiver.received
    assert received.verified
    assert received.id == f"msg_r1_{outcome.command}"
    assert received.body["type"] == "crewkeeper.forgery.opened"
    assert received.body["data"]["run"] == "r1"
    logged = "".join(capfd.readouterr())
    assert "finding.forgery" in logged
    assert "webhook.delivered" in logged
    for canary in (SECRET, SECRET[6:], server.password, receiver.url):
        assert canary not in logged


async def test_one_broken_run_does_not_disturb_another(tmp_path, capfd):
    class Fragile(Supervisor):
        def handle(self, event):
            assert self.run != "bad", "a broken invariant"
            return super().handle(event)

    async with linked(tmp_path) as (server, link):
        await declare(link, "bad")
        await declare(link, "good")
        async with serving(server, make_fold=Fragile):
            await start(link, "good")
            await ask(link, "pause", "good", agent="a")
            await until(lambda: of_type(link, m.Pause, "good"))
            failed = []
            await until(lambda: failed.append(capfd.readouterr().err) or "run.failed" in "".join(failed))
        (line,) = [line for line in "".join(failed).splitlines() if "run.failed" in line]
        assert '"crew": "bad"' in line


async def test_a_restarted_server_interrupts_and_nothing_more(tmp_path):
    async with linked(tmp_path) as (server, link):
        await declare(link)
        await start(link)
        async with serving(server, settings=LOSSY):
            await until(lambda: of_type(link, m.Begin))
            server.stop(signal.SIGKILL)
            await until(lambda: not link.is_connected)
            server.start()
            await until(lambda: link.is_connected)
            await ask(link, "pause", agent="a")
            await until(lambda: of_type(link, m.Pause))
        assert ledger.verify(await ledger.read(link, "r1")) == []


def serve_process(server, directory, name):
    arguments = ["-m", "crewkeeper_supervisor.cli.main", "serve", "--state", str(directory), "--name", name]
    return python(arguments, directory / f"{name}.log")


async def owners(link):
    return [changed.owner for changed in await of_type(link, m.OwnerChanged)]


async def owned_by(link, name):
    return name in await owners(link)


async def test_kill_9_of_the_owner_another_takes_over_and_the_decision_is_made_once(tmp_path):
    async with linked(tmp_path) as (server, link):
        server.announce()
        await declare(link)
        await start(link)
        with serve_process(server, tmp_path, "one") as one:
            await until(lambda: owners(link))
            await ask(link, "pause", agent="a")
            await until(lambda: of_type(link, m.Pause))
            with serve_process(server, tmp_path, "two") as two:
                one.send(signal.SIGKILL)
                one.process.wait()
                await ask(link, "pause", agent="b")
                pauses = await until(lambda: count(link, m.Pause, 2))
                assert list(dict.fromkeys(await owners(link))) == ["one", "two"]
                two.send(signal.SIGTERM)
                assert await asyncio.to_thread(two.process.wait, LIMIT_S) == 0
        assert len({pause.id for pause in pauses}) == 2
        recorded = await ledger.read(link, "r1")
        assert ledger.verify(recorded) == []
        assert len({record.id for record in recorded}) == len(recorded)
        for log in (one.text(), two.text()):
            assert "run.owned" in log
            assert server.password not in log


async def test_a_stopped_owner_is_fenced_and_falls_silent(tmp_path):
    async with linked(tmp_path) as (server, link):
        server.announce()
        await declare(link)
        await start(link)
        with serve_process(server, tmp_path, "one") as one:
            await until(lambda: owners(link))
            await until(lambda: of_type(link, m.Begin))
            one.send(signal.SIGSTOP)
            with serve_process(server, tmp_path, "two"):
                await until(lambda: owned_by(link, "two"))
                stopped = max(changed.term for changed in await of_type(link, m.OwnerChanged) if changed.owner == "one")
                await ask(link, "pause", agent="a")
                await until(lambda: of_type(link, m.Pause))
                one.send(signal.SIGCONT)
                await until(lambda: "lease.lost" in one.text())
                await ask(link, "pause", agent="b")
                pauses = await until(lambda: count(link, m.Pause, 2))
                assert min(pause.term for pause in pauses) > stopped
        recorded = await ledger.read(link, "r1")
        assert ledger.verify(recorded) == []
        assert [record.term for record in recorded] == sorted(record.term for record in recorded)
