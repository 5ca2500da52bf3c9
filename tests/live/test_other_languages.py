"""The example in another language, which was written from docs/protocol.md alone, deadlocks, is freed and finishes."""

import shutil
from pathlib import Path

import pytest

from crewkeeper_supervisor.cli.main import run
from support.up import up

pytestmark = pytest.mark.live

EXAMPLE = Path(__file__).parents[2] / "examples" / "node"


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node on this machine")
def test_agents_without_a_client_library_are_members_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in EXAMPLE.iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path)
    with up(tmp_path, monkeypatch) as crew:
        crew.wait_for(lambda: "the run is over: done: the work is done" in crew.log.read_text())
        crew.wait_for(lambda: " done in " in crew.log.read_text())
    said = crew.log.read_text()
    assert ": adder → asker → adder" in said
    assert "asker: 17 + 25 = 42 things" in said
    capsys.readouterr()
    assert run(["incidents", "ls", "-o", "jsonl"]) == 0
    found = capsys.readouterr().out.splitlines()
    assert len(found) == 1, "a message of theirs is malformed, or out of order"
    assert '"deadlock"' in found[0]
