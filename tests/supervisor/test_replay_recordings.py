"""Recorded runs replayed: old journals give the same decisions under this code, and any moment of them can be seen."""

import gzip
import json
from pathlib import Path

import anyio
import msgspec
import pytest

from crewkeeper_supervisor.cli import failure
from crewkeeper_supervisor.cli.main import run
from crewkeeper_supervisor.shell import source
from crewkeeper_supervisor.shell.code_version import code_version
from crewkeeper_supervisor.shell.heads import Head, read_token
from crewkeeper_supervisor.shell.recording import Reader
from crewkeeper_supervisor.views import replay as views
from crewkeeper_supervisor.views.replay import Replay

RECORDINGS = sorted((Path(__file__).parents[1] / "data" / "recordings").glob("*.audit.gz"))
TOOLS = next(path for path in RECORDINGS if path.name.startswith("tools"))
DEADLOCK = next(path for path in RECORDINGS if path.name.startswith("deadlock"))
each = pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name.partition(".")[0])


def everything(path):
    with Reader(path) as reader:
        entries = [entry for batch in reader.entries() for entry in batch]
        return reader.header.run, list(reader.records), list(reader.heads), entries


def replayed(run, records, tokens, entries, **options):
    replaying = Replay(run, records, tokens, **options)
    replaying.take(entries)
    return replaying.finish()


@each
def test_an_old_journal_gives_the_same_decisions(path):
    found = replayed(*everything(path))
    assert found.differences == [], "if decisions were meant to change: make recordings"
    assert found.entries > 10
    assert found.decisions == found.recorded > 0
    assert found.states + found.states_skipped == 1


@each
def test_every_decision_left_out_added_or_changed_is_found(path):
    name, records, tokens, entries = everything(path)
    for at, record in enumerate(records):
        if record.kind == "Owner":
            continue
        found = replayed(name, records[:at] + records[at + 1 :], tokens, entries)
        if any(later.cause_seq > record.cause_seq for later in records):
            assert [(d.kind, d.id) for d in found.differences] == [("not recorded", record.id)]
        changed = msgspec.structs.replace(record, command=record.command | {"why": "another"}, digest="00" * 32)
        found = replayed(name, [*records[:at], changed, *records[at + 1 :]], tokens, entries)
        assert [(d.kind, d.id, d.n) for d in found.differences] == [("decided otherwise", record.id, record.n)]
        added = msgspec.structs.replace(record, id="7-77")
        found = replayed(name, [*records, added], tokens, entries)
        assert [(d.kind, d.id) for d in found.differences] == [("not decided", "7-77")]
        if len(entries) > 100:
            break  # the short ones are tried in full


def test_a_changed_journal_gives_other_decisions():
    name, records, tokens, entries = everything(TOOLS)
    at = next(n for n, entry in enumerate(entries) if b'"order-3"' in entry.payload or ".order-3" in entry.subject)
    entries[at] = entries[at]._replace(payload=entries[at].payload.replace(b'"bread"', b'"water"'))
    if entries[at].payload.find(b"water") < 0:
        entries[at] = entries[at]._replace(payload=b"{}")
    assert replayed(name, records, tokens, entries).differences


def test_a_signed_state_is_held_against_the_fold_of_the_same_program(monkeypatch):
    name, records, tokens, entries = everything(DEADLOCK)
    monkeypatch.setattr(views, "code_version", lambda: read_token(tokens[-1]).code)
    whole = replayed(name, records, tokens, entries)
    assert whole.states == 1
    wrong = msgspec.structs.replace(read_token(tokens[-1]), state="00" * 32)
    monkeypatch.setattr(views, "read_token", lambda token: wrong)
    found = replayed(name, records, tokens, entries)
    assert [d.kind for d in found.differences if d.kind == "another state"] == ["another state"]
    assert isinstance(wrong, Head)


def test_the_last_decision_may_be_left_undone():
    name, records, _, entries = everything(TOOLS)
    last = records[-1]
    cut = [entry for entry in entries if entry.seq <= last.cause_seq]
    found = replayed(name, [record for record in records if record.cause_seq < last.cause_seq], (), cut)
    assert found.differences == []
    assert found.undone >= 1


