"""What faults of real processes are made of: each strikes, says so, and is undone."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.abc
import httpx2
import msgspec
import pytest

from crewkeeper_bus import messages as m
from crewkeeper_bus.credentials import Credentials
from crewkeeper_bus.errors import ConnectionLost
from crewkeeper_supervisor.chaos.faults import limits
from crewkeeper_supervisor.chaos.faults.registry import KINDS
from crewkeeper_supervisor.chaos.plan.scenario import Scenario, ScenarioError, parse
from crewkeeper_supervisor.chaos.real import own_network, run_folder, runner, small_disk
from crewkeeper_supervisor.chaos.real.cast import Scripted
from crewkeeper_supervisor.chaos.real.clocks import Clocks
from crewkeeper_supervisor.chaos.real.models import ANSWER_TOKENS, RUNAWAY_FACTOR, Models
from crewkeeper_supervisor.chaos.real.own_clock import NAME
from crewkeeper_supervisor.chaos.real.own_network import OwnNetwork
from crewkeeper_supervisor.chaos.real.proxy import Proxy
from crewkeeper_supervisor.chaos.real.receiver import Receiver
from crewkeeper_supervisor.chaos.real.small_disk import SmallDisk
from crewkeeper_supervisor.chaos.real.stage import RealStage
from crewkeeper_supervisor.chaos.real.thief import Loot, NothingToSteal, copied
from crewkeeper_supervisor.chaos.trial.verdict import Observed, Struck, judge
from crewkeeper_supervisor.shell import contexts, journal
from support.bus import until

HOUR_S = 3600.0
SCENARIO = """
v: 1
id: x
title: x
modes: [real]
guarantees: [G7]
servers: 3
agents:
  a: {main: [{work: 1s}]}
faults:
  - {do: kill_supervisor}
never:
  - {event: deadlock}
"""
linux = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks into processes as Linux shows them")


@contextmanager
def talking(program: str, **env: str) -> Iterator["subprocess.Popen[str]"]:
    """A Python process that is told lines and answers each with one; it has printed its first."""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | env
    )
    try:
        assert line(process)
        yield process
    finally:
        process.kill()
        process.communicate()


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def told(process: "subprocess.Popen[str]", what: str = "") -> str:
    assert process.stdin is not None
    process.stdin.write(what + "\n")
    process.stdin.flush()
    return line(process)


# --- clocks ---

CLOCK = """
import json, sys, time
from datetime import UTC, date, datetime
print("here", flush=True)
for _ in sys.stdin:
    walls = [time.time(), time.time_ns() / 1e9, datetime.now(UTC).timestamp(), datetime.now().timestamp(),
             time.mktime(time.localtime()), time.clock_gettime(time.CLOCK_REALTIME)]
    same = time.gmtime(0).tm_year == 1970 and isinstance(datetime.now(), datetime) and type(date.today()) is date
    print(json.dumps([walls, time.monotonic(), same]), flush=True)
"""


def test_a_wall_clock_jumps_and_the_monotonic_one_does_not(tmp_path: Path) -> None:
    clocks = Clocks(tmp_path / "clocks")
    clock = clocks.of("s1")
    with talking(CLOCK, **clocks.env(), **{NAME: "s1"}) as process:
        walls, before_s, same = json.loads(told(process))
        now_s = walls[0]
        assert same
        assert max(walls) - min(walls) < 60
        assert clock.readings == 0, "a clock that is right is not read wrong"
        for ahead_s in (-HOUR_S, HOUR_S, 0.0):
            clock.move(ahead_s)
            walls, monotonic_s, same = json.loads(told(process))
            assert same
            assert all(abs(wall_s - now_s - ahead_s) < HOUR_S / 2 for wall_s in walls), (ahead_s, walls)
            assert 0 < monotonic_s - before_s < HOUR_S / 2
        assert clock.readings >= 2 * len(walls)


def test_a_process_without_a_name_keeps_its_clock(tmp_path: Path) -> None:
    clocks = Clocks(tmp_path / "clocks")
    clocks.of("s1").move(HOUR_S)
    env = {key: value for key, value in clocks.env().items() if key}
    env.pop(NAME, None)
    told_s = subprocess.check_output(
        [sys.executable, "-c", "import time; print(time.time() - time.clock_gettime(time.CLOCK_REALTIME))"],
        env={**{k: v for k, v in os.environ.items() if not k.startswith("CREWKEEPER_")}, **env},
    )
    assert abs(float(told_s)) < 60
    assert clocks.of("s1").readings == 0


# --- limits, disks, thieves ---

OPENER = """
import sys
print("here", flush=True)
for _ in sys.stdin:
    try:
        open("/dev/null").close()
        print("opened", flush=True)
    except OSError as error:
        print(error, flush=True)
