"""Tables of who holds what: a closed ring is a deadlock once it stays, or at the end."""

import pytest

from crewkeeper_supervisor.core.resource_table import TableReader

RING = "Table: A=HUNGRY(0,L) B=HUNGRY(1,L) C=HUNGRY(0,L) | Forks: [A] [B] [C]"
EATING = "Table: A=EATING(1,LR) B=HUNGRY(1) C=HUNGRY(0,L) | Forks: [A] [A] [C]"
PARTLY = "Table: A=HUNGRY(0,L) B=HUNGRY(1,L) C=HUNGRY(0) | Forks: [A] [B] [free]"


def test_a_ring_that_stays_is_told_once_at_the_table_that_confirms_it():
    reader = TableReader()
    assert reader.read(PARTLY, 1) is None
    assert reader.read(RING, 2) is None
    found = reader.read(RING, 3)
    assert found is not None
    assert (found.at, found.onset, found.agents) == (3, 2, ("A", "B", "C"))
    assert reader.read(RING, 4) is None
    assert reader.finish() is None


def test_a_ring_at_the_end_is_one():
    reader = TableReader()
    reader.read(RING, 7)
    found = reader.finish()
    assert found is not None
    assert (found.at, found.onset) == (7, 7)
    assert reader.finish() is None


def test_a_ring_that_somebody_opens_is_none():
    reader = TableReader()
    assert [reader.read(text, at) for at, text in enumerate((RING, PARTLY, RING, EATING))] == [None] * 4
    assert reader.finish() is None


@pytest.mark.parametrize(
    "text",
    [
        EATING, PARTLY, "", "Table: nothing", "Table: A=HUNGRY(0,L) | Forks: [A]",
        "Table: A=HUNGRY(0) B=HUNGRY(0) | Forks: [X] [A]",
        "Table: A=HUNGRY(0) A=HUNGRY(0) | Forks: [A] [A]", "The table: " + RING,
    ],
)  # fmt: skip
def test_everything_else_is_none(text):
    reader = TableReader()
    reader.read(text, 0)
    reader.read(text, 1)
    assert reader.finish() is None
