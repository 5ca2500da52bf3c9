"""Sessions: where every login is decided anew, connections end and are replaced, and no message is lost or doubled."""

import anyio
import anyio.lowlevel
import pytest

from crewkeeper_bus import redial
from crewkeeper_bus.client import connect
from crewkeeper_bus.errors import ConnectionLost, Refused
from crewkeeper_bus.nats_transport import NatsTransport
from support.bus import RUN, Inbox, until
from support.login_server import login_server

pytestmark = pytest.mark.live


async def open_as(logins, agent, **fields):
    return await NatsTransport.open(credentials=lambda: logins.credentials(agent, **fields), name=agent)


async def test_traffic_through_many_sessions_loses_and_doubles_nothing(tmp_path):
    # What the server ends in time, however slow it all is, is renewed long before that.
    async with login_server(tmp_path / "server", 600.0, timeout_s=30.0) as logins:
        a, b = [await open_as(logins, name, session_s=1.0) for name in "ab"]
        inbox, changes, count = Inbox(), [], 0
        for each in (a, b):
            each.on_change(changes.append)
        await b.subscribe(f"out.crew.{RUN}.msg.*.b.*", inbox)
        await b.barrier()

        def renewed():
            return min(sum(user == f"{RUN}.{name}" for user, _ in logins.seen) for name in "ab") >= 4

        with anyio.fail_after(120):
            while not renewed():
                for _ in range(20):
                    await a.publish(f"crew.{RUN}.msg.a.b.{count}", b"%d" % count)
                    count += 1
                await anyio.sleep(0.002)
        await a.barrier()
        await inbox.wait(count)
        await b.barrier()
        assert [int(each) for each in inbox.payloads] == list(range(count))
        assert changes == [], "a connection was lost instead of being replaced"
        await a.close()
        await b.close()


async def test_all_links_of_one_transport_bear_one_mark_and_another_transport_another(tmp_path):
    async with login_server(tmp_path / "server", 600.0, timeout_s=30.0) as logins:
        one, two = await open_as(logins, "a"), await open_as(logins, "a")
        await one.renew()
        assert {user for user, _ in logins.seen} == {f"{RUN}.a"}
        passwords = [password for _, password in logins.seen]
        assert all(each.startswith("t-a~") and len(each) >= len("t-a~") + 16 for each in passwords)
        assert passwords[0] == passwords[2] != passwords[1]
        for each in (one, two):
            await each.close()


async def test_credentials_without_a_session_are_sent_as_they_are(tmp_path):
    async with login_server(tmp_path / "server", 600.0, timeout_s=30.0) as logins:
        await (await open_as(logins, "a", session_s=None)).close()
        await (await NatsTransport.open(logins.url, user=f"{RUN}.a", password="t-a", session_s=9.0)).close()
        (_, plain), (_, marked) = logins.seen
        assert plain == "t-a"
        assert marked.startswith("t-a~")


async def test_an_expired_session_is_followed_by_another(tmp_path):
    async with login_server(tmp_path / "server", 2.0) as logins:
        a = await open_as(logins, "a", session_s=None)  # so that it does not know, and cannot renew in time
        changes, inbox = [], Inbox()
        a.on_change(changes.append)
        await a.subscribe(f"out.crew.{RUN}.msg.*.a.*", inbox)
        await until(lambda: changes[:2] == [False, True], "cut at the end of the session, and back")
        await a.publish(f"crew.{RUN}.msg.a.a.1", b"still")
        assert await inbox.wait(1) == [b"still"]
        await a.close()


async def test_the_first_connect_waits_for_somebody_who_decides(tmp_path):
    async with login_server(tmp_path / "server", 600.0) as logins, anyio.create_task_group() as tasks:
        logins.answers = False

        async def come_back():
            await until(lambda: logins.seen, "the first attempt")
            logins.answers = True

        tasks.start_soon(come_back)
        transport = await open_as(logins, "a")
        assert len(logins.seen) >= 2
        await transport.close()


async def test_a_first_connect_that_nobody_decides_about_fails_within_its_limit(tmp_path):
    async with login_server(tmp_path / "server", 600.0) as logins:
        logins.answers = False
        with anyio.fail_after(120), pytest.raises(ConnectionLost, match="a supervisor runs") as caught:
            await NatsTransport.open(credentials=lambda: logins.credentials("a"), limit_s=0.5)
        assert "t-a" not in str(caught.value)


async def test_a_first_connect_that_is_refused_fails_at_once(tmp_path):
    async with login_server(tmp_path / "server", 600.0, timeout_s=30.0) as logins:
        logins.refused.add("a")
        with pytest.raises(ConnectionLost, match="check user and password"):
            await NatsTransport.open(credentials=lambda: logins.credentials("a"), limit_s=3600)
        assert len(logins.seen) == 1


async def test_silence_of_the_callout_is_borne_and_refusal_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(redial, "REFUSED_MAX_S", 1.0)
    async with login_server(tmp_path / "server", 2.0, timeout_s=0.7) as logins:
        a = await open_as(logins, "a", session_s=None)
        ends, changes = [], []
        a.on_end(ends.append)
        a.on_change(changes.append)
        logins.answers = False
        await until(lambda: changes == [False], "cut at the end of the session")
        await until(lambda: len(logins.seen) >= 3, "it goes on trying")
        assert not ends
        await a.publish(f"crew.{RUN}.msg.a.a.1", b"held")
        logins.answers = True
        await until(lambda: changes[-1:] == [True], "it is back")
        logins.refused.add("a")
        await until(lambda: ends, "the refusal is final")
        assert isinstance(ends[0], Refused)
        assert "t-a" not in str(ends[0])
        assert not a.is_connected
        asked = len(logins.seen)
        with pytest.raises(ConnectionLost):
            await a.publish(f"crew.{RUN}.msg.a.a.2", b"late")
        with pytest.raises(ConnectionLost):
            await a.barrier()
        assert len(logins.seen) == asked
        await a.close()


async def test_waits_of_an_agent_that_is_refused_for_good_fail_and_it_leaves(tmp_path, monkeypatch):
    monkeypatch.setattr(redial, "REFUSED_MAX_S", 0.5)
    async with login_server(tmp_path / "server", 2.0) as logins:
        own = logins.credentials("a")
        client = connect(own.url, run=RUN, agent="a", user=own.user, password=own.password)
        failed = anyio.Event()
        with anyio.fail_after(120), pytest.raises(Refused, match="has refused"):  # noqa: PT012 - leaving raises it
            async with client:
                logins.refused.add("a")
                with pytest.raises(Refused, match="creds"):
                    await client.receive()
                failed.set()
                await client.tell("b", "more")
        assert failed.is_set()


async def test_work_that_does_not_wait_is_cancelled_when_the_refusal_is_final(tmp_path, monkeypatch):
    monkeypatch.setattr(redial, "REFUSED_MAX_S", 0.5)
    async with login_server(tmp_path / "server", 2.0) as logins:
        own = logins.credentials("a")
        client = connect(own.url, run=RUN, agent="a", user=own.user, password=own.password)
        with anyio.fail_after(120), pytest.raises(Refused, match="has refused"):  # noqa: PT012 - leaving raises it
            async with client:
                logins.refused.add("a")
                await anyio.sleep_forever()
