"""What goes wrong while logins are decided: whoever is not known for sure stays out, whoever is in stays in."""

import contextlib
import json
import signal
import sys
from pathlib import Path

import anyio
import pytest
from anyio.streams.text import TextReceiveStream
from nats.aio.msg import Msg

from crewkeeper_bus.claims import Key
from crewkeeper_supervisor.shell import callout as callout_module
from crewkeeper_supervisor.shell import nats_link
from crewkeeper_supervisor.shell.access import Access
from crewkeeper_supervisor.shell.callout import SUBJECT, Callout
from crewkeeper_supervisor.shell.place import Place
from support.login_stage import RUN, both_modes, login_stage, may_publish, until

pytestmark = pytest.mark.live


@contextlib.asynccontextmanager
async def another_process(stage):
    """A second callout, in a process of its own."""
    url = stage.url if stage.authority.mode == "config" else ""
    command = [sys.executable, str(Path(__file__).with_name("callout_process.py")), str(stage.link.place.state), url]
    async with await anyio.open_process(command, stderr=None) as process:
        lines = TextReceiveStream(process.stdout)
        said = []

        async def listen():
            async for text in lines:
                said.append(text)

        async with anyio.create_task_group() as group:
            group.start_soon(listen)
            await until(lambda: "serving" in "".join(said), "the other callout serves")
            yield process, said
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            group.cancel_scope.cancel()


async def callouts(stage):
    """How many callouts the server is connected to."""
    told = await stage.system._link.nc.request("$SYS.REQ.SERVER.PING.CONNZ", b"{}", timeout=60)
    return [each.get("name") for each in json.loads(told.data)["data"]["connections"]].count("callout")


async def one_is_left(stage):
    return await callouts(stage) == 1


@both_modes
async def test_two_callouts_share_the_work_and_one_may_die(mode, tmp_path):
    async with (
        login_stage(mode, tmp_path) as stage,
        stage.serving() as callout,
        another_process(stage) as (other, said),
    ):
        access = (await stage.access.issue(RUN, "a")).credentials

        async def both_have_answered():
            assert await stage.is_let_in(access.user, access.password)
            return callout.counts.granted and "granted" in "".join(said)

        await until(both_have_answered, "both answer")
        assert await callouts(stage) == 2
        other.send_signal(signal.SIGKILL)
        await other.wait()
        # The server asks nobody that has died once it has seen that the connection has ended.
        await until(lambda: one_is_left(stage), "the server knows that it has died")
        before = callout.counts.granted
        for _ in range(10):
            assert await stage.is_let_in(access.user, access.password)
        assert callout.counts.granted == before + 10


async def test_without_a_callout_nobody_comes_in_and_whoever_is_in_goes_on(tmp_path):
    async with login_stage("operator", tmp_path) as stage:
        access = (None, None)
        async with contextlib.AsyncExitStack() as stack:
            async with stage.serving():
                access = (await stage.access.issue(RUN, "a")).credentials
                client = await stack.enter_async_context(stage.knock(access.user, access.password))
            assert not await stage.is_let_in(access.user, access.password)
            assert await may_publish(client, "crew.r1.msg.a.b.i")
            assert not await may_publish(client, "crew.r1.msg.b.a.i")
            async with stage.serving():
                assert await stage.is_let_in(access.user, access.password)


@both_modes
async def test_when_the_records_cannot_be_read_nobody_is_let_in(mode, tmp_path):
    async with login_stage(mode, tmp_path) as stage:
        place = Place.of(stage.link.place.state, stage.authority.supervisor)
        async with nats_link.connect(place) as link:
            callout = stage.callout(link)
            await callout.open()
            access = (await stage.access.issue(RUN, "a")).credentials
            async with anyio.create_task_group() as group:
                await group.start(callout.serve)
                async with stage.knock(access.user, access.password) as client:
                    await link.nc.close()
                    assert not await stage.is_let_in(access.user, access.password)
                    assert callout.counts.failed == 1
                    assert client.is_connected
                    assert await may_publish(client, "crew.r1.msg.a.b.i")
                group.cancel_scope.cancel()


