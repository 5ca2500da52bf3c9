"""Scenarios played by real processes: the verdict, what a mutation does to it, and that nothing is left behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from msgspec import structs

from crewkeeper_supervisor.chaos.plan.scenario import Scenario, load
from crewkeeper_supervisor.chaos.real import run_folder
from crewkeeper_supervisor.chaos.real.runner import run_real
from crewkeeper_supervisor.chaos.trial import record as records

pytestmark = pytest.mark.live
SCENARIOS = Path(__file__).resolve().parents[2] / "scenarios"
QUICK = [each for each in map(load, sorted(SCENARIOS.glob("*.yaml"))) if "quick" in each.tags]
"""Those that take seconds, need no root, and together show what processes do that simulations do not."""


PATIENCE = 8


def patient(scenario: Scenario) -> Scenario:
    """The scenario with deadlines for a machine that is slow, or busy with other tests."""
    expect = tuple(
        structs.replace(each, within_s=each.within_s * PATIENCE) if each.within_s else each for each in scenario.expect
    )
    return structs.replace(scenario, expect=expect, timeout_s=scenario.timeout_s * PATIENCE)


@pytest.mark.parametrize("scenario", QUICK, ids=[each.id for each in QUICK])
def test_a_quick_scenario_passes_and_leaves_nothing(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREWKEEPER_NATS_URL", "nats://127.0.0.1:1")  # not its business
    result = run_real(patient(scenario))
    assert result.told is not None
    assert result.verdict == "pass", [check for check in result.told.checks if check.word != "pass"]
    assert result.told.folder == ""


def alive(folder: str) -> list[str]:
    """Command lines of the processes that have to do with a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes() + b" " + (entry / "environ").read_bytes()
        except OSError:
            continue
        if folder.encode() in words:
            found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:200])
    return found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc, which only Linux has")
@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_nothing_outlives_a_runner_that_is_ended(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "crewkeeper_supervisor.cli.main", "chaos", "run", "--mode", "real"]
    scenario = str(SCENARIOS / "nats-restart.yaml")
    env = os.environ | {"TMPDIR": str(tmp_path)}
    with (tmp_path / "log").open("wb") as log:
        runner = subprocess.Popen(
            [*command, scenario, "--journal", str(tmp_path / "j.json")], env=env, stdout=log, stderr=log
        )
    try:
        limit_s = time.monotonic() + 180
        while len([each for each in alive(str(tmp_path)) if "scripted" in each]) < 3:
            assert time.monotonic() < limit_s, alive(str(tmp_path))
            assert runner.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.1)
    finally:
        runner.send_signal(number)
        status = runner.wait(120)
    limit_s = time.monotonic() + 180
    while left := alive(str(tmp_path)):
        assert time.monotonic() < limit_s, left
        time.sleep(0.1)
    if number is signal.SIGKILL:
        assert run_folder.sweep(tmp_path), "its folder is left to the next run"
    assert list(tmp_path.glob(f"{run_folder.PREFIX}*")) == [], "its folder is gone"
    if number is signal.SIGTERM:
        assert status == 130
        (result,) = records.read(tmp_path / "j.json").results
        assert result.skipped
        assert result.told is not None


def test_a_crew_of_real_programs_is_told_what_to_do(tmp_path: Path) -> None:
    script = {"main": [{"ask": {"to": "callee"}}]}
    callee = {"handlers": {"ask": [{"work": 60}, {"reply": 1}]}}
    program = [sys.executable, "-m", "crewkeeper_agents.scripted"]
    agents = {
        name: {"run": [*program, json.dumps(made)], "restart": {"intensity": 0}}
        for name, made in (("caller", script), ("callee", callee))
    }
    crew = tmp_path / "crew.yaml"
    crew.write_text(json.dumps({"crew": "mine", "agents": agents}))
    text = (SCENARIOS / "kill-one-agent.yaml").read_text()
    for as_it_is, here in (("agent:any", "agent:callee"), ("at: 3s", "after: event.waiting")):
        assert as_it_is in text
        text = text.replace(as_it_is, here)
    (tmp_path / "kill-one-agent.yaml").write_text(text)
    result = run_real(load(tmp_path / "kill-one-agent.yaml"), crew=crew)
    assert result.verdict == "fail"
    assert result.told is not None
    assert Path(result.told.folder, "up.log").exists(), "the logs of what failed are kept"
    shutil.rmtree(result.told.folder)
    told = "\n".join(result.told.advice)
    assert "callee was killed and not started again" in told
    assert "caller had a call at callee open: it failed with PeerGone at once." in told
    assert "caller did not survive that its call failed (peer_gone)" in told
