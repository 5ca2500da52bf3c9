"""`python -m benchmarks.wait_memory`: resident memory of the core, million by million, over a journal of finished work.

Nothing stays open from one round to the next: every call is answered, every lock given back, every message taken. So
whatever grows is what the core did not forget. Linux only: it reads `/proc`.
"""

import argparse
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.ground import load
from benchmarks.wait_loads import Journal
from crewkeeper_bus import messages as m
from crewkeeper_supervisor.core.events import Recorded
from crewkeeper_supervisor.core.supervisor import Supervisor

MILLION = 1_000_000


def finished_work(agents: int) -> Iterator[list[Recorded]]:
    """Rounds of calls, each round with a lock and a message, between agents chosen at random; without end."""
    journal, rnd = Journal(agents, concurrency=4), random.Random(3)
    yield journal.drain()
    while True:
        asker, worker, helper = rnd.sample(range(agents), 3)
        task = journal.began(asker)
        call = journal.called(asker, task, worker)
        handler = journal.started(worker, call, asker)
        inner = journal.called(worker, handler, helper)
        lock = f"l{rnd.randrange(agents)}"
        by = journal.started(helper, inner, worker)
        ticket = journal.acquired(helper, by, lock)
        journal.granted(helper, lock, ticket)
        journal.waits(helper, by, m.OnResource(resource=lock, ticket=ticket))
        journal.woke(helper, by)
        journal.released(helper, by, lock, ticket)
        journal.replied(helper, inner, worker)
        journal.woke(worker, handler)
        journal.sent(worker, handler, asker)
        journal.replied(worker, call, asker)
        journal.woke(asker, task)
        journal.ended(asker, task)
        yield journal.drain()


def resident_mb() -> float:
    """Resident memory of this process now, in megabytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=1_000)
    parser.add_argument("--millions", type=int, default=10, help="millions of events")
    chosen = parser.parse_args()
    print(load())
    core, done, begun = Supervisor("memory"), 0, time.process_time()
    print(f"{'events':>12}  {'resident MB':>11}  {'open calls':>10}  {'CPU s':>6}")
    for events in finished_work(chosen.agents):
        for event in events:
            core.handle(event)
        before, done = done, done + len(events)
        if done // MILLION > before // MILLION:
            spent_s = time.process_time() - begun
            print(f"{done:12,}  {resident_mb():11.1f}  {len(core._state.graph.calls):10}  {spent_s:6.0f}", flush=True)
        if done >= chosen.millions * MILLION:
            break
    waits, incidents = len(core.waits()), len(core.incidents)
    print(f"left at the end: {waits} waits, {incidents} incidents, {len(core.pending)} commands without a trace")


if __name__ == "__main__":
    main()
