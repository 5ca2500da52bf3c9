"""Folders of runs: what a killed runner has left is removed by the next one, and nothing else is."""

from pathlib import Path

import pytest

from crewkeeper_supervisor.chaos.real import run_folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what a run has in it, among temporary files of this test's own."""
    monkeypatch.setattr(run_folder.tempfile, "tempdir", str(tmp_path))
    made = run_folder.make()
    (made / "state" / "runs").mkdir(parents=True)
    (made / "state" / "runs" / "log").touch()
    (made / "s1.log").touch()
    (made / "elsewhere").symlink_to(tmp_path)
    return made


def test_the_folder_of_a_killed_runner_is_removed(folder: Path) -> None:
    (folder / run_folder.MARK).touch()  # as it stays behind: nobody holds its lock
    assert run_folder.sweep() == [folder]
    assert not folder.exists()
    assert folder.parent.is_dir(), "what a link leads to stays"


def test_the_folder_of_a_run_that_goes_on_stays(folder: Path) -> None:
    with run_folder.in_use(folder):
        assert run_folder.sweep() == []
        assert (folder / "state" / "runs" / "log").exists()
        assert (folder / run_folder.MARK).exists()


def test_the_folder_of_a_run_that_is_over_stays_for_its_logs(folder: Path) -> None:
    with run_folder.in_use(folder):
        pass
    assert run_folder.sweep() == []
    assert (folder / "s1.log").exists()
    assert not (folder / run_folder.MARK).exists()


def test_what_is_no_folder_of_ones_own_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / run_folder.MARK).touch()
    link = folder.parent / f"{run_folder.PREFIX}link"
    link.symlink_to(folder)
    monkeypatch.setattr(run_folder.os, "getuid", lambda: 2**31)
    assert run_folder.sweep() == []
    monkeypatch.undo()
    assert run_folder.sweep(folder.parent) == [folder]
    assert link.is_symlink()
