"""Run traces: what a controller decides about a run, as spans of the run's trace; what agents do they trace themselves.

Theory of operation. A decision about a call is a child of the span that made the call: its `traceparent` came with the
message, and is remembered for as long as the call is young. A finding is a child of the run, linked to the calls it is
about. The span of the run itself is written when the run is over, under the id that all others have named as its
parent. Times are those of the journal. Traces are for looking back: what the supervisor knows stands in the journal.
"""

import contextlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct
from opentelemetry import trace
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

from crewkeeper_bus import trace_names as names
from crewkeeper_bus.trace_export import Exporting
from crewkeeper_bus.trace_export import exporting as sdk_exporting
from crewkeeper_bus.tracing import SCOPE, bounded, parsed, root_of
from crewkeeper_supervisor.core.booking import Booking
from crewkeeper_supervisor.core.commands import (
    AnswerCall,
    AskApproval,
    CancelCall,
    Command,
    SetAccess,
    TellAgent,
    TellService,
)
from crewkeeper_supervisor.core.findings import Edge, Incident
from crewkeeper_supervisor.core.supervisor import Supervisor
from crewkeeper_supervisor.shell.journal import Entry
from crewkeeper_supervisor.shell.observing import Let, Unseen, Words
from crewkeeper_supervisor.shell.registry import ENDED

SERVICE: Final = "crewkeeper-supervisor"
CALLS_MAX: Final = 10_000
"""Calls of one run whose context is remembered."""
LINKS_MAX: Final = 50
_TELLING: Final = frozenset(("Break", "Pause", "Resume", "Stop", "Nudge"))
"""Control messages that are worth a span."""
_MARK: Final = b'"trace":"'


class _Traced(Struct):
    """What is read of a message of an agent."""

    trace: str = ""
    task: str = ""


_TRACED: Final = msgspec.json.Decoder(_Traced)


class _Ids(RandomIdGenerator):
    """Random ids, and for the span of a run the ids that everybody knows."""

    def __init__(self) -> None:
        self.next: tuple[int, int] | None = None

    def generate_trace_id(self) -> int:
        return super().generate_trace_id() if self.next is None else self.next[0]

    def generate_span_id(self) -> int:
        return super().generate_span_id() if self.next is None else self.next[1]


@contextlib.contextmanager
def exporting() -> Iterator["Traces"]:
    """Export spans around a block.

    Raises:
        ConfigError: What exports them is not installed, or set up so that it cannot be used.
    """
    ids = _Ids()
    sending = sdk_exporting(SERVICE, {}, ids)
    try:
        yield Traces(sending, ids)
    finally:
        sending.close()


class Traces:
    """The spans of one controller (`observing.Observer`)."""

    def __init__(self, sending: Exporting, ids: _Ids) -> None:
        self._sending = sending
        self._ids = ids
        self._tracer = sending.provider.get_tracer(SCOPE)

    def counts(self) -> dict[str, int]:
        """What became of spans, by outcome."""
        return self._sending.counts()

    def run(self, run: str, fold: Any) -> "RunTrace":
        """Begin to trace a run."""
        return RunTrace(self, run, fold)

    def webhook(self, host: str, outcome: str) -> None:
        """Attempts to tell people have no span: what they are about has one."""

    def write(
        self,
        name: str,
        parent: str,
        begin_s: float,
        end_s: float,
        attributes: dict[str, Any],
        *,
        links: Sequence[str] = (),
        error: str = "",
        root: bool = False,
    ) -> None:
        """Write one span with times of the journal.

        Args:
            name: Its name.
            parent: Context of its parent; with `root`, its own.
            begin_s: When it began, seconds since the epoch.
            end_s: When it ended.
            attributes: By name; empty ones are left out.
            links: Contexts it has to do with.
            error: What went wrong; empty: nothing.
            root: Whether it is the span of a run.
        """
        context = _context_of(parent)
        around = None
        if root and context is not None:
            self._ids.next = (context.trace_id, context.span_id)
            around = trace.set_span_in_context(trace.INVALID_SPAN)
        elif context is not None:
            around = trace.set_span_in_context(trace.NonRecordingSpan(context))
        linked = [trace.Link(each) for each in map(_context_of, links) if each is not None]
        kept = {key: bounded(value) for key, value in attributes.items() if value not in ("", None, (), [])}
        try:
            span = self._tracer.start_span(
                bounded(name), around, attributes=kept, links=linked, start_time=_ns(begin_s)
            )
        finally:
            self._ids.next = None
        if error:
            span.set_attribute(names.ERROR_TYPE, bounded(error))
            span.set_status(trace.StatusCode.ERROR)
        span.end(_ns(max(begin_s, end_s)))


