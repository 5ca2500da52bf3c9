"""What a ledger books is added up when it is verified: whoever can sign records cannot overspend in them unnoticed."""

from pathlib import Path

import anyio
import msgspec
import pytest

from crewkeeper_supervisor.shell import audit, chain
from crewkeeper_supervisor.shell.chain import FIRST, Record
from crewkeeper_supervisor.shell.recording import Reader

TOOLS = Path(__file__).parents[1] / "data" / "recordings" / "tools.audit.gz"


class Held:
    """A ledger without heads and journal."""

    heads: tuple[str, ...] = ()
    redacted: frozenset[int] = frozenset()
    altered: tuple[int, ...] = ()

    def __init__(self, run: str, records: list[Record]) -> None:
        self.run, self.where, self.records = run, "test", records
        self.wanted: set[int] = set()
        self.hashes: dict[int, str] = {}


def examined(change=None):
    """A report on the recorded ledger, chained anew after a change to the first booking that fits."""
    with Reader(TOOLS) as reader:
        records, run = list(reader.records), reader.header.run
    made, head, changed = [], FIRST, change is None
    for record in records:
        command = record.command
        if not changed and command.get("booking"):
            command = msgspec.json.decode(msgspec.json.encode(command))
            changed = bool(change(command["booking"]))
        record = msgspec.structs.replace(record, command=command, digest=chain.digest_of(command), prev=head)
        record = msgspec.structs.replace(record, hash=chain.digest(record))
        head = record.hash
        made.append(record)
    assert changed
    return anyio.run(lambda: audit.examine(Held(run, made), with_journal=False))


def test_a_ledger_that_adds_up_is_right():
    report = examined()
    assert report.problems == []
    assert report.booked > 5


def test_a_limit_that_is_passed_is_named():
    def change(booking):
        for balance in booking.get("balances", []):
            balance["limit"] = balance.get("settled", 0) + balance.get("held", 0) - 1
            return True
        return False

    problem = examined(change).first
    assert (problem.kind, "are above the limit of" in problem.text) == ("overspent", True)
    assert problem.n > 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda booking: booking["act"] == "reserve" and booking.update(amounts={"microusd": 9**9}), "add up to"),
        (lambda booking: booking["act"] == "settle" and booking.update(freed={"microusd": 9**9}), "did not hold"),
        (lambda booking: booking.update(act="give") or True, "it books 'give'"),
        (lambda booking: booking.pop("agent"), "cannot be read"),
        (lambda booking: booking.update(balances=7, agent=[]) or True, "cannot be read"),
    ],
)
def test_bookings_that_contradict_each_other_are_named(change, said):
    problems = examined(lambda booking: change(booking) is not False).problems
    assert {problem.kind for problem in problems} == {"overspent"}
    assert any(said in problem.text for problem in problems)
