"""`python -m benchmarks.watch`: what the detectors of conduct cost a running crew, by load and by size of what is said.

Two cores handle the same journal in turns, a slice of entries each, one with its watch and one without, so that
whatever else the machine does falls on both. The loads of the wait graph have no words; a step with words is one
request with its answer.
"""

import argparse
import gc
import random
import time
from collections.abc import Callable
from typing import Final

from msgspec import Raw, json

from benchmarks.wait_loads import LOADS, Journal
from crewkeeper_bus import messages as m
from crewkeeper_supervisor.core.events import Recorded
from crewkeeper_supervisor.core.supervisor import Supervisor

SLICE: Final = 250
ROUNDS: Final = 6
WORDS: Final = (15, 90, 1000, 30_000)
"""Words of a request and its answer together."""


def in_turns(events: list[Recorded], setup: int) -> tuple[float, float]:
    """CPU microseconds of an entry, without the watch and with it: the median of several rounds."""
    found = []
    for _ in range(ROUNDS):
        cores = [ready(events[:setup], watched=watched) for watched in (False, True)]
        spent = [0, 0]
        gc.collect()
        gc.disable()
        for number, at in enumerate(range(setup, len(events), SLICE)):
            part = events[at : at + SLICE]
            for which in (0, 1) if number % 2 else (1, 0):
                spent[which] += taken_ns(cores[which].handle, part)
        gc.enable()
        found.append((spent[1] / spent[0], spent[0], spent[1]))
    _, without, with_ = sorted(found)[ROUNDS // 2]
    count = 1e3 * (len(events) - setup)
    return without / count, with_ / count


def ready(events: list[Recorded], *, watched: bool) -> Supervisor:
    """A core that has been told who is there."""
    core = Supervisor("load")
    for event in events:
        core.handle(event)
    if not watched:
        core._state.watch = None
        core._state.due_s.pop("watch", None)
    return core


def taken_ns(handle: Callable[[Recorded], object], part: list[Recorded]) -> int:
    """CPU time that these entries take."""
    begun = time.thread_time_ns()
    for event in part:
        handle(event)
    return time.thread_time_ns() - begun


def talk(steps: int, words: int) -> tuple[list[Recorded], int]:
    """Two agents that ask and answer, each time something else."""
    journal, rnd = Journal(2, concurrency=4), random.Random(words)
    known = ["".join(rnd.choices("abcdefghiklmnoprstuvw", k=rnd.randint(3, 9))) for _ in range(4000)]

    def body(count: int) -> Raw:
        return Raw(json.encode({"text": " ".join(rnd.choices(known, k=count))}))

    task = journal.began(0)
    journal._write("_", "_", m.OperatorAsked(action="goal", answer=" ".join(known[:30])))
    setup = len(journal.events)
    for _ in range(steps):
        call = journal.new("c")
        journal._say(0, m.Request, to="a1", id_=call, task=task, body=body(words // 3))
        journal.started(1, call, 0)
        journal._say(1, m.Reply, to="a0", id_=call, body=body(words - words // 3))
    return journal.events, setup


def main() -> None:
    """Print a line for each load."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--events", type=int, default=60_000)
    options = parser.parse_args()
    print("without words     us an entry   with the watch   ratio")
    for name in ("trees", "chain", "hub", "lock chain", "mix"):
        events = LOADS[name](options.agents, options.events)
        without, with_ = in_turns(events, options.agents + 1)
        print(f"{name:<16} {without:12.3f} {with_:16.3f} {with_ / without:7.3f}", flush=True)
    print("\nwords of a step   us a step")
    for words in WORDS:
        events, setup = talk(max(20, min(600, 200_000 // words)), words)
        without, with_ = in_turns(events, setup)
        print(f"{words:<16} {3 * (with_ - without):10.0f}", flush=True)


if __name__ == "__main__":
    main()