class RunTrace:
    """The spans about one run (`observing.RunObserver`)."""

    def __init__(self, traces: Traces, run: str, fold: Any) -> None:
        self._traces = traces
        self._run = run
        self._root = root_of(run)
        self._fold = fold if isinstance(fold, Supervisor) else None
        self._owned = False
        self._words = Words()
        self._began_s = 0.0
        self._contexts: OrderedDict[str, tuple[str, float]] = OrderedDict()
        """By `agent/call`: the context it was made in, and when. Ids of calls are the agents' own choice."""
        self._proxied: OrderedDict[str, str] = OrderedDict()
        """Calls of the model proxy, with the context of the activity that they belong to."""
        self._works: OrderedDict[str, str] = OrderedDict()
        """Contexts of activities, by `agent/task`, and of the last one of each agent."""
        self._unseen = Unseen()
        """Findings that have a span, or had one before this controller came."""

    def took(self, entries: Sequence[Entry]) -> None:
        """Remember the contexts of calls; write spans for new findings."""
        if not self._began_s and entries:
            self._began_s = entries[0].at_s
        for entry in entries:
            self._remember(entry)
        if self._owned:
            self._look()

    def _remember(self, entry: Entry) -> None:
        parts = entry.subject.split(".", 5)
        if len(parts) < 6:
            return
        kind, sender = parts[2], parts[3]
        if not self._owned:
            self._words.hear(entry, kind, sender)
        try:
            if sender == "_model" and kind == "op":
                self._remember_proxied(_ASKED.decode(entry.payload), entry.at_s)
            elif kind in ("req", "tool", "note") and _MARK in entry.payload:
                found = _TRACED.decode(entry.payload)
                if parsed(found.trace) is None:
                    return
                if kind == "note":
                    _keep(self._works, f"{sender}/{found.task}", found.trace)
                    _keep(self._works, sender, found.trace)
                elif (made := f"{sender}/{parts[5]}") not in self._contexts:
                    _keep(self._contexts, made, (found.trace, entry.at_s))
        except (msgspec.MsgspecError, ValueError):  # not a message, or another one: the core says so
            return

    def _remember_proxied(self, asked: "_Asked", at_s: float) -> None:
        made = f"{asked.agent}/{asked.call}"
        if made not in self._contexts:
            context = self._works.get(f"{asked.agent}/{asked.task}") or self._works.get(asked.agent, self._root)
            if parsed(asked.trace) is not None:
                context = asked.trace
            _keep(self._proxied, made, context)
            _keep(self._contexts, made, (context, at_s))

    def owned(self) -> None:
        """What others have found has its span from them."""
        self._owned = True
        if self._fold is not None:
            self._unseen.skip(self._fold.incidents, self._words.before)
        self._look()

    def sent(self, command: Command, attempt: int, error: str, latency_ms: float) -> None:
        """Write a span for what was decided, when it is sent for the first time."""
        if attempt > 1:
            return
        match command:
            case AskApproval():
                about = {names.RULE: command.rule, names.APPROVAL: command.approval, names.TOOL_NAME: command.tool}
                self._decided(command.call, command.agent, "ask", about)
            case AnswerCall() | TellService() if command.booking is not None:
                self._booked(command.booking)
            case AnswerCall() if command.error is not None:
                self._acted(command.id, "fail_call", command.agent, command.error.finding, call=command.call)
            case CancelCall():
                self._acted(command.id, "cancel_call", command.caller, "", call=command.call)
            case TellAgent() if type(command.message).__name__ in _TELLING:
                what = type(command.message).__name__.lower()
                self._acted(command.id, what, command.agent, getattr(command.message, "finding", ""))
            case SetAccess():
                self._acted(command.id, command.state, command.agent, "")
            case _:
                return

    def left(self, how: Let) -> None:
        """Write the span of the run, if it is over."""
        fold = self._fold
        if how != "over" or fold is None:
            return
        crew = fold.crew.name if fold.crew is not None else ""
        usage = fold.usage
        about = {
            names.OPERATION: names.INVOKE_WORKFLOW,
            names.WORKFLOW: crew,
            names.CONVERSATION: self._run,
            names.STATE: fold.state,
            names.INPUT_TOKENS: usage.input_tokens,
            names.OUTPUT_TOKENS: usage.output_tokens,
            names.COST_USD: usage.cost_microusd / 1e6,
        }
        assert fold.state in ENDED
        failed = "" if fold.state == "done" else fold.state
        name = f"{names.INVOKE_WORKFLOW} {crew}"
        began_s = fold.gate.began_s or self._began_s
        self._traces.write(name, self._root, began_s, fold.now_s, about | self._own(), error=failed, root=True)

    # --- spans ---

    def _own(self) -> dict[str, Any]:
        fold = self._fold
        return {names.RUN: self._run, names.CREW: fold.crew.name if fold is not None and fold.crew is not None else ""}

    def _now_s(self) -> float:
        return 0.0 if self._fold is None else self._fold.now_s

    def _booked(self, booking: Booking) -> None:
        is_model = "model_calls" in booking.amounts
        about = {
            names.RULE: booking.rule,
            names.POLICY: booking.policy,
            names.APPROVAL: booking.approval,
            names.CODE: booking.code,
            (names.REQUEST_MODEL if is_model else names.TOOL_NAME): booking.what,
        }
        if booking.act == "reserve":
            self._decided(booking.call, booking.agent, "allow", about)
        elif booking.act == "refuse":
            self._decided(booking.call, booking.agent, "deny", about)
        elif booking.act in ("settle", "expire") and is_model:
            self._proxied_call(booking, about)

    def _decided(self, call: str, agent: str, decision: str, about: dict[str, Any]) -> None:
        context, at_s = self._contexts.get(f"{agent}/{call}", (self._root, self._now_s()))
        about = {names.AGENT: agent, names.CALL: call, names.DECISION: decision, **about, **self._own()}
        self._traces.write(f"{names.DECIDE} {decision}", context, at_s, self._now_s(), about)

    def _proxied_call(self, booking: Booking, about: dict[str, Any]) -> None:
        """A model call through the proxy: the agent's own program may know nothing of traces."""
        made = f"{booking.agent}/{booking.call}"
        if made not in self._proxied:
            return  # the agent has its own span for it
        context, at_s = self._contexts.get(made, (self._proxied[made], self._now_s()))
        amounts = booking.amounts
        about = {
            **about,
            names.OPERATION: names.CHAT,
            names.AGENT_NAME: booking.agent,
            names.CALL: booking.call,
            names.INPUT_TOKENS: amounts.get("input_tokens", 0),
            names.OUTPUT_TOKENS: amounts.get("output_tokens", 0),
            names.CACHED_TOKENS: amounts.get("cached_tokens"),
            names.COST_USD: amounts.get("microusd", 0) / 1e6,
            **self._own(),
        }
        name = f"{names.CHAT} {booking.what}"
        self._traces.write(name, context, at_s, self._now_s(), about, error=booking.code)

    def _acted(self, command: str, what: str, agent: str, finding: str, *, call: str = "") -> None:
        """One deed: a child of the call it is about, or of the run; linked to the waits of the victim it fails."""
        about = {names.COMMAND: command, names.AGENT: agent, names.FINDING: finding, names.CALL: call, **self._own()}
        context, _ = self._contexts.get(f"{agent}/{call}", (self._root, 0.0))
        links = self._victims(finding) if context == self._root else ()
        self._traces.write(f"{names.ACT} {what}", context, self._now_s(), self._now_s(), about, links=links)

    def _victims(self, finding: str) -> list[str]:
        """Contexts of the calls that the victim of a finding waits for."""
        incident = self._fold.incidents.get(finding) if self._fold is not None else None
        if incident is None or incident.finding.victim is None:
            return []
        return self._linked([each for each in incident.finding.edges if each.task == incident.finding.victim.task])

    def _linked(self, edges: Sequence[Edge]) -> list[str]:
        made = (f"{edge.agent}/{edge.message}" for edge in edges[:LINKS_MAX])
        return [self._contexts[call][0] for call in made if call in self._contexts]

    def _look(self) -> None:
        for incident in self._unseen.new(self._fold.incidents) if self._fold is not None else ():
            self._found(incident)

    def _found(self, incident: Incident) -> None:
        finding = incident.finding
        since_s = max((edge.since_s for edge in finding.edges), default=finding.at_s)
        about = {
            names.FINDING: finding.id,
            names.FINDING_KIND: finding.kind,
            names.FINDING_AGENTS: finding.agents,
            names.VICTIM: finding.victim.task if finding.victim is not None else "",
            **self._own(),
        }
        name = f"{names.FOUND} {finding.kind}"
        self._traces.write(name, self._root, since_s, finding.at_s, about, links=self._linked(finding.edges))


class _Asked(Struct, tag_field="t", tag="spend_asked"):
    """What is read of the model proxy's question."""

    call: str
    agent: str
    task: str = ""
    trace: str = ""


_ASKED: Final = msgspec.json.Decoder(_Asked)
_V = TypeVar("_V")


def _keep(kept: OrderedDict[str, _V], name: str, value: _V) -> None:
    kept[name] = value
    if len(kept) > CALLS_MAX:
        kept.popitem(last=False)


def _context_of(traceparent: str) -> trace.SpanContext | None:
    found = parsed(traceparent)
    if found is None:
        return None
    trace_id, span_id, flags = found
    return trace.SpanContext(trace_id, span_id, is_remote=True, trace_flags=trace.TraceFlags(flags))


def _ns(at_s: float) -> int:
    return int(at_s * 1e9)
