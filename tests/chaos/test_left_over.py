"""Processes that a run has started: the runner names those that still live, and only those."""

import subprocess
import sys

import pytest

from crewkeeper_supervisor.chaos.real import left_over
from crewkeeper_supervisor.chaos.real.left_over import StartedProcesses


def test_a_living_process_is_named_and_a_dead_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(left_over, "GONE_S", 0.1)
    started = StartedProcesses()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        started.add("planner", process.pid)
        assert started.left_for_good() == [f"planner (process {process.pid})"]
        process.kill()
        monkeypatch.setattr(left_over, "GONE_S", 120.0)
        assert started.left_for_good() == []  # a zombie yet: nobody has waited for it


def test_an_id_that_is_used_again_is_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    started = StartedProcesses()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        started.add("planner", process.pid)
        monkeypatch.setattr(left_over, "_born", lambda _pid: "another moment")
        assert started.left() == []
        process.kill()
