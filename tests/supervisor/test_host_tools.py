"""Tool hosts under a real host and server: started, confined, restarted, ended with the run, and no call run twice."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import anyio
import pytest
from host_stage import SLEEP, Stage, agent, crew, stage
from nats_process import until

from crewkeeper_bus import codec, subjects
from crewkeeper_bus.nats_transport import NatsTransport
from crewkeeper_bus.subjects import SUPERVISOR, TOOLS, Kind
from crewkeeper_bus.tool_messages import RunTool, ToolRan, ToolsGone, ToolsReady
from crewkeeper_supervisor.core.tools import Tool
from crewkeeper_supervisor.shell import journal, tool_hosts
from crewkeeper_supervisor.shell.errors import SettingMissing

pytestmark = pytest.mark.live

TOOL_MODULE = """
import os, pathlib, time

def pay(cents: int) -> dict:
    "Pay."
    with open("paid", "a") as file:
        file.write(f"{cents}\\n")
    return {"key": os.environ.get("PAY_KEY", "-")[:2], "cents": cents}

def hang() -> None:
    "Hang."
    with open("hung", "a") as file:
        file.write(f"{os.getpid()}\\n")
    time.sleep(600)

def look(name: str) -> str:
    "Look at a variable."
    return os.environ.get(name, "-")
