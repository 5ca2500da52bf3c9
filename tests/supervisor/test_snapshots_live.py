"""Snapshots on a real server: a successor goes on from one, and from entry 1 wherever it cannot be certain of it."""

import contextlib
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from nats_process import crew, linked, until

from crewkeeper_bus import claims, codec, subjects
from crewkeeper_bus import messages as m
from crewkeeper_bus.subjects import HOST, Kind
from crewkeeper_supervisor.cli import runs
from crewkeeper_supervisor.core.snapshot import SnapshotError
from crewkeeper_supervisor.core.supervisor import Supervisor
from crewkeeper_supervisor.gate.rules import make_fold
from crewkeeper_supervisor.shell import audit, audit_keys, controller, heads, journal, ledger, owner, snapshots, source
from crewkeeper_supervisor.shell.controller import Settings
from crewkeeper_supervisor.shell.effects import Effects
from crewkeeper_supervisor.shell.journal import Entry
from crewkeeper_supervisor.shell.ledger import Ledger
from crewkeeper_supervisor.shell.nats_link import Link
from crewkeeper_supervisor.shell.registry import Registry
from crewkeeper_supervisor.shell.snapshots import Kept, Pace, Snapshots
from crewkeeper_supervisor.views.fold import Fold
from crewkeeper_supervisor.views.replay import Replay
from crewkeeper_supervisor.views.snapshot import snapshot

PACE = Pace(entries=20, gap_s=0.0)
OFTEN = Settings(timing=owner.Timing(resend_s=30.0, ended_s=1, snapshots=PACE))


def progress(run: str, number: int) -> tuple[str, bytes]:
    message = m.OperatorAsked(action="pause" if number % 2 else "resume", agent="a", by="test", why=str(number))
    return subjects.build(run, Kind.OP, subjects.SUPERVISOR, subjects.SUPERVISOR, f"p{number}"), codec.encode(message)


async def told(link: Link, run: str, count: int) -> list[Entry]:
    """A journal with so many entries."""
    await journal.create_run(link, run, crew(), "here")
    for number in range(count - 1):
        await link.publish(*progress(run, number))
    await until(lambda: is_at(link, run, count))
    return await journal.read_all(link, run)


async def is_at(link: Link, run: str, count: int) -> bool:
    return await journal.last_seq(link, run) >= count


async def kept(link: Link, run: str, entries: list[Entry], at: int) -> Supervisor:
    """Have a snapshot at this entry stored; returns the core that was."""
    core, hash_ = make_fold(run), heads.START
    for entry in entries[:at]:
        core.handle(core.read(*entry))
        hash_ = heads.next_hash(hash_, *entry[:3], heads.sha256(entry.payload))
    keeper = Snapshots(link, run, 1, PACE)
    async with anyio.create_task_group() as group:
        group.start_soon(keeper.work)
        keeper.look(core, (at, hash_), entries[at - 1])
        await until(lambda: is_kept(link, run, at))
        await until(lambda: keeper._taken is None)  # the one before is gone, too
        group.cancel_scope.cancel()
    return core


async def is_kept(link: Link, run: str, at: int) -> bool:
    last = await link.last(snapshots.STREAM, f"snapshots.{run}.head")
    return last is not None and claims.signed_by((last.data or b"").decode(), "server")["seq"] == at


