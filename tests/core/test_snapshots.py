"""Snapshots: wherever the state is written down, whoever goes on from there knows and decides the same."""

import os
import random
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_core_properties import noisy_journal

from crewkeeper_bus import tool_messages as t
from crewkeeper_supervisor.chaos.options import Options
from crewkeeper_supervisor.chaos.simulation import Simulation
from crewkeeper_supervisor.core import snapshot
from crewkeeper_supervisor.core.commands import Command
from crewkeeper_supervisor.core.events import Event
from crewkeeper_supervisor.core.snapshot import SnapshotError
from crewkeeper_supervisor.core.supervisor import Supervisor
from crewkeeper_supervisor.gate.rules import make_fold
from crewkeeper_supervisor.shell.recording import Reader
from support.company import Company, company
from support.core_checks import check
from support.gate_room import Room
from support.journal import RUN, Journal

RECORDINGS = sorted((Path(__file__).parents[1] / "data" / "recordings").glob("*.audit.gz"))
QUICK = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))


Entry = tuple[int, float, str, bytes]


def again(run: str, data: bytes) -> Supervisor:
    core = make_fold(run)
    core.restore(data)
    return core


def holds_at(run: str, entries: Sequence[Entry | Event], places: Iterable[int]) -> None:
    """Go on from a snapshot taken at each place, up to the next: states and commands are those of the one fold."""
    whole, resumed, taken_at = make_fold(run), None, set(places)
    for place, entry in enumerate(entries):
        told = handled(whole, entry)
        if resumed is not None:
            assert handled(resumed, entry) == told, f"entry {place + 1}"
        if place in taken_at:
            taken, digest = whole.snapshot(), whole.digest()
            if resumed is not None:
                assert resumed.snapshot() == taken, f"who went on from a snapshot has another state at {place + 1}"
            resumed = again(run, taken)
            assert resumed.snapshot() == taken
            assert resumed.digest() == digest
            check(resumed)


def handled(core: Supervisor, entry: Entry | Event) -> list[Command]:
    return core.handle(core.read(*entry) if isinstance(entry, tuple) else entry)


def entries_of(path: Path) -> tuple[str, list[Entry]]:
    with Reader(path) as reader:
        return reader.header.run, [tuple(entry) for batch in reader.entries() for entry in batch]


def told(journal: Journal) -> list[Entry]:
    return [(number, *entry) for number, entry in enumerate(journal.entries, start=1)]


@QUICK
@given(st.integers(0, 2**32))
def test_any_journal_goes_on_from_any_of_its_places(seed: int) -> None:
    entries = told(noisy_journal(seed))
    places = random.Random(seed).sample(range(len(entries)), min(8, len(entries)))
    holds_at(RUN, entries, [*places, len(entries) - 1])


@pytest.mark.parametrize("seed", range(4))
def test_a_simulated_crew_goes_on_from_any_place(seed: int) -> None:
    simulation = Simulation(seed, Options(agents=5, events=200, mode="swarm"))
    simulation.run()
    holds_at(RUN, simulation.journal, range(seed, len(simulation.journal), 7))


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name.partition(".")[0])
def test_a_recorded_run_goes_on_from_every_entry(path: Path) -> None:
    run, entries = entries_of(path)
    holds_at(run, entries, range(0, len(entries), 6))


def test_what_the_detectors_remember_is_kept() -> None:
    room = Company(company("a", "b", objective="Sell bread to the neighbours of the shop"))
    for number in range(8):
        room.uses("a", "search", {"query": "price of bread"}, {"answer": "the shop has none of it"}, error="")
        room.tells("a", "b", f"Thank you so much, dear colleague, step {number % 2}")
        room.tells("b", "a", "You are very welcome, anything else?")
        room.passes(3.0)
    assert room.found(), "nothing was found, and so nothing shown"
    entries = told(room)
    holds_at(RUN, entries, range(0, len(entries), 4))


