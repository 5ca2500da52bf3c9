"""`python -m benchmarks.replay`: a recorded run of a million entries, read and replayed; entries a second of CPU time.

The run is what a crew of twenty does all day: calls between agents with their waits, one-way messages, progress,
heartbeats; once with empty bodies, as the loads of `wait_graph` are, and once with texts that are never the same, each
of which the live detectors read. It is written to a recording and read back from it; the fold alone is timed beside.
Then a snapshot from the middle is read, and who goes on from there must come to the same state.
"""

import argparse
import gc
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Raw, to_builtins

from benchmarks.ground import load
from crewkeeper_bus import messages as m
from crewkeeper_bus import subjects
from crewkeeper_bus.codec import encode
from crewkeeper_bus.subjects import SUPERVISOR, Kind
from crewkeeper_supervisor.core.crew import Agent, Crew, Rate
from crewkeeper_supervisor.core.supervisor import Supervisor
from crewkeeper_supervisor.gate.rules import make_fold
from crewkeeper_supervisor.shell.journal import Entry
from crewkeeper_supervisor.shell.recording import FORMAT, Header, Reader, Writer
from crewkeeper_supervisor.views.replay import Replay

ENTRIES = 1_000_000
AGENTS = 20
START_S = 1_790_000_000.0
STEP_S = 0.002
RUN = "bench-000001"
EMPTY = Raw(b"{}")
TEXTS = (
    b'{"question":"what of # is left to do?","urgent":false}',
    b'{"answer":"two parts of # are done, the third is not","parts":["a","b"]}',
    b'{"text":"I took over # and go on with what comes after it"}',
)
"""What is asked, answered and told; `#` is another number each time."""
HEADER = Header(crewkeeper="audit", format=FORMAT, run=RUN, crew="bench", exported_at="", key="", redacted=())
TARGET_PER_S = 100_000


