"""The host with real agents and a real server: starts, restarts, orders, ends, and what the journal says of them."""

import json
import os
import signal
from functools import partial
from pathlib import Path

import anyio
import pytest
from host_stage import SLEEP, STUBBORN, Stage, agent, crew, rule, stage
from nats_process import LIMIT_S, nats_process, until

from crewkeeper_bus.credentials import from_file
from crewkeeper_bus.errors import ConnectionLost
from crewkeeper_bus.messages import StopProcess, StopRun
from crewkeeper_bus.nats_transport import NatsTransport
from crewkeeper_supervisor.core.crew import Agent, Webhook
from crewkeeper_supervisor.shell.access import Access
from crewkeeper_supervisor.shell.errors import SettingMissing
from crewkeeper_supervisor.shell.ground import Ground, PlaceTaken, open_ground
from crewkeeper_supervisor.shell.host import Host
from crewkeeper_supervisor.shell.nats_link import connect
from crewkeeper_supervisor.shell.registry import Registry

pytestmark = pytest.mark.live


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_agents_get_their_environment_and_the_run_ends_done(tmp_path: Path) -> None:
    tell = "import json, os; print(json.dumps(dict(os.environ)))"
    inherited = {"PATH": os.defpath, "TOKEN": "t", "HOOK_SECRET": "s", "CREWKEEPER_STATE": "/elsewhere"}
    async with stage(tmp_path, inherited) as scene:
        declared = crew(
            agent("one", tell, env={"KEY": "k-${TOKEN}"}),
            agent("two", tell, replicas=2, concurrency=4),
            escalate=(Webhook(webhook="https://example.org", secret="${HOOK_SECRET}"),),
        )
        (run,) = await scene.host.declare([declared])
        (result,) = await scene.host.serve(signals=False)
        assert (result.state, result.run, result.crew) == ("done", run.run, "trip")
        env = json.loads(scene.log(run.run, "two-2"))
        assert env["CREWKEEPER_RUN"] == run.run
        assert (env["CREWKEEPER_AGENT"], env["CREWKEEPER_ROLE"], env["CREWKEEPER_CONCURRENCY"]) == ("two-2", "two", "4")
        assert env["CREWKEEPER_URL"] == scene.ground.place.url
        assert env["CREWKEEPER_PASSWORD"] != scene.ground.place.password
        assert "HOOK_SECRET" not in env
        assert "CREWKEEPER_STATE" not in env
        assert json.loads(scene.log(run.run, "one"))["KEY"] == "k-t"
        facts = await scene.facts(run.run)
        assert facts[0] == "declared"
        assert facts[-1] == "ended done"
        assert sorted(facts[1:-1]) == [
            "exited one 0",
            "exited two-1 0",
            "exited two-2 0",
            "started one 0",
            "started two-1 0",
            "started two-2 0",
        ]
        registered = await Registry(scene.link).get(run.run)
        assert registered is not None
        assert registered.state == "done"


async def test_a_crash_is_restarted_and_a_hopeless_one_is_given_up(tmp_path: Path) -> None:
    flaky = """
        import pathlib, sys
        been = pathlib.Path("been")
        sys.exit(0) if been.exists() else (been.touch(), sys.exit(7))
    """
    async with stage(tmp_path) as scene:
        (run,) = await scene.host.declare(
            [
                crew(
                    agent("flaky", flaky, cwd=str(tmp_path)),
                    agent("hopeless", "raise SystemExit(3)", restart=rule(intensity=1, period_s=600)),
                )
            ]
        )
        (result,) = await scene.host.serve(signals=False)
        assert result.state == "failed"
        assert result.why == "hopeless ended with status 3"
        facts = await scene.facts(run.run)
        assert [fact for fact in facts if "flaky" in fact] == [
            "started flaky 0",
            "exited flaky 7 again",
            "started flaky 1",
            "exited flaky 0",
        ]
        assert [fact for fact in facts if "hopeless" in fact] == [
            "started hopeless 0",
            "exited hopeless 3 again",
            "started hopeless 1",
            "exited hopeless 3",
            "exhausted hopeless",
        ]


