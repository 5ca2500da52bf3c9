"""Two faults on one thing at the same time: each lasts until its own end, and counts what it did itself."""

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from crewkeeper_supervisor.chaos.faults import limits, supervisors
from crewkeeper_supervisor.chaos.faults.holds import Holds
from crewkeeper_supervisor.chaos.faults.registry import KINDS
from crewkeeper_supervisor.chaos.plan.library import FIRST
from crewkeeper_supervisor.chaos.plan.scenario import Fault, Scenario, parse
from crewkeeper_supervisor.chaos.real import controllers as controllers_module
from crewkeeper_supervisor.chaos.real import processes
from crewkeeper_supervisor.chaos.real.controllers import Controllers
from crewkeeper_supervisor.chaos.real.left_over import StartedProcesses
from crewkeeper_supervisor.chaos.real.models import Models
from crewkeeper_supervisor.chaos.real.own_clock import OwnClock
from crewkeeper_supervisor.chaos.real.proxy import Proxy
from crewkeeper_supervisor.chaos.real.server import OwnServer
from crewkeeper_supervisor.chaos.real.servers import OwnServers
from crewkeeper_supervisor.chaos.sim.stage import SimStage, play
from support.bus import until

GOOD = FIRST.format(id="x").replace("{ask: {to: b}}]", "{ask: {to: b}}, {work: 5s}]")
LOOK_S = 0.02
TOOLS = """
v: 1
id: x
title: x
modes: [sim]
guarantees: [G5]
tools: {search: {answer: fine, timeout: 5s}}
agents:
  a:
    tools: [search]
    main: [{repeat: {times: 40, do: [{catch: {do: [{tool: {name: search}}], error: refused}}, {work: 100ms}]}}]
faults:
  - {do: tool_fails, target: "tool:search", at: 500ms, for: 2s}
  - {do: tool_fails, target: "tool:search", at: 1s, for: 500ms}
expect:
  - {event: tool_ran, where: {ok: false}, least: 5, after: fault.1.end, within: 900ms}
  - {event: tool_ran, where: {ok: true}, least: 1, after: fault.0.end}
never:
  - {event: deadlock}
"""


def together(first: str, second: str) -> Scenario:
    """The first scenario with these two instead of its fault."""
    faults = f"  - {first}\n  - {second}\n"
    return parse(GOOD.replace("  - {do: kill_supervisor, after: truth.deadlock, for: 1s}\n", faults).encode(), "x.yaml")


def moments(scenario: Scenario, what: Any, at: tuple[float, ...]) -> tuple[list[Any], list[int]]:
    """What holds of the world at some moments since the crew began, and how often each fault has struck."""
    stage, looks = SimStage(scenario, 1), []
    clock = stage.world.clock

    def look() -> None:
        looks.append((clock.now_s, what(stage.world)))
        clock.after(LOOK_S, look)

    clock.after(2.0, look)  # agents are there by then
    played = stage.run()
    zero_s = stage.timeline.anchors["start"]
    found = [next(seen for looked_s, seen in looks if looked_s >= zero_s + at_s) for at_s in at]
    return found, [each.fired for each in played.observed.struck]


@pytest.mark.parametrize(
    ("word", "at_work"),
    [
        ("freeze", lambda world: world.members["a"].actor.frozen),
        ("slow", lambda world: world.members["a"].actor.pace > 1),
        ("partition", lambda world: not world.members["a"].connected),
    ],
)
def test_an_agent_is_let_go_by_the_last_fault_that_holds_it(word: str, at_work: Any) -> None:
    first = f"{{do: {word}, target: agent:a, at: 500ms, for: 1s}}"
    for second in ("at: 600ms, for: 200ms", "at: 1s, for: 2s"):
        scenario = together(first, f"{{do: {word}, target: agent:a, {second}}}")
        end_s = max(fault.at_s + fault.for_s for fault in scenario.faults)
        found, fired = moments(scenario, at_work, (0.7, 1.3, end_s - 0.1, end_s + 0.1))
        assert found == [True, True, True, False], second
        assert all(fired)


def test_messages_that_two_faults_touch_count_for_both() -> None:
    for word in ("drop", "delay", "duplicate", "reorder"):
        first = f"{{do: {word}, target: agent:a, at: 0, for: 8s}}"
        played = play(together(first, f"{{do: {word}, target: agent:a, at: 100ms, for: 7s}}"), 1)
        assert all(each.fired for each in played.observed.struck), word


def test_calls_of_a_tool_that_two_faults_spoil_count_for_both() -> None:
    played = play(parse(TOOLS.encode(), "x.yaml"), 1)
    assert played.verdict.word == "pass", played.verdict.reasons
    long, short = (each.fired for each in played.observed.struck)
    assert long > short > 0


