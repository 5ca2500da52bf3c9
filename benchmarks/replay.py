"""`python -m benchmarks.replay`: a recorded run of a million entries, read and replayed; entries a second.

The run is what a crew of twenty does all day: calls between agents with their waits, one-way messages, progress,
heartbeats. It is written to a recording, and read back from it; the fold alone is timed beside.
"""

import argparse
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
from crewkeeper_supervisor.gate.rules import make_fold
from crewkeeper_supervisor.shell.journal import Entry
from crewkeeper_supervisor.shell.recording import FORMAT, Header, Reader, Writer
from crewkeeper_supervisor.views.replay import Replay

ENTRIES = 1_000_000
AGENTS = 20
START_S = 1_790_000_000.0
STEP_S = 0.002
RUN = "bench-000001"
BODY = Raw(b'{"question":"what is left to do?","details":["one","two","three"],"urgent":false}')
TARGET_PER_S = 100_000


class Telling:
    """Writes the entries of a run, each agent's own numbering kept."""

    def __init__(self) -> None:
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

    def call(self, number: int) -> Iterator[Entry]:
        """One agent asks another, waits, is answered, and goes on."""
        caller = number % AGENTS
        callee = (caller + 1 + number // AGENTS % (AGENTS - 1)) % AGENTS
        call, task = f"c{number:020}", f"h{number:020}"
        self._epochs[caller] += 1
        epoch = self._epochs[caller]
        yield self.say(caller, Kind.REQ, m.Request, f"a{callee}", call, task="main", verb="ask", body=BODY)
        waits = {"task": "main", "epoch": epoch, "condition": m.OnCall(call=call)}
        yield self.say(caller, Kind.NOTE, m.WaitBegan, **waits)
        yield self.say(callee, Kind.NOTE, m.CallStarted, call=call, caller=f"a{caller}", task=task)
        yield self.say(callee, Kind.NOTE, m.Progress, task=task, text=f"step {number}")
        yield self.say(callee, Kind.REP, m.Reply, f"a{caller}", call, body=BODY)
        yield self.say(caller, Kind.NOTE, m.WaitEnded, task="main", epoch=epoch, outcome="met")
        sent = f"m{number:020}"
        yield self.say(caller, Kind.MSG, m.Message, f"a{callee}", sent, task="main", body=BODY)
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


def journal(count: int) -> Iterator[Entry]:
    """So many entries of a run."""
    telling = Telling()
    calls = itertools.chain.from_iterable(telling.call(number) for number in itertools.count())
    return itertools.islice(itertools.chain(telling.declared(), calls), count)


def run(count: int = ENTRIES) -> float:
    """Measure; returns entries a second, reading the file included."""
    with tempfile.TemporaryDirectory(prefix="crewkeeper-bench-") as folder:
        path = Path(folder) / "bench.audit.gz"
        begun = time.perf_counter()
        with path.open("wb") as file:
            header = Header(
                crewkeeper="audit", format=FORMAT, run=RUN, crew="bench", exported_at="", key="", redacted=()
            )
            writer = Writer(file.write, header)
            for entry in journal(count):
                writer.entry(entry)
            writer.close()
        wrote_s = time.perf_counter() - begun
        begun = time.perf_counter()
        with Reader(path) as reader:
            read = sum(len(batch) for batch in reader.entries())
        read_s = time.perf_counter() - begun
        begun = time.perf_counter()
        with Reader(path) as reader:
            replaying = Replay(RUN, reader.records, reader.heads)
            for batch in reader.entries():
                replaying.take(batch)
            found = replaying.finish()
        replayed_s = time.perf_counter() - begun
        print(f"Replay, {count:,} entries, {path.stat().st_size / 2**20:.0f} MiB packed")
    if read != count or found.entries != count or found.differences or replaying.core.incidents:
        sys.exit(f"the replay is wrong: {found}, {list(replaying.core.incidents)[:3]}")
    print(f"  written             {count / wrote_s:9,.0f} /s, made up on the way")
    print(f"  read alone          {count / read_s:9,.0f} /s")
    print(f"  the fold alone      {_fold_per_s(min(count, 200_000)):9,.0f} /s")
    print(f"  read and replayed   {count / replayed_s:9,.0f} /s")
    return count / replayed_s


def _fold_per_s(count: int) -> float:
    entries = list(journal(count))
    core = make_fold(RUN)
    read, handle = core.read, core.handle
    begun = time.perf_counter()
    for entry in entries:
        handle(read(*entry))
    return count / (time.perf_counter() - begun)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=ENTRIES)
    arguments = parser.parse_args()
    print(load())
    rate = run(arguments.entries)
    print(f"  the goal is {TARGET_PER_S:,} /s: {'met' if rate >= TARGET_PER_S else 'not met here'}")


if __name__ == "__main__":
    main()
