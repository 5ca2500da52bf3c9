"""`python -m benchmarks.long_ledger`: how long a new owner reads a ledger of 200,000 records, whole and from a place.

A takeover waits for that before it decides anything. The ledger is written as an owner writes it, a few decisions to a
message, on a real server; then it is opened again and again, each time by an owner of a later term.
"""

import argparse
import gc
import sys
import tempfile
import time
from pathlib import Path

import anyio

from benchmarks.ground import load, median, report
from crewkeeper_bus.messages import Break
from crewkeeper_bus.server import EmbeddedServer
from crewkeeper_supervisor.core.commands import TellAgent
from crewkeeper_supervisor.shell import ledger
from crewkeeper_supervisor.shell.ledger import Ledger, Position
from crewkeeper_supervisor.shell.nats_link import Link, connect
from crewkeeper_supervisor.shell.place import Place

RUN = "bench-ledger"
RECORDS = 200_000
IN_MESSAGE = 5
BEHIND = 2_000
"""Records behind the place: about as many as twenty thousand entries lead to where every tenth is a decision."""
TIMES = 5


def decision(number: int) -> TellAgent:
    """One decision, as long as most are."""
    message = Break(id="", task="main", epoch=number, finding=f"F{number}-0", why="it waits for what will never come")
    return TellAgent(id=f"{number}-0", agent="planner", message=message, durable=True)


async def written(link: Link, count: int) -> Position:
    """Write so many records; returns the place that a snapshot would name."""
    book = await Ledger.open(link, RUN, term=1, owner="bench")
    place = book.settled(0)
    for first in range(1, count + 1, IN_MESSAGE):
        if first <= max(1, count - BEHIND):
            place = book.settled(first)
        await book.commit(decision(number) for number in range(first, min(first + IN_MESSAGE, count + 1)))
    assert place is not None
    return place


async def opened_s(link: Link, term: int, behind: Position | None) -> tuple[float, float, Ledger]:
    """Open it as the owner of a term; wall and CPU seconds."""
    gc.collect()
    begun_s, cpu_s = time.monotonic(), time.process_time()
    book = await Ledger.open(link, RUN, term=term, owner=f"owner {term}", behind=behind)
    return time.monotonic() - begun_s, time.process_time() - cpu_s, book


async def run(count: int = RECORDS, times: int = TIMES) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="crewkeeper-bench-") as folder:
        state = Path(folder)
        async with EmbeddedServer(state), connect(Place.find(state=state), name="bench") as link:
            await ledger.open_stream(link)
            place = await written(link, count)
            rows, term = [], 1
            for what, behind in (("whole", None), ("from the place of a snapshot", place)):
                took: list[tuple[float, float]] = []
                for _ in range(times):
                    term += 1
                    wall_s, cpu_s, book = await opened_s(link, term, behind)
                    took.append((wall_s, cpu_s))
                    if book.n != count + term or not book.has(f"{count}-0"):
                        sys.exit(
                            f"the ledger was read wrongly: it ends with record {book.n}, {count + term} were written"
                        )
                wall, cpu = ([each[index] for each in took] for index in (0, 1))
                text = f"p50 {1000 * median(wall):8.1f} ms   max {1000 * max(wall):8.1f} ms"
                text += f"   CPU {1000 * median(cpu):8.1f} ms"
                rows.append((what, text))
    report(f"{count:,} records of one run opened by a new owner, {times} times", rows)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=RECORDS)
    arguments = parser.parse_args()
    print(load())
    gc.set_threshold(100_000, 20, 20)  # as `serve` does
    anyio.run(run, arguments.records)


if __name__ == "__main__":
    main()
