"""The ledger on a real server: stored before anything else, once, chained, and closed to former owners."""

import msgspec
import pytest
from nats_process import linked, until

from crewkeeper_bus.messages import Break, Fault, StopProcess
from crewkeeper_supervisor.core.commands import AnswerCall, AskHost, Escalate, TellAgent
from crewkeeper_supervisor.shell import audit_keys, ledger
from crewkeeper_supervisor.shell.chain import FIRST, Record, digest
from crewkeeper_supervisor.shell.errors import Fenced, LedgerDamaged, StoreUnavailable
from crewkeeper_supervisor.shell.ledger import Ledger, Position

pytestmark = pytest.mark.live


def tell(id_, finding="F5-0"):
    return TellAgent(id=id_, agent="a", message=Break(id="", task="t", epoch=1, finding=finding, why="w"), durable=True)


async def opened(link, term=1, run="r1"):
    await ledger.open_stream(link)
    return await Ledger.open(link, run, term=term, owner=f"owner {term}")


async def test_every_kind_of_decision_is_recorded_with_its_cause(tmp_path):
    async with linked(tmp_path) as (_, link):
        log = await opened(link)
        await log.commit(
            [
                tell("12-0"),
                AnswerCall(id="13-0", agent="a", call="c", error=Fault(code="peer_gone", text="x", finding="F13-0")),
                AnswerCall(id="13-1", agent="a", call="c", body=msgspec.Raw(b'{"yes":true}')),
                AskHost(id="14-0", message=StopProcess(id="", agent="a")),
                Escalate(id="15-0", incident="F5-0", kind="opened", body={"summary": "s"}),
            ]
        )
        records = await ledger.read(link, "r1")
        assert [(r.id, r.kind, r.finding, r.cause_seq) for r in records] == [
            ("term-1", "Owner", "", 0),
            ("12-0", "TellAgent", "F5-0", 12),
            ("13-0", "AnswerCall", "F13-0", 13),
            ("13-1", "AnswerCall", "", 13),
            ("14-0", "AskHost", "", 14),
            ("15-0", "Escalate", "F5-0", 15),
        ]
        assert records[3].command["body"] == {"yes": True}
        assert [record.n for record in records] == [1, 2, 3, 4, 5, 6]
        assert ledger.verify(records) == []
        assert await ledger.read(link, "other") == []


async def test_a_decision_is_recorded_once_whoever_repeats_it(tmp_path):
    async with linked(tmp_path) as (_, link):
        first = await opened(link)
        await first.commit([tell("1-0")])
        await first.commit([tell("1-0"), tell("2-0")])
        second = await opened(link, term=2)
        assert second.has("1-0")
        assert not second.has("3-0")
        await second.commit([tell("2-0"), tell("3-0")])
        records = await ledger.read(link, "r1")
        assert [r.id for r in records] == ["term-1", "1-0", "2-0", "term-2", "3-0"]
        assert ledger.verify(records) == []


async def test_a_former_owner_is_refused_for_good(tmp_path):
    async with linked(tmp_path) as (_, link):
        old = await opened(link, term=3)
        await old.commit([tell("1-0")])
        new = await opened(link, term=4)
        for _ in range(2):
            with pytest.raises(Fenced):
                await old.commit([tell("2-0")])
        await new.commit([tell("2-0")])
        with pytest.raises(Fenced):
            await opened(link, term=3)
        records = await ledger.read(link, "r1")
        assert [(r.id, r.term) for r in records] == [("term-3", 3), ("1-0", 3), ("term-4", 4), ("2-0", 4)]


async def test_a_commit_whose_acknowledgement_was_lost_is_not_made_twice(tmp_path):
    async with linked(tmp_path) as (_, link):
        log = await opened(link)
        store, lost = link.store, []

        async def lossy(*arguments, **options):
            seq = await store(*arguments, **options)
            if not lost:
                lost.append(seq)
                raise StoreUnavailable("lost")
            return seq

        link.store = lossy
        await log.commit([tell("1-0")])
        await log.commit([tell("2-0")])
        assert lost
        records = await ledger.read(link, "r1")
        assert [r.id for r in records] == ["term-1", "1-0", "2-0"]
        assert ledger.verify(records) == []


