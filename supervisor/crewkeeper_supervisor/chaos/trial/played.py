"""Played: one run of a scenario, with all that is needed to judge, tell and repeat it."""

import msgspec
from msgspec import Struct

from crewkeeper_supervisor.chaos.trial.events import Span
from crewkeeper_supervisor.chaos.trial.verdict import Observed, Struck, Verdict
from crewkeeper_supervisor.core.events import Event


class Played(Struct, kw_only=True):
    """One run of a scenario, with all that is needed to play it again and to tell of it."""

    scenario: str
    mode: str
    seed: int
    verdict: Verdict
    observed: Observed
    faults: tuple[str, ...] = ()
    """Names of everything that struck; what a shrink leaves out."""
    digest: str = ""
    """Of the core's state at the end."""
    entries: int = 0
    took_s: float = 0.0
    journal: list[Event] = msgspec.field(default_factory=list)
    folder: str = ""
    """Where the logs of a real run are kept; empty where they are not."""


def shifted(span: Span, zero_s: float) -> Span:
    """A span in time since the crew began."""
    return msgspec.structs.replace(span, from_s=round(span.from_s - zero_s, 6), to_s=round(span.to_s - zero_s, 6))


def since(struck: Struck, zero_s: float) -> Struck:
    """An injected fault in time since the crew began."""
    end_s = None if struck.end_s is None else round(struck.end_s - zero_s, 6)
    return msgspec.structs.replace(struck, at_s=round(struck.at_s - zero_s, 6), end_s=end_s)
