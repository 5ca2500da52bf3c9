"""The life of an agent's process, on a real server: joining, beginning, ending, and the exit status that says how."""

import signal

import pytest
from agent_process import EXAMPLES, member, running, scripted

from crewkeeper_bus import messages as m
from crewkeeper_bus.messages import Begin, Break, Pause, Resume, Stop
from support.bus import running_server, until
from support.crew import open_crew
from support.door import open_door

pytestmark = pytest.mark.live

TWO = EXAMPLES / "two-agents"
LONG_S = 600


async def main_began(crew, name):
    return await crew.double.wait(name, m.TaskBegan, name="main")


async def test_the_smallest_crew_does_its_work_and_leaves(tmp_path):
    async with (
        open_crew("nats", tmp_path) as crew,
        member(crew, tmp_path, "adder", ["adder.py"], cwd=TWO) as adder,
        member(crew, tmp_path, "asker", ["asker.py"], cwd=TWO) as asker,
    ):
        assert await asker.ended() == 0
        main = (await crew.double.told("asker", m.TaskBegan, name="main"))[0]
        assert main.slot
        assert await crew.double.told("asker", m.TaskEnded, task=main.task)
        assert (await crew.double.wait("asker", m.Left)).done
        assert (await crew.double.told("asker", m.Progress))[-1].text == "17 + 25 = 42"
        assert asker.logged("agent.left")[0] | {"crew": "r1", "agent": "asker", "status": 0} == asker.log[-1]

        assert adder.process.returncode is None  # it serves on
        await crew.double.command("adder", Stop, why="the work is done")
        assert await adder.ended() == 0
        assert not (await crew.double.wait("adder", m.Left)).done


async def test_main_waits_for_the_crew_to_be_complete(tmp_path):
    script = {"main": [{"progress": "working"}], "handlers": {"ask": [{"reply": 1}]}, "leave_when_done": True}
    async with (
        open_crew("nats", tmp_path) as crew,
        member(crew, tmp_path, "early", scripted(script), begin=False) as early,
    ):
        await crew.double.probe("early")  # it answers, and so has had its chance to run ahead
        assert not (await crew.double.told("early", m.TaskBegan))
        await crew.double.command("early", Begin)
        assert await early.ended() == 0
        assert [each.text for each in (await crew.double.told("early", m.Progress))] == ["working"]


async def test_a_stop_in_mid_work_is_status_3(tmp_path):
    script = {"main": [{"sleep": LONG_S}]}
    async with open_crew("nats", tmp_path) as crew, member(crew, tmp_path, "a", scripted(script)) as process:
        await crew.double.wait("a", m.WaitBegan)
        await crew.double.command("a", Stop, why="enough")
        assert await process.ended() == 3
        assert (await crew.double.wait("a", m.WaitEnded)).outcome == "killed"
        left = await crew.double.wait("a", m.Left)
        assert not left.done
        assert "enough" in process.logged("agent.stopped")[0]["why"]


async def test_work_that_ignores_a_stop_is_cancelled_after_the_grace(tmp_path):
    script = {"main": [{"progress": "deaf"}, {"work": LONG_S}], "handlers": {"ask": [{"work": LONG_S}]}}
    async with open_crew("nats", tmp_path) as crew, member(crew, tmp_path, "a", scripted(script)) as process:
        await crew.double.wait("a", m.Progress)
        await crew.double.command("a", Stop, grace_s=0.05)
        assert await process.ended() == 3
        assert not (await crew.double.wait("a", m.Left)).done


PROGRAM = """
from pathlib import Path
from crewkeeper_agents import Agent
from crewkeeper_bus import Killed

agent = Agent("tidy")

@agent.main
async def main(crew):
    try:
        await crew.receive()
    except Killed:
        await crew.progress("cleaning up")
        Path("clean").touch()
        raise

broken = Agent("broken")

@broken.handler()
async def serve(crew, request):
    return None

@broken.main
async def fail(crew):
    raise RuntimeError("the work went wrong")
"""


async def test_sigterm_lets_main_clean_up_and_is_status_0(tmp_path):
    (tmp_path / "crewprogram.py").write_text(PROGRAM)
    argv = ["-m", "crewkeeper_agents.host", "crewprogram:agent"]
    async with open_crew("nats", tmp_path) as crew, member(crew, tmp_path, "a", argv, cwd=tmp_path) as process:
        await crew.double.wait("a", m.WaitBegan)
        process.process.send_signal(signal.SIGTERM)
        assert await process.ended() == 0
        assert (tmp_path / "clean").exists()
        assert (await crew.double.wait("a", m.Progress)).text == "cleaning up"
        assert not (await crew.double.wait("a", m.Left)).done
        assert process.logged("agent.left")[0]["signal"] == "SIGTERM"


async def test_sigterm_before_the_crew_is_complete_is_status_0(tmp_path):
    script = {"main": [{"progress": "never"}]}
    async with (
        open_crew("nats", tmp_path) as crew,
        member(crew, tmp_path, "a", scripted(script), begin=False) as process,
    ):
        await until(lambda: process.logged("agent.joined"), "it listens to signals")
        await crew.double.probe("a")
        process.process.send_signal(signal.SIGTERM)
        assert await process.ended() == 0
        assert not (await crew.double.wait("a", m.Left)).done
        assert not (await crew.double.told("a", m.Progress))


