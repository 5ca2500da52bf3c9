"""Orphan guard: whole groups end with their starter; otherwise a guarded process is like any other."""

import contextlib
import os
import signal
import subprocess
import sys

import anyio
import pytest

from crewkeeper_bus import orphan_guard
from crewkeeper_bus.orphan_guard import kill_group, open_guarded, popen_guarded, release
from support.bus import until

pytestmark = pytest.mark.live

STARTER = """
import asyncio, signal, sys
from crewkeeper_bus.orphan_guard import open_guarded, popen_guarded
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so would we
tree = "trap '' TERM HUP INT; sleep 1000 & echo $$ $!; wait"
async def main():
    popen_guarded(["sh", "-c", tree])
    await open_guarded(["sh", "-c", tree], stdout=None, stderr=None)
    await asyncio.sleep(1000)
asyncio.run(main())
"""


def gone(pid):
    """Whether the process is over (a zombie is)."""
    listed = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return not listed.strip() or listed.strip().startswith("Z")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
async def test_whole_groups_end_with_their_starter_however_it_ends(number):
    async with await anyio.open_process([sys.executable, "-c", STARTER], stderr=subprocess.DEVNULL) as starter:
        printed = b""
        with anyio.fail_after(120):
            while printed.count(b"\n") < 2:
                printed += await starter.stdout.receive()
        pids = [int(each) for each in printed.split()]
        assert len(pids) == 4
        assert not any(gone(pid) for pid in pids)
        os.kill(starter.pid, number)
        try:
            await until(lambda: all(gone(pid) for pid in pids), f"{pids} are over")
        finally:
            with contextlib.suppress(ProcessLookupError):
                starter.kill()


async def test_a_guarded_process_is_the_program_itself_in_a_group_of_its_own(tmp_path):
    out = tmp_path / "out"
    with out.open("wb") as stream:
        process = popen_guarded(
            [sys.executable, "-c", "import os; print(os.getpid(), os.getpgrp(), os.read(0, 1)); raise SystemExit(7)"],
            stdout=stream,
            cwd=tmp_path,
            env={**os.environ, "X": "1"},
        )
    assert process.wait(timeout=120) == 7
    release(process.pid)
    assert out.read_text().split() == [str(process.pid), str(process.pid), "b''"]
    again = await open_guarded(["sh", "-c", 'exit "$1"', "sh", "9"])
    with anyio.fail_after(120):
        assert await again.wait() == 9
    release(again.pid)
    await again.aclose()
    assert not kill_group(again.pid, signal.SIGTERM)


def test_arguments_reach_the_program_untouched():
    hostile = ["a b", "$(exit 3)", "'\"", "*", "", "\n", "-n", "é"]
    process = popen_guarded(
        [sys.executable, "-c", "import sys; print(ascii(sys.argv[1:]))", *hostile], stdout=subprocess.PIPE
    )
    printed, _ = process.communicate(timeout=120)
    release(process.pid)
    assert printed.decode().strip() == ascii(hostile)


def test_a_program_that_does_not_exist_exits_with_127():
    process = popen_guarded(["/nonexistent/program"], stderr=subprocess.DEVNULL)
    assert process.wait(timeout=120) == 127
    release(process.pid)


async def test_a_watcher_that_was_killed_is_replaced_and_knows_the_older_groups():
    script = STARTER.replace(
        'await open_guarded(["sh"',
        "import crewkeeper_bus.orphan_guard as g; g._WATCHER._process.kill(); g._WATCHER._process.wait()\n"
        '    await open_guarded(["sh"',
    )
    assert script != STARTER
    async with await anyio.open_process([sys.executable, "-c", script], stderr=subprocess.DEVNULL) as starter:
        printed = b""
        with anyio.fail_after(120):
            while printed.count(b"\n") < 2:
                printed += await starter.stdout.receive()
        starter.kill()
        await until(lambda: all(gone(int(each)) for each in printed.split()), "all are over")


def test_a_released_group_is_left_alone_by_the_watcher():
    process = popen_guarded(["sleep", "1000"])
    assert process.pid in orphan_guard._WATCHER._groups
    release(process.pid)
    assert process.pid not in orphan_guard._WATCHER._groups
    assert kill_group(process.pid, signal.SIGKILL)
    assert process.wait(timeout=120) == -signal.SIGKILL


def test_a_process_that_ends_leaves_nothing_of_its_watcher_to_be_complained_of():
    program = "from crewkeeper_bus.orphan_guard import popen_guarded; popen_guarded(['true']).wait()"
    done = subprocess.run([sys.executable, "-X", "dev", "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
