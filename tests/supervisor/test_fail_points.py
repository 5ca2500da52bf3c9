"""Fail points: armed by the environment alone, passed in the code, written down, and true on their page."""

import ast
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from crewkeeper_bus.errors import ConfigError
from crewkeeper_supervisor.shell import fail_points
from crewkeeper_supervisor.shell.fail_points import MEANING

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
from crewkeeper_supervisor.shell import fail_points
fail_points.arm()
for number in range(1, 4):
    fail_points.passed("folded")
    print(number, flush=True)
"""


@pytest.fixture(autouse=True)
def disarmed():
    yield
    fail_points.arm({})


def run(**environ: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environ, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_a_process_dies_at_the_passage_that_was_asked_for_and_once(tmp_path):
    struck = tmp_path / "struck"
    asked = {"CREWKEEPER_FAIL_POINT": "folded:2,recorded", "CREWKEEPER_FAIL_LOG": str(struck)}
    assert run(**asked) == (-signal.SIGKILL, "1\n")
    assert re.fullmatch(r"folded \d+\n", struck.read_text())
    assert run(**asked) == (0, "1\n2\n3\n")


@pytest.mark.parametrize("asked", ["nowhere", "folded:0", "folded:x", "folded:-1", "folded:99999999", "folded,:2"])
def test_what_is_no_point_is_refused_at_the_start(asked):
    with pytest.raises(ConfigError, match="CREWKEEPER_FAIL_POINT: "):
        fail_points.arm({"CREWKEEPER_FAIL_POINT": asked})


def test_nothing_is_armed_unless_asked_for():
    fail_points.arm({"CREWKEEPER_FAIL_POINT": ""})
    for point in MEANING:
        fail_points.passed(point)


def test_every_point_is_passed_somewhere_and_is_on_its_page():
    passed = set()
    for file in (ROOT / "supervisor").rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text())):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "fail_points.passed":
                passed.add(ast.literal_eval(call.args[0]))
    assert passed == set(MEANING)
    rows = re.findall(r"^\| `([\w-]+)` \| (.+) \|$", (ROOT / "docs/failover.md").read_text(), re.MULTILINE)
    assert [row for row in rows if row[0] in MEANING] == list(MEANING.items())
