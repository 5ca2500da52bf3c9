"""Recordings of real runs: verified without a server; whatever single line is changed, it is found and named."""

import gzip
import hashlib
import json
import re
import shutil
import subprocess
import sys
import zlib
from functools import cache
from pathlib import Path

import anyio
import msgspec
import pytest

from crewkeeper_supervisor.cli import failure
from crewkeeper_supervisor.cli.main import run
from crewkeeper_supervisor.shell import audit, audit_export, audit_keys, chain, heads, recording, source
from crewkeeper_supervisor.shell.chain import FIRST, Record
from crewkeeper_supervisor.shell.journal import Entry
from crewkeeper_supervisor.shell.recording import Reader, RecordingError

RECORDINGS = Path(__file__).parents[1] / "data" / "recordings"
TOOLS = RECORDINGS / "tools.audit.gz"


@cache
def lines_of(path=TOOLS):
    return tuple(gzip.decompress(path.read_bytes()).splitlines())


@cache
def key_of(path=TOOLS):
    return json.loads(lines_of(path)[0])["key"]


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("CREWKEEPER_STATE", str(tmp_path / "state"))


def write(path, lines, *, honest_end=True):
    """A file of these lines; with a last line that fits them, as somebody without the key could write it."""
    *front, last = lines
    if honest_end:
        end = json.loads(last)
        whole = b"".join(line + b"\n" for line in front)
        end["end"] |= {"lines": len(front), "sha256": hashlib.sha256(whole).hexdigest()}
        last = json.dumps(end).encode()
    path.write_bytes(gzip.compress(b"".join(line + b"\n" for line in (*front, last)), 1))
    return path


def examine(path, **options):
    async def work():
        with source.of_file(path) as found:
            return await audit.examine(found, **options)

    return anyio.run(work)


def first(path, **options):
    problem = examine(path, **options).first
    return None if problem is None else (problem.kind, problem.n)


def places(what):
    """The numbers of the lines that hold records, entries or heads."""
    return [number for number, line in enumerate(lines_of()) if line.startswith(b'{"' + what.encode())]


def test_a_recorded_run_is_as_it_was_written():
    for path in RECORDINGS.glob("*.audit.gz"):
        report = examine(path, trusted=[key_of(path)])
        assert report.problems == [], path
        assert report.proof == "whole"
        assert report.proven == report.records > 1
        assert report.sealed_seq == report.entries > 10
        assert report.final
        unknown = examine(path)
        assert (unknown.problems, unknown.proof) == ([], "none")
        assert any("nothing proves" in remark for remark in unknown.remarks)


def test_a_file_of_a_stranger_is_not_trusted():
    stranger = "N" + "A" * 55
    assert any("is not known here" in str(problem) for problem in examine(TOOLS, trusted=[stranger]).problems)


def test_every_edited_record_of_a_real_log_is_named(tmp_path):
    for at in places("record"):
        line = json.loads(lines_of()[at])
        for name, value in (("command", {"id": "x"}), ("kind", "Other"), ("cause_seq", 1_000_000), ("prev", "ab" * 32)):
            changed = {"record": line["record"] | {name: value}}
            made = [*lines_of()]
            made[at] = json.dumps(changed).encode()
            assert first(write(tmp_path / "x.gz", made)) == ("edited", line["record"]["n"])


def test_every_deleted_swapped_and_inserted_record_of_a_real_log_is_named(tmp_path):
    records = places("record")
    for at in records[:-1]:
        n = json.loads(lines_of()[at])["record"]["n"]
        made = [*lines_of()]
        made[at], made[at + 1] = made[at + 1], made[at]
        assert first(write(tmp_path / "x.gz", made)) == ("swapped", n)
        made = [*lines_of()]
        del made[at]
        assert first(write(tmp_path / "x.gz", made)) == ("deleted", n)
        made = [*lines_of()]
        made.insert(at + 1, made[at])
        assert first(write(tmp_path / "x.gz", made)) == ("inserted", n + 1)


