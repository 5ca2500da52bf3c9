"""A file that is replayed is not hashed entry by entry; that it was edited shows all the same."""

import gzip
import hashlib
import json
from pathlib import Path

import pytest

from crewkeeper_supervisor.cli import failure
from crewkeeper_supervisor.cli.main import run
from crewkeeper_supervisor.shell.recording import Reader

TWO = Path(__file__).parents[1] / "data" / "recordings" / "two-agents.audit.gz"


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("CREWKEEPER_STATE", str(tmp_path / "state"))


def edited(path, *, digested):
    """The recording with one entry changed; with a digest that fits it, as somebody without the key could write it."""
    *front, last = gzip.decompress(TWO.read_bytes()).splitlines()
    at = next(number for number, line in enumerate(front) if b"17 + 25" in line)
    front[at] = front[at].replace(b"17 + 25", b"17 + 26")
    if digested:
        end = json.loads(last)
        end["end"]["sha256"] = hashlib.sha256(b"".join(line + b"\n" for line in front)).hexdigest()
        last = json.dumps(end).encode()
    path.write_bytes(gzip.compress(b"".join(line + b"\n" for line in (*front, last)), 1))
    return path


def read(path, *, chains):
    with Reader(path) as reader:
        reader.chains = chains
        entries = [entry for batch in reader.entries() for entry in batch]
        return entries, [problem.text for problem in reader.problems]


def test_entries_are_the_same_however_they_are_read():
    assert read(TWO, chains=False) == read(TWO, chains=True)


@pytest.mark.parametrize("digested", [False, True])
def test_an_edited_file_is_told_and_fails(tmp_path, capfd, digested):
    path = edited(tmp_path / "x.audit.gz", digested=digested)
    assert read(path, chains=False)[1]
    assert run(["replay", str(path)]) == failure.FAILED
    assert "the file is not as it was exported" in capfd.readouterr().err
