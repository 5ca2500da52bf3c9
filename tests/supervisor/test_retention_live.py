"""Retention on a real server: journal and ledger go when their time has come, never before; the audit knows why."""

import json
import time
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from nats_process import crew, linked, nats_process, until

from crewkeeper_bus import messages as m
from crewkeeper_bus.redaction import CLASSES
from crewkeeper_bus.subjects import HOST
from crewkeeper_supervisor.cli import failure, main
from crewkeeper_supervisor.core.commands import Escalate
from crewkeeper_supervisor.core.crew import Retain
from crewkeeper_supervisor.shell import (
    audit,
    audit_export,
    audit_keys,
    controller,
    heads,
    journal,
    ledger,
    owner,
    source,
)
from crewkeeper_supervisor.shell.controller import Settings
from crewkeeper_supervisor.shell.errors import RunNotFound
from crewkeeper_supervisor.shell.ledger import Ledger
from crewkeeper_supervisor.shell.nats_link import Link, connect
from crewkeeper_supervisor.shell.registry import Registry
from crewkeeper_supervisor.shell.retention import Retention

HOUR_S = 3600.0
QUICK = Settings(timing=owner.Timing(resend_s=30.0, ended_s=1))


async def ended(link: Link, run: str) -> bool:
    return any(heads.read_token(token).final for token in await heads.read(link, run))


async def has_journal(link: Link, run: str) -> bool:
    try:
        return await journal.last_seq(link, run) > 0
    except RunNotFound:
        return False


async def examined(link: Link, state: Path, run: str, now_s: float) -> audit.Report:
    found = await source.of_run(link, run)
    return await audit.examine(found, key=audit_keys.load(state), now_s=now_s)


@pytest.mark.live
async def test_a_journal_goes_when_its_time_has_come_and_the_audit_says_so(tmp_path: Path) -> None:
    async with linked(tmp_path) as (server, link):
        registry = Registry(link)
        await registry.open()
        for run, kept_s in (("short", HOUR_S), ("long", 9 * HOUR_S), ("ever", 0.0), ("open", HOUR_S)):
            retain = Retain(journal_s=kept_s, ledger_s=3 * kept_s)
            await journal.create_run(link, run, crew(retain=retain), "here")
            await registry.declare(run, "trip", "here")
            if run != "open":
                await journal.publish_op(link, run, m.RunEnded(state="done"), sender=HOST)
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: controller.serve(server.place, "one", settings=QUICK))
            for run in ("short", "long", "ever"):
                await until(lambda run=run: is_recorded(registry, link, run), 60)
            await until(lambda: is_owned(link), 60)
            group.cancel_scope.cancel()

        now_s = time.time()
        clock = [now_s]
        needed = {"short"}
        retention = Retention(link, registry, needed.__contains__, clock=lambda: clock[0])
        assert await retention.look() == [], "an hour is not over"
        assert [problem.kind for problem in (await examined(link, tmp_path, "short", now_s)).problems] == []
        clock[0] = now_s + 2 * HOUR_S
        assert await retention.look() == [], "somebody has yet to do with it"
        needed.clear()
        assert await retention.look() == ["short"]
        assert await retention.look() == []
        left = {run: await has_journal(link, run) for run in ("short", "long", "ever", "open")}
        assert left == {"short": False, "long": True, "ever": True, "open": True}

        report = await examined(link, tmp_path, "short", clock[0])
        assert (report.problems, report.proof, report.final) == ([], "whole", True)
        assert "gone by retention" in " ".join(report.remarks)
        assert report.removed == 0
        early = (await examined(link, tmp_path, "short", now_s)).first
        assert early is not None
        assert (early.kind, "it is to be kept until" in early.text) == ("deleted", True)
        await check_ledgers(link, tmp_path, retention, clock, now_s)
        for run, why in (("long", "it is to be kept until"), ("ever", "for ever"), ("open", "no signed head")):
            await link.js.delete_stream(f"CREW_{run}")
            gone = (await examined(link, tmp_path, run, clock[0])).first
            assert gone is not None
            assert (gone.kind, why in gone.text) == ("deleted", True), gone