def test_every_cut_of_a_real_ledger_is_named_by_its_head(tmp_path):
    records = places("record")
    for at in records[1:]:
        n = json.loads(lines_of()[at])["record"]["n"]
        made = [line for number, line in enumerate(lines_of()) if number not in records or number < at]
        assert first(write(tmp_path / "x.gz", made)) == ("truncated", n)
        # Without the stored heads only one that was kept elsewhere can tell.
        headless = [line for line in made if not line.startswith(b'{"head"')]
        token = json.loads(lines_of()[places("head")[-1]])["head"]
        headless[-1] = json.dumps(json.loads(headless[-1]) | {"signed": ""}).encode()
        path = write(tmp_path / "y.gz", headless)
        assert first(path, kept=token) == ("truncated", n)
        assert first(path) is None


def test_a_ledger_that_is_gone_with_its_heads_is_missed_by_the_orders_in_the_journal(tmp_path):
    gone = {*places("record"), *places("head")}
    made = [line for number, line in enumerate(lines_of()) if number not in gone]
    made[-1] = json.dumps(json.loads(made[-1]) | {"signed": ""}).encode()
    assert first(write(tmp_path / "x.gz", made)) == ("deleted", 1)


def test_a_journal_that_is_taken_out_of_a_file_is_missed_unless_its_time_is_over(tmp_path):
    made = [line for number, line in enumerate(lines_of()) if number not in places("entry")]
    end = json.loads(made[-1])
    made[-1] = json.dumps({"end": end["end"] | {"entries": 0, "journal": "00" * 32}, "signed": ""}).encode()
    (problem,) = examine(write(tmp_path / "x.gz", made)).problems
    assert (problem.kind, "for ever" in problem.text) == ("deleted", True)


def test_a_ledger_written_anew_without_the_key_contradicts_its_head(tmp_path):
    made, head = [], FIRST
    for line in lines_of():
        if line.startswith(b'{"record"'):
            record = msgspec.json.decode(line, type=_Line).record
            command = record.command | {"more": 1} if record.n == 5 else record.command
            record = msgspec.structs.replace(record, command=command, digest=chain.digest_of(command), prev=head)
            record = msgspec.structs.replace(record, hash=chain.digest(record))
            head = record.hash
            line = msgspec.json.encode({"record": record})
        made.append(line)
    report = examine(write(tmp_path / "x.gz", made))
    assert report.first is not None
    assert report.first.kind == "edited"
    assert "head" in report.first.text


def test_a_ledger_written_anew_without_codes_and_heads_is_said_to_be_without(tmp_path):
    made, head = [], FIRST
    for line in lines_of():
        if line.startswith(b'{"head"'):
            continue
        if line.startswith(b'{"record"'):
            record = msgspec.json.decode(line, type=_Line).record
            command = record.command | ({"key": ""} if record.kind == "Owner" else {"more": 1})
            record = msgspec.structs.replace(
                record, command=command, digest=chain.digest_of(command), prev=head, mac=""
            )
            record = msgspec.structs.replace(record, hash=chain.digest(record))
            head = record.hash
            line = msgspec.json.encode({"record": record})
        made.append(line)
    made[-1] = json.dumps(json.loads(made[-1]) | {"signed": ""}).encode()
    path = write(tmp_path / "x.gz", made)
    report = examine(path, trusted=[key_of()])
    assert (report.problems, report.proof) == ([], "none")
    verify = ["audit", "verify", "--key", key_of()]
    assert [run([*verify, str(path)]), run([*verify, "--proven", str(path)])] == [0, 1]
    assert run([*verify, "--proven", str(TOOLS)]) == 0
    assert f"{report.records} records have no code, number 1 is the first" in " ".join(report.remarks)


def test_the_ledger_of_another_run_is_named(tmp_path):
    other = RECORDINGS / "rules.audit.gz"
    theirs = [line for line in lines_of(other) if line.startswith((b'{"record"', b'{"head"'))]
    ours = [line for line in lines_of() if not line.startswith((b'{"record"', b'{"head"'))]
    report = examine(write(tmp_path / "x.gz", [ours[0], *theirs, *ours[1:]]), trusted=[key_of(other), key_of()])
    assert report.first is not None
    assert (report.first.kind, report.first.n) == ("inserted", 1)
    assert any("a stored head is of run" in problem.text for problem in report.problems)


class _Line(msgspec.Struct):
    record: Record


