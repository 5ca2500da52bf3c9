"""The tool host with real worker processes: results, failures, cuts, at most once, limits, secrets; on both buses."""

import itertools
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec import Raw

from crewkeeper_agents import tool_host, tool_pool
from crewkeeper_agents.tool_host import HostedTool, ToolHost
from crewkeeper_bus import codec
from crewkeeper_bus import tool_messages as t
from crewkeeper_bus.memory_transport import MemoryBus
from crewkeeper_bus.subjects import SUPERVISOR, TOOLS, Kind, build, parse, service_permissions
from support.bus import RUN, until

HERE = Path(__file__).parent


class Gate:
    """The gate's part: orders calls and hears what came of them."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._ids = itertools.count(1)
        self.heard: list[Any] = []

    async def open(self) -> None:
        await self._transport.subscribe(f"out.crew.{RUN}.op.{TOOLS}.>", self._deliver)
        await self._transport.barrier()

    def _deliver(self, subject: str, payload: bytes) -> None:
        assert parse(subject).sender == TOOLS
        self.heard.append(codec.decode_supervisor(Kind.OP, payload))

    def all(self, type_: Any) -> list[Any]:
        return [each for each in self.heard if isinstance(each, type_)]

    async def ready(self) -> t.ToolsReady:
        await until(lambda: self.all(t.ToolsReady), "the tools are ready")
        return self.all(t.ToolsReady)[0]

    async def tell(self, order: t.RunTool | t.CutTool) -> None:
        subject = build(RUN, Kind.CTL, SUPERVISOR, TOOLS, order.id)
        await self._transport.publish(subject, codec.encode(order))

    async def order(self, tool: str, args: Any, *, limit_s: float = 30.0, **fields: Any) -> t.RunTool:
        number = next(self._ids)
        fields = {"id": f"k{number}", "call": f"c{number}", "agent": "a", "host": "h1"} | fields
        order = t.RunTool(tool=tool, args=Raw(codec.encode(args)), limit_s=limit_s, **fields)
        await self.tell(order)
        return order

    async def came_of(self, order: t.RunTool) -> t.ToolRan:
        def told() -> list[t.ToolRan]:
            return [each for each in self.all(t.ToolRan) if (each.agent, each.call) == (order.agent, order.call)]

        await until(told, f"what came of {order.tool}")
        return told()[0]

    async def run(self, tool: str, args: Any, **options: Any) -> t.ToolRan:
        return await self.came_of(await self.order(tool, args, **options))


def function(name: str, **options: Any) -> HostedTool:
    return HostedTool(function=f"sample_tools:{name}", **options)


@asynccontextmanager
async def hosted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *names: str, own: Any = None, **tools: HostedTool
) -> AsyncIterator[Gate]:
    """A tool host in this process with real workers in `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("crewkeeper_bus.tool_service.incarnation", lambda _: "h1")
    bus = MemoryBus()
    gate = Gate(bus.connect())
    await gate.open()
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    host = ToolHost({name: function(name) for name in names} | tools, env, own)
    stopped = anyio.Event()
    with anyio.fail_after(300):
        async with anyio.create_task_group() as group:
            group.start_soon(
                lambda: host.serve(bus.connect(TOOLS, service_permissions(RUN, TOOLS)), RUN, stopped=stopped)
            )
            await gate.ready()
            yield gate
            stopped.set()
    assert [each.host for each in gate.all(t.ToolsGone)] == ["h1"]


def read(what: str) -> str:
    return Path(what).read_text()


def touch(what: str) -> None:
    Path(what).touch()


def times(what: str) -> int:
    return len(Path(what).read_bytes()) if Path(what).exists() else 0


async def test_functions_are_described_and_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with hosted(tmp_path, monkeypatch, "add", "slow_add", "priced", "gift", nope=function("nope")) as gate:
        ready = await gate.ready()
        assert sorted(ready.tools) == ["add", "gift", "priced", "slow_add"]
        assert ready.tools["add"].description == "Add two numbers."
        schema = ready.tools["add"].schema
        assert schema is not None
        assert schema["properties"]["b"] == {"type": "integer", "minimum": 0, "default": 1}
        assert "sample_tools" in ready.failed["nope"]
        ran = await gate.run("add", {"a": 1, "b": 2})
        assert (ran.ok, bytes(ran.result), ran.cost_microusd) == (True, b"3", None)
        assert codec.decode_body((await gate.run("slow_add", {"a": 1, "b": 2})).result)["sum"] == 3
        ran = await gate.run("priced", {})
        assert (bytes(ran.result), ran.cost_microusd) == (b'{"ok":true}', 77)
        ran = await gate.run("gift", {})
        assert (ran.ok, ran.code, "-77" in ran.error) == (False, "tool_failed", True)
        ran = await gate.run("add", {"a": 1.0, "b": 2.0})
        assert (ran.ok, bytes(ran.result)) == (True, b"3")
        refused = await gate.run("nope", {})
        assert (refused.ok, refused.code) == (False, "tool_failed")


async def test_what_fails_is_told_in_words_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"fail": {"PAY_KEY": "sk-1234-secret"}, "env": {"PAY_KEY": "sk-1234-secret"}}
    async with hosted(tmp_path, monkeypatch, "fail", "die", "odd", "add", "untyped", "env", own=own) as gate:
        assert (await gate.run("fail", {"how": "told"})).error == "there is no such account"
        assert (await gate.run("fail", {"how": "exit"})).error == "SystemExit: 3"
        error = (await gate.run("fail", {"how": "?"})).error
        assert error.startswith("KeyError")
        assert "sk-1234" not in error
        assert "AKIA" not in error
        assert (await gate.run("odd", {})).error.startswith("it ran, but its result cannot be sent")
        assert "do not fit" in (await gate.run("add", {"a": "x"})).error
        assert times("add") == 0
        assert "no type hint" in (await gate.ready()).failed["untyped"]
        assert bytes((await gate.run("env", {"name": "PAY_KEY"})).result) == b'"[redacted]"'


async def test_only_a_tool_with_the_secret_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tool_host.SECRETS, '{"x": {}}')
    monkeypatch.setenv("CREWKEEPER_PASSWORD", "p")
    environment = tool_host._environment()
    assert not [name for name in environment if name.startswith("CREWKEEPER_")]
    other = function("env")
    async with hosted(tmp_path, monkeypatch, own={"rich": {"PAY_KEY": "k"}}, rich=function("env"), poor=other) as gate:
        assert bytes((await gate.run("rich", {"name": "PAY_KEY"})).result) == b'"k"'
        assert bytes((await gate.run("poor", {"name": "PAY_KEY"})).result) == b'"-"'


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    if not Path("/proc/self").exists():
        return True
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False  # gone since


async def test_a_hung_call_is_cut_with_everything_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with hosted(tmp_path, monkeypatch, "hang", "add") as gate:
        order = await gate.order("hang", {"child": True}, limit_s=3)
        await until(lambda: Path("hang-pid").exists(), "it hangs")
        assert (await gate.run("add", {"a": 1})).ok, "others go on meanwhile"
        ran = await gate.came_of(order)
        assert (ran.ok, ran.code) == (False, "tool_timeout")
        pids = [int(read(name)) for name in ("hang-pid", "child")]
        await until(lambda: not any(map(is_alive, pids)), "nothing of it is left")


async def test_a_cut_call_that_listens_cleans_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Also below a host that was started in the background by a shell, where interrupts are ignored."""
    monkeypatch.setattr(tool_pool, "GRACE_S", 60.0)  # as long as a slow machine may need; it is not used up
    request.addfinalizer(partial(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.SIG_IGN)))
    async with hosted(tmp_path, monkeypatch, "hang_async") as gate:
        order = await gate.order("hang_async", {})
        await until(lambda: times("hang_async"), "it hangs")
        await gate.tell(t.CutTool(id="x1", call=order.call, agent="a", why="the agent was killed"))
        assert "the agent was killed" in (await gate.came_of(order)).error
        assert times("cleaned") == 1


async def test_a_call_that_nobody_waits_for_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with hosted(tmp_path, monkeypatch, "gate") as gate:
        order = await gate.order("gate", {"name": "never"})
        await until(lambda: times("began-never"), "it runs")
        await gate.tell(t.CutTool(id="x1", call=order.call, agent="a", why="the agent was killed"))
        assert "the agent was killed" in (await gate.came_of(order)).error
        assert times("ended-never") == 0
        before = await gate.order("gate", {"name": "before"})
        await gate.tell(t.CutTool(id="x2", call=before.call, agent="a"))
        assert "nobody waits" in (await gate.came_of(before)).error
        assert times("began-before") == 0


async def test_an_order_is_obeyed_once_and_only_by_the_incarnation_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hosted(tmp_path, monkeypatch, "add", "die") as gate:
        order = await gate.order("add", {"a": 1})
        await gate.tell(order)
        await gate.order("add", {"a": 1}, call=order.call)
        await gate.order("add", {"a": 1}, id=order.id)
        await gate.order("add", {"a": 1}, host="h0")
        await gate.came_of(order)
        lost = await gate.run("die", {})
        assert (lost.ok, lost.code) == (False, "tool_lost")
        assert "exit status 7" in lost.error
        assert (await gate.run("add", {"a": 1}, term=5)).ok
        await gate.order("add", {"a": 1}, term=4)
        assert (await gate.run("add", {"a": 1}, term=5)).ok
        assert (times("add"), times("die")) == (3, 1)


async def test_calls_of_one_tool_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with hosted(tmp_path, monkeypatch, gate=function("gate", concurrency=2)) as gate:
        orders = [await gate.order("gate", {"name": name}) for name in ("one", "two", "three")]
        await until(lambda: times("began-one") and times("began-two"), "two run")
        late = await gate.run("gate", {"name": "four"}, limit_s=0.3)
        assert late.code == "tool_timeout"
        assert (times("began-three"), times("began-four")) == (0, 0)
        for name in ("one", "two", "three"):
            touch(name)
        for order in orders:
            assert (await gate.came_of(order)).ok


async def test_results_have_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with hosted(
        tmp_path, monkeypatch, "large", small=function("large", result_bytes=100), loud=HostedTool(command=("yes",))
    ) as gate:
        assert (await gate.run("small", {"size": 10})).ok
        for tool, args in (("small", {"size": 99}), ("large", {"size": 2_000_000}), ("loud", {})):
            ran = await gate.run(tool, args)
            assert (ran.ok, ran.code) == (False, "too_large"), tool


async def test_a_result_that_no_message_can_carry_is_said_to_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hosted(tmp_path, monkeypatch, "deep") as gate:
        most = tool_host.RESULT_NESTING_MAX
        assert (await gate.run("deep", {"levels": most})).ok
        for levels in (most + 1, 400):
            ran = await gate.run("deep", {"levels": levels})
            assert (ran.ok, ran.code) == (False, "tool_failed")
            assert "nests deeper" in ran.error


async def test_a_tool_that_forks_answers_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with hosted(tmp_path, monkeypatch, "fork") as gate:
        for number in range(5):
            assert codec.decode_body((await gate.run("fork", {"name": f"n{number}"})).result) == f"n{number}"


async def test_programs_are_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = (sys.executable, "-c")
    tools = {
        "echo": HostedTool(command=(*python, "import sys; print(sys.stdin.read())")),
        "text": HostedTool(command=(*python, "print('plain words')")),
        "bad": HostedTool(command=(*python, "import sys; sys.exit('only for the log')")),
        "none": HostedTool(command=("/does/not/exist",)),
        "sleepy": HostedTool(command=("sleep", "600")),
    }
    async with hosted(tmp_path, monkeypatch, **tools) as gate:
        assert codec.decode_body((await gate.run("echo", {"x": [1]})).result) == {"x": [1]}
        assert codec.decode_body((await gate.run("text", {})).result) == "plain words\n"
        assert (await gate.run("bad", {})).error == "it ended with exit status 1"
        assert (await gate.run("none", {})).code == "tool_failed"
        assert (await gate.run("sleepy", {}, limit_s=2)).code == "tool_timeout"
