"""What a client puts on the wire as a whole: numbers, heartbeats, bad input, a connection that goes and returns."""

import asyncio
import random
import subprocess
import sys

import anyio
import pytest

import crewkeeper_bus
from crewkeeper_bus import codec, outgoing
from crewkeeper_bus import messages as m
from crewkeeper_bus.errors import BusError, ConfigError, ConnectionLost
from crewkeeper_bus.settings import resolve
from crewkeeper_bus.subjects import Kind
from support.bus import two_buses, until
from support.crew import open_crew


def test_no_id_looks_like_an_option_of_a_command(monkeypatch):
    monkeypatch.setattr(outgoing.secrets, "token_urlsafe", lambda _bytes: "-h3uJ-BMkyxWgBgQ")
    assert outgoing.new_id() == "mh3uJ-BMkyxWgBgQ"


@two_buses
async def test_numbers_have_no_gaps_under_concurrency(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew:
        names = ("a", "b", "c")
        async with crew.joined(*names, concurrency=3, reentrant="full") as clients:
            dice = random.Random(7)
            plan = [
                (dice.choice(clients), dice.choice(names), dice.choice(["ask", "pass", "fail", "hang"]))
                for _ in range(60)
            ]

            def serve(client) -> None:
                @client.serve("*")
                async def any_verb(request):
                    match request.verb:
                        case "pass":
                            return await client.ask(request.body, request.body, verb="ask", timeout_s=90)
                        case "fail":
                            raise ValueError("no")
                        case "hang":
                            await anyio.sleep_forever()
                    await client.progress("x")
                    return 1

            for client in clients:
                serve(client)

            async def one(client, to, verb) -> None:
                try:
                    await client.ask(to, dice.choice(names), verb=verb, timeout_s=0.3 if verb == "hang" else 90)
                    await client.tell(to, 1)
                except BusError:
                    await client.progress("failed")

            async with anyio.create_task_group() as group:
                for client, to, verb in plan:
                    group.start_soon(one, client, to, verb)
                for name in names:
                    group.start_soon(crew.double.probe, name)
        assert len(await crew.double.told("a", m.Sent)) > 50  # `open_crew` checks the order of every number


@two_buses
async def test_heartbeats_are_periodic_and_say_what_is_so(kind, tmp_path):
    async with (
        open_crew(kind, tmp_path) as crew,
        crew.joined("b") as (b,),
        crew.joined("a", heartbeat_s=0.05, concurrency=2) as (a,),
    ):

        @b.serve()
        async def never(request):
            await anyio.sleep_forever()

        first = await crew.double.wait("a", m.Heartbeat)
        assert (first.nonce, first.heartbeat_s, first.concurrency, first.tasks) == ("", 0.05, 2, ())
        call = None

        async def work() -> None:
            nonlocal call
            async with a.task("work"):
                call = await a.call("b")
                await a.ask_any([("b", 1), ("b", 2)], timeout_s=90)

        async with anyio.create_task_group() as group:
            group.start_soon(work)
            wait = await crew.double.wait("a", m.WaitBegan)
            count = len(await crew.double.told("a", m.Heartbeat))
            beat = await crew.double.wait("a", m.Heartbeat, count + 1)
            (task,) = beat.tasks
            assert (task.task, task.slot) == (wait.task, True)
            assert (task.wait.epoch, task.wait.condition) == (wait.epoch, wait.condition)
            assert 0 < task.wait.deadline_s <= 90
            assert call is not None
            assert {each.call for each in beat.calls} == {
                call.id,
                *(leaf.call for leaf in wait.condition.of),
            }
            assert {(each.to, each.task) for each in beat.calls} == {("b", wait.task)}
            group.cancel_scope.cancel()
        beat = await crew.double.probe("a")
        assert (beat.tasks, beat.calls) == ((), ())


@two_buses
async def test_malformed_input_is_dropped_and_nothing_else(kind, tmp_path):
    async with open_crew(kind, tmp_path, check=False) as crew, crew.joined("a", "b") as (a, b):

        @b.serve()
        async def echo(request):
            return request.body

        bad = [b"", b"{", b"\xff\xfe", b"[" * 1000, b"{" * 60_000, b"null", b'{"inc":"x","seq":0}', b"x" * 300_000]
        kinds = [Kind.REQ, Kind.REP, Kind.MSG, Kind.PROG, Kind.CANCEL]
        for one in bad:
            for each in kinds:
                await crew.double.publish(each, "b", "id", one, sender="evil")
            await crew.double.publish(Kind.CTL, "b", "id", one)
            await crew.double.publish(Kind.REP, "b", "id", one)
        expected = len(bad) * (len(kinds) + 2)
        await until(lambda: b.dropped == expected, f"{expected} dropped")
        assert await a.ask("b", "alive") == "alive"
        assert (await crew.double.probe("b")).unread == ()


@two_buses
async def test_reconnect_announces_open_waits_again(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", "b") as (a, b):
        release = anyio.Event()

        @b.serve()
        async def later(request):
            await release.wait()
            return "answer"

        answers: list = []

        async def ask() -> None:
            answers.append(await a.ask("b"))

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            wait = await crew.double.wait("a", m.WaitBegan)
            await crew.double.wait("b", m.CallStarted)
            before = len(await crew.double.told("a", m.Heartbeat))
            transport = crew.transports["a"]
            await crew.bus.cut(transport)
            assert not a.is_connected
            await a.progress("said while away")
            await crew.bus.restore(transport)
            assert a.is_connected
            beat = await crew.double.wait("a", m.Heartbeat, before + 1)
            assert wait.epoch in {task.wait.epoch for task in beat.tasks if task.wait}
            await crew.double.wait("a", m.Progress)
            release.set()
        assert answers == ["answer"]


async def test_publish_that_the_transport_refuses_is_tried_again_under_the_same_number(tmp_path):
    async with open_crew("memory", tmp_path) as crew, crew.joined("a") as (a,):
        transport = crew.transports["a"]
        publish, refused = transport.publish, []

        async def flaky(subject: str, payload: bytes) -> None:
            if len(refused) < 2:
                refused.append(subject)
                raise ConnectionLost("away")
            await publish(subject, payload)

        transport.publish = flaky
        await a.progress("kept")
        await crew.double.wait("a", m.Progress, text="kept")
        assert len(refused) == 2


async def test_authors_hold_while_too_much_waits_to_be_sent(tmp_path):
    async with open_crew("memory", tmp_path) as crew, crew.joined("a") as (a,):
        transport = crew.transports["a"]
        publish, flowing = transport.publish, asyncio.Event()

        async def slow(subject: str, payload: bytes) -> None:
            await flowing.wait()
            await publish(subject, payload)

        transport.publish = slow
        sent = 0

        async def flood() -> None:
            nonlocal sent
            for _ in range(3000):
                await a.progress("x")
                sent += 1

        async with anyio.create_task_group() as group:
            group.start_soon(flood)
            await until(lambda: sent > 1000, "the queue fills")
            for _ in range(50):
                await asyncio.sleep(0)
            assert sent < 1100
            flowing.set()
        assert sent == 3000


async def test_client_is_for_one_use_and_closed_after_it(tmp_path):
    async with open_crew("memory", tmp_path) as crew:
        async with crew.joined("a") as (a,):
            pass
        for step in (lambda: a.ask("b"), lambda: a.tell("b"), a.receive, a.checkpoint, lambda: a.progress("x")):
            with pytest.raises(BusError):
                await step()
        assert not a.is_connected


async def test_join_that_fails_closes_the_transport(tmp_path):
    async with open_crew("memory", tmp_path, check=False) as crew:
        client = await crew.member("a")
        transport = crew.transports["a"]

        async def no_barrier(limit_s: float = 1.0) -> None:
            raise ConnectionLost("no server")

        transport.barrier = no_barrier
        with pytest.raises(ConnectionLost, match="no server"):
            async with client:
                pytest.fail("joined")
        assert transport._closed
        assert not crew.double.record


def test_settings_come_from_arguments_then_environment():
    environ = {
        "CREWKEEPER_URL": "nats://127.0.0.1:4222",
        "CREWKEEPER_RUN": "r1",
        "CREWKEEPER_AGENT": "planner",
        "CREWKEEPER_ROLE": "worker",
        "CREWKEEPER_USER": "u",
        "CREWKEEPER_PASSWORD": "secret-word",
        "CREWKEEPER_CONCURRENCY": "4",
        "CREWKEEPER_REENTRANT": "chain",
        "CREWKEEPER_MAILBOX": "9",
        "CREWKEEPER_HEARTBEAT_S": "0.5",
        "CREWKEEPER_PAYLOAD_BYTES": "4096",
    }
    settings = resolve({"agent": "editor", "limit_s": 7.0}, environ)
    assert (settings.url, settings.run, settings.agent, settings.role) == (
        "nats://127.0.0.1:4222",
        "r1",
        "editor",
        "worker",
    )
    assert (settings.user, settings.password) == ("u", "secret-word")
    assert (settings.concurrency, settings.reentrant, settings.mailbox) == (4, "chain", 9)
    assert (settings.heartbeat_s, settings.payload_bytes, settings.limit_s) == (0.5, 4096, 7.0)
    assert "secret-word" not in repr(settings)
    plain = resolve({"run": "r", "agent": "a"}, {}, needs_url=False)
    assert (plain.role, plain.concurrency, plain.reentrant, plain.mailbox, plain.heartbeat_s) == (
        "a",
        1,
        "none",
        1000,
        2.0,
    )


def test_all_mistakes_in_settings_are_listed_at_once():
    environ = {
        "CREWKEEPER_RUN": "no run",
        "CREWKEEPER_AGENT": "_",
        "CREWKEEPER_PASSWORD": "secret-word",
        "CREWKEEPER_CONCURRENCY": "many",
        "CREWKEEPER_REENTRANT": "maybe",
        "CREWKEEPER_MAILBOX": "100000",
        "CREWKEEPER_HEARTBEAT_S": "nan",
        "CREWKEEPER_PAYLOAD_BYTES": "12",
    }
    with pytest.raises(ConfigError) as error:
        resolve({"limit_s": -1}, environ)
    text = str(error.value)
    for name in ("RUN", "AGENT", "URL", "USER", "CONCURRENCY", "REENTRANT", "MAILBOX", "HEARTBEAT_S", "PAYLOAD_BYTES"):
        assert f"CREWKEEPER_{name}" in text, name
    assert "limit_s" in text
    assert "secret-word" not in text


def test_credentials_file_wins_and_is_checked(tmp_path):
    path = tmp_path / "credentials.json"
    path.write_text('{"url": "nats://127.0.0.1:1", "user": "u", "password": "p", "expires_at": 1}')
    path.chmod(0o600)
    given = {"run": "r", "agent": "a", "credentials_file": path}
    settings = resolve(given, {"CREWKEEPER_USER": "other"})
    assert (settings.url, settings.user, settings.password) == ("nats://127.0.0.1:1", "u", "p")
    path.write_text("[]")
    with pytest.raises(ConfigError, match=r"credentials\.json"):
        resolve(given, {})


def test_connect_without_settings_says_what_is_missing(monkeypatch):
    for name in ("URL", "RUN", "AGENT"):
        monkeypatch.delenv(f"CREWKEEPER_{name}", raising=False)
    with pytest.raises(ConfigError, match=r"(?s)CREWKEEPER_RUN.*CREWKEEPER_AGENT.*CREWKEEPER_URL"):
        crewkeeper_bus.connect()


@pytest.mark.live
async def test_connect_opens_a_server_by_url_and_credentials_file(tmp_path):
    async with open_crew("nats", tmp_path) as crew:
        credentials = crew.bus.door.let_in("r1", [("a", "a")])["a"]
        path = tmp_path / "a.json"
        credentials.to_file(path)
        async with crewkeeper_bus.connect(run="r1", agent="a", credentials_file=path) as a:
            await crew.begin(a)
            await a.tell("b", 1)
        await crew.double.wait("a", m.Message)
        async with crewkeeper_bus.connect(
            credentials.url, run="r1", agent="a", user=credentials.user, password=credentials.password
        ) as again:
            assert again.incarnation != a.incarnation
        with pytest.raises(ConnectionLost):
            async with crewkeeper_bus.connect(credentials.url, run="r1", agent="a", user="a", password="wrong"):
                pytest.fail("connected")


def test_public_names_are_there_and_pure_modules_stay_light():
    for name in crewkeeper_bus.__all__:
        assert getattr(crewkeeper_bus, name).__name__ == name
        assert name in dir(crewkeeper_bus)
    with pytest.raises(AttributeError, match="no_such_name"):
        crewkeeper_bus.no_such_name  # noqa: B018
    code = (
        "import sys, crewkeeper_bus, crewkeeper_bus.codec, crewkeeper_bus.messages, crewkeeper_bus.errors\n"
        "heavy = {'nats', 'anyio', 'asyncio', 'structlog'} & set(sys.modules)\n"
        "crewkeeper_bus.connect\n"
        "sys.exit(1 if heavy or 'nats' in sys.modules else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_a_body_that_is_too_large_names_the_limit():
    with pytest.raises(codec.CodecError, match="limit is 4096"):
        codec.encode_body("x" * 5000, 4096)