async def test_stop_process_kills_a_stubborn_agent_and_only_that(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene, anyio.create_task_group() as tasks:
        (run,) = await scene.host.declare(
            [crew(agent("stubborn", STUBBORN, restart=rule("permanent")), agent("other", SLEEP))]
        )
        tasks.start_soon(lambda: scene.host.serve(signals=False))
        await until(lambda: "ready" in scene.log(run.run, "stubborn"))
        await until(lambda: len(run.pids) == 2)
        other = run.pids["other"]
        for _ in range(2):  # the owner repeats itself when it is not sure
            await scene.order(run.run, StopProcess(id="c1", agent="stubborn", grace_s=0.1))
        await until(lambda: "stubborn" not in run.pids)
        assert run.pids == {"other": other}
        run.stop("enough")
        await until(lambda: run.result is not None)
        facts = await scene.facts(run.run)
        assert [fact for fact in facts if "stubborn" in fact] == ["started stubborn 0", "exited stubborn -9"]
        assert facts[-1] == "ended stopped"


async def test_stop_run_ends_processes_last_started_first_in_the_state_it_names(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene, anyio.create_task_group() as tasks:
        (run,) = await scene.host.declare([crew(*(agent(name, SLEEP) for name in ("a", "b", "c")))])
        tasks.start_soon(lambda: scene.host.serve(signals=False))
        await until(lambda: len(run.pids) == 3)
        pids = list(run.pids.values())
        await scene.order(run.run, StopRun(id="c1", why="the work is done", state="done"))
        await until(lambda: run.result is not None)
        assert run.result is not None
        assert (run.result.state, run.result.why) == ("done", "the work is done")
        facts = await scene.facts(run.run)
        assert facts[-4:] == ["exited c -15", "exited b -15", "exited a -15", "ended done"]
        assert not any(is_alive(pid) for pid in pids)


async def test_orders_given_before_the_host_listens_or_malformed_or_of_an_old_term(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene, anyio.create_task_group() as tasks:
        (run,) = await scene.host.declare([crew(agent("a", SLEEP), agent("b", SLEEP))])
        await scene.order(run.run, StopProcess(id="c1", agent="nobody", term=5))
        await scene.link.publish(f"crew.{run.run}.ctl._._host.c2", b"{broken")
        await scene.order(run.run, StopProcess(id="c3", agent="b", term=5))
        await scene.order(run.run, StopProcess(id="c4", agent="a", term=4))
        tasks.start_soon(lambda: scene.host.serve(signals=False))
        await until(lambda: "a" in run.pids)
        await scene.order(run.run, StopRun(id="c5", state="failed", term=5))
        await until(lambda: run.result is not None)
        facts = await scene.facts(run.run)
        assert "started a 0" in facts
        assert "b" not in run.pids
        assert facts.index("exited a -15") == len(facts) - 2, "the order of an old term was obeyed"
        assert facts[-1] == "ended failed"


async def test_a_spare_crew_ends_while_another_goes_on(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene, anyio.create_task_group() as tasks:
        short, long = await scene.host.declare([crew(agent("a", "pass"), name="short"), crew(agent("a", SLEEP))])
        tasks.start_soon(lambda: scene.host.serve(signals=False))
        await until(lambda: short.result is not None)
        assert long.result is None
        assert long.pids
        long.stop("enough")


async def test_a_missing_variable_starts_nothing(tmp_path: Path) -> None:
    async with stage(tmp_path, {"PATH": os.defpath}) as scene:
        with pytest.raises(SettingMissing, match=r"agents\.a\.env\.KEY"):
            await scene.host.declare([crew(agent("b", SLEEP)), crew(agent("a", SLEEP, env={"KEY": "${NOPE}"}))])
        assert scene.host.runs == []
        assert await Registry(scene.link).ls() == []


async def test_an_external_agent_gets_a_private_credentials_file(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        (run,) = await scene.host.declare([crew(agent("a", SLEEP), Agent(name="guest", external=True))])
        path = tmp_path / "runs" / run.run / "credentials" / "guest.json"
        assert json.loads(path.read_text())["user"] == f"{run.run}.guest"
        assert path.stat().st_mode & 0o777 == 0o600
        assert any(str(path) in line for line in scene.told)


async def test_the_end_of_the_server_ends_every_agent(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene, anyio.create_task_group() as tasks:
        (run,) = await scene.host.declare([crew(agent("a", SLEEP))])
        tasks.start_soon(lambda: scene.host.serve(signals=False))
        await until(lambda: run.pids)
        pid = run.pids["a"]
        assert scene.ground.server is not None
        os.kill(scene.ground.server.pid, signal.SIGKILL)
        await until(lambda: run.result is not None)
        assert run.result is not None
        assert run.result.state == "failed"
        assert not is_alive(pid)
        assert "nats-server ended" in " ".join(scene.told)


async def test_without_a_server_agents_end_all_at_once(tmp_path: Path) -> None:
    # Each ends only once both were told to: one after the other, the first would use up its grace and be killed.
    program = f"""
        import os, pathlib, signal, time
        here = pathlib.Path({str(tmp_path)!r})
        def told(*_):
            (here / f"told-{{os.getpid()}}").touch()
            while len(list(here.glob("told-*"))) < 2:
                time.sleep(0.01)
            os._exit(0)
        signal.signal(signal.SIGTERM, told)
        (here / f"ready-{{os.getpid()}}").touch()
        time.sleep(600)
    """
    async with stage(tmp_path) as scene, anyio.create_task_group() as tasks:

        def marks(pattern: str) -> int:
            return len(list(tmp_path.glob(pattern)))

        pair = (agent(name, program, restart=rule(shutdown_s=LIMIT_S)) for name in ("a", "b"))
        (run,) = await scene.host.declare([crew(*pair)])
        tasks.start_soon(lambda: scene.host.serve(signals=False))
        await until(lambda: marks("ready-*") == 2)
        assert scene.ground.server is not None
        os.kill(scene.ground.server.pid, signal.SIGKILL)
        await until(lambda: run.result is not None)
        assert marks("told-*") == 2


async def test_a_directory_that_is_held_is_refused_with_the_remedy(tmp_path: Path) -> None:
    async with stage(tmp_path):
        with pytest.raises(PlaceTaken, match=r"--state DIR"):
            async with open_ground(tmp_path, None):
                pytest.fail("two hosts on one directory")


async def test_a_run_that_a_dead_host_left_open_is_ended_by_the_next(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        (left,) = await scene.host.declare([crew(agent("a", SLEEP))])  # and never served: the host is gone
    async with stage(tmp_path) as scene:
        (run,) = await scene.host.declare([crew(agent("a", "pass"))])
        await scene.host.serve(signals=False)
        assert (await scene.facts(left.run))[-1] == "ended failed"
        states = {info.run: info.state for info in await Registry(scene.link).ls()}
        assert states == {left.run: "failed", run.run: "done"}
        assert all(record.over for record in await Access(scene.link).ls(left.run))


async def test_the_end_of_a_run_cuts_off_whoever_was_started_elsewhere(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene, anyio.create_task_group() as tasks:
        (run,) = await scene.host.declare([crew(agent("a", SLEEP), Agent(name="guest", external=True))])
        file = tmp_path / "runs" / run.run / "credentials" / "guest.json"
        guest = await NatsTransport.open(credentials=lambda: from_file(file, check_permissions=True))
        changes: list[bool] = []
        guest.on_change(changes.append)
        tasks.start_soon(partial(scene.host.serve, signals=False))
        await until(lambda: run.pids)
        assert changes == []
        run.stop("enough")
        await until(lambda: run.result is not None and changes[:1] == [False])
        with pytest.raises(ConnectionLost, match="check user and password"):
            await NatsTransport.open(credentials=lambda: from_file(file), limit_s=0.0)
        await guest.close()


async def test_kill_ends_stubborn_agents_at_once(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene, anyio.create_task_group() as tasks:
        patient = rule(shutdown_s=3600)
        (run,) = await scene.host.declare([crew(*(agent(name, STUBBORN, restart=patient) for name in "abc"))])
        tasks.start_soon(lambda: scene.host.serve(signals=False))
        await until(lambda: all("ready" in scene.log(run.run, name) for name in "abc"))
        scene.host.stop("told to")
        scene.host.kill()
        with anyio.fail_after(LIMIT_S):
            await until(lambda: run.result is not None)
        assert run.result is not None
        assert run.result.state == "stopped"


async def test_a_crew_of_external_agents_only_lasts_until_it_is_told_to_end(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene, anyio.create_task_group() as tasks:
        crews = [crew(Agent(name="guest", external=True)), crew(agent("a", "pass"), name="short")]
        outside, short = await scene.host.declare(crews)
        tasks.start_soon(lambda: scene.host.serve(signals=False))
        await until(lambda: short.result is not None)
        assert outside.result is None
        await scene.order(outside.run, StopRun(id="c1", why="seen enough"))
        await until(lambda: outside.result is not None)
        assert (await scene.facts(outside.run))[-1] == "ended stopped"


async def test_agents_and_orders_outlive_a_restart_of_an_existing_server(tmp_path: Path) -> None:
    with nats_process(tmp_path) as server:
        ground = Ground(server.place)
        async with connect(server.place) as link, anyio.create_task_group() as tasks:
            host = Host(ground, link, controller=False, tell=lambda line: None)
            (run,) = await host.declare([crew(agent("a", SLEEP))])
            tasks.start_soon(lambda: host.serve(signals=False))
            await until(lambda: run.pids)
            pids = run.pids
            server.stop(signal.SIGKILL)
            server.start()
            await until(lambda: link.is_connected)
            assert run.pids == pids
            scene = Stage(ground, link, host, [])
            await scene.order(run.run, StopRun(id="c1", state="done"))
            await until(lambda: run.result is not None)
            assert (await scene.facts(run.run))[-2:] == ["exited a -15", "ended done"]


async def test_passwords_of_an_existing_server_are_not_on_a_command_line(tmp_path: Path) -> None:
    with nats_process(tmp_path) as server:
        async with connect(server.place) as link:
            host = Host(Ground(server.place), link, tell=lambda line: None)
            (run,) = await host.declare([crew(agent("a", SLEEP))])
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: host.serve(signals=False))
                await until(lambda: run.pids and host.controller_pid)
                pids = [host.controller_pid, *run.pids.values()]
                listed = await anyio.run_process(["ps", "-o", "args=", "-p", ",".join(map(str, pids))])
                host.stop("seen enough")
            assert listed.stdout.count(b"\n") == 2
            assert server.password.encode() not in listed.stdout


async def test_whoever_fails_while_the_run_ends_is_not_started_again(tmp_path: Path) -> None:
    follower = """
        import os, pathlib, sys, time
        pathlib.Path("pid.new").write_text(str(os.getpid()))
        os.replace("pid.new", "pid")
        while not pathlib.Path("go").exists():
            time.sleep(0.01)
        sys.exit(7)
    """
    leader = """
        import os, pathlib, signal, sys, time
        def leave(*_):
            pathlib.Path("go").touch()
            try:
                while os.kill(int(pathlib.Path("pid").read_text()), 0) is None:
                    time.sleep(0.01)
            except ProcessLookupError:
                sys.exit(0)
        signal.signal(signal.SIGTERM, leave)
        print("ready")
        time.sleep(600)
    """
    async with stage(tmp_path / "state") as scene, anyio.create_task_group() as tasks:
        options = {"cwd": str(tmp_path), "restart": rule("permanent", shutdown_s=LIMIT_S)}
        (run,) = await scene.host.declare([crew(agent("a", follower, **options), agent("b", leader, **options))])
        tasks.start_soon(lambda: scene.host.serve(signals=False))
        await until(lambda: (tmp_path / "pid").exists() and "ready" in scene.log(run.run, "b"))
        scene.host.stop("seen enough")
        await until(lambda: run.result is not None)
        facts = await scene.facts(run.run)
        assert facts[-4:] == ["asked stop_run", "exited a 7", "exited b 0", "ended stopped"]