class Telling:
    """Writes the entries of a run, each agent's own numbering kept."""

    def __init__(self, *, talk: bool) -> None:
        self._talk = talk
        self._seq = 0
        self._seqs = [0] * AGENTS
        self._epochs = [0] * AGENTS

    def declared(self) -> Iterator[Entry]:
        """The crew, and its agents as they join."""
        agents = tuple(Agent(name=f"a{n}", external=True) for n in range(AGENTS))
        crew = Crew(name="bench", agents=agents, rate=Rate(messages_per_s=1_000_000, burst=10_000_000))
        yield self._entry(Kind.OP, SUPERVISOR, "_", "d", m.RunDeclared(crew=to_builtins(crew)))
        yield self._entry(Kind.OP, SUPERVISOR, "_", "o", m.OwnerChanged(term=1, owner="bench"))
        for n in range(AGENTS):
            yield self.say(n, Kind.NOTE, m.Joined, role=f"a{n}", heartbeat_s=300.0)
            yield self.say(n, Kind.NOTE, m.TaskBegan, task="main", name="main", slot=False)

    def _body(self, number: int, kind: int) -> Raw:
        if not self._talk:
            return EMPTY
        return Raw(TEXTS[kind].replace(b"#", b"%d" % number))

    def call(self, number: int) -> Iterator[Entry]:
        """One agent asks another, waits, is answered, and goes on."""
        caller = number % AGENTS
        callee = (caller + 1 + number // AGENTS % (AGENTS - 1)) % AGENTS
        call, task = f"c{number:020}", f"h{number:020}"
        self._epochs[caller] += 1
        epoch = self._epochs[caller]
        yield self.say(
            caller, Kind.REQ, m.Request, f"a{callee}", call, task="main", verb="ask", body=self._body(number, 0)
        )
        waits = {"task": "main", "epoch": epoch, "condition": m.OnCall(call=call)}
        yield self.say(caller, Kind.NOTE, m.WaitBegan, **waits)
        yield self.say(callee, Kind.NOTE, m.CallStarted, call=call, caller=f"a{caller}", task=task)
        if self._talk:
            yield self.say(callee, Kind.NOTE, m.Progress, task=task, text=f"step {number}")
        yield self.say(callee, Kind.REP, m.Reply, f"a{caller}", call, body=self._body(number, 1))
        yield self.say(caller, Kind.NOTE, m.WaitEnded, task="main", epoch=epoch, outcome="met")
        sent = f"m{number:020}"
        yield self.say(caller, Kind.MSG, m.Message, f"a{callee}", sent, task="main", body=self._body(number, 2))
        yield self.say(callee, Kind.NOTE, m.Taken, sender=f"a{caller}", message=sent, task="main")
        if number % 10 == 0:
            state = (m.TaskState(task="main", slot=False),)
            yield self.say(caller, Kind.HB, m.Heartbeat, role=f"a{caller}", tasks=state)

    def say(self, n: int, kind: Kind, type_: Any, to: str = "_", id_: str = "", /, **fields: Any) -> Entry:
        """One message of an agent."""
        self._seqs[n] += 1
        message = type_(inc=f"i{n}", seq=self._seqs[n], **fields)
        return self._entry(kind, f"a{n}", to, id_ or f"x{self._seq:020}", message)

    def _entry(self, kind: Kind, sender: str, to: str, id_: str, message: Any) -> Entry:
        self._seq += 1
        at_s = START_S + self._seq * STEP_S
        return Entry(self._seq, at_s, subjects.build(RUN, kind, sender, to, id_), encode(message))


def journal(count: int, *, talk: bool) -> Iterator[Entry]:
    """So many entries of a run."""
    telling = Telling(talk=talk)
    calls = itertools.chain.from_iterable(telling.call(number) for number in itertools.count())
    return itertools.islice(itertools.chain(telling.declared(), calls), count)


def run(count: int = ENTRIES, *, talk: bool = False) -> float:
    """Measure; returns entries a second, reading the file included."""
    with tempfile.TemporaryDirectory(prefix="crewkeeper-bench-") as folder:
        path = Path(folder) / "bench.audit.gz"
        with path.open("wb") as file:
            writer = Writer(file.write, HEADER)
            for entry in journal(count, talk=talk):
                writer.entry(entry)
            writer.close()
        begun = time.process_time()
        with Reader(path) as reader:
            read = sum(len(batch) for batch in reader.entries())
        read_s = time.process_time() - begun
        begun = time.process_time()
        with Reader(path) as reader:
            reader.chains = False  # as `supervisor replay` does
            replaying = Replay(RUN, reader.records, reader.heads)
            for batch in reader.entries():
                replaying.take(batch)
            found = replaying.finish()
        replayed_s = time.process_time() - begun
        resumed = _resumed(path, count // 2, replaying.core)
        what = "texts in every message" if talk else "empty bodies"
        print(f"Replay, {count:,} entries, {path.stat().st_size / 2**20:.0f} MiB packed, {what}")
    problems = [each.finding.summary for each in replaying.core.incidents.values()]
    if read != count or found.entries != count or found.differences or problems:
        sys.exit(f"the replay is wrong: {found}, {problems[:3]}")
    print(f"  read alone          {count / read_s:9,.0f} /s")
    print(f"  the fold alone      {_fold_per_s(min(count, 200_000), talk=talk):9,.0f} /s")
    print(f"  read and replayed   {count / replayed_s:9,.0f} /s")
    print(f"  {resumed}")
    return count / replayed_s


def _resumed(path: Path, place: int, whole: Supervisor) -> str:
    """Fold up to a place, go on from a snapshot of that, and compare with the fold of everything."""
    first, second = make_fold(RUN), make_fold(RUN)
    data, taken_s, read_s = b"", 0.0, 0.0
    with Reader(path) as reader:
        for entry in itertools.chain.from_iterable(reader.entries()):
            core = first if entry.seq <= place else second
            if entry.seq == place + 1:
                begun = time.process_time()
                data = first.snapshot()
                taken_s = time.process_time() - begun
                second.restore(data, first.digest())
                read_s = time.process_time() - begun - taken_s
            core.handle(core.read(*entry))
    if (second.digest(), second.snapshot()) != (whole.digest(), whole.snapshot()):
        sys.exit(f"who goes on from a snapshot at entry {place} comes to another state")
    size_kib = len(data) / 1024
    return (
        f"snapshot in the middle: {size_kib:,.0f} KiB, taken in {1000 * taken_s:.1f} ms, read and checked in "
        f"{1000 * read_s:.1f} ms; whoever goes on from it comes to the same state"
    )


def _fold_per_s(count: int, *, talk: bool) -> float:
    entries = list(journal(count, talk=talk))
    core = make_fold(RUN)
    read, handle = core.read, core.handle
    begun = time.process_time()
    for entry in entries:
        handle(read(*entry))
    return count / (time.process_time() - begun)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=ENTRIES)
    arguments = parser.parse_args()
    print(load())
    gc.set_threshold(100_000, 20, 20)  # as the commands do
    for talk in (False, True):
        rate = run(arguments.entries, talk=talk)
        print(f"  the goal is {TARGET_PER_S:,} /s: {'met' if rate >= TARGET_PER_S else 'not met here'}")


if __name__ == "__main__":
    main()