def test_rules_of_the_gate_are_the_same_again() -> None:
    room = Room(ready=False)
    room.ask("c1")
    before = told(room)
    waiting = again(RUN, room.core.snapshot())
    room.ready()
    room.ask("c2")
    room.op(t.PolicyChanged(rules=({"id": "no", "do": "deny", "tools": ["pay"]},), version="", by="ann"))
    room.ask("c3")
    entries = told(room)
    for entry in entries[len(before) :]:
        handled(waiting, entry)
    assert waiting.snapshot() == room.core.snapshot()
    resumed = again(RUN, room.core.snapshot())
    assert resumed.gate.rules is not None
    assert room.core.gate.rules is not None
    assert resumed.gate.rules.version == room.core.gate.rules.version
    assert resumed.gate.rules.memory() == room.core.gate.rules.memory()


def test_equal_states_give_equal_bytes_in_every_process() -> None:
    program = (
        "import sys, hashlib\n"
        "from crewkeeper_supervisor.shell.recording import Reader\n"
        "from crewkeeper_supervisor.gate.rules import make_fold\n"
        "reader = Reader(__import__('pathlib').Path(sys.argv[1]))\n"
        "core = make_fold(reader.header.run)\n"
        "for batch in reader.entries():\n"
        "    for entry in batch: core.handle(core.read(*entry))\n"
        "print(hashlib.sha256(core.snapshot()).hexdigest())\n"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", program, str(RECORDINGS[0])],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(said) == 1


# --- what is refused ---


def test_a_snapshot_of_another_run_is_refused_and_changes_nothing() -> None:
    journal = noisy_journal(1)
    other = make_fold("r2")
    before = other.digest()
    with pytest.raises(SnapshotError, match="it is of run r1, not of r2"):
        other.restore(journal.core.snapshot())
    assert other.digest() == before


@QUICK
@given(st.integers(0, 2**32))
def test_whatever_is_changed_in_a_snapshot_it_is_refused_or_another_one(seed: int) -> None:
    rnd = random.Random(seed)
    data = bytearray(SMALL)
    for _ in range(rnd.randint(1, 4)):
        data[rnd.randrange(len(data))] = rnd.randrange(256)
    core = make_fold(RUN)
    try:
        core.restore(bytes(data))
    except SnapshotError:
        return
    try:
        assert bytes(data) == SMALL or core.snapshot() != SMALL
    except SnapshotError:
        return


class Foreign:
    def __init__(self) -> None:
        self.secret = 1


@pytest.mark.parametrize(
    "value", [Foreign(), object(), print, int, 1j, Path(), {"a": [Foreign()]}, (lambda: 1,)], ids=lambda v: str(type(v))
)
def test_what_is_neither_plain_data_nor_of_the_core_is_refused(value: Any) -> None:
    with pytest.raises(SnapshotError):
        snapshot.encode(value)


@pytest.mark.parametrize("name", ["os:system", "subprocess:Popen", "crewkeeper_supervisor.core.nodes:no", "x", ":"])
def test_no_other_class_can_be_named(name: str) -> None:
    with pytest.raises(SnapshotError):
        snapshot.decode(msgspec.msgpack.encode({"classes": [name], "root": [0, 0], "objects": [[4, 0]]}))


def test_plain_values_come_back_as_they_were() -> None:
    shared: list[Any] = [1]
    value = {
        "ints": [0, -1, 2**64, -(2**80), True, None],
        "floats": (1.0, float("inf"), -0.0, 1e-320),
        "bytes": b"\x00\xff",
        "raw": msgspec.Raw(b"{}"),
        "sets": ({"b", "a"}, frozenset({(1, "x"), (0, "y")})),
        "last": deque([1, 2, 3], maxlen=3),
        "shared": (shared, shared),
        "unset": msgspec.UNSET,
        (1, ("deep", 2)): {},
    }
    shared.append(shared)
    back = snapshot.decode(snapshot.encode(value))
    assert list(back) == list(value)
    assert back["ints"] == value["ints"]
    assert [type(each) for each in back["ints"]] == [int, int, int, int, bool, type(None)]
    assert repr(back["floats"]) == repr(value["floats"])
    assert back["sets"] == value["sets"]
    assert back["last"] == value["last"]
    assert back["last"].maxlen == 3
    assert back["unset"] is msgspec.UNSET
    one, other = back["shared"]
    assert one is other is one[1]
    assert bytes(back["raw"]) == b"{}"


SMALL = noisy_journal(7, length=20).core.snapshot()