async def test_many_decisions_are_split_into_batches_and_read_back(tmp_path):
    async with linked(tmp_path) as (_, link):
        log = await opened(link)
        await log.commit(tell(f"{number}-0", finding="F" * 2000) for number in range(1, 1501))
        records = await ledger.read(link, "r1")
        assert len(records) == 1501
        assert ledger.verify(records) == []
        stored = (await link.js.stream_info("LEDGER")).state
        assert stored.messages > 1501 * 2000 / ledger.BATCH_MAX_BYTES
        assert stored.consumer_count == 0, "readers leave nothing behind: a stream has room for so many"


async def test_it_survives_a_killed_server(tmp_path):
    async with linked(tmp_path) as (server, link):
        log = await opened(link)
        await log.commit([tell("1-0")])
        server.stop()
        await until(lambda: not link.is_connected)
        server.start()
        await log.commit([tell("2-0")])
        assert [r.id for r in await ledger.read(link, "r1")] == ["term-1", "1-0", "2-0"]


async def test_records_are_authenticated_with_the_key_that_their_owner_names(tmp_path):
    async with linked(tmp_path) as (_, link):
        log = await opened(link)
        await log.commit([tell("1-0"), AnswerCall(id="2-0", agent="a", call="c", body=msgspec.Raw(b'{ "b": 1.0e2 }'))])
        records = await ledger.read(link, "r1")
    key = audit_keys.load(tmp_path)
    assert key is not None
    assert records[0].command == {"owner": "owner 1", "key": key.public}
    assert all(key.is_right(record) for record in records)
    assert not key.is_right(msgspec.structs.replace(records[0], mac="00" * 32))
    assert (log.n, log.head) == (3, records[-1].hash)


async def test_a_ledger_of_the_first_format_is_gone_on_with(tmp_path):
    async with linked(tmp_path) as (_, link):
        await ledger.open_stream(link)
        first = Record(run="r1", n=1, id="1-0", kind="TellAgent", term=1, command={"id": "1-0"}, prev=FIRST)
        first = msgspec.structs.replace(first, hash=digest(first))
        # What was written then knew neither of these.
        plain = {k: v for k, v in msgspec.to_builtins(first).items() if k not in ("digest", "mac", "v")}
        await link.store("ledger.r1", msgspec.json.encode([plain]))
        log = await opened(link, term=2)
        assert log.has("1-0")
        records = await ledger.read(link, "r1")
    assert [(record.v, bool(record.mac)) for record in records] == [(1, False), (2, True)]
    assert ledger.verify(records) == []


async def test_without_a_key_records_are_chained_all_the_same(tmp_path):
    async with linked(tmp_path) as (_, link):
        file = tmp_path / "keys" / audit_keys.AUDIT_FILE
        file.parent.mkdir(mode=0o700)
        file.write_text("{}")
        file.chmod(0o644)
        log = await opened(link)
        assert log.key is None
        records = await ledger.read(link, "r1")
    assert [record.mac for record in records] == [""]
    assert ledger.verify(records) == []


async def test_what_holds_no_records_is_named(tmp_path):
    async with linked(tmp_path) as (_, link):
        await opened(link)
        await link.store("ledger.r1", b'[{"run":"r1"}]')
        with pytest.raises(LedgerDamaged, match="message 2 of stream LEDGER"):
            await ledger.read(link, "r1")
        with pytest.raises(LedgerDamaged):
            await opened(link, term=2)


