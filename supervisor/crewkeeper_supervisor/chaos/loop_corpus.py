"""Made-up runs with loops in them, and healthy ones that look alike, from a seed: what detectors are measured on.

Every run begins with some ordinary work. A run with a loop says where it was first repeated and where it came for
the third time; an alarm before that is as wrong as one in a healthy run.
"""

import random
from collections.abc import Callable, Iterator

from crewkeeper_supervisor.chaos.runs.held_out import HELD_OUT
from crewkeeper_supervisor.chaos.runs.look_alikes import HEALTHY
from crewkeeper_supervisor.chaos.runs.loops import LOOPS
from crewkeeper_supervisor.chaos.runs.pen import CorpusRun, Pen
from crewkeeper_supervisor.chaos.runs.tongues import TONGUES

__all__ = ["HEALTHY", "LOOPS", "TONGUES", "CorpusRun", "corpus", "held_out"]


def held_out(seed: int, each: int, tongue: str) -> Iterator[CorpusRun]:
    """Runs of the kinds that the detectors were not chosen on.

    Args:
        seed: Of all of them.
        each: Runs of each kind.
        tongue: What they are worded in, one of `TONGUES`.
    """
    for kind, (form, write) in HELD_OUT.items():
        for number in range(each):
            yield _run(seed, kind, number, form, write, tongue)


def corpus(seed: int, each: int, tongue: str = "made_up") -> Iterator[CorpusRun]:
    """Runs of every kind, the same for the same seed and tongue.

    Args:
        seed: Of all of them.
        each: Runs of each kind.
        tongue: What they are worded in, one of `TONGUES`.
    """
    for kind, (form, write) in LOOPS.items():
        for number in range(each):
            yield _run(seed, kind, number, form, write, tongue)
    for kind, healthy in HEALTHY.items():
        for number in range(each):
            yield _run(seed, kind, number, None, healthy, tongue)


def _run(seed: int, kind: str, number: int, form: str | None, write: Callable[[Pen], None], tongue: str) -> CorpusRun:
    run = CorpusRun(id=f"{kind}-{tongue}-{seed}-{number}", kind=kind, loop=form)
    pen = Pen(run, random.Random(run.id), TONGUES[tongue])  # noqa: S311 - made-up data, nothing secret
    pen.work(pen.chance.randint(3, 15))
    write(pen)
    if form is None:
        pen.work(pen.chance.randint(2, 8))
    return run
