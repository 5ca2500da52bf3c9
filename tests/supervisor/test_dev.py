"""`supervisor dev`: what counts as a change, and a crew that is started again at one."""

import os
import signal
import subprocess
import sys

import pytest

from crewkeeper_supervisor.cli import failure
from crewkeeper_supervisor.cli.main import run
from crewkeeper_supervisor.shell import file_changes
from crewkeeper_supervisor.shell.crewfile import read
from support.up import LIMIT_S, Up

CREW = """\
crew: solo
agents:
  solo: {run: python solo.py, may_call: []}
responses:
  deadlock: {do: [break]}
  restart_intensity: {do: [warn]}
  forgery: {do: [warn]}
  intrusion: {do: [warn]}
  survivor: {do: [warn]}
  flood: {do: [pause, kill]}
"""
SOLO = """\
from crewkeeper_agents import Agent

agent = Agent("solo")


@agent.main
async def main(crew):
    await crew.progress("round ONE")
    await crew.ask_human("go on?")


agent.run()
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "crew.yaml").write_text(CREW)
    (tmp_path / "solo.py").write_text(SOLO)
    return tmp_path


def test_what_counts_as_a_change(folder):
    file = folder / "crew.yaml"
    (folder / "lib").mkdir()
    (folder / ".venv").mkdir()
    for name in ("lib/words.py", "notes.txt", ".venv/hidden.py"):
        (folder / name).write_text("1")
    crews = [read(file).crew]
    paths = file_changes.files_of(crews, [file])
    before = file_changes.look(paths)
    assert {path.relative_to(folder).as_posix() for path in before} == {"crew.yaml", "solo.py", "lib/words.py"}
    also = file_changes.files_of(crews, [file], [folder / "notes.txt"])
    assert folder / "notes.txt" in file_changes.look(also)
    (folder / "notes.txt").write_text("what an agent has written")
    assert file_changes.look(paths) == before
    (folder / "lib" / "words.py").unlink()
    assert file_changes.look(paths) != before


def test_of_a_folder_without_end_a_part_is_looked_at(folder, monkeypatch):
    for number in range(5):
        (folder / f"data-{number}").mkdir()
        (folder / f"data-{number}" / "code.py").write_text("")
    paths = [folder / "crew.yaml", folder]
    assert len(file_changes.look(paths)) == 7
    monkeypatch.setattr(file_changes, "NAMES_MAX", 9)  # seven are in the folder itself
    assert len(file_changes.look(paths)) == 4
    monkeypatch.setattr(file_changes, "NAMES_MAX", 1)
    assert list(file_changes.look(paths)) == [folder / "crew.yaml"], "what is named is looked at in any case"


def test_a_program_in_the_command_is_no_file(folder):
    (folder / "crew.yaml").write_text(CREW.replace("python solo.py", f"python -c '{'pass; ' * 100}'"))
    file = folder / "crew.yaml"
    assert file_changes.files_of([read(file).crew], [file]) == [file, folder]


async def test_a_change_is_told_when_it_is_over(folder, monkeypatch):
    looks = iter([{"a": (1, 1)}, {"a": (2, 1)}, {"a": (3, 1)}, {"a": (3, 1), "b": (1, 1)}, {"a": (3, 1), "b": (1, 1)}])
    monkeypatch.setattr(file_changes, "POLL_S", 0)
    monkeypatch.setattr(file_changes, "look", lambda _paths: next(looks))
    assert await file_changes.changed([folder], {"a": (1, 1)}) == ["a", "b"]
    assert next(looks, None) is None


def test_without_a_crew_file_it_says_how_to_begin(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["dev"]) == failure.USAGE
    assert "supervisor init" in capsys.readouterr().err


@pytest.mark.live
def test_a_crew_is_started_again_when_its_files_change(folder):
    crew = Up(folder)
    log = crew.log
    env = {name: value for name, value in os.environ.items() if not name.startswith("CREWKEEPER_")}
    with log.open("wb") as out:
        command = [sys.executable, "-m", "crewkeeper_supervisor.cli.main", "dev", "--plain"]
        dev = subprocess.Popen(command, cwd=folder, stdout=out, stderr=out, env={**env, "TMPDIR": str(folder)})
    try:
        crew.wait_for(lambda: "solo: round ONE" in log.read_text())
        (folder / "crew.yaml").write_text(CREW.replace("crew:", "crow:"))
        crew.wait_for(lambda: "refused; nothing was started" in log.read_text())
        assert "crew.yaml changed: stopping what runs" in log.read_text()
        (folder / "crew.yaml").write_text(CREW.replace("may_call", 'env: {KEY: "${NO_SUCH_VARIABLE}"}, may_call'))
        crew.wait_for(lambda: "error: agents.solo.env.KEY" in log.read_text())
        (folder / "solo.py").write_text(SOLO.replace("ONE", "TWO, after a change"))
        (folder / "crew.yaml").write_text(CREW)
        crew.wait_for(lambda: "solo: round TWO" in log.read_text())
        assert log.read_text().count("server nats://") == 1, "one server stays"
    finally:
        dev.send_signal(signal.SIGINT)
        code = dev.wait(LIMIT_S)
    assert code == failure.INTERRUPTED, log.read_text()[-3000:]
    assert not list(folder.glob("crewkeeper-dev-*")), "nothing is left"
