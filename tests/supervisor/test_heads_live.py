"""Heads on a real server: signed at the end of a run and now and then before, and a run examined where it is stored."""

import contextlib
import json

import anyio
import msgspec
import pytest
from nats_process import crew, linked, until

from crewkeeper_bus import codec
from crewkeeper_bus import messages as m
from crewkeeper_bus.errors import ConnectionLost
from crewkeeper_bus.subjects import HOST
from crewkeeper_supervisor.cli import replay
from crewkeeper_supervisor.core.commands import Escalate
from crewkeeper_supervisor.core.crew import Retain
from crewkeeper_supervisor.shell import (
    audit,
    audit_export,
    audit_keys,
    chain,
    controller,
    heads,
    journal,
    ledger,
    owner,
    source,
)
from crewkeeper_supervisor.shell.controller import Settings
from crewkeeper_supervisor.shell.errors import StoreUnavailable
from crewkeeper_supervisor.shell.heads import HeadError, Sealer
from crewkeeper_supervisor.shell.ledger import Ledger
from crewkeeper_supervisor.shell.registry import Registry
from crewkeeper_supervisor.views.replay import Replay

FAST = Settings(lease_ttl_s=30, timing=owner.Timing(resend_s=30.0, ended_s=1))


@contextlib.asynccontextmanager
async def serving(server, name):
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: controller.serve(server.place, name, settings=FAST))
        yield
        group.cancel_scope.cancel()


@pytest.mark.live
async def test_an_ended_run_has_a_final_head_and_is_whole(tmp_path):
    async with linked(tmp_path) as (server, link):
        registry = Registry(link)
        await registry.open()
        await journal.create_run(link, "r1", crew(), "here")
        await registry.declare("r1", "trip", "here")

        async def owners():
            records = await ledger.read(link, "r1")
            return [record.kind for record in records].count("Owner")

        async def stopped():
            return len(await heads.read(link, "r1")) == 1

        async with serving(server, "one"):
            await until(owners)
        async with serving(server, "two"):
            await until(lambda: owners_are(owners, 2))
            await journal.publish_op(link, "r1", m.OperatorAsked(action="pause", by="test", agent="a"))
            await journal.publish_op(link, "r1", m.RunEnded(state="done"), sender=HOST)
            await until(stopped)
        key = audit_keys.load(tmp_path)
        found = await source.of_run(link, "r1")
        report = await audit.examine(found, key=key)
        assert report.problems == []
        assert (report.proof, report.final, report.heads) == ("whole", True, 1)
        assert report.sealed_seq > 3
        replaying = Replay("r1", found.records, found.heads)
        replaying.take(await journal.read_all(link, "r1"))
        replayed = replaying.finish()
        assert (replayed.differences, replayed.states) == ([], 1)
        # What is cut off is missed; without heads nothing tells.
        found.records = found.records[:-1]
        cut = await audit.examine(found, key=key)
        assert [problem.kind for problem in cut.problems] == ["truncated"]
        found.heads = ()
        assert (await audit.examine(found, key=key)).problems == []


@pytest.mark.live
async def test_a_run_that_goes_on_while_it_is_read_is_as_it_was_written(tmp_path, monkeypatch):
    async with linked(tmp_path) as (_, link):
        await ledger.open_stream(link)
        await heads.open_stream(link)
        book = await Ledger.open(link, "r1", term=1, owner="one")
        sealer = Sealer(link, "r1", 1)
        await link.store("heads.r1", sealer.token(book, State()).encode())
        read = ledger.read

        async def overtaken(*arguments):
            found = await read(*arguments)
            await book.commit([Escalate(id="1-0", incident="F1-0", kind="opened", body={})])
            await link.store("heads.r1", sealer.token(book, State()).encode())
            return found

        async def removed(*arguments):
            head = heads.read_token(sealer.token(book, State(), Retain(ledger_s=0.5)))
            late = msgspec.structs.replace(head, ended_at=head.iat - 1)
            await link.store("heads.r1", heads.mark_of_removal(late, book.key).encode())
            end = await ledger.end(link, "r1")
            await ledger.remove(link, "r1", end.seq)
            return await read(*arguments)

        for while_read, count in ((overtaken, 1), (removed, 0)):
            monkeypatch.setattr(ledger, "read", while_read)
            found = await source.of_run(link, "r1")
            report = await audit.examine(found, key=book.key, with_journal=False)
            assert (report.problems, report.records) == ([], count)


@pytest.mark.live
async def test_a_replay_of_a_run_that_goes_on_compares_what_it_has_read(tmp_path, monkeypatch, capsys):
    async with linked(tmp_path) as (server, link):
        registry = Registry(link)
        await registry.open()
        await journal.create_run(link, "r1", crew(), "here")
        await registry.declare("r1", "trip", "here")
        joined = m.Joined(inc="i1", seq=1, role="a", heartbeat_s=300)
        await journal.publish(link, "crew.r1.note.a._.j", codec.encode(joined))
        read = ledger.read

        async def pause():
            """Have one more decision made, recorded and carried out."""
            before = await told()
            await journal.publish_op(link, "r1", m.OperatorAsked(action="pause", by="test", agent="a"))
            await until(lambda: is_more(told, before), 60)

        async def told():
            return sum(entry.subject.startswith("crew.r1.ctl._.a.") for entry in await journal.read_all(link, "r1"))

        async def overtaken(*arguments):
            await pause()
            found = await read(*arguments)
            await pause()
            return found

        async with serving(server, "one"):
            await pause()
            monkeypatch.setattr(ledger, "read", overtaken)
            found = await source.of_run(link, "r1")
            assert await replay._compare(found, "json", None) == 0
            found = await source.of_run(link, "r1")
            file = tmp_path / "r1.audit.gz"
            _, end = await audit_export.export(found, file, key=None, whole=True, replace=False)
        assert end.records < len(found.records)
        with source.of_file(file) as kept:
            assert await replay._compare(kept, "jsonl", None) == 0
            assert (await audit.examine(kept)).problems == []
        shown = json.loads(capsys.readouterr().out.rpartition("\n{")[0])
        assert shown["differences"] == []
        assert shown["decisions"] == shown["recorded"] > 0