def test_a_fault_that_another_one_leaves_nothing_to_do_counts_nothing_and_is_vacuous() -> None:
    tools = TOOLS.replace(
        'do: tool_fails, target: "tool:search", at: 1s', "do: tool_corrupts, target: tool:search, at: 1s"
    )
    network = [f"{{do: {word}, target: agent:a, at: {at}, for: 7s}}" for word, at in (("delay", "1ms"), ("drop", "0"))]
    for scenario in (parse(tools.encode(), "x.yaml"), together(network[1], network[0])):
        played = play(scenario, 1)
        first, second = (each.fired for each in played.observed.struck)
        assert first > 0
        assert second == 0
        (told,) = [check.detail for check in played.verdict.checks if check.what.startswith("fault 1")]
        assert f"had no effect beside fault 0 ({scenario.faults[0].do})" in told


def test_an_agent_that_is_frozen_all_along_is_not_slow() -> None:
    freeze = "{do: freeze, target: agent:a, at: 500ms, for: 1s}"
    for end, fired in (("for: 200ms", [1, 0]), ("for: 2s", [1, 1])):
        played = play(together(freeze, f"{{do: slow, target: agent:a, at: 600ms, {end}}}"), 1)
        assert [each.fired for each in played.observed.struck] == fired


def test_a_thing_is_as_before_the_first_fault_after_the_last() -> None:
    holds = Holds()
    first, second = holds.take("x", "right"), holds.take("x", "wrong")
    assert first() is None
    assert first() is None, "harmless when repeated"
    last = second()
    assert last is not None
    assert last.before == "right"
    assert second() is None
    third = holds.take("x", "anew")()
    assert third is not None
    assert third.before == "anew"


def test_a_clock_that_two_faults_move_goes_back_in_two_steps(tmp_path: Path) -> None:
    clock = OwnClock(tmp_path / "clock")
    first, second = clock.shift(60.0), clock.shift(-3600.0)
    assert clock.ahead_s == -3540.0
    first()
    first()
    assert clock.ahead_s == -3600.0
    second()
    assert clock.ahead_s == 0.0


async def test_files_can_be_opened_again_after_the_last_of_two_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    soft = {7: 1024}

    def set_(pid: int, new: int) -> int:
        before, soft[pid] = soft[pid], new
        return before

    monkeypatch.setattr(limits, "_set", set_)
    stage = SimpleNamespace(
        holds=Holds(),
        cast=SimpleNamespace(instances={"a": "a"}),
        processes=SimpleNamespace(pid=lambda _name: 7),
        agent_log=lambda _name: Path("/nowhere"),
    )
    strike = KINDS["no_files"].real
    assert strike is not None
    fault = Fault(index=0, name="0", do="no_files", target="agent:a")
    first, second = await strike(stage, fault, "a"), await strike(stage, fault, "a")
    await first.heal()
    assert soft[7] == limits.NO_MORE
    await second.heal()
    await first.heal()
    assert soft[7] == 1024


def test_frames_that_two_faults_touch_count_for_both() -> None:
    proxy = Proxy(lambda: "", seed=1)
    frame = b"PUB crew.x 1\r\n1\r\n"

    async def touched() -> list[tuple[float, bytes] | None]:
        return proxy._touched(frame, "out")

    delays = [proxy.tamper("delay", "out", 1.0, 5.0) for _ in range(2)]
    twice = proxy.tamper("duplicate", "out", 1.0, 0.0)
    (due_s, _), again = (each for each in anyio.run(touched) if each is not None)
    assert again == (due_s, frame)
    assert [each.fired for each in (*delays, twice)] == [1, 1, 1]
    drops = [proxy.tamper("drop", "out", 1.0, 0.0) for _ in range(2)]
    assert anyio.run(touched) == []
    assert [each.fired for each in drops] == [1, 1]
    assert [each.fired for each in (*delays, twice)] == [1, 1, 1], "what is lost is not late"


def test_answers_of_a_model_that_two_faults_spoil_count_for_the_kind_that_did() -> None:
    models = Models(seed=1)
    limits, fails, again = (models.trouble(do, 1.0) for do in ("model_limits", "model_fails", "model_limits"))
    sent: list[bytes] = []

    class Stream:
        async def send(self, data: bytes) -> None:
            sent.append(data)

    anyio.run(models._answer, Stream(), {}, b"{}")
    assert b" 429 " in sent[0]
    assert [each.fired for each in (limits, fails, again)] == [1, 0, 1]