async def test_when_a_login_cannot_be_recorded_it_is_refused(tmp_path):
    async with login_stage("operator", tmp_path) as stage, stage.serving() as callout:
        access = (await stage.access.issue(RUN, "a")).credentials
        assert await stage.is_let_in(access.user, access.password)
        await stage.link.js.delete_stream("KV_SESSIONS")
        assert not await stage.is_let_in(access.user, access.password)
        assert (callout.counts.granted, callout.counts.failed) == (1, 1)


async def test_a_damaged_record_lets_nobody_in_until_a_kill_replaces_it(tmp_path):
    async with login_stage("operator", tmp_path) as stage, stage.serving() as callout:
        access = (await stage.access.issue(RUN, "a")).credentials
        other = (await stage.access.issue(RUN, "b")).credentials
        stolen = await stage.link.last("KV_ACCESS", "$KV.ACCESS.r1.b")
        for data in (b"\xff", b"{}", b"[" * 100_000, stolen.data):
            await stage.link.store("$KV.ACCESS.r1.a", data)
            assert not await stage.is_let_in(access.user, access.password)
            assert not await stage.is_let_in(access.user, other.password)
        assert callout.counts.failed == 8
        assert (await stage.access.set_state(RUN, "a", "killed")).state == "killed"
        assert not await stage.is_let_in(access.user, access.password)


async def test_a_kill_while_a_record_is_being_read_is_not_missed(tmp_path):
    class Slow(Access):
        async def get(self, run, agent):
            record = await super().get(run, agent)
            if record.state == "running":
                await self.set_state(run, agent, "killed", "meanwhile")
                await anyio.sleep(callout_module.FRESH_S)
            return record

    async with login_stage("operator", tmp_path) as stage:
        access = Slow(stage.link)
        await access.open()
        given = (await access.issue(RUN, "a")).credentials
        callout = Callout(stage.link, access, stage.authority)
        async with anyio.create_task_group() as group:
            await group.start(callout.serve)
            assert not await stage.is_let_in(given.user, given.password)
            assert (callout.counts.granted, callout.counts.refused) == (0, 1)
            group.cancel_scope.cancel()


async def test_a_defect_in_one_decision_refuses_that_one_and_no_other(tmp_path, capsys):
    class Broken(Access):
        async def get(self, run, agent):
            if agent == "bad":
                raise RuntimeError("quoting secret-0123456789")
            return await super().get(run, agent)

    async with login_stage("operator", tmp_path) as stage:
        access = Broken(stage.link)
        await access.open()
        given = (await access.issue(RUN, "a")).credentials
        callout = Callout(stage.link, access, stage.authority)
        async with anyio.create_task_group() as group:
            await group.start(callout.serve)
            assert not await stage.is_let_in("r1.bad", given.password)
            assert await stage.is_let_in(given.user, given.password)
            assert (callout.counts.failed, callout.counts.granted) == (1, 1)
            group.cancel_scope.cancel()
    captured = capsys.readouterr()
    assert "callout.failed" in captured.err
    assert "secret-0123456789" not in captured.err


@both_modes
async def test_nobody_but_the_server_asks_and_what_is_no_question_stops_nothing(mode, tmp_path, capsys):
    async with login_stage(mode, tmp_path) as stage, stage.serving() as callout:
        place = Place.of(stage.link.place.state, stage.authority.callout)
        async with nats_link.connect(place) as inside:
            await inside.publish(SUBJECT, b"x")
            await until(lambda: "permissions violation" in capsys.readouterr().out.lower(), "even the callout may not")
            forger = Key.make("server")
            body = {"server_id": {"id": forger.public}, "user_nkey": "U", "type": "authorization_request", "version": 2}
            forged = forger.sign({"aud": "nats-authorization-request", "nats": body}).encode()
            junk = [b"", b"x", b"a.b.c", b"\xff" * 100, b"e30.e30.e30", b"x" * 200_000, b"." * 2, forged]
            for data in junk:
                await callout._answer(inside, Msg(_client=inside.nc, subject=SUBJECT, reply="nowhere", data=data))
            assert callout.counts.unread == len(junk)
        access = (await stage.access.issue(RUN, "a")).credentials
        assert await stage.is_let_in(access.user, access.password)
        assert (callout.counts.asked, callout.counts.failed) == (1, 0)


