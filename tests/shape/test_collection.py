"""Collection: every process finds the same tests, as it must where they are shared out: no clock or set names one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 500.0


def test_another_process_finds_the_same_tests_at_another_time(request: pytest.FixtureRequest):
    here = [item.nodeid for item in request.session.items]
    files = list(dict.fromkeys(id_.partition("::")[0] for id_ in here))
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files]
    found = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "1", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-2000:]
    there = set(found.stdout.splitlines())
    assert [id_ for id_ in here if id_ not in there] == [], "give its parameters an id"