@pytest.mark.live
async def test_who_goes_on_from_a_snapshot_knows_what_the_whole_fold_knows(tmp_path: Path, monkeypatch: Any) -> None:
    async with linked(tmp_path) as (_, link):
        await snapshots.open_stream(link)
        entries = await told(link, "r1", 60)
        core = await kept(link, "r1", entries, 25)
        core = await kept(link, "r1", entries, 50)
        fold = make_fold("r1")
        found = await Snapshots(link, "r1", 2).load(fold)
        assert found is not None
        assert (found.seq, fold.digest()) == (50, core.digest())
        for entry in entries[50:]:
            assert fold.handle(fold.read(*entry)) == core.handle(core.read(*entry))
        assert fold.snapshot() == core.snapshot()
        stored = await link.js.stream_info(snapshots.STREAM, subjects_filter="snapshots.r1.*")
        assert set(stored.state.subjects or {}) == {"snapshots.r1.50-1", "snapshots.r1.head"}, "the old one is gone"

        await looked_at(link, core, monkeypatch)

        # Whatever is not certain is not used, and the fold is left as it was.
        await refused(link, "another version", lambda: monkeypatch.setattr(snapshots, "code_version", lambda: "0" * 16))
        monkeypatch.undo()
        other = tmp_path / "other"
        other.mkdir(mode=0o700)
        stranger = audit_keys.make(other)
        key = audit_keys.make(tmp_path)
        head = {name: value for name, value in msgspec.structs.asdict(found).items() if name != "iss"}
        for changes, why, signer in (
            ({}, "a key that is not known here", stranger),
            ({"entry": "00"}, "is not the one it was taken at", key),
            ({"seq": 49}, "is not the one it was taken at", key),
            ({"seq": 5000}, "has no entry 5000", key),
            ({"run": "r2"}, "it is of run r2", key),
            ({"format": 0}, "another version", key),
            ({"state": "00"}, "another state than was written", key),
            ({"sha256": "00"}, "not what its head names", key),
            ({"parts": 2}, "not what its head names", key),
            ({"at": "7-7"}, "not what its head names", key),
            ({"bytes": head["bytes"] - 1}, "another size", key),
            ({"bytes": None}, "cannot be read", key),
        ):
            await link.store("snapshots.r1.head", signer.sign(head | changes).encode())
            await refused(link, why)
        await link.store("snapshots.r1.head", b"rubbish")
        await refused(link, "cannot be read")
        for what in ("snapshot", "digest"):
            broken = make_fold("r1")
            monkeypatch.setattr(broken, what, lambda: {}["a fault of ours"])
            Snapshots(link, "r1", 3, PACE).look(broken, (50, heads.START), entries[49])
        await link.store("snapshots.r1.head", key.sign(head).encode())
        broken = make_fold("r1")
        monkeypatch.setattr(broken, "restore", lambda *_: {}["a fault of ours"])
        assert await Snapshots(link, "r1", 3).load(broken) is None
        file = tmp_path / "keys" / audit_keys.AUDIT_FILE
        file.chmod(0o644)
        with pytest.raises(SnapshotError, match="mode 0644"):
            await snapshots.read(link, "r1")
        file.chmod(0o600)
        await snapshots.remove(link, "r1")
        await refused(link, "there is none yet")


async def looked_at(link: Link, core: Supervisor, monkeypatch: Any) -> None:
    """Commands that show the state show the same, and read less."""
    shown = []
    for long_entries, read in ((1000, 60), (10, 10)):
        monkeypatch.setattr(runs, "LONG_ENTRIES", long_entries)
        fed: list[int] = []
        feed = Fold.feed
        monkeypatch.setattr(Fold, "feed", lambda self, entry, fed=fed, feed=feed: fed.append(1) or feed(self, entry))
        fold = await runs.folded(link, "r1")
        monkeypatch.undo()
        assert (len(fed), fold.supervisor.digest()) == (read, core.digest())
        shown.append(snapshot(fold, now_s=fold.last_at_s))
    assert shown[0] == shown[1]


async def refused(link: Link, why: str, before: Any = lambda: None) -> None:
    before()
    fold = make_fold("r1")
    untouched = fold.digest()
    with pytest.raises(SnapshotError, match=why):
        await begun(link, fold)
    assert await Snapshots(link, "r1", 2).load(fold) is None
    assert fold.digest() == untouched


async def begun(link: Link, fold: Supervisor) -> None:
    found, data = await snapshots.read(link, "r1")
    fold.restore(data, found.state)


