"""The demo as a stranger runs it, what can be looked at afterwards, and that it fails when anything is missing."""

import io
import json
import os
import subprocess
import sys

import pytest
from told_runs import crew, deadlocked

from crewkeeper_bus import messages as m
from crewkeeper_bus.subjects import HOST
from crewkeeper_supervisor.cli.demo import example, prepare
from crewkeeper_supervisor.cli.demo_story import Narrator
from crewkeeper_supervisor.cli.failure import USAGE, Failure
from crewkeeper_supervisor.cli.main import run
from crewkeeper_supervisor.shell.receiver import Received


def supervisor(*arguments, cwd):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CREWKEEPER_", "OPS_"))}
    return subprocess.run(
        [sys.executable, "-m", "crewkeeper_supervisor.cli.main", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


@pytest.mark.live
def test_the_demo_from_start_to_end(tmp_path):
    place = tmp_path / "demo"
    done = supervisor("demo", "--dir", str(place), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    told = done.stdout
    parts = [
        "planner asks reviewer 'approve'",
        "reviewer asks planner 'breakdown'",
        "DEADLOCK ",
        "broke ",
        "signature ok",
        "the run is over: done",
        "finished work",
        "a person was told",
        "incidents show F",
    ]
    assert [told.find(part) >= 0 for part in parts] == [True] * len(parts)
    assert (place / "out" / "itinerary.md").stat().st_size
    assert not (place / ".receiver").exists()

    # The host, its server and the receiver are gone; what happened can still be looked at.
    listed = supervisor("incidents", "ls", "-o", "jsonl", cwd=place)
    assert listed.returncode == 0, listed.stderr
    found = [json.loads(line) for line in listed.stdout.splitlines()]
    assert [row["state"] for row in found if row["kind"] == "deadlock"] == ["resolved"]
    assert supervisor("graph", cwd=place).stdout == "Nobody waits for anybody.\n"
    assert supervisor("events", "-f", cwd=place).returncode == 4


def test_the_folder_must_be_new_or_empty(tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(Failure) as caught:
        prepare(tmp_path)
    assert caught.value.code == USAGE
    assert (tmp_path / "mine").read_text() == "x"
    assert run(["demo", "--dir", str(tmp_path)]) == USAGE


def test_the_copy_is_the_example_without_its_leavings(tmp_path):
    copy = prepare(tmp_path / "new")
    names = {path.name for path in copy.iterdir()}
    assert "crew.yaml" in names
    assert not names & {"out", "__pycache__", ".crewkeeper"}
    assert (copy / "planner.py").read_text() == (example() / "planner.py").read_text()


def narrated(tmp_path, *, ended="done", found=True, files=True, notices=()):
    out = io.StringIO()
    narrator = Narrator(crew(), tmp_path, out, color=False)
    narrator.begin("trip-000001")
    if found:
        telling = deadlocked()
        telling.op(m.RunEnded(state=ended), HOST)
        for entry in telling.entries:
            narrator.feed(entry)
    if files:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "itinerary.md").write_text("day 1")
    for notice in notices:
        narrator.notice(notice)
    return narrator.end(), out.getvalue()


GOOD = Received(
    id="1", verified=True, problem="", status=204, body={"type": "crewkeeper.deadlock.opened", "data": {"crew": "trip"}}
)
FORGED = Received(id="2", verified=False, problem="no matching signature", status=401, body=None)


def test_all_is_well(tmp_path):
    problems, text = narrated(tmp_path, notices=[GOOD])
    assert problems == []
    assert "itinerary.md" in text
    assert "signature ok" in text


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"ended": "failed"}, "did not finish"),
        ({"files": False}, "did not finish"),
        ({"found": False}, "no deadlock"),
        ({"notices": []}, "webhook"),
        ({"notices": [GOOD, FORGED]}, "webhook"),
        ({"notices": [FORGED]}, "webhook"),
    ],
)
def test_whatever_is_missing_is_a_failure(tmp_path, changes, problem):
    problems, _ = narrated(tmp_path, **{"notices": [GOOD], **changes})
    assert any(problem in each for each in problems)


def test_what_a_webhook_says_cannot_reach_the_terminal(tmp_path):
    evil = Received(id="\x1b[31m", verified=True, problem="", status=204, body={"type": "\x1b[2J", "data": {}})
    _, text = narrated(tmp_path, notices=[evil])
    assert all(line.isprintable() for line in text.splitlines())