@pytest.mark.live
async def test_nobody_without_the_key_can_order_a_journal_away(tmp_path: Path) -> None:
    async with linked(tmp_path) as (_, link):
        registry = Registry(link)
        await registry.open()
        await heads.open_stream(link)
        await journal.create_run(link, "r1", crew(), "here")
        await registry.declare("r1", "trip", "here")
        other = tmp_path / "other"
        other.mkdir(mode=0o700)
        told: dict[str, Any] = dict.fromkeys(("hash", "journal", "state", "code"), "") | {
            "run": "r1",
            "n": 1,
            "seq": 1,
            "term": 1,
            "final": True,
            "retain_journal_s": HOUR_S,
        }
        mine, stranger = audit_keys.make(tmp_path), audit_keys.make(other)
        await link.store("heads.r1", mine.sign(told).encode())
        late = lambda: time.time() + 2 * HOUR_S  # noqa: E731
        assert await Retention(link, registry, lambda _: False, clock=late).look() == [], "it is registered as running"
        await registry.set_state("r1", "done")
        for key, changes, removed in (
            (stranger, {}, []),
            (mine, {"final": False}, []),
            (mine, {"run": "r2"}, []),
            (mine, {"retain_journal_s": 0.0}, []),
            (mine, {}, ["r1"]),
        ):
            await link.store("heads.r1", key.sign(told | changes).encode())
            retention = Retention(link, registry, lambda _: False, clock=late)
            assert await retention.look() == removed, changes


async def is_recorded(registry: Registry, link: Link, run: str) -> bool:
    info = await registry.get(run)
    return info is not None and info.state == "done" and await ended(link, run)


async def is_owned(link: Link) -> bool:
    return bool(await ledger.read(link, "open"))


async def check_ledgers(link: Link, state: Path, retention: Retention, clock: list[float], now_s: float) -> None:
    """The journal of `short` is gone, its ledger is not yet."""
    kept = {run: len(await ledger.read(link, run)) for run in ("short", "long", "ever", "open")}
    assert min(kept.values()) > 0
    file = state / "short.audit.gz"
    key = audit_keys.load(state)
    header, end = await audit_export.export(
        await source.of_run(link, "short"), file, key=key, whole=False, replace=True
    )
    assert (end.records, end.entries, header.redacted) == (kept["short"], 0, CLASSES), (
        "what the crew wanted out went with the journal"
    )
    clock[0] = now_s + 3 * HOUR_S - 60
    assert await retention.look() == [], "its time has not come"
    with source.of_file(file) as found:
        report = await audit.examine(found, key=key, now_s=clock[0])
    assert (report.problems, report.proof, report.records) == ([], "whole", kept["short"])

    # Somebody has left a mark and came no further.
    clock[0] = now_s + 4 * HOUR_S
    head = heads.read_token((await heads.read(link, "short"))[-1])
    assert key is not None
    late = msgspec.structs.asdict(head) | {"removed": True, "ended_at": head.iat, "iat": int(clock[0])}
    await link.store("heads.short", key.sign({k: v for k, v in late.items() if k not in ("iss", "token")}).encode())
    report = await examined(link, state, "short", clock[0])
    assert (report.problems, report.records, report.removed) == ([], kept["short"], head.n)
    assert "still stored" in " ".join(report.remarks)
    again = Retention(link, retention._registry, lambda _: False, clock=lambda: clock[0])
    assert await again.look() == ["short"]
    assert await again.look() == []
    left = {run: len(await ledger.read(link, run)) for run in kept}
    assert left == kept | {"short": 0}
    report = await examined(link, state, "short", clock[0])
    assert (report.problems, report.proof, report.final, report.records) == ([], "whole", True, 0)
    assert (report.removed, report.proven, report.last) == (head.n, head.n, head.hash)
    assert "gone by retention" in report.remarks[0]
    with source.of_file(file) as found:
        assert (await audit.examine(found, key=key, now_s=clock[0])).problems == []


