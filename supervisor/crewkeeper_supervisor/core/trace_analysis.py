"""Analysis of a recorded run: the production detectors over its events, each finding told where it could first be told.

Only what needs no clock runs here: loops, courtesy, drift, misuse, deadlocks in tables of resources, and constraints on
the last answer. Stalls, floods and budgets are judged on live runs.
"""

from typing import Any, Final

import msgspec
from msgspec import Struct

from crewkeeper_supervisor.core.courtesy import CourtesyDetector
from crewkeeper_supervisor.core.drift import Drift, DriftModel
from crewkeeper_supervisor.core.grounding import Grounding
from crewkeeper_supervisor.core.loops import Loop, LoopDetector
from crewkeeper_supervisor.core.meaning import Embed
from crewkeeper_supervisor.core.misuse import Misuse, MisuseDetector
from crewkeeper_supervisor.core.outcome import Outcome, Validator, broken
from crewkeeper_supervisor.core.resource_table import TableDeadlock, TableReader
from crewkeeper_supervisor.core.steps import Step
from crewkeeper_supervisor.core.trace import StepReader, TraceEvent

PATTERNS: Final = {
    "refusals": "was refused",
    "unknown_tool": "called tools that do not exist",
    "ungrounded": "failed with identifiers that nobody gave",
}


class TraceHeader(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of a run before its first event; all of it may be missing."""

    objective: str = ""
    humans: tuple[str, ...] | None = None
    """Names of people; None: the usual ones."""
    tools: tuple[str, ...] | None = None
    """Names of all tools there are; None: unknown."""
    outcome: Outcome | None = None


class TraceFinding(Struct, frozen=True, kw_only=True):
    """One finding of an analysis, as it is printed."""

    trace: str
    kind: str
    """`loop`, `drift`, `misuse`, `deadlock` or `outcome`."""
    at: int
    """Index of the event at which it was raised."""
    onset: int
    """Index of the event from which it held."""
    agents: tuple[str, ...]
    period: int | None
    """Loop: steps from one occurrence to the next."""
    why: str


class TraceAnalysis:
    """The detectors, over one run.

    Args:
        trace: Name of the run, repeated in every finding.
        header: What is known of it.
        validator: Checks an answer against a schema.
        embed: Gives the meaning of a text as a vector, for drift; None: it is judged by words alone.
    """

    def __init__(
        self,
        trace: str,
        header: TraceHeader | None = None,
        validator: Validator | None = None,
        embed: Embed | None = None,
    ) -> None:
        header = header or TraceHeader()
        self._trace = trace
        self._header = header
        self._validator = validator
        self._reader = StepReader(
            None if header.humans is None else frozenset(header.humans),
            None if header.tools is None else frozenset(header.tools),
        )
        self._loops = LoopDetector()
        self._courtesy = CourtesyDetector()
        self._grounding = Grounding()
        self._misuse = MisuseDetector(self._grounding)
        self._drift = DriftModel(header.objective, embed)
        self._tables = TableReader()
        self._briefed = bool(header.objective)
        self._last: TraceEvent | None = None
        self._grounding.saw(header.objective)

    def feed(self, event: TraceEvent, at_s: float = 0.0) -> list[TraceFinding]:
        """Take in one event, in order; returns what it shows."""
        found: list[TraceFinding] = []
        for step in self._reader.read(event, at_s):
            found += self._step(step)
            if event.kind == "tool_result":
                self._drift.heard(step.outcome.words or step.said.words, step.agent)
        if event.kind == "tool_result" and (table := self._tables.read(event.text, event.i)) is not None:
            found.append(self._deadlock(table))
        drift = self._listen(event)
        if drift is not None:
            found.append(self._drifted(drift))
        if event.kind == "message" and not self._reader.is_human(event.sender):
            self._last = event
        if event.kind in ("message", "tool_result"):  # what a model makes up is not given to it
            self._grounding.saw(event.text)
        return found

    def finish(self) -> list[TraceFinding]:
        """The run is over; returns what that shows."""
        table = self._tables.finish()
        found = [self._deadlock(table)] if table is not None else []
        if self._header.outcome is None or self._last is None:
            return found
        last = self._last
        problems = broken(self._header.outcome, last.text, document_in(last.text), self._validator)
        why = [f"the last answer {problem}" for problem in problems]
        return found + [self._finding("outcome", last.i, last.i, (last.sender,), one) for one in why]

    def _step(self, step: Step) -> list[TraceFinding]:
        loops = [loop for loop in (self._loops.step(step), self._courtesy.step(step)) if loop is not None]
        return [self._loop(loop) for loop in loops] + [self._misused(one) for one in self._misuse.step(step)]

    def _listen(self, event: TraceEvent) -> Drift | None:
        """What the words of an event mean to the model of topic."""
        if event.kind == "tool_result" or event.progress:
            return None
        if self._reader.is_human(event.sender) or (event.kind == "message" and not self._briefed):
            # Without a person, the first message is the brief.
            self._briefed = True
            self._drift.told(event.text)
            return None
        drift = self._drift.did(event.sender, event.text, event.i)
        return drift if self._briefed else None  # without a brief there is nothing to drift from

    def _finding(
        self, kind: str, at: int, onset: int, agents: tuple[str, ...], why: str, period: int | None = None
    ) -> TraceFinding:
        return TraceFinding(trace=self._trace, kind=kind, at=at, onset=onset, agents=agents, period=period, why=why)

    def _loop(self, loop: Loop) -> TraceFinding:
        return self._finding("loop", loop.at, loop.onset, loop.agents, loop_text(loop), loop.period)

    def _drifted(self, drift: Drift) -> TraceFinding:
        strange = ", ".join(drift.strange)
        why = f"{drift.score:.0%} of what {drift.agent} said lately has nothing to do with the task: {strange}"
        return self._finding("drift", drift.at, drift.onset, (drift.agent,), why)

    def _misused(self, misuse: Misuse) -> TraceFinding:
        why = f"{misuse.agent} {PATTERNS[misuse.pattern]} {misuse.count} times: {misuse.detail}"
        return self._finding("misuse", misuse.at, misuse.onset, (misuse.agent,), why)

    def _deadlock(self, table: TableDeadlock) -> TraceFinding:
        why = f"{', '.join(table.agents)} each hold what another of them waits for"
        return self._finding("deadlock", table.at, table.onset, table.agents, why)


def loop_text(loop: Loop) -> str:
    """A loop in one sentence."""
    who = " and ".join(loop.agents)
    match loop.form:
        case "courtesy":
            return f"{who} exchanged {loop.count} messages without content"
        case "cycle":
            what = f"{who}: the same {loop.period} steps came {loop.count} times and brought nothing new"
        case "near" | "exact":
            manner = "the same" if loop.form == "exact" else "much the same"
            result = "failed the same way each time" if loop.failed else "brought nothing new"
            what = f"{who}: {manner} {loop.what} came {loop.count} times and {result}"
    return f"{what}, about {loop.tokens} tokens spent on it"


def document_in(text: str) -> Any:
    """The document that an answer in words is, or the text itself."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text
