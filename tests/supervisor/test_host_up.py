"""`supervisor up` and `down` as people run them: real processes, signals, kill -9, exit codes."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from nats_process import nats_process

from crewkeeper_supervisor.chaos.real.loopback import free_port

pytestmark = pytest.mark.live

LIMIT_S = 240.0
SUPERVISOR = (sys.executable, "-m", "crewkeeper_supervisor.cli.main")
SLEEP = "import time; time.sleep(600)"


def crew_file(directory: Path, name: str = "tiny", **programs: str) -> Path:
    agents = {
        agent: {"run": ["python", "-S", "-c", textwrap.dedent(text)], "may_call": []}
        for agent, text in programs.items()
    }
    path = directory / f"{name}.yaml"
    path.write_text(json.dumps({"crew": name, "agents": agents, "restart": {"intensity": 0}}, indent=1))
    return path


def until(condition: Callable[[], Any], what: str) -> Any:
    end_s = time.monotonic() + LIMIT_S
    while time.monotonic() < end_s:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {LIMIT_S} s: {what}")


def processes() -> dict[int, tuple[int, str]]:
    """Every process that is not a zombie: parent and command line, by pid."""
    listed = subprocess.run(
        ["ps", "-A", "-ww", "-o", "pid=", "-o", "ppid=", "-o", "stat=", "-o", "args="],
        capture_output=True,
        text=True,
        check=True,
    )
    found = {}
    for line in listed.stdout.splitlines():
        pid, parent, stat, *args = line.split(None, 3)
        if not stat.startswith("Z"):
            found[int(pid)] = (int(parent), " ".join(args))
    return found


class Up:
    """One `supervisor up` in the background."""

    def __init__(self, directory: Path, *arguments: str | Path) -> None:
        self.state = directory / "state"
        self.output = directory / "output"
        self.errors = directory / "errors"
        with self.output.open("wb") as out, self.errors.open("wb") as err:
            self.process = subprocess.Popen(
                [*SUPERVISOR, "up", *map(str, arguments), "--plain", "--state", str(self.state)],
                stdout=out,
                stderr=err,
                stdin=subprocess.DEVNULL,
                cwd=directory,
            )

    def wait(self) -> int:
        return self.process.wait(LIMIT_S)

    def children(self, having: str = "") -> dict[int, str]:
        own = self.process.pid
        return {pid: args for pid, (parent, args) in processes().items() if parent == own and having in args}

    def controller(self) -> int:
        found = list(self.children("cli.main serve"))
        return found[0] if found else 0

    def text(self) -> str:
        return self.output.read_text() + self.errors.read_text()

    def until_started(self, *agents: str) -> None:
        def started() -> bool:
            assert self.process.poll() is None, self.text()
            return all(f"{agent} started" in self.text() for agent in agents)

        until(started, f"{agents} have started: {self.text()}")


@contextmanager
def up(directory: Path, *arguments: str | Path) -> Iterator[Up]:
    running = Up(directory, *arguments)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
        running.process.wait(LIMIT_S)


def supervisor(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*SUPERVISOR, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def test_up_ends_with_a_summary_of_each_run(tmp_path: Path) -> None:
    good = crew_file(tmp_path, "good", a="print('hello')")
    bad = crew_file(tmp_path, "bad", a="raise SystemExit('out of tea')")
    with up(tmp_path, good, bad) as running:
        assert running.wait() == 1, running.text()
        *_, first, second = running.output.read_text().splitlines()
        assert first.startswith("good-")
        assert " done in " in first
        assert second.startswith("bad-")
        assert " failed in " in second
        assert "incident" in second
        assert f"state  {running.state}" in running.errors.read_text()
        bad_run = second.partition(" ")[0]
        assert (
            f"a: out of tea\nlook   supervisor agent logs {bad_run} a --state {running.state}"
            in running.errors.read_text()
        )
        assert not (running.state / "server.json").exists()
        (log,) = running.state.glob("runs/good-*/logs/a.log")
        assert log.read_text() == "hello\n"


def test_kill_9_of_the_host_leaves_no_process(tmp_path: Path) -> None:
    grandparent = f"""
        import subprocess, sys, time
        subprocess.Popen([sys.executable, "-S", "-c", "{SLEEP}"])
        time.sleep(600)
    """
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    with up(tmp_path, crew_file(tmp_path, a=stubborn, b=grandparent)) as running:
        running.until_started("a", "b")
        until(running.controller, "the controller runs")
        children = until(lambda: len(running.children()) >= 5 and running.children(), "all children are there")
        assert any("nats-server" in args for args in children.values())
        grown = until(lambda: [pid for pid, (parent, _) in processes().items() if parent in children], "a grandchild")
        os.kill(running.process.pid, signal.SIGKILL)
        running.process.wait(LIMIT_S)
        until(lambda: not {*children, *grown} & processes().keys(), "everything it started is gone")
    with up(tmp_path, crew_file(tmp_path, "next", a="pass")) as again:
        assert again.wait() == 0, again.text()
        assert "ended as failed" in again.text()


def test_kill_9_of_the_controller_costs_only_a_moment(tmp_path: Path) -> None:
    with up(tmp_path, crew_file(tmp_path, a=SLEEP, b=SLEEP)) as running:
        running.until_started("a", "b")
        first = until(running.controller, "the controller runs")
        log = running.state / "controller.log"
        until(lambda: log.exists() and "run.owned" in log.read_text(), "the controller owns the run")
        agents = running.children(SLEEP)
        assert len(agents) == 2
        os.kill(first, signal.SIGKILL)
        until(lambda: running.controller() not in (0, first), "another controller runs")
        assert running.children(SLEEP) == agents
        ended = supervisor("down", "--yes", "--state", running.state, "--why", "enough seen")
        assert ended.returncode == 0, ended.stderr + running.text()
        assert " stopped: enough seen" in ended.stdout
        assert running.wait() == 1
        assert "controller died (killed by signal 9)" in running.errors.read_text()
        assert "controller is back" in running.errors.read_text()
        assert not running.children()


def test_ctrl_c_stops_in_order_and_exits_130(tmp_path: Path) -> None:
    with up(tmp_path, crew_file(tmp_path, a=SLEEP, b=SLEEP, c=SLEEP)) as running:
        running.until_started("a", "b", "c")
        children = running.children()
        running.process.send_signal(signal.SIGINT)
        assert running.wait() == 130, running.text()
        told = running.output.read_text()
        assert told.index("c's process") < told.index("b's process") < told.index("a's process")
        assert "crash" not in told.lower()
        assert " stopped in " in told.splitlines()[-1]
        assert not children.keys() & processes().keys()


def test_a_second_ctrl_c_kills_what_does_not_end(tmp_path: Path) -> None:
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf'); time.sleep(600)"
    path = crew_file(tmp_path, a=stubborn)
    path.write_text(path.read_text().replace('"intensity": 0', '"shutdown": "1h"'))
    with up(tmp_path, path) as running:
        running.until_started("a")
        until(lambda: "deaf" in "".join(log.read_text() for log in running.state.glob("runs/*/logs/a.log")), "deaf")
        running.process.send_signal(signal.SIGINT)
        until(lambda: "SIGINT: stopping" in running.text(), "the first is heard")
        running.process.send_signal(signal.SIGINT)
        assert running.wait() == 130


def test_a_second_host_on_one_state_directory_is_refused(tmp_path: Path) -> None:
    path = crew_file(tmp_path, a=SLEEP)
    with up(tmp_path, path) as running:
        running.until_started("a")
        second = supervisor("up", path, "--plain", "--state", running.state)
        assert second.returncode == 1
        assert "another `supervisor up` runs" in second.stderr
        assert "--state DIR" in second.stderr
        assert running.process.poll() is None


def test_agents_are_started_when_a_controller_lets_them_in(tmp_path: Path) -> None:
    with up(tmp_path, crew_file(tmp_path, a=SLEEP), "--no-controller") as running:
        until(lambda: "no controller lets agents in yet" in running.text(), "it is said what is missing")
        assert "a started" not in running.text()
        controller = subprocess.Popen([*SUPERVISOR, "serve", "--state", str(running.state)], stderr=subprocess.DEVNULL)
        try:
            running.until_started("a")
        finally:
            controller.kill()
            controller.wait(LIMIT_S)
        running.process.send_signal(signal.SIGINT)
        assert running.wait() == 130, running.text()


def test_who_waits_to_be_let_in_can_be_interrupted(tmp_path: Path) -> None:
    with up(tmp_path, crew_file(tmp_path, a=SLEEP), "--no-controller") as running:
        until(lambda: "crew tiny declared" in running.text(), "the run is declared")
        running.process.send_signal(signal.SIGINT)
        assert running.wait() == 130, running.text()
        assert "a started" not in running.text()


def test_crew_files_are_refused_with_every_error_of_each(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(f"crew: {name}\nagents: {{a: {{rum: x}}}}\nwhat: 1\n")
    refused = supervisor("up", tmp_path / "one.yaml", tmp_path / "two.yaml", "--state", tmp_path / "state")
    assert refused.returncode == 3
    for name in ("one", "two"):
        assert f"{name}.yaml:2:" in refused.stderr
        assert f"{name}.yaml:3:1" in refused.stderr
    assert not (tmp_path / "state").exists()


def test_a_missing_variable_exits_3(tmp_path: Path) -> None:
    path = tmp_path / "crew.yaml"
    path.write_text("crew: c\nagents: {a: {run: 'true', env: {KEY: '${NOT_SET_ANYWHERE}'}}}\n")
    refused = supervisor("up", path, "--state", tmp_path / "state")
    assert refused.returncode == 3
    assert "NOT_SET_ANYWHERE" in refused.stderr


def test_an_existing_server_serves_and_what_it_does_not_enforce_is_said(tmp_path: Path) -> None:
    with nats_process(tmp_path) as server:
        url = f"nats://sup:{server.password}@127.0.0.1:{server.port}"
        with up(tmp_path, crew_file(tmp_path, a="pass"), "--nats", url) as running:
            assert running.wait() == 0, running.text()
            assert "Nothing is enforced: all agents connect as the host does" in " ".join(running.text().split())
            assert server.password not in running.text()
            assert " done in " in running.output.read_text()


def test_no_server_exits_4(tmp_path: Path) -> None:
    port = free_port()
    path = crew_file(tmp_path, a="pass")
    refused = supervisor("up", path, "--nats", f"nats://127.0.0.1:{port}", "--state", tmp_path / "state")
    assert refused.returncode == 4
    assert str(port) in refused.stderr
    assert "check that a NATS server listens there" in refused.stderr
    assert "link." not in refused.stderr


def test_down_needs_a_yes_without_a_terminal_and_a_run_that_there_is(tmp_path: Path) -> None:
    assert supervisor("down", "--yes", "--state", tmp_path / "state").returncode == 4
    with up(tmp_path, crew_file(tmp_path, a=SLEEP), "--no-controller") as running:
        until(lambda: "crew tiny declared" in running.text(), "the run is declared")
        asked = supervisor("down", "--state", running.state)
        assert asked.returncode == 2
        assert "--yes" in asked.stderr
        assert supervisor("down", "nobody", "--yes", "--state", running.state).returncode == 5
        late = supervisor("down", "tiny", "--yes", "--timeout", "0.3", "--state", running.state)
        assert late.returncode == 124, "without a controller nobody orders the host to stop"
        assert running.process.poll() is None