def test_every_changed_entry_of_a_real_journal_is_named(tmp_path):
    for at in places("entry"):
        line = json.loads(lines_of()[at])
        seq, at_s, subject, payload = line["entry"]
        for changed in ([seq, at_s + 1e-6, subject, payload], [seq, at_s, subject + "x", payload]):
            made = [*lines_of()]
            made[at] = json.dumps(line | {"entry": changed}).encode()
            assert first(write(tmp_path / "x.gz", made)) == ("edited", seq)
        made = [*lines_of()]
        del made[at]
        last = at == places("entry")[-1]
        assert first(write(tmp_path / "x.gz", made)) == ("truncated" if last else "deleted", seq)
        made = [*lines_of()]
        made.insert(at, made[at])
        assert first(write(tmp_path / "x.gz", made)) == ("inserted", seq + 1)


def test_a_journal_written_anew_contradicts_its_head(tmp_path):
    known, made = heads.START, []
    for line in lines_of():
        if line.startswith(b'{"entry"'):
            told = json.loads(line)
            seq, at_s, subject, payload = told["entry"]
            if seq == 20:
                payload = payload.replace('"', '" ', 1)
                told["entry"][3] = payload
            was = bytes.fromhex(told["was"]) if "was" in told else heads.sha256(payload.encode())
            known = heads.next_hash(known, seq, at_s, subject, was)
            line = json.dumps(told | {"mark": known.hex()[:8]}).encode()
        elif line.startswith(b'{"end"'):
            told = json.loads(line)
            told["end"]["journal"] = known.hex()
            line = json.dumps(told).encode()
        made.append(line)
    report = examine(write(tmp_path / "x.gz", made))
    assert any("of the journal are not those of the head" in problem.text for problem in report.problems)


def test_changed_heads_are_named(tmp_path):
    for at in places("head"):
        token = json.loads(lines_of()[at])["head"]
        front, body, signature = token.split(".")
        for forged in (f"{front}.{body[:-4]}AAAA.{signature}", f"{front}.{body}.{signature[:-4]}AAAA", "x.y.z", ""):
            made = [*lines_of()]
            made[at] = json.dumps({"head": forged or " "}).encode()
            assert any("head is wrong" in problem.text for problem in examine(write(tmp_path / "x.gz", made)).problems)


