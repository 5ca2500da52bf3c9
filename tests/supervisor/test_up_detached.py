"""`up --detach`: what the process in the background is given, what is told of it, and that it goes on by itself."""

import json
import os
import signal
import subprocess
import sys

import pytest

from crewkeeper_supervisor.cli import failure, up_detached
from crewkeeper_supervisor.cli.main import run
from support.up import Up

CREW = "crew: solo\nagents:\n  guest: {external: true}\nresponses: {deadlock: {do: [break]}}\n"
BACKGROUND = f"""\
#!{sys.executable}
import os, signal, sys
from pathlib import Path

Path("said").write_text(" ".join([*sys.argv[1:], os.environ.get("CREWKEEPER_NATS_URL", "")]))
if os.environ.get("SOLO_HANGS"):
    signal.pause()
if os.environ.get("SOLO_FAILS"):
    sys.exit(int(os.environ["SOLO_FAILS"]))
os.write(int(sys.argv[sys.argv.index("--report-fd") + 1]), b"solo-1\\nsolo-2\\n")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "crew.yaml").write_text(CREW)
    background = tmp_path / "background"
    background.write_text(BACKGROUND)
    background.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    for name in ("CREWKEEPER_NATS_URL", "CREWKEEPER_STATE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_it_writes_the_runs_and_says_where_it_goes_on(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "executable", str(folder / "background"))
    secret = "nats://me:secret@127.0.0.1:4222"
    assert run(["up", "-d", "crew.yaml", "--no-controller", "--name", "here", "--nats", secret]) == 0
    out, err = capsys.readouterr()
    assert out == "solo-1\nsolo-2\n"
    assert str(folder / ".crewkeeper" / "up.log") in err
    given = (folder / "said").read_text().split()
    assert given.pop() == secret, "in the environment"
    assert secret not in given, "and not where everybody can read it"
    assert given[:4] == ["-m", "crewkeeper_supervisor.cli.main", "up", "crew.yaml"]
    assert given[-3:] == ["--name", "here", "--no-controller"]
    assert not (folder / ".crewkeeper").exists(), "that is for the process in the background to make"


def test_what_does_not_start_ends_with_its_exit_code(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "executable", str(folder / "background"))
    monkeypatch.setenv("SOLO_FAILS", str(failure.UNREACHABLE))
    assert run(["up", "--detach", "crew.yaml"]) == failure.UNREACHABLE
    assert capsys.readouterr().out == ""


def test_what_is_interrupted_before_it_is_told_of_does_not_go_on(folder, monkeypatch):
    started = []

    class Popen(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            started.append(self)

    def interrupted(descriptor):
        os.close(descriptor)
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "executable", str(folder / "background"))
    monkeypatch.setattr(subprocess, "Popen", Popen)
    monkeypatch.setattr(os, "fdopen", interrupted)
    monkeypatch.setenv("SOLO_HANGS", "yes")
    assert run(["up", "-d", "crew.yaml"]) == failure.INTERRUPTED
    (background,) = started
    assert background.wait(120) == -signal.SIGTERM


def test_from_then_on_it_writes_into_a_log(folder):
    program = "from pathlib import Path; from crewkeeper_supervisor.cli.up_detached import report; import sys; "
    program += "print('before'); report(int(sys.argv[1]), ['solo-1'], Path()); print('later', file=sys.stderr)"
    reading, writing = os.pipe()
    command = [sys.executable, "-c", program, str(writing)]
    done = subprocess.run(command, pass_fds=(writing,), capture_output=True, text=True, timeout=300, check=True)
    os.close(writing)
    with os.fdopen(reading) as told:
        assert told.read() == "solo-1\n"
    assert (done.stdout, done.stderr) == ("before\n", "")
    assert (folder / up_detached.LOG).read_text() == "later\n"
    assert (folder / up_detached.LOG).stat().st_mode & 0o777 == 0o600


@pytest.mark.live
def test_it_goes_on_until_it_is_taken_down(folder):
    crew = Up(folder)
    env = {name: value for name, value in os.environ.items() if not name.startswith("CREWKEEPER_")}

    def supervisor(*words):
        command = [sys.executable, "-m", "crewkeeper_supervisor.cli.main", *words, "--state", str(crew.state)]
        return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)

    started = supervisor("up", "-d", "crew.yaml")
    assert started.returncode == 0, started.stderr
    (name,) = started.stdout.split()
    try:
        assert [each["run"] for each in json.loads(supervisor("ps", "-o", "json").stdout)["items"]] == [name]
    finally:
        ended = supervisor("down", "--yes", "--timeout", "90", "-o", "json")
    assert (ended.returncode, json.loads(ended.stdout)["items"][0]["state"]) == (0, "stopped"), ended.stderr
    crew.wait_for(lambda: f"{name} stopped" in (crew.state / up_detached.LOG).read_text())
    crew.wait_for(lambda: not crew.pids("serve"))
