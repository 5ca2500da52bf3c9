"""Log files of children: private, bounded, and never the reason why something dies."""

import stat
from pathlib import Path

import pytest

from crewkeeper_supervisor.shell.logs import LogFile


def test_log_is_private_and_appended(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "planner.log"
    for text in (b"one\n", b"two\n"):
        log = LogFile(path)
        log.write(text)
        log.close()
    assert path.read_bytes() == b"one\ntwo\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_log_is_bounded_by_one_rotation(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    log = LogFile(path, limit_bytes=100)
    for number in range(50):
        log.write(b"%02d" % number * 10)
    log.close()
    assert path.stat().st_size <= 100
    assert (tmp_path / "a.log.1").stat().st_size <= 100
    assert path.read_bytes().endswith(b"49" * 10)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.log", "a.log.1"]


def test_a_log_that_cannot_be_written_counts_and_goes_on(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "a.log")
    log.close()
    log.write(b"lost")
    assert log.lost_bytes == 4
    log.close()


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "a.log").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic"):
        LogFile(tmp_path / "a.log")
    assert victim.read_text() == "mine"