"""


@pytest.mark.skipif(bool(limits._missing()), reason="limits of other processes can be set on Linux only")
def test_a_process_can_open_nothing_and_then_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with talking(OPENER) as process:
        assert told(process) == "opened"
        before = limits._set(process.pid, limits.NO_MORE)
        said = told(process)
        assert "Too many open files" in said
        log.write_text(said)
        assert limits._said([log]) > 0
        limits._set(process.pid, before)
        assert told(process) == "opened"
    assert limits._set(process.pid, limits.NO_MORE) == 0, "a process that is gone is passed over"


@pytest.mark.skipif(bool(small_disk.missing()), reason=f"no small disks here: {small_disk.missing()}")
def test_a_small_disk_is_full_and_then_not(tmp_path: Path) -> None:
    disk = SmallDisk(tmp_path / "disk")
    write = ["sh", "-c", f"echo x >> {tmp_path}/disk/file"]
    anyio.run(disk.mount)
    try:
        subprocess.run(disk.inside(write), check=True)
        assert not (tmp_path / "disk" / "file").exists(), "nobody outside sees it"
        disk.fill()
        much = ["sh", "-c", f"head -c 9000 /dev/zero >> {tmp_path}/disk/file"]
        refused = subprocess.run(disk.inside(much), stderr=subprocess.PIPE)
        assert b"No space left" in refused.stderr
        disk.free()
        subprocess.run(disk.inside(write), check=True)
    finally:
        disk.unmount()
    assert disk.pid == 0


@linux
def test_a_thief_finds_what_an_agent_logs_in_with(tmp_path: Path) -> None:
    env = {"CREWKEEPER_URL": "nats://127.0.0.1:1", "CREWKEEPER_USER": "r.ann", "CREWKEEPER_PASSWORD": "secret"}
    with talking(OPENER, **env) as process:
        own = copied(process.pid)
    assert own == Credentials(url="nats://127.0.0.1:1", user="r.ann", password="secret")
    with pytest.raises(NothingToSteal):
        copied(process.pid)
    loot = Loot(tmp_path, "ann", own, "nats://127.0.0.1:2")
    assert loot.logins == 0
    assert (tmp_path / "ann.stolen.json").stat().st_mode & 0o077 == 0
    assert "secret" not in " ".join(loot.command("r"))


SENDER = """
import os, socket
host, port = os.environ["CREWKEEPER_URL"].removeprefix("nats://").split(":")
near = socket.create_connection((host, int(port)))
near.sendall(b"PING\\r\\n")
input()
near.sendall(b"PONG\\r\\n")
input()
"""


@pytest.mark.skipif(bool(own_network.missing()), reason=f"no networks of agents' own here: {own_network.missing()}")
async def test_a_pulled_cable_loses_what_is_sent_until_it_is_plugged(tmp_path: Path) -> None:
    network, heard = OwnNetwork(0, tmp_path / "ready"), bytearray()

    async def far(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            async for data in stream:
                heard.extend(data)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    command = ["/bin/sh", "-c", f'{network.way}; exec "$@"', "sh", sys.executable, "-c", SENDER]
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, far)
        await group.start(Proxy(lambda: f"nats://127.0.0.1:{port}", 1, network).serve)
        with subprocess.Popen(command, stdin=subprocess.PIPE) as agent:  # noqa: ASYNC220 - it starts at once
            assert agent.stdin is not None
            try:
                await until(lambda: heard == b"PING\r\n", "the first word")
                await until(lambda: network.unsent(agent.pid) == 0, "the agent knows that it has arrived")
                assert await network.pull(agent.pid)
                agent.stdin.write(b"go on\n")
                agent.stdin.flush()
                await until(lambda: network.unsent(agent.pid), "bytes that do not arrive")
                assert heard == b"PING\r\n"
                assert await network.plug(agent.pid)
                await until(lambda: heard == b"PING\r\nPONG\r\n", "the second word")
            finally:
                agent.kill()
        group.cancel_scope.cancel()
    assert not await network.plug(agent.pid), "the network is gone with the agent"


# --- receivers ---


async def test_a_receiver_is_up_when_the_last_of_its_outages_is_over() -> None:
    down = KINDS["webhook_down"].real
    assert down is not None
    stage: Any = SimpleNamespace(receiver=Receiver())
    first, second = await down(stage, None, "webhook"), await down(stage, None, "webhook")
    await first.heal()
    await first.heal()
    assert stage.receiver.down
    await second.heal()
    assert not stage.receiver.down


# --- models ---


async def answers(models: Models, *, streamed: bool) -> tuple[int, str]:
    body: dict[str, Any] = {"model": "m", "max_tokens": 10, "stream": streamed, "messages": []}
    async with httpx2.AsyncClient(trust_env=False, timeout=60) as http:
        try:
            answer = await http.post(f"{models.url}/chat/completions", json=body)
        except httpx2.HTTPError:
            return 0, ""
        return answer.status_code, answer.text


async def test_a_provider_goes_wrong_as_it_is_told_and_then_not() -> None:
    models = Models(seed=1)
    async with anyio.create_task_group() as group:
        await group.start(models.serve)
        for do, whole, streamed in (
            ("model_limits", 429, 429),
            ("model_fails", 500, 500),
            ("model_cuts", 0, 0),
            ("model_runs_away", 200, 200),
        ):
            trouble = models.trouble(do, 1.0)
            status, text = await answers(models, streamed=False)
            assert status == whole, do
            if do == "model_runs_away":
                assert json.loads(text)["usage"]["completion_tokens"] == 10 * RUNAWAY_FACTOR
            assert (await answers(models, streamed=True))[0] == streamed, do
            assert trouble.fired == 2
            models.calm(trouble)
        status, text = await answers(models, streamed=True)
        assert status == 200
        assert text.count("word") == ANSWER_TOKENS
        assert text.endswith("data: [DONE]\n\n")
        group.cancel_scope.cancel()


# --- what a scenario may say, and what becomes of it ---


def scenario(text: str) -> Scenario:
    return parse(text.encode(), "x.yaml")


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("do: kill_supervisor", "do: kill_at", "SCN-111"),
        ("do: kill_supervisor", "do: kill_at, point: recoded", "SCN-118"),
        ("do: kill_supervisor", "do: kill_at, point: 'recorded:0'", "SCN-117"),
        ("do: kill_supervisor", "do: kill_nats, point: recorded", "SCN-119"),
        ("do: kill_supervisor", "do: disk_full", "SCN-119"),
        ("servers: 3\nagents", "servers: 2\nagents", "SCN-119"),
        ("do: kill_supervisor", "do: model_cuts, target: 'model:x'", "SCN-119"),
        ("main: [{work: 1s}]", "main: [{work: 1s}], asks_model: {calls: 1}", "SCN-119"),
        ("main: [{work: 1s}]", "asks_model: {calls: 0}", "SCN-115"),
    ],
)
def test_what_faults_need_is_asked_for(old: str, new: str, code: str) -> None:
    text = SCENARIO.replace(old, new, 1)
    if "servers: 2" in text:
        text = text.replace("kill_supervisor", "kill_leader")
    with pytest.raises(ScenarioError) as refused:
        scenario(text)
    assert [each.code for each in refused.value.problems] == [code]


def test_faults_have_sizes_of_their_own() -> None:
    text = SCENARIO.replace("do: kill_supervisor", "do: clock_back")
    assert scenario(text).faults[0].by_s == HOUR_S
    assert scenario(text.replace("clock_back", "delay")).faults[0].by_s == 0.2
    assert scenario(text.replace("clock_back", "clock_back, by: 2s")).faults[0].by_s == 2


def test_each_replica_goes_through_its_own_proxy(tmp_path: Path) -> None:
    text = SCENARIO.replace("a: {main", "a: {replicas: 2, main")
    urls = {"a-1": "nats://127.0.0.1:1", "a-2": "nats://127.0.0.1:2"}
    ways = {name: f"export CREWKEEPER_URL={url}" for name, url in urls.items()}
    crew = json.loads(Scripted(scenario(text)).write(tmp_path, ways).read_text())
    shell, *command = crew["agents"]["a"]["run"]
    at = command.index("sh")
    for name, url in (*urls.items(), ("a-3", "as it was")):
        env = os.environ | {"CREWKEEPER_AGENT": name, "CREWKEEPER_URL": "as it was"}
        seen = subprocess.check_output([shell, *command[: at + 1], "printenv", "CREWKEEPER_URL"], env=env, text=True)
        assert seen.strip() == url


def test_what_a_machine_lacks_is_skipped_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = scenario(SCENARIO.replace("servers: 3", "servers: 1").replace("kill_supervisor", "disk_full"))
    kind = msgspec.structs.replace(KINDS["disk_full"], missing=lambda: "there is no disk")
    monkeypatch.setitem(KINDS, "disk_full", kind)
    result = runner.run_real(planned)
    assert result.verdict == "skipped"
    assert result.skipped == "disk_full cannot be injected here: there is no disk"


def test_what_could_not_be_injected_is_vacuous_and_says_why() -> None:
    planned = scenario(SCENARIO)
    struck = Struck(index=0, do="kill_supervisor", target="owner", at_s=1.0, why="owner: nobody there")
    observed = Observed(
        seen=[], anchors={"start": 0.0}, struck=[struck], metrics=[], unsteady=[], unhealed=[], spans=[], end_s=2.0
    )
    verdict = judge(planned, observed)
    assert verdict.word == "vacuous"
    assert [check.detail for check in verdict.reasons] == ["not injected: owner: nobody there"]


def test_a_run_that_breaks_off_fails_and_the_next_one_is_played(monkeypatch: pytest.MonkeyPatch) -> None:
    async def lost(_: RealStage) -> None:
        raise ExceptionGroup("tasks", [ConnectionLost("nobody answers")])

    monkeypatch.setattr(RealStage, "run", lost)
    result = runner.run_real(scenario(SCENARIO))
    assert result.verdict == "fail"
    assert [(each.what, each.detail) for each in result.runs[0].reasons] == [("broke off", "nobody answers")]
    assert result.told is not None
    Path(result.told.folder, "runner.log").unlink()
    Path(result.told.folder).rmdir()


def test_a_run_looks_at_no_server_but_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its faults would strike, and its people stop, what runs at the server that a shell or a context names."""
    monkeypatch.setattr(run_folder.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("CREWKEEPER_NATS_URL", "nats://in-use:4222")
    planned = scenario(SCENARIO.replace("servers: 3", "servers: 1"))
    stage = RealStage(planned, Scripted(planned), 1, "", lambda _: None)
    stage.state.mkdir()
    (stage.state / "server.json").write_text('{"url": "nats://127.0.0.1:7", "pid": 1}')
    token = contexts.chosen.set("in-use")
    try:
        assert stage._place().url == "nats://127.0.0.1:7"
    finally:
        contexts.chosen.reset(token)


async def test_what_people_do_while_the_server_is_down_they_do_when_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[str] = []

    async def publish(_link: Any, _run: str, fact: m.OperatorAsked) -> str:
        tries.append(fact.action)
        if len(tries) < 3:
            raise ConnectionLost("not connected")
        return "id"

    monkeypatch.setattr(journal, "publish_op", publish)
    planned = scenario(SCENARIO.replace("never:", "actions:\n  - {do: stop}\nnever:"))
    stage = RealStage(planned, Scripted(planned), 0, "", lambda _: None)
    try:
        stage._link = object()
        async with anyio.create_task_group() as stage._group:
            await stage._act(planned.actions[0])
    finally:
        stage.folder.rmdir()
    assert tries == ["stop_run"] * 3
    assert "action.0" in stage.timeline.anchors


# --- an agent that does not read ---


async def test_who_does_not_read_holds_up_the_server_until_it_reads() -> None:
    pieces, sent = 256, 0
    piece = b"MSG s 1 65536\r\n" + b"x" * 65536 + b"\r\n"

    async def far(stream: anyio.abc.SocketStream) -> None:
        nonlocal sent
        async with stream:
            stream.extra(anyio.abc.SocketAttribute.raw_socket).setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
            for _ in range(pieces):
                await stream.send(piece)
                sent += 1

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    proxy = Proxy(lambda: f"nats://127.0.0.1:{port}", seed=1)
    fault = proxy.tamper("stop_reading", "in", 1.0, 0.0)
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, far)
        await group.start(proxy.serve)
        async with await anyio.connect_tcp("127.0.0.1", proxy.port) as near:
            await until(lambda: sent > 0, "the server writes")
            with anyio.move_on_after(0.2):
                await near.receive()
                raise AssertionError("something came")
            assert sent < pieces, "the server is not held up"
            proxy.end(fault)
            got = 0
            with anyio.fail_after(60):
                while got < pieces * len(piece):
                    got += len(await near.receive())
        group.cancel_scope.cancel()