async def test_a_storm_of_wrong_logins_keeps_nobody_out(tmp_path):
    async with login_stage("operator", tmp_path) as stage, stage.serving() as callout:
        access = (await stage.access.issue(RUN, "a")).credentials

        async def knock_wrong():
            assert not await stage.is_let_in(access.user, access.password + "x")

        async with anyio.create_task_group() as group:
            for _ in range(60):
                group.start_soon(knock_wrong)
            assert await stage.is_let_in(access.user, access.password)
        assert callout.counts.refused == 60


async def test_too_many_at_once_are_refused_and_not_left_waiting(tmp_path, monkeypatch):
    monkeypatch.setattr(callout_module, "WAITING_MAX", 1)
    monkeypatch.setattr(callout_module, "AT_ONCE", 1)
    release = anyio.Event()

    class Held(Access):
        async def get(self, run, agent):
            if agent == "slow":
                await release.wait()
            return await super().get(run, agent)

    async with login_stage("operator", tmp_path) as stage:
        access = Held(stage.link)
        await access.open()
        given = (await access.issue(RUN, "a")).credentials
        callout = Callout(stage.link, access, stage.authority)
        async with anyio.create_task_group() as group:
            await group.start(callout.serve)
            group.start_soon(stage.is_let_in, "r1.slow", "x")
            group.start_soon(stage.is_let_in, "r1.slow", "x")
            await until(lambda: callout.counts.asked == 2, "one is judged, one waits")
            assert not await stage.is_let_in(given.user, given.password)
            assert callout.counts.overflowed == 1
            release.set()
            await until(lambda: callout.counts.refused == 2)
            assert await stage.is_let_in(given.user, given.password)
            group.cancel_scope.cancel()


@both_modes
async def test_no_secret_is_in_any_log_journal_or_bucket(mode, tmp_path, capsys):
    async with login_stage(mode, tmp_path) as stage, stage.serving():
        await stage.declare()
        issued = await stage.access.issue(RUN, "a", by="test")
        access = issued.credentials
        secret = access.password.partition("-")[2]
        nonce = "nonce-of-a-process-0123"
        async with stage.knock(access.user, f"{access.password}~{nonce}"):
            assert await stage.is_let_in(access.user, f"{access.password}~another-process-0123")
        assert not await stage.is_let_in("r1.b", access.password)
        await stage.access.revoke(RUN, "a")
        assert not await stage.is_let_in(access.user, access.password)
        await until(stage.told, "the run is told of it")
        assert secret not in repr(issued)
        assert secret not in str(issued.credentials)
        stored = []
        for stream in await stage.link.js.streams_info():
            for seq in range(stream.state.first_seq, stream.state.last_seq + 1):
                with contextlib.suppress(Exception):
                    message = await stage.link.js.get_msg(stream.config.name, seq=seq)
                    stored.append((message.data or b"") + str(message.headers).encode() + str(message.subject).encode())
        assert len(stored) > 5
        assert not [data for data in stored if secret.encode() in data or nonce.encode() in data]
    logs = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.suffix in (".log", ".out")]
    assert logs
    assert not [text for text in logs if secret.encode() in text]
    captured = capsys.readouterr()
    assert "violation.seen" in captured.err
    assert secret not in captured.err + captured.out


async def test_a_question_that_has_waited_too_long_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(callout_module, "LATE_S", -1.0)
    async with login_stage("operator", tmp_path) as stage, stage.serving() as callout:
        access = (await stage.access.issue(RUN, "a")).credentials
        assert not await stage.is_let_in(access.user, access.password)
        assert callout.counts.overflowed == 1
