"""Real children: environment, log, signals to the whole group, and restarts by the rules."""

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import anyio
import pytest

from crewkeeper_bus.credentials import Credentials
from crewkeeper_supervisor.core.crew import Agent, Crew, Restart, Webhook
from crewkeeper_supervisor.shell import restart
from crewkeeper_supervisor.shell.errors import SettingMissing
from crewkeeper_supervisor.shell.launcher import (
    ChildProcess,
    Launch,
    command_line,
    environment,
)
from crewkeeper_supervisor.shell.restart import KeptProcess

LIMIT_S = 120.0


def launch(tmp_path: Path, program: str, *arguments: str, env: Mapping[str, str] | None = None) -> Launch:
    return Launch(
        name="worker",
        argv=command_line(("python", "-S", "-c", program, *arguments)),
        env={"PYTHONUNBUFFERED": "1", **(env or {})},
        cwd=str(tmp_path),
        log=tmp_path / "logs" / "worker.log",
    )


async def until(condition: Callable[[], bool], what: str) -> None:
    with anyio.move_on_after(LIMIT_S):
        while not condition():  # noqa: ASYNC110 - the world outside has no event to wait for
            await anyio.sleep(0.01)
        return
    pytest.fail(f"not within {LIMIT_S} s: {what}")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False  # gone since
    except FileNotFoundError:
        return not Path("/proc/self").exists()  # gone since, unless this system has no such files