async def test_who_reads_on_from_a_place_knows_what_who_reads_all_knows(tmp_path, monkeypatch):
    async with linked(tmp_path) as (_, link):
        log = await opened(link)
        for number in range(1, 6):
            await log.commit([tell(f"{number}-0")])
        place = log.settled(5)
        assert place is not None
        assert log.settled(4) is None, "a record follows from entry 5"
        await (await opened(link, run="r2")).commit([tell("1-0")])
        await log.commit([tell("6-0"), tell("7-0")])
        read = []
        decode = ledger._decoded
        monkeypatch.setattr(ledger, "_decoded", lambda run, seq, data: read.append(seq) or decode(run, seq, data))
        names = [f"{number}-0" for number in range(1, 10)]
        whole = await Ledger.open(link, "r1", term=2, owner="two")
        of_whole, read[:] = set(read), []
        part = await Ledger.open(link, "r1", term=3, owner="three", behind=place, known=["3-0"])
        assert min(of_whole) < place.seq == min(read), "what stands before the place is not read"
        assert (part.n, part.head) == (whole.n + 1, (await ledger.read(link, "r1"))[-1].hash)
        assert [id_ for id_ in names if part.has(id_)] == ["3-0", "5-0", "6-0", "7-0"]
        with pytest.raises(Fenced):
            await whole.commit([tell("8-0")])
        await part.commit([tell("3-0"), tell("6-0"), tell("8-0")])
        records = await ledger.read(link, "r1")
        assert [record.id for record in records].count("8-0") == 1
        assert len({record.id for record in records}) == len(records)
        assert ledger.verify(records) == []
        with pytest.raises(Fenced):
            await Ledger.open(link, "r1", term=2, owner="two", behind=part.settled(8))

        # Whatever the ledger does not have at that place, it is read whole, and `known` is not believed.
        other = (await ledger.stored(link, "LEDGER", "ledger.r2"))[-1][0]
        for term, wrong in enumerate(
            (
                Position(seq=9999, n=place.n, hash=place.hash),
                Position(seq=place.seq, n=place.n + 1, hash=place.hash),
                Position(seq=place.seq, n=place.n, hash="ab" * 32),
                Position(seq=other, n=2, hash=(await ledger.read(link, "r2"))[-1].hash),
            ),
            start=4,
        ):
            again = await Ledger.open(link, "r1", term=term, owner="four", behind=wrong, known=["9-0"])
            assert [id_ for id_ in names if again.has(id_)] == [f"{number}-0" for number in range(1, 9)]
            assert ledger.verify(await ledger.read(link, "r1")) == []


async def test_only_what_has_no_trace_is_remembered_for_long(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "IDS_MAX", 4)
    async with linked(tmp_path) as (_, link):
        log = await opened(link)
        await log.commit(tell(f"{number}-0") for number in range(1, 4))
        log.forget_all_but({"9-0": None})
        assert log.has("1-0"), "they are few"
        await log.commit([tell("4-0")])
        log.forget_all_but({"2-0": None, "9-0": None})
        assert [id_ for id_ in ("1-0", "2-0", "3-0", "4-0", "9-0") if log.has(id_)] == ["2-0"]
        await log.commit([tell("2-0"), tell("5-0")])
        assert [record.id for record in await ledger.read(link, "r1")][-2:] == ["4-0", "5-0"]


async def test_a_place_whose_record_was_written_anew_is_none(tmp_path):
    async with linked(tmp_path) as (_, link):
        log = await opened(link)
        await log.commit([tell("1-0")])
        place = log.settled(1)
        ((seq, data),) = (await ledger.stored(link, "LEDGER", "ledger.r1"))[1:]
        forged = data.replace(b'"why":"w"', b'"why":"x"')
        assert forged != data
        put = await link.store("ledger.r1", forged)
        assert (place.seq, place.n) == (seq, 2)
        again = await Ledger.open(
            link, "r1", term=2, owner="two", behind=Position(seq=put, n=place.n, hash=place.hash), known=["9-0"]
        )
        assert again.has("1-0")
        assert not again.has("9-0")
