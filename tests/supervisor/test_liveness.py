"""Liveness: a loop that hangs is noticed by a thread, named, and ended; a process that was stopped is not."""

import threading
import time

import anyio
import pytest

from crewkeeper_supervisor.shell import liveness as module
from crewkeeper_supervisor.shell.errors import RunStalled
from crewkeeper_supervisor.shell.liveness import STUCK, Liveness, Progress, watching


class Clock:
    def __init__(self, monkeypatch):
        self.now_s = 100.0
        monkeypatch.setattr(module, "clock_s", lambda: self.now_s)

    def looks(self, liveness, seconds):
        for _ in range(round(seconds / module.BEAT_S)):
            self.now_s += module.BEAT_S
            liveness.look(self.now_s)


def test_a_loop_that_does_not_turn_is_told_of_once_and_then_ended(monkeypatch, capfd):
    clock, ends = Clock(monkeypatch), []
    liveness = Liveness(say_after_s=2, end_after_s=10, end=ends.append)
    clock.looks(liveness, 2)
    assert "loop.stuck" not in capfd.readouterr().err
    clock.looks(liveness, 7.5)
    told = capfd.readouterr().err
    assert told.count("loop.stuck") == 1
    assert "test_a_loop_that_does_not_turn" in told
    assert ends == []
    clock.looks(liveness, 1)
    assert set(ends) == {STUCK}


def test_a_process_that_was_stopped_gets_its_time_to_turn(monkeypatch):
    clock, ends = Clock(monkeypatch), []
    liveness = Liveness(say_after_s=2, end_after_s=10, end=ends.append)
    clock.now_s += 3600
    liveness.look(clock.now_s)
    assert ends == []
    clock.looks(liveness, 9)
    assert ends == []
    clock.looks(liveness, 2)
    assert ends


async def test_a_loop_that_hangs_is_noticed_without_the_loop():
    ended = threading.Event()

    def end(_code):
        ended.set()

    async with watching(Liveness(say_after_s=0.5, end_after_s=1.0, end=end)) as liveness:
        await anyio.sleep(module.BEAT_S / 2)  # it turns once
        until_s = time.monotonic() + 60
        while not ended.is_set() and time.monotonic() < until_s:
            time.sleep(0.05)  # noqa: ASYNC251 - this is what hangs it
        assert ended.is_set()
        await anyio.sleep(module.BEAT_S * 2)
        assert liveness.take_late_ms() > 200
    assert liveness._over.is_set(), "its thread ends with its next look"


def test_a_run_stalls_when_nothing_is_done_or_nothing_comes(monkeypatch):
    clock = Clock(monkeypatch)
    progress = Progress("r1", 30)
    clock.now_s += 29
    progress.look(5, 5)
    progress.turned()
    clock.now_s += 29
    progress.look(5, 9)  # four entries are on their way
    progress.turned()
    clock.now_s += 2
    with pytest.raises(RunStalled, match="9 entries, and none after 5 has come for 31 s"):
        progress.look(5, 9)
    progress.look(6, 9)
    clock.now_s += 31
    with pytest.raises(RunStalled, match="nothing was done for 33 s after entry 9"):
        progress.look(9, 9)