@pytest.mark.live
async def test_what_is_removed_by_hand_is_missed(tmp_path: Path) -> None:
    async with linked(tmp_path) as (_, link):
        registry = Registry(link)
        await registry.open()
        await ledger.open_stream(link)
        await heads.open_stream(link)
        mine = audit_keys.make(tmp_path)
        other = tmp_path / "other"
        other.mkdir(mode=0o700)
        stranger = audit_keys.make(other)
        book = await Ledger.open(link, "r1", term=1, owner="one")
        for number in range(1, 6):
            await book.commit([Escalate(id=f"{number}-0", incident="F1-0", kind="opened", body={})])
        await registry.declare("r1", "trip", "here")
        await registry.set_state("r1", "done")
        told: dict[str, Any] = dict.fromkeys(("journal", "state", "code"), "") | {
            "run": "r1",
            "n": book.n,
            "hash": book.head,
            "seq": 0,
            "term": 1,
            "final": True,
            "iat": 1_000_000,
            "retain_journal_s": HOUR_S,
            "retain_ledger_s": HOUR_S,
        }
        mark = told | {"removed": True, "ended_at": told["iat"], "iat": told["iat"] + int(HOUR_S)}
        last = mine.sign(told)
        records = await ledger.read(link, "r1")
        cut: list[tuple[int, tuple[str, ...], list[tuple[str, int]]]] = [
            (0, (last,), []),
            (3, (last,), [("deleted", 1)]),
            (6, (last,), [("truncated", 1)]),
            (6, (last, mine.sign(mark)), []),
            (3, (last, mine.sign(mark)), []),
            (6, (last, stranger.sign(mark)), [("truncated", 1), ("edited", 0)]),
            (6, (last, mine.sign(mark | {"iat": mark["iat"] - 1})), [("deleted", 1)]),
            (6, (last, mine.sign(mark | {"retain_ledger_s": 0.0})), [("deleted", 1)]),
            (6, (last, mine.sign(mark | {"n": 3, "hash": records[2].hash})), [("truncated", 4)]),
            (2, (last, mine.sign(mark | {"n": 3, "hash": records[2].hash})), []),
            (3, (last, mine.sign(mark | {"n": 3, "hash": records[2].hash})), []),
            (4, (last, mine.sign(mark | {"n": 3, "hash": records[2].hash})), [("deleted", 4)]),
            (3, (last, mine.sign(mark | {"n": 3, "hash": records[1].hash})), [("edited", 3)]),
            (6, (last, mine.sign(mark | {"hash": records[1].hash})), [("edited", 0)]),
        ]
        for count, tokens, wrong in cut:
            found = source.OfRun(link, "r1", records[count:], tokens)
            report = await audit.examine(found, key=mine, with_journal=False)
            assert [(problem.kind, problem.n) for problem in report.problems] == wrong, (count, wrong)

        # A ledger that does not end as its last head says is left as it is.
        retention = Retention(link, registry, lambda _: False)
        file = tmp_path / "keys" / audit_keys.AUDIT_FILE
        file.chmod(0o644)
        assert await retention.look() == [], "it goes on, although others may have read the key"
        file.chmod(0o600)
        for wrong_head in ({"n": book.n - 1}, {"hash": records[0].hash}):
            await link.store("heads.r1", mine.sign(told | wrong_head).encode())
            assert await Retention(link, registry, lambda _: False).look() == []
            assert await ledger.read(link, "r1") == records
        await link.store("heads.r1", last.encode())
        assert await retention.look() == ["r1"]
        assert await ledger.read(link, "r1") == []


@pytest.mark.live
async def test_a_stream_that_lets_nothing_be_removed_keeps_its_ledgers(tmp_path: Path) -> None:
    async with linked(tmp_path) as (_, link):
        registry = Registry(link)
        await registry.open()
        await ledger.ensure_kept(link, ledger.STREAM, "as it was made once", "ledger.*")
        await ledger.open_stream(link)
        await heads.open_stream(link)
        key = audit_keys.make(tmp_path)
        book = await Ledger.open(link, "r1", term=1, owner="one")
        await registry.declare("r1", "trip", "here")
        await registry.set_state("r1", "done")
        told = dict.fromkeys(("journal", "state", "code"), "") | {"run": "r1", "n": book.n, "hash": book.head, "seq": 0}
        more = {"term": 1, "final": True, "iat": 1000, "retain_journal_s": HOUR_S, "retain_ledger_s": HOUR_S}
        await link.store("heads.r1", key.sign(told | more).encode())
        assert await Retention(link, registry, lambda _: False).look() == []
        assert len(await ledger.read(link, "r1")) == 1
        assert len(await heads.read(link, "r1")) == 1, "nothing says that it is gone"


@pytest.mark.live
def test_lists_go_on_without_the_journals_that_are_gone(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    async def store(server: Any) -> None:
        async with connect(server.place, name="test") as link:
            registry = Registry(link)
            await registry.open()
            for run in ("r1", "r2"):
                await journal.create_run(link, run, crew(), "here")
                await registry.declare(run, "trip", "here")
            await registry.set_state("r1", "done")
            await journal.remove(link, "r1")

    with nats_process(tmp_path) as server:
        anyio.run(store, server)
        server.announce()
        monkeypatch.setenv("CREWKEEPER_STATE", str(tmp_path))
        assert main.run(["ps", "--all", "-o", "jsonl"]) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [(row["run"], row["crew"], row["state"], bool(row["seq"])) for row in rows] == [
            ("r1", "trip", "done", False),
            ("r2", "trip", "starting", True),
        ]
        assert main.run(["ps", "--all"]) == 0
        assert "1 of them: the journal is gone" in capsys.readouterr().err
        assert main.run(["incidents", "ls"]) == 0
        assert main.run(["incidents", "ls", "r1"]) == failure.NOT_FOUND
        assert "audit verify r1" in capsys.readouterr().err
