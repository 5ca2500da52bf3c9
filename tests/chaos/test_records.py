"""A run that is over is decided again: what its ledger has otherwise, or not at all, is said."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from crewkeeper_supervisor.chaos.real import records
from crewkeeper_supervisor.shell import source

RECORDING = Path(__file__).resolve().parents[1] / "data" / "recordings" / "deadlock.audit.gz"


@contextmanager
def recorded(monkeypatch: pytest.MonkeyPatch, leave_out: int) -> Iterator[None]:
    """A server with a recorded run whose ledger lacks one record; negative: none."""
    with source.of_file(RECORDING) as found:
        kept = [each for each in found.records if each.kind == "Owner"]
        decided = [each for each in found.records if each.kind != "Owner"]
        if leave_out >= 0:
            del decided[leave_out]
        there = SimpleNamespace(decided=lambda: [*kept, *decided], heads=(), batches=found.batches)

        async def of_run(_link: Any, _run: str) -> Any:
            return there

        @asynccontextmanager
        async def server(_state: Path, _nats: str | None) -> AsyncIterator[None]:
            yield None

        monkeypatch.setattr(records.source, "of_run", of_run)
        monkeypatch.setattr(records, "_server", server)
        yield


async def test_a_decision_that_is_not_in_the_ledger_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(records, "TOLD_MAX", 100)
    said = []
    for leave_out in (-1, 0):
        with recorded(monkeypatch, leave_out):
            said.append(await records.differences(tmp_path, None, "run"))
    whole, lacking = said
    assert not [each for each in whole if each.endswith("not recorded")]
    (missing,) = [each for each in lacking if each.endswith("not recorded")]
    assert missing.startswith("command ")


async def test_records_that_cannot_be_read_are_no_pass(tmp_path: Path) -> None:
    (told,) = await records.differences(tmp_path, "nats://127.0.0.1:1", "run")
    assert told.startswith("they cannot be read: ")