"""


async def heard(scene: Stage, run: str, type_: Any) -> list[Any]:
    """What the tool host, or its host in its stead, has said; what it said twice under one id, once."""
    found = []
    for entry in {each.subject: each for each in await journal.read_all(scene.link, run)}.values():
        if subjects.parse(entry.subject).kind == Kind.OP:
            message = codec.decode_supervisor(Kind.OP, entry.payload)
            found += [message] if isinstance(message, type_) else []
    return found


async def incarnation(scene: Stage, run: str, count: int = 1) -> str:
    async def ready() -> list[ToolsReady]:
        found = await heard(scene, run, ToolsReady)
        return found if len(found) >= count else []

    found = await until(ready)
    return str(found[-1].host)


async def order(scene: Stage, run: str, number: int, host: str, tool: str, **args: Any) -> RunTool:
    """Order a call as the owner of the run does."""
    message = RunTool(
        id=f"k{number}",
        call=f"c{number}",
        agent="one",
        tool=tool,
        args=codec.encode_body(args),
        limit_s=60.0,
        host=host,
    )
    subject = subjects.build(run, Kind.CTL, SUPERVISOR, TOOLS, message.id)
    await scene.link.publish(subject, codec.encode(message))
    return message


async def came_of(scene: Stage, run: str, call: RunTool) -> ToolRan:
    async def ran() -> list[ToolRan]:
        return [each for each in await heard(scene, run, ToolRan) if each.call == call.call]

    return (await until(ran))[0]


def crew_with_tools(folder: Path, *agents: Any) -> Any:
    (folder / "mytools.py").write_text(TOOL_MODULE)
    tools = {
        "pay": Tool(function="mytools:pay", env={"PAY_KEY": "${BANK_KEY}"}, cwd=str(folder)),
        "hang": Tool(function="mytools:hang", cwd=str(folder)),
        "look": Tool(function="mytools:look", cwd=str(folder)),
        "shout": Tool(command=("python", "-c", "print(input().upper())"), schema={"type": "object"}, cwd=str(folder)),
        "mine": Tool(inside=True),
    }
    return crew(*agents, tools=tools)


INHERITED = {"PATH": os.environ["PATH"], "BANK_KEY": "bank-secret-1"}


async def test_tools_run_beside_the_agents_and_end_with_them(tmp_path: Path) -> None:
    waits = """
        import json, os, pathlib, time
        print(json.dumps(dict(os.environ)))
        while not pathlib.Path("over").exists(): time.sleep(0.01)
    """
    async with stage(tmp_path / "state", INHERITED) as scene, anyio.create_task_group() as tasks:
        (run,) = await scene.host.declare([crew_with_tools(tmp_path, agent("one", waits, cwd=str(tmp_path)))])
        tasks.start_soon(lambda: scene.host.serve(signals=False))
        host = await incarnation(scene, run.run)
        assert host == f"p{run.pids[TOOLS]}"
        paid = await came_of(scene, run.run, await order(scene, run.run, 1, host, "pay", cents=5))
        assert (paid.ok, codec.decode_body(paid.result)) == (True, {"key": "ba", "cents": 5})
        looked = await came_of(scene, run.run, await order(scene, run.run, 2, host, "look", name="PAY_KEY"))
        assert codec.decode_body(looked.result) == "-"
        shouted = await came_of(scene, run.run, await order(scene, run.run, 3, host, "shout", a="b"))
        assert codec.decode_body(shouted.result) == {"A": "B"}
        env = json.loads(scene.log(run.run, "one"))
        assert "BANK_KEY" not in env
        assert "bank-secret-1" not in json.dumps(env)
        pid = run.pids[TOOLS]
        (tmp_path / "over").touch()
        await until(lambda: run.result is not None)
        assert run.result is not None
        assert run.result.state == "done"
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        facts = await scene.facts(run.run)
        assert [fact for fact in facts if TOOLS in fact] == [f"started {TOOLS} 0", f"exited {TOOLS} 0"]
        assert facts[-1] == "ended done"


async def test_a_call_that_dies_with_its_tool_host_is_lost_and_never_run_again(tmp_path: Path) -> None:
    async with stage(tmp_path / "state", INHERITED) as scene, anyio.create_task_group() as tasks:
        (run,) = await scene.host.declare([crew_with_tools(tmp_path, agent("one", SLEEP))])
        tasks.start_soon(lambda: scene.host.serve(signals=False))
        host = await incarnation(scene, run.run)
        hung = await order(scene, run.run, 1, host, "hang")
        await until(lambda: (tmp_path / "hung").exists() and (tmp_path / "hung").read_text())
        worker = int((tmp_path / "hung").read_text())
        os.kill(run.pids[TOOLS], signal.SIGKILL)
        again = await incarnation(scene, run.run, 2)
        assert again != host
        assert [each.host for each in await heard(scene, run.run, ToolsGone)] == [host]

        def is_gone() -> bool:
            try:
                os.kill(worker, 0)
            except ProcessLookupError:
                return True
            return False

        await until(is_gone)
        # The owner says it again, for the old incarnation: nobody runs it.
        await scene.link.publish(subjects.build(run.run, Kind.CTL, SUPERVISOR, TOOLS, "k1"), codec.encode(hung))
        assert (await came_of(scene, run.run, await order(scene, run.run, 2, again, "pay", cents=1))).ok
        assert (tmp_path / "hung").read_text() == f"{worker}\n"
        assert [each.call for each in await heard(scene, run.run, ToolRan)] == ["c2"]
        run.stop("enough")
        await until(lambda: run.result is not None)


async def test_a_tool_host_may_say_and_hear_nothing_but_its_own(tmp_path: Path) -> None:
    async with stage(tmp_path / "state", INHERITED) as scene, anyio.create_task_group() as tasks:
        (run,) = await scene.host.declare([crew_with_tools(tmp_path, agent("one", SLEEP))])
        tasks.start_soon(lambda: scene.host.serve(signals=False))
        await incarnation(scene, run.run)
        env = tool_hosts.launches(run.crew, run.run, tmp_path / "x", tmp_path / "y", INHERITED)[0][0].env
        assert env["CREWKEEPER_CREDENTIALS"] == str(tmp_path / "x")
        let_in = (await scene.ground.let_in(scene.link, run.run, [(TOOLS, TOOLS)], 1024 * 1024))[TOOLS]
        transport = await NatsTransport.open(let_in.url, user=let_in.user, password=let_in.password)
        got: list[str] = []
        before = await journal.last_seq(scene.link, run.run)
        try:
            for subject in (f"out.crew.{run.run}.ctl.*.one.*", f"out.crew.{run.run}.>", "$KV.ACCESS.>"):
                await transport.subscribe(subject, lambda subject, _: got.append(subject))
            for kind, sender, to in (("rep", "_", "one"), ("ctl", "_", "one"), ("op", "_", "_"), ("note", "one", "_")):
                await transport.publish(f"crew.{run.run}.{kind}.{sender}.{to}.x1", b"{}")
            await transport.barrier()
            await order(scene, run.run, 1, "nobody", "pay", cents=1)
            await transport.barrier()
        finally:
            await transport.close()
        entries = [entry.subject for entry in await journal.read_all(scene.link, run.run, before + 1)]
        assert [each for each in entries if each.endswith(".x1")] == []
        assert got == []
        run.stop("enough")
        await until(lambda: run.result is not None)


async def test_a_secret_that_is_not_set_is_named_before_anything_runs(tmp_path: Path) -> None:
    async with stage(tmp_path / "state", {"PATH": os.environ["PATH"]}) as scene:
        with pytest.raises(SettingMissing, match=r"tools\.pay\.env\.PAY_KEY"):
            await scene.host.declare([crew_with_tools(tmp_path, agent("one", SLEEP))])