class Diary:
    """What was reported, as lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.pids: list[int] = []

    async def started(self, name: str, pid: int, restarts: int) -> None:
        self.pids.append(pid)
        self.lines.append(f"started {name} restarts={restarts}")

    async def exited(self, name: str, pid: int, code: int, *, restart: bool, why: str) -> None:
        self.lines.append(f"exited {name} code={code} restart={restart}")

    async def exhausted(self, name: str, rule: Restart) -> None:
        self.lines.append(f"exhausted {name} after {rule.intensity}")


def test_environment_has_settings_and_no_secret() -> None:
    agent = Agent(name="planner", run=("x",), concurrency=3, replicas=2, env={"KEY": "k-${TOKEN}", "PLAIN": "$HOME"})
    crew = Crew(name="trip", agents=(agent,), escalate=(Webhook(webhook="${HOOK}", secret="${HOOK_SECRET}"),))
    inherited = {"PATH": "/bin", "TOKEN": "t", "HOOK": "https://h", "HOOK_SECRET": "s", "CREWKEEPER_STATE": "/x"}
    env = environment(
        crew, agent, "planner-2", "trip-1", Credentials(url="nats://h", user="u", password="p"), inherited
    )
    assert env == {
        "PATH": "/bin",
        "TOKEN": "t",
        "KEY": "k-t",
        "PLAIN": "$HOME",
        "CREWKEEPER_URL": "nats://h",
        "CREWKEEPER_RUN": "trip-1",
        "CREWKEEPER_AGENT": "planner-2",
        "CREWKEEPER_ROLE": "planner",
        "CREWKEEPER_USER": "u",
        "CREWKEEPER_PASSWORD": "p",
        "CREWKEEPER_CONCURRENCY": "3",
        "CREWKEEPER_REENTRANT": "none",
        "CREWKEEPER_MAILBOX": "1000",
        "CREWKEEPER_HEARTBEAT_S": "2.0",
        "CREWKEEPER_PAYLOAD_BYTES": str(256 * 1024),
        "CREWKEEPER_REDACT": "secrets",
        "PYTHONUNBUFFERED": "1",
    }


def test_a_missing_variable_is_named_with_its_place() -> None:
    agent = Agent(name="planner", run=("x",), env={"KEY": "${NOT_SET_ANYWHERE}"})
    with pytest.raises(SettingMissing, match=r"agents\.planner\.env\.KEY: .* refers to NOT_SET_ANYWHERE"):
        environment(Crew(name="c", agents=(agent,)), agent, "planner", "r", Credentials(url="x"), {})


def test_python_is_the_interpreter_of_the_host() -> None:
    assert command_line(("python", "a.py")) == (sys.executable, "a.py")
    assert command_line(("node", "a.js")) == ("node", "a.js")


async def test_child_runs_with_its_environment_and_directory_and_log(tmp_path: Path) -> None:
    program = """if True:
        import json, os, sys
        print(json.dumps([dict(os.environ), os.getcwd(), sys.stdin.read()]))
        sys.stderr.write("warned")
    """
    child = ChildProcess(launch(tmp_path, program, env={"CREWKEEPER_AGENT": "worker"}))
    await child.start()
    assert await child.wait() == 0
    first, second = (tmp_path / "logs" / "worker.log").read_text().splitlines()
    env, cwd, stdin = json.loads(first)
    assert env["CREWKEEPER_AGENT"] == "worker"
    assert "HOME" not in env
    assert cwd == os.path.realpath(tmp_path)  # noqa: ASYNC240
    assert stdin == ""
    assert second == "warned"


async def test_stop_kills_a_child_that_ignores_sigterm_and_its_own_children(tmp_path: Path) -> None:
    program = """if True:
        import signal, subprocess, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        grandchild = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
        print("ready", grandchild.pid)
        time.sleep(600)
    """
    child = ChildProcess(launch(tmp_path, program))
    log = tmp_path / "logs" / "worker.log"
    async with anyio.create_task_group() as tasks:
        await child.start()
        tasks.start_soon(child.wait)
        await until(lambda: "ready" in log.read_text(), "the child is ready")
        grandchild = int(log.read_text().split()[1])
        assert is_alive(grandchild)
        await child.stop(grace_s=0.1)
    assert child.code == -signal.SIGKILL
    await until(lambda: not is_alive(grandchild), "the grandchild is gone")


async def test_stop_lets_a_child_end_in_order(tmp_path: Path) -> None:
    program = """if True:
        import signal, sys, time
        def leave(*_):
            print("left in order")
            sys.exit(0)
        signal.signal(signal.SIGTERM, leave)
        print("ready")
        time.sleep(600)
    """
    child = ChildProcess(launch(tmp_path, program))
    log = tmp_path / "logs" / "worker.log"
    async with anyio.create_task_group() as tasks:
        await child.start()
        tasks.start_soon(child.wait)
        await until(lambda: "ready" in log.read_text(), "the child is ready")
        await child.stop(grace_s=LIMIT_S)
    assert child.code == 0
    assert "left in order" in log.read_text()


async def test_cancelling_wait_leaves_no_process(tmp_path: Path) -> None:
    child = ChildProcess(launch(tmp_path, "import time; time.sleep(600)"))
    async with anyio.create_task_group() as tasks:
        pid = await child.start()
        tasks.start_soon(child.wait)
        await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert not is_alive(pid)


async def test_what_a_child_leaves_behind_in_its_group_is_ended(tmp_path: Path) -> None:
    program = """if True:
        import subprocess, sys
        print(subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"]).pid)
    """
    child = ChildProcess(launch(tmp_path, program))
    await child.start()
    assert await child.wait() == 0
    left = int((tmp_path / "logs" / "worker.log").read_text())
    await until(lambda: not is_alive(left), "the process left behind is gone")


async def test_transient_restarts_after_a_crash_and_ends_in_order(tmp_path: Path) -> None:
    program = """if True:
        import pathlib, sys
        been = pathlib.Path("been")
        sys.exit(0) if been.exists() else (been.touch(), sys.exit(7))
    """
    diary = Diary()
    ended = await KeptProcess(launch(tmp_path, program), Restart(policy="transient"), diary).run()
    assert diary.lines == [
        "started worker restarts=0",
        "exited worker code=7 restart=True",
        "started worker restarts=1",
        "exited worker code=0 restart=False",
    ]
    assert (ended.failed, ended.code, ended.gave_up) == (False, 0, False)


async def test_temporary_is_never_restarted(tmp_path: Path) -> None:
    diary = Diary()
    ended = await KeptProcess(launch(tmp_path, "raise SystemExit(7)"), Restart(policy="temporary"), diary).run()
    assert diary.lines == ["started worker restarts=0", "exited worker code=7 restart=False"]
    assert ended.failed


async def test_intensity_exceeded_gives_up_and_says_so(tmp_path: Path) -> None:
    diary = Diary()
    rule = Restart(policy="permanent", intensity=2, period_s=600)
    ended = await KeptProcess(launch(tmp_path, "raise SystemExit(7)"), rule, diary).run()
    assert diary.lines == [
        "started worker restarts=0",
        "exited worker code=7 restart=True",
        "started worker restarts=1",
        "exited worker code=7 restart=True",
        "started worker restarts=2",
        "exited worker code=7 restart=False",
        "exhausted worker after 2",
    ]
    assert ended.gave_up
    assert ended.failed


async def test_a_command_that_is_not_there_is_reported_and_given_up(tmp_path: Path) -> None:
    missing = Launch(name="worker", argv=(str(tmp_path / "no-such"),), env={}, log=tmp_path / "worker.log")
    diary = Diary()
    ended = await KeptProcess(missing, Restart(policy="transient", intensity=0), diary).run()
    assert ended.code == 127
    assert diary.lines[-2:] == ["exited worker code=127 restart=False", "exhausted worker after 0"]
    assert "no-such" in (tmp_path / "worker.log").read_text()


async def test_a_directory_that_is_not_there_is_reported_and_given_up(tmp_path: Path) -> None:
    missing = Launch(name="worker", argv=("true",), env={}, cwd=str(tmp_path / "gone"), log=tmp_path / "worker.log")
    diary = Diary()
    ended = await KeptProcess(missing, Restart(policy="transient", intensity=0), diary).run()
    assert (ended.code, ended.gave_up) == (127, True)
    assert "gone" in (tmp_path / "worker.log").read_text()


async def test_a_stopped_process_is_not_restarted(tmp_path: Path) -> None:
    diary = Diary()
    kept = KeptProcess(launch(tmp_path, "import time; time.sleep(600)"), Restart(policy="permanent"), diary)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(kept.run)
        await until(lambda: kept.running > 0, "the process runs")
        await kept.stop(grace_s=LIMIT_S)
    assert diary.lines == ["started worker restarts=0", f"exited worker code={-signal.SIGTERM} restart=False"]
    assert not is_alive(diary.pids[0])


async def test_a_stop_between_two_starts_ends_it(tmp_path: Path) -> None:
    diary = Diary()
    rule = Restart(policy="permanent", intensity=1000, period_s=600)
    kept = KeptProcess(launch(tmp_path, "raise SystemExit(7)"), rule, diary)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(kept.run)
        await until(lambda: len(diary.lines) >= 4, "it restarts")
        await kept.stop(grace_s=LIMIT_S)
    assert diary.lines[-1] == "exited worker code=7 restart=False"
    assert kept.running == 0
    assert not any(is_alive(pid) for pid in diary.pids)


async def test_an_exit_because_of_a_stop_waits_for_the_word_that_comes_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restart, "WORD_LIMIT_S", LIMIT_S)
    diary = Diary()
    program = f"raise SystemExit({restart.STOPPED_AT_WORK})"
    kept = KeptProcess(launch(tmp_path, program), Restart(policy="transient"), diary)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(kept.run)
        await until(lambda: bool(diary.lines) and not kept.running, "it has ended")
        kept.expect_end()
    assert diary.lines == ["started worker restarts=0", "exited worker code=3 restart=False"]