async def is_more(count, before):
    return await count() > before


def test_the_key_of_an_owner_is_not_taken_back(tmp_path):
    """Somebody without the key lets the owner of a term begin once more, without one, and goes on from there."""
    key = audit_keys.make(tmp_path)
    made = []
    for n, (kind, command, coded) in enumerate(
        (
            ("Owner", {"owner": "one", "key": key.public}, True),
            ("Escalate", {"id": "1-0"}, True),
            ("Owner", {"owner": "one", "key": ""}, False),
            ("Escalate", {"id": "2-0"}, False),
        ),
        start=1,
    ):
        prev = made[-1].hash if made else chain.FIRST
        bound = chain.Record(
            run="r1",
            n=n,
            id=f"{n}-0",
            kind=kind,
            term=1,
            command=command,
            digest=chain.digest_of(command),
            prev=prev,
            v=2,
        )
        hash_ = chain.digest(bound)
        made.append(msgspec.structs.replace(bound, hash=hash_, mac=key.code(hash_) if coded else ""))

    async def examined(count):
        found = source.OfRun(None, "r1", made[:count], ())
        return await audit.examine(found, key=key, with_journal=False)

    assert anyio.run(examined, 2).problems == []
    assert [(each.kind, each.n) for each in anyio.run(examined, 4).problems] == [("edited", 3), ("edited", 4)]
    stray = msgspec.structs.replace(made[1], n=3, id="2-0", term=2, prev=made[1].hash, mac="")
    made[2] = msgspec.structs.replace(stray, hash=chain.digest(stray))
    assert [(each.kind, each.n) for each in anyio.run(examined, 3).problems] == [("inserted", 3)]


async def owners_are(owners, count):
    return await owners() == count


class Wire:
    """A link that keeps what is published."""

    def __init__(self):
        self.sent, self.is_up = [], True

    async def publish(self, subject, payload):
        if not self.is_up:
            raise ConnectionLost("away")
        self.sent.append((subject, payload.decode()))

    async def store(self, subject, payload):
        if not self.is_up:
            raise StoreUnavailable("away")
        self.sent.append((subject, payload.decode()))


class Book(msgspec.Struct):
    key: audit_keys.AuditKey | None
    n: int = 1
    head: str = "ab" * 32


class State:
    def digest(self):
        return "cd" * 32


async def test_heads_come_now_and_then_and_say_what_was_known(tmp_path):
    now, wire = [100.0], Wire()
    book = Book(audit_keys.make(tmp_path))
    sealer = Sealer(wire, "r1", 7, clock=lambda: now[0])
    entries = [(seq, 1000.0 + seq, f"crew.r1.op._._.x{seq}", codec.encode(m.Tick())) for seq in (1, 2)]
    sealer.take(entries[:1])
    for later_s in (0.0, 4.9, heads.GAP_S, heads.EVERY_S - 0.1):
        now[0] = 100.0 + later_s
        await sealer.seal(book, State())
    assert wire.sent == []
    now[0] = 100.0 + heads.EVERY_S
    await sealer.seal(book, State())
    await sealer.seal(book, State())
    ((subject, token),) = wire.sent
    head = heads.read_token(token)
    known = heads.next_hash(heads.START, *entries[0][:3], heads.sha256(entries[0][3]))
    assert subject == "heads.r1"
    assert (head.run, head.n, head.hash, head.seq, head.term) == ("r1", 1, book.head, 1, 7)
    assert (head.journal, head.state, head.final, head.iss) == (known.hex(), "cd" * 32, False, book.key.public)
    now[0] += heads.EVERY_S
    await sealer.seal(book, State())
    assert len(wire.sent) == 1  # nothing happened
    sealer.take(entries[1:])
    book.n += heads.EVERY_RECORDS
    now[0] += heads.GAP_S
    await sealer.seal(book, State())
    assert heads.read_token(wire.sent[1][1]).seq == 2
    wire.is_up = False
    await sealer.seal_the_end(book, State(), Retain())
    wire.is_up = True
    await sealer.seal_the_end(book, State(), Retain())
    assert heads.read_token(wire.sent[2][1]).final
    book.key = None
    await sealer.seal_the_end(book, State(), Retain())
    assert len(wire.sent) == 3


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "x" * 5000, "é.é.é"])
def test_what_is_no_head_is_refused(token):
    with pytest.raises(HeadError):
        heads.read_token(token)


def test_another_signed_statement_is_no_head(tmp_path):
    key = audit_keys.make(tmp_path)
    with pytest.raises(HeadError):
        heads.read_token(key.sign({"run": "r1", "sha256": "00"}))