def test_placeholders_are_compared_without_their_hashes_in_a_redacted_copy():
    name, records, tokens, entries = everything(DEADLOCK)
    told = next(record for record in records if record.kind == "TellAgent")
    message = told.command["message"] | {"why": "[redacted:card]"}
    hidden = msgspec.structs.replace(told, command=told.command | {"message": message})
    others = [hidden if record is told else record for record in records]
    assert replayed(name, others, tokens, entries).differences
    # The digest of what stood there is left where a command was redacted.
    found = replayed(name, others, tokens, entries, redacted=[told.n], altered=[3])
    assert found.differences == []
    assert found.states_skipped == 1
    lost = msgspec.structs.replace(hidden, digest="00" * 32)
    found = replayed(name, [lost if r is hidden else r for r in others], (), entries, redacted=[told.n], altered=[1, 2])
    assert [d.after_redaction for d in found.differences] == [True]
    assert views._bare("[redacted:card:0123456789ab]") == views._bare("[redacted:card]")


def test_the_command_says_whether_all_is_the_same(tmp_path, capfd):
    assert run(["replay", str(TOOLS)]) == 0
    assert "every decision is the same" in capfd.readouterr().out
    lines = gzip.decompress(TOOLS.read_bytes()).splitlines()
    at = next(n for n, line in enumerate(lines) if b'"refuse"' in line and line.startswith(b'{"record"'))
    lines[at] = lines[at].replace(b'"refuse"', b'"reserve"')
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"\n".join(lines) + b"\n"))
    assert run(["replay", str(path), "-o", "json"]) == failure.FAILED
    captured = capfd.readouterr()
    told = json.loads(captured.out)
    assert "not as it was exported" in captured.err
    (difference,) = [d for d in told["differences"] if d["kind"] == "decided otherwise"]
    assert difference["recorded"]["booking"]["act"] == "reserve"
    assert run(["replay", str(path)]) == failure.FAILED
    assert "booking.act" in capfd.readouterr().out


def test_a_moment_shows_what_stood_then(capfd):
    _, _, _, entries = everything(DEADLOCK)
    closed = next(entry.seq for entry in entries if b'"t":"break"' in entry.payload)
    assert run(["replay", str(DEADLOCK), "--until", str(closed)]) == 0
    shown = capfd.readouterr().out
    assert f"at entry {closed}," in shown
    assert "DEADLOCK: " in shown
    assert "deadlock F" in shown
    assert run(["replay", str(DEADLOCK), "--until", "+10m", "-o", "json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["view"]["state"] == "done"
    assert run(["replay", str(DEADLOCK), "--until", "2001-01-01T00:00:00Z"]) == 0
    assert "nothing was recorded yet" in capfd.readouterr().out
    assert run(["replay", str(DEADLOCK), "--until", "99999"]) == failure.NOT_FOUND
    assert run(["replay", str(DEADLOCK), "--until", "soon"]) == failure.USAGE
    assert run(["replay", str(DEADLOCK), "--until", "5", "--step"]) == failure.USAGE


def test_two_moments_are_compared_in_either_order(capfd):
    assert run(["replay", str(DEADLOCK), "--diff", "2", "+10m"]) == 0
    shown = capfd.readouterr().out
    assert "~ run" in shown
    assert "starting -> done" in shown
    assert "+ finding F" in shown
    assert run(["replay", str(DEADLOCK), "--diff", "+10m", "2", "-o", "json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert {"what": "run", "name": everything(DEADLOCK)[0], "before": "done", "after": "starting"} in told
    assert run(["replay", str(DEADLOCK), "--diff", "7", "7"]) == 0
    assert "nothing that is shown has changed" in capfd.readouterr().out


@each
def test_every_step_is_told_with_its_decisions(path, capfd):
    _, records, _, entries = everything(path)
    assert run(["replay", str(path), "--step", "-o", "jsonl"]) == 0
    steps = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [step["seq"] for step in steps] == [entry.seq for entry in entries]
    decided = {d["id"] for step in steps for d in step["decisions"]}
    assert {record.id for record in records if record.kind != "Owner"} <= decided
    assert run(["replay", str(path), "--step"]) == 0
    assert "\x1b" not in capfd.readouterr().out


def test_the_version_of_the_code_is_of_its_sources():
    assert len(code_version()) == 16
    assert int(code_version(), 16)


def test_a_source_of_a_file_gives_what_the_file_has():
    async def work():
        with source.of_file(TOOLS) as found:
            return [entry async for batch in found.batches() for entry in batch]

    assert anyio.run(work) == everything(TOOLS)[3]