def test_a_file_with_a_changed_byte_or_end_is_refused_or_named(tmp_path):
    packed = TOOLS.read_bytes()
    path = tmp_path / "x.gz"
    for at in (*range(12, len(packed), max(1, len(packed) // 60)), *range(len(packed) - 12, len(packed))):
        path.write_bytes(packed[:at] + bytes([packed[at] ^ 0x41]) + packed[at + 1 :])
        assert refused_or_named(path), at
        path.write_bytes(packed[:at])
        assert refused_or_named(path), at
    path.write_bytes(packed + b"x")
    assert refused_or_named(path)
    write(path, lines_of()[:-1], honest_end=False)
    assert first(path)[0] == "truncated"


def refused_or_named(path):
    try:
        return bool(examine(path).problems)
    except RecordingError:
        return True


@pytest.mark.parametrize(
    "content", [b"", b"text", *(gzip.compress(data, mtime=0) for data in (b"", b"{}\n", b"\0" * 99))]
)
def test_what_is_no_recording_is_refused(tmp_path, content, capfd):
    path = tmp_path / "x.gz"
    path.write_bytes(content)
    with pytest.raises(RecordingError):
        Reader(path)
    assert run(["audit", "verify", str(path)]) == failure.INVALID
    assert str(path) in capfd.readouterr().err


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "FREE_BYTES", 1024 * 1024)
    bomb = tmp_path / "x.gz"
    pack = zlib.compressobj(9, zlib.DEFLATED, 31)
    with bomb.open("wb") as file:
        file.write(pack.compress(lines_of()[0] + b"\n"))
        for _ in range(64):
            file.write(pack.compress(b'{"head":""}\n' * 100_000))
        file.write(pack.flush())
    with pytest.raises(RecordingError, match="300 times its size"):
        examine(bomb)
    monkeypatch.setattr(recording, "LINE_MAX_BYTES", 1000)
    monkeypatch.setattr(recording, "_OUT_BYTES", 500)
    with pytest.raises(RecordingError, match="longer than"):
        examine(TOOLS)


def test_an_imported_run_is_known_by_its_id_until_it_is_damaged(tmp_path, capfd):
    name = json.loads(lines_of()[0])["run"]
    damaged = write(tmp_path / "x.gz", lines_of()[:-2] + lines_of()[-1:])
    assert run(["audit", "import", str(damaged)]) == failure.FAILED
    assert "truncated" in capfd.readouterr().err
    assert run(["audit", "import", str(TOOLS)]) == 0
    assert capfd.readouterr().out.strip() == name
    assert run(["audit", "import", str(TOOLS)]) == failure.USAGE
    assert run(["audit", "verify", name, "-o", "json"]) == 0
    assert json.loads(capfd.readouterr().out)["records"] == len(places("record"))
    shutil.copy(damaged, tmp_path / "state" / "imported" / f"{name}.audit.gz")
    assert run(["audit", "verify", name]) == failure.FAILED
    assert "truncated" in capfd.readouterr().out
    assert run(["audit", "verify", "unknown-1"]) == failure.UNREACHABLE
    assert run(["audit", "verify", "no/such.gz"]) == failure.NOT_FOUND


class Told:
    """A source of things made up."""

    heads: tuple[str, ...] = ()
    where = "made up"
    run = "r1"
    redacted: tuple[int, ...] = ()
    altered: tuple[int, ...] = ()

    def __init__(self, records, entries):
        self.records, self.entries = records, entries
        self.wanted, self.hashes = set(), {}

    async def batches(self):
        yield self.entries


def test_secrets_are_taken_out_told_and_the_rest_stays_verifiable(tmp_path):
    key = audit_keys.make(tmp_path)
    secret = "AKIA" + "IOSFODNN7EXAMPLQ"
    command = {"id": "1-0", "why": f"it said {secret}"}
    record = Record(run="r1", n=1, id="1-0", kind="TellAgent", term=1, prev=FIRST, v=2, command=command)
    record = msgspec.structs.replace(record, digest=chain.digest_of(command))
    record = msgspec.structs.replace(record, hash=chain.digest(record))
    record = msgspec.structs.replace(record, mac=key.code(record.hash))
    declared = {"t": "run_declared", "crew": {"name": "c", "redact": {"key": "ab" * 32}}, "host": "h"}
    payloads = [
        json.dumps(declared).encode(),
        json.dumps({"body": secret}).encode(),
        b"\xff\x00 " + secret.encode() + b" \xfe",
        b'{"plain":"text"}',
    ]
    entries = [Entry(n, 1000.0 + n, f"crew.r1.msg.a.b.x{n}", payload) for n, payload in enumerate(payloads, 1)]
    path, whole = tmp_path / "x.gz", tmp_path / "whole.gz"

    async def work():
        await audit_export.export(Told([record], entries), path, key=key, whole=False, replace=False)
        with pytest.raises(FileExistsError):
            await audit_export.export(Told([record], entries), path, key=key, whole=False, replace=False)
        return await audit_export.export(Told([record], entries), whole, key=key, whole=True, replace=False)

    header, end = anyio.run(work)
    assert (header.redacted, end.redacted_records, end.redacted_entries) == ((), 0, 0)
    with Reader(whole) as reader:
        assert [entry for batch in reader.entries() for entry in batch] == entries
    text = gzip.decompress(path.read_bytes())
    assert secret.encode() not in text
    assert b"ab" * 32 not in text
    report = examine(path, key=key)
    assert (report.problems, report.proof) == ([], "whole")
    assert (report.redacted_records, report.redacted_entries) == (1, 3)
    with Reader(path) as reader:
        (batch,) = reader.entries()
        assert reader.header.redacted == ("secrets",)
        assert batch[3] == entries[3]
        assert batch[2].payload.startswith(b"\xff\x00 [redacted:")
        assert reader.journal.hex() == end.journal


def test_the_page_shows_how_to_check_a_file_by_hand(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "ledger.md").read_text()
    (program,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    said = subprocess.run([sys.executable, "-c", program, TOOLS], capture_output=True, text=True, check=True).stdout
    newest = heads.read_token(json.loads(lines_of()[places("head")[-1]])["head"])
    assert newest.hash in said
    assert newest.journal in said
    made = [*lines_of()]
    made[places("record")[4]] = made[places("record")[4]].replace(b'"durable":true', b'"durable":false')
    damaged = write(tmp_path / "x.gz", made)
    assert subprocess.run([sys.executable, "-c", program, damaged], capture_output=True, check=False).returncode == 1