@contextlib.asynccontextmanager
async def serving(server: Any, name: str) -> Any:
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: controller.serve(server.place, name, settings=OFTEN))
        yield
        group.cancel_scope.cancel()


@pytest.mark.live
async def test_a_controller_goes_on_where_another_was_without_a_seam(tmp_path: Path, monkeypatch: Any) -> None:
    loaded: list[Kept | None] = []
    load = Snapshots.load

    async def watched(self: Snapshots, fold: Any) -> Kept | None:
        loaded.append(await load(self, fold))
        return loaded[-1]

    opened: list[tuple[set[str], set[str]]] = []
    open_ = Ledger.open

    async def compared(link: Link, run: str, **options: Any) -> Ledger:
        """Opened as asked for, and whole by the same owner before: who reads less must know the same."""
        whole = await open_(link, run, **options | {"behind": None})
        part = await open_(link, run, **options)
        assert part.n == whole.n + 1
        opened.append((set(whole._ids), set(part._ids)))
        return part

    lost: list[str] = []
    carry_out = Effects.carry_out

    async def losing(self: Effects, command: Any, *more: Any, **options: Any) -> None:
        """The first order of the first owner never arrives, so it is without a trace when a snapshot is taken."""
        if len(loaded) == 1 and (not lost or command.id in lost):
            lost.append(command.id)
            return
        await carry_out(self, command, *more, **options)

    monkeypatch.setattr(Effects, "carry_out", losing)
    monkeypatch.setattr(Snapshots, "load", watched)
    monkeypatch.setattr(Ledger, "open", compared)
    async with linked(tmp_path) as (server, link):
        registry = Registry(link)
        await registry.open()
        await journal.create_run(link, "r1", crew(), "here")
        await registry.declare("r1", "trip", "here")
        async with serving(server, "one"):
            await until(lambda: has_owners(link, 1))
            joined = m.Joined(inc="i1", seq=1, role="a", heartbeat_s=300)
            await link.publish("crew.r1.note.a._.j", codec.encode(joined))
            await link.publish(*progress("r1", 1))
            await until(lambda: lost, 60)
            for number in range(60):
                await link.publish(*progress("r1", number))
            found = await until(lambda: newest(link), 60)
            assert isinstance(found, Kept)
        async with serving(server, "two"):
            await until(lambda: has_owners(link, 2), 60)
            await link.publish(*progress("r1", 61))
            await journal.publish_op(link, "r1", m.RunEnded(state="done"), sender=HOST)
            await until(lambda: has_final_head(link), 60)
        found = await source.of_run(link, "r1")
        report = await audit.examine(found, key=audit_keys.load(tmp_path))
        assert (report.problems, report.proof, report.final) == ([], "whole", True)
        recorded = [record.id for record in found.records if record.kind != "Owner"]
        assert len(set(recorded)) == len(recorded), "what was recorded and had no effect is not recorded again"
        replaying = Replay("r1", found.records, found.heads)
        replaying.take(await journal.read_all(link, "r1"))
        replayed = replaying.finish()
        assert replayed.differences == []
        first, second = loaded
        assert first is None
        assert second is not None
        assert second.seq > 40
        assert second.ledger is not None
        whole, part = opened[1]
        assert part < whole, "less was read"
        assert lost[0] in part
        at = second.seq
        assert {id_ for id_ in whole if id_[0] != "t" and int(id_.partition("-")[0]) > at} <= part
        assert replayed.states == len(found.heads) > 0


async def newest(link: Link) -> Kept | None:
    found = await snapshots.newest(link, "r1", audit_keys.load(link.place.state))
    return found if isinstance(found, Kept) and found.seq > 40 else None


async def has_owners(link: Link, count: int) -> bool:
    return [record.kind for record in await ledger.read(link, "r1")].count("Owner") >= count


async def has_final_head(link: Link) -> bool:
    return any(heads.read_token(token).final for token in await heads.read(link, "r1"))