# --- servers, controllers and processes ---


class Server:
    """A server as `OwnServers` sees it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pid = self._next = 7
        self.frozen = False
        self.waited = 0

    async def start(self) -> None:
        if not self.pid:
            self._next += 1
            self.pid, self.frozen = self._next, False

    async def ready(self) -> None:
        self.waited += 1

    def kill(self) -> int:
        ran, self.pid = int(self.pid > 0), 0
        return ran

    def freeze(self) -> int:
        self.frozen = self.pid > 0
        return self.pid

    def thaw(self, pid: int) -> None:
        self.frozen = self.frozen and pid != self.pid

    def said(self, _words: str) -> int:
        return 0


class Disk:
    """A small disk that is full or not."""

    is_full = False

    def fill(self) -> None:
        self.is_full = True

    def free(self) -> None:
        self.is_full = False


def servers(tmp_path: Path, count: int) -> tuple[Any, list[Any]]:
    """A stage with servers, and they."""
    own = OwnServers(tmp_path, count, small_disk=False)
    members: list[Any] = [Server(f"n{number + 1}") for number in range(count)]
    own.members = members

    async def leader() -> str:
        return "n1"

    return SimpleNamespace(servers=own, journal_leader=leader), members


async def struck(stage: Any, word: str, target: str = "nats") -> Any:
    """A fault at work."""
    strike = KINDS[word].real
    assert strike is not None
    return await strike(stage, Fault(index=0, name="0", do=word, target=target, point="recorded"), target)


async def test_who_is_put_out_counts_for_the_fault_that_kept_it_from_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[dict[str, Any]] = []

    async def ask(_server: Any, _path: str) -> dict[str, Any]:
        return {"connections": list(closed)}

    def close(port: int, reason: str) -> None:
        closed.append({"cid": len(closed), "start": "today", "port": port, "reason": reason})

    monkeypatch.setattr(OwnServer, "_ask", ask)
    monkeypatch.setattr(OwnServer, "pid", 7)
    own = OwnServers(tmp_path, 1, small_disk=False)
    stage = SimpleNamespace(servers=own, proxies={name: Proxy(lambda: "", seed=1) for name in "ab"})
    stage.proxies["a"].ports, stage.proxies["b"].ports = {1001}, {1002, 1003}
    close(1001, "Slow Consumer (Write Deadline)")
    first, second = [await struck(stage, "stop_reading", name) for name in "ab"]
    close(1001, "Slow Consumer (Pending Bytes)")
    close(1002, "Client Closed")
    close(4222, "Slow Consumer (Write Deadline)")
    await first.heal()
    await second.heal()
    close(1003, "Slow Consumer (Write Deadline)")
    await second.heal()
    assert (first.fired(), second.fired()) == (1, 0)


async def test_a_server_is_started_again_when_nothing_keeps_it_down(tmp_path: Path) -> None:
    stage, (server,) = servers(tmp_path, 1)
    first, second = await struck(stage, "kill_nats"), await struck(stage, "kill_nats")
    await first.heal()
    await first.heal()
    assert not server.pid
    await second.heal()
    assert server.pid
    assert (first.fired(), second.fired()) == (1, 1)


async def test_a_server_on_a_full_disk_that_is_kept_down_stays_down_when_there_is_space(tmp_path: Path) -> None:
    stage, (server,) = servers(tmp_path, 1)
    disk = stage.servers.disk = Disk()
    full, again = await struck(stage, "disk_full"), await struck(stage, "disk_full")
    down = await struck(stage, "kill_nats")
    await full.heal()
    assert disk.is_full
    await again.heal()
    assert not disk.is_full
    assert not server.pid
    await down.heal()
    assert server.pid


async def test_a_server_goes_on_when_nothing_stops_it_and_one_that_was_killed_is_another(tmp_path: Path) -> None:
    stage, (server,) = servers(tmp_path, 1)
    first, second = await struck(stage, "freeze_nats"), await struck(stage, "freeze_nats")
    await first.heal()
    assert server.frozen
    down = await struck(stage, "kill_nats")
    assert (await struck(stage, "freeze_nats")).fired() == 0, "nobody is there to be stopped"
    await down.heal()
    assert not server.frozen
    third = await struck(stage, "freeze_nats")
    await second.heal()
    assert server.frozen
    await third.heal()
    assert not server.frozen


async def test_a_leader_that_is_killed_beside_all_others_comes_back_with_the_last(tmp_path: Path) -> None:
    stage, members = servers(tmp_path, 3)
    leader, everybody = await struck(stage, "kill_leader"), await struck(stage, "kill_nats")
    await everybody.heal()
    assert [bool(each.pid) for each in members] == [False, True, True]
    assert not any(each.waited for each in members), "what they can do without the first is not waited for"
    await leader.heal()
    assert all(each.pid and each.waited for each in members)
    assert everybody.fired() == 3


class Process:
    """A process of a controller."""

    last = 100

    def __init__(self, *_arguments: Any, **_named: Any) -> None:
        Process.last += 1
        self.pid = Process.last
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, _limit_s: float) -> None:
        self.returncode = -9


@pytest.fixture
def controllers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[tuple[int, int]]]:
    """A stage with two controllers, and the signals that they get."""
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(controllers_module, "popen_guarded", Process)
    monkeypatch.setattr(controllers_module, "kill_group", lambda pid, number: sent.append((pid, number)))
    monkeypatch.setattr(controllers_module, "release", lambda _pid: None)
    made = Controllers(2, tmp_path, {}, tmp_path, "", lambda: "s1", StartedProcesses())
    return SimpleNamespace(controllers=made, folder=tmp_path), sent


async def test_a_controller_is_started_again_when_nothing_keeps_it_down(controllers: Any) -> None:
    stage, _ = controllers
    made = stage.controllers
    for name in made.names:
        await made.start(name)
    first, both = await struck(stage, "kill_supervisor", "owner"), await struck(stage, "kill_supervisor", "all")
    assert (first.fired(), both.fired()) == (1, 2)
    await both.heal()
    await both.heal()
    assert made.alive == ["s2"]
    await first.heal()
    assert sorted(made.alive) == ["s1", "s2"]


async def test_a_controller_that_died_at_its_fail_point_is_not_brought_back_by_another_fault(controllers: Any) -> None:
    stage, _ = controllers
    made = stage.controllers
    (stage.folder / "fail-points-0").write_text("recorded\n")  # as it says when it passes
    dead = await struck(stage, "kill_at", "owner")
    assert dead.fired() == 1
    down = await struck(stage, "kill_supervisor", "owner")
    await down.heal()
    assert made.alive == []
    await dead.heal()
    assert made.alive == ["s1"]
    armed = made.pid("s1")
    await dead.heal()
    assert made.pid("s1") == armed, "it is started anew once"


async def test_a_fail_point_is_set_when_those_it_is_for_have_come_back(
    controllers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, _ = controllers
    made = stage.controllers
    await made.start("s1")
    (stage.folder / "fail-points-0").write_text("recorded\n")
    down, armed = await struck(stage, "kill_supervisor", "owner"), []

    async def strike() -> None:
        armed.append(await struck(stage, "kill_at", "owner"))

    async with anyio.create_task_group() as group:
        group.start_soon(strike)
        await anyio.wait_all_tasks_blocked()
        assert made.alive == []
        await down.heal()
    assert made._armed == {"s1"}
    monkeypatch.setattr(supervisors, "PASSAGE_S", 0.0)
    with pytest.raises(OSError, match="keep down"):
        await struck(stage, "kill_at", "owner")


async def test_a_stopped_controller_goes_on_when_nothing_stops_it(controllers: Any) -> None:
    stage, sent = controllers
    await stage.controllers.start("s1")
    pid = stage.controllers.pid("s1")
    first, second = [await struck(stage, "freeze_supervisor", "owner") for _ in range(2)]
    await first.heal()
    assert (pid, signal.SIGCONT) not in sent
    await second.heal()
    assert (pid, signal.SIGCONT) in sent


async def test_a_slow_agent_that_is_frozen_goes_on_with_its_thaw(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    monkeypatch.setattr(processes, "_signal", lambda pid, number: sent.append(number) or int(pid > 0))
    async with anyio.create_task_group() as group:
        stage = SimpleNamespace(processes=processes.Processes({"a": 7}, group.start_soon))
        frozen = await struck(stage, "freeze", "a")
        slow, slower = await struck(stage, "slow", "a"), await struck(stage, "slow", "a")
        await slow.heal()
        await slower.heal()
        assert sent == [signal.SIGSTOP]
        assert slow.fired() == slower.fired() == 0
        await frozen.heal()
        assert sent == [signal.SIGSTOP, signal.SIGCONT]
        slow, slower = await struck(stage, "slow", "a"), await struck(stage, "slow", "a")
        await slow.heal()
        await until(lambda: slower.fired() > 1, "it is slowed until the last ends")
        await slower.heal()
        assert sent[-1] == signal.SIGCONT
        assert (await struck(stage, "kill", "a")).fired() == 1
        assert (await struck(stage, "kill", "a")).fired() == 0, "who has been killed is not there to be killed again"