async def test_sigterm_lets_a_handler_finish_its_answer(tmp_path):
    go = tmp_path / "go"
    script = {"handlers": {"ask": [{"progress": "at work"}, {"barrier": {"file": str(go)}}, {"reply": "done"}]}}
    async with (
        open_crew("nats", tmp_path) as crew,
        member(crew, tmp_path, "a", scripted(script)) as process,
        crew.joined("b") as (client,),
    ):
        call = await client.call("a")
        await crew.double.wait("a", m.Progress)
        process.process.send_signal(signal.SIGTERM)
        await until(lambda: process.logged("agent.signalled"), "the agent knows that it is to go")
        go.touch()
        assert await call.answer(90) == "done"
        assert await process.ended() == 0


async def test_a_main_that_raises_is_status_1_with_its_traceback(tmp_path):
    (tmp_path / "crewprogram.py").write_text(PROGRAM)
    argv = ["-m", "crewkeeper_agents.host", "crewprogram:broken"]
    async with open_crew("nats", tmp_path) as crew, member(crew, tmp_path, "b", argv, cwd=tmp_path) as process:
        assert await process.ended() == 1
        left = await crew.double.wait("b", m.Left)
        assert not left.done
        assert left.why == "the work went wrong"
        line = process.logged("agent.failed")[0]
        assert (line["crew"], line["agent"]) == ("r1", "b")
        assert "RuntimeError: the work went wrong" in line["exception"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (scripted({"main": [{"log": ""}]}), "CREWKEEPER_RUN is missing"),
        (scripted({"main": [{"slep": 1}]}), "unknown step 'slep'; did you mean 'sleep'?"),
        (["-m", "crewkeeper_agents.host", "nowhere:agent"], "there is no module 'nowhere'"),
    ],
)
async def test_a_wrong_configuration_is_status_2(tmp_path, argv, words):
    async with running(argv, tmp_path / "x.log", "x", {}) as process:
        assert await process.ended() == 2
        assert words in process.text


async def test_a_refused_connection_is_status_1(tmp_path):
    async with running_server(tmp_path) as server, open_door(server):
        env = {"CREWKEEPER_URL": server.url, "CREWKEEPER_RUN": "r1", "CREWKEEPER_USER": "x", "CREWKEEPER_PASSWORD": "y"}
        async with running(scripted({"main": [{"log": ""}]}), tmp_path / "x.log", "x", env) as process:
            assert await process.ended() == 1
            assert process.logged("agent.bus_failed")
            assert "Traceback" not in process.text


async def test_a_broken_wait_is_logged_and_the_script_goes_on(tmp_path):
    script = {"main": [{"receive": {}}, {"progress": "after"}, {"catch": {"do": [{"receive": {}}], "then": []}}]}
    async with open_crew("nats", tmp_path) as crew, member(crew, tmp_path, "a", scripted(script)) as process:
        for number in (1, 2):
            wait = await crew.double.wait("a", m.WaitBegan, number)
            await crew.double.command(
                "a", Break, task=wait.task, epoch=wait.epoch, finding="F7", why="ring", path=("a waits for a",)
            )
        assert await process.ended() == 0
        assert [line["path"] for line in process.logged("would_deadlock")] == [["a waits for a"]]
        assert [each.text for each in (await crew.double.told("a", m.Progress))] == ["after"]
        assert [each.outcome for each in (await crew.double.told("a", m.WaitEnded))] == ["broken", "broken"]


async def test_an_agent_holds_while_paused(tmp_path):
    go = tmp_path / "go"
    script = {"main": [{"barrier": {"file": str(go)}}, {"checkpoint": True}, {"progress": "past"}]}
    async with open_crew("nats", tmp_path) as crew, member(crew, tmp_path, "a", scripted(script)) as process:
        await main_began(crew, "a")
        await crew.double.command("a", Pause)
        assert (await crew.double.probe("a")).state == "running"  # the work goes on to its next checkpoint
        go.touch()
        await crew.double.wait("a", m.Standing, state="paused")
        assert not (await crew.double.told("a", m.Progress))
        await crew.double.command("a", Resume)
        assert await process.ended() == 0
        assert await crew.double.told("a", m.Progress)


async def test_an_exit_is_a_crash_that_says_nothing(tmp_path):
    script = {"main": [{"progress": "last words"}, {"exit": 7}]}
    async with (
        open_crew("nats", tmp_path, check=False) as crew,
        member(crew, tmp_path, "a", scripted(script)) as process,
    ):
        assert await process.ended() == 7
        assert await crew.double.wait("a", m.Progress)
        assert not (await crew.double.told("a", m.Left))


async def test_raw_bytes_reach_the_bus_past_the_client(tmp_path):
    script = {"main": [{"publish_raw": {"subject": "crew.r1.msg.eve.bob.1", "bytes_base64": "e3t7"}}]}
    async with (
        open_crew("nats", tmp_path, check=False) as crew,
        member(crew, tmp_path, "eve", scripted(script)) as process,
    ):
        assert await process.ended() == 0
        await until(lambda: crew.double.malformed, "the raw message")
        assert crew.double.malformed == ["out.crew.r1.msg.eve.bob.1"]
