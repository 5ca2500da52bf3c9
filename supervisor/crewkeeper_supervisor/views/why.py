"""Why: what led to one finding, decision or call, or to how an agent or a run stands, told from the journal alone.

Theory of operation. The journal is folded once. Every entry is told in sentences and remembered under the ids it is
about, so that what came before can be named. Where the thing asked for first appears, the moment is kept: waits,
budgets, policy. From there on whatever names one of its ids is what followed. The ids grow with what is decided: a
finding's commands, a call's approval, an approval's call.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final, Literal

import msgspec
from msgspec import Raw, Struct

from crewkeeper_bus import messages as m
from crewkeeper_supervisor.core.commands import Command
from crewkeeper_supervisor.core.crew import Response
from crewkeeper_supervisor.core.events import Event, Recorded
from crewkeeper_supervisor.core.findings import Incident
from crewkeeper_supervisor.shell.chain import Record
from crewkeeper_supervisor.shell.journal import Entry
from crewkeeper_supervisor.views.moment import Moment, moment_of
from crewkeeper_supervisor.views.redaction import clean_value
from crewkeeper_supervisor.views.replay import plain
from crewkeeper_supervisor.views.snapshot import SCHEMA_VERSION, EdgeRow, IncidentRow, incident_row
from crewkeeper_supervisor.views.stepping import Decision, decision
from crewkeeper_supervisor.views.story import Line, Story
from crewkeeper_supervisor.views.wording import moment

REMEMBERED_MAX: Final = 20_000
"""Ids whose sentences are remembered."""
SENTENCES_MAX: Final = 6
"""Sentences remembered for one id."""
FOLLOWED_MAX: Final = 60
TURNS_MAX: Final = 8
"""Newest turns in the life of an agent or a run that are kept."""
DECISIONS_MAX: Final = 200
"""Newest decisions that are kept of an agent or a run; all are counted."""

Kind = Literal["finding", "decision", "call", "approval", "agent", "run"]
_NAMING: Final = ("id", "command", "call", "finding", "approval", "question", "ticket", "incident")
"""Fields of messages that name what they are about."""


_TURNS: Final = (
    m.ProcessStarted,
    m.ProcessExited,
    m.RestartsExhausted,
    m.StartProcess,
    m.HostLeaving,
    m.HostLost,
    m.StartRefused,
    m.OperatorAsked,
    m.AccessSet,
    m.Violation,
    m.Left,
    m.RunEnded,
)
_NO_RULES: Final = {
    "budget_spent": "a limit of the budget; no rule of the policy refuses it",
    "unknown_tool": "the tools of the crew: what is not declared is refused before the policy is asked",
    "bad_arguments": "the schema of the tool: what does not fit is refused before the policy is asked",
}
"""By what a call is refused, where it is no rule of the policy."""


class Told(Struct, frozen=True, kw_only=True):
    """One entry of the journal, in one sentence."""

    seq: int
    at: datetime
    text: str


class Decided(Struct, frozen=True, kw_only=True):
    """One decision, with everything that it was made of."""

    seq: int
    at: datetime
    decision: Decision
    cause: str
    """What happened at the entry it follows from."""
    record: int
    """Its number in the ledger; 0: it is not there."""
    policy: str = ""
    """Version of the policy that decided."""
    rule: str = ""
    because: str = ""
    approval: str = ""
    by: str = ""
    """Who has approved."""
    command: Any = None
    """The whole command, redacted as views are."""


class Why(Struct, kw_only=True):
    """The explanation."""

    run: str
    target: str
    kind: Kind
    seq: int
    """Journal sequence at which it came about."""
    at: datetime
    state: str
    """How it stands now."""
    causes: list[Told]
    """What led to it."""
    rule: str
    """What says so: a rule of the policy, or what the crew file has for such findings."""
    policy: str
    inputs: dict[str, Any]
    """What was decided upon."""
    decisions: list[Decided]
    counts: dict[str, int]
    """Decisions by kind."""
    then: Moment
    """Waits, budgets, findings and agents at that moment."""
    finding: IncidentRow | None
    findings: list[IncidentRow]
    """Of an agent or a run."""
    followed: list[Told]
    more: int
    """How much more followed than is kept."""
    schema_version: int = SCHEMA_VERSION

    @property
    def waits(self) -> tuple[EdgeRow, ...]:
        """Waits at that moment."""
        return self.then.view.waits


class Inquiry:
    """Looks for one thing in a run; feed it the journal in order, then ask.

    Args:
        run: The run.
        target: Id of a finding, command, call or approval; name of an agent; empty: the run itself.
        records: The ledger.
    """

    def __init__(self, run: str, target: str, records: Iterable[Record] = ()) -> None:
        self.story = Story(run)
        self.known_agents: dict[str, None] = {}
        self.examples: OrderedDict[str, None] = OrderedDict()
        """Ids that could be asked for, for a hint."""
        self._target = target
        self._ids: dict[str, None] = {target: None} if target else {}
        self._numbers = {record.id: record.n for record in records}
        self._heard: OrderedDict[str, list[Told]] = OrderedDict()
        self._causes: list[Told] = []
        self._decisions: list[Decided] = []
        self._counts: dict[str, int] = {}
        self._followed: list[Told] = []
        self._more = 0
        self._kind: Kind | None = None if target else "run"
        self._asked: Any = None
        self._then: Moment | None = None
        self._seq, self._at_s = 0, 0.0
        self._state = ""

    def take(self, entry: Entry) -> None:
        """Take in the next entry."""
        commands: list[Command] = []
        event, lines = self.story.feed(entry, commands.extend)
        told = _told(event, lines)
        named = _names(event)
        began = self._kind is not None and self._then is not None
        self._notice(event, commands, named)
        for command in commands:
            self._decide(event, told, command)
        if self._kind in ("agent", "run"):
            if self._turns(event):
                self._causes = [*self._causes[1 - TURNS_MAX :], told]
        elif self._kind is not None and not began:
            self._causes = [*self._before(event, named), told]
        elif began and (self._ids.keys() & named or self._tells(lines)):
            self._follow(told)
        for name in named:
            self._remember(name, told)

    def answer(self) -> Why | None:
        """The explanation; None: there is no such thing in the journal."""
        fold = self.story.fold
        if self._kind is None:
            return None
        if self._then is None or self._kind in ("agent", "run"):
            self._then, self._seq, self._at_s = moment_of(fold), fold.supervisor.seq, fold.last_at_s
        incident = fold.supervisor.incidents.get(self._finding())
        newest = self._decisions[-1] if self._kind in ("agent", "run") and self._decisions else None
        first = newest or (self._decisions[0] if self._decisions else None)
        return Why(
            run=fold.run,
            target=self._target or fold.run,
            kind=self._kind,
            seq=self._seq,
            at=moment(self._at_s),
            state=self._stands(incident),
            causes=self._causes,
            rule=self._rule(first, incident),
            policy=first.policy if first is not None and first.policy else self._then.policy,
            inputs=self._inputs(incident),
            decisions=self._decisions,
            counts=self._counts,
            then=self._then,
            finding=None if incident is None else incident_row(fold.run, incident),
            findings=[
                incident_row(fold.run, each)
                for each in fold.supervisor.incidents.values()
                if self._kind == "run" or (self._kind == "agent" and self._target in each.finding.agents)
            ],
            followed=self._followed,
            more=self._more,
        )

    # --- while the journal goes by ---

    def _notice(self, event: Event, commands: list[Command], named: Mapping[str, None]) -> None:
        """See whether this entry is about the thing asked for, and keep the moment when it first is."""
        core, target = self.story.fold.supervisor, self._target
        self.known_agents = dict.fromkeys(core.agents)
        for id_ in (*(c.id for c in commands if c.durable), *list(core.incidents)[-3:]):
            self.examples[id_] = None
        while len(self.examples) > DECISIONS_MAX:
            self.examples.popitem(last=False)
        if self._kind is None:
            self._kind = self._recognised(commands, named)
            if self._kind is None:
                return
        if self._then is not None or self._kind in ("agent", "run"):
            return
        if self._kind == "call" and not any(_call(command) == target for command in commands):
            self._asked = self._asked or event
            return
        self._asked = self._asked or event
        self._then, self._seq, self._at_s = moment_of(self.story.fold), event.seq, event.at_s

    def _recognised(self, commands: list[Command], named: Mapping[str, None]) -> Kind | None:
        core, target = self.story.fold.supervisor, self._target
        if target in core.agents:
            return "agent"
        if target in core.incidents:
            return "finding"
        if any(getattr(command, "approval", "") == target for command in commands):
            return "approval"
        if any(command.id == target for command in commands):
            return "decision"
        return "call" if target in named else None

    def _decide(self, event: Event, told: Told, command: Command) -> None:
        made = decision(command)
        if not self._concerns(command, made):
            return
        self._counts[made.kind] = self._counts.get(made.kind, 0) + 1
        self._decisions.append(self._decided(event, told, command, made))
        if len(self._decisions) > DECISIONS_MAX and self._kind in ("agent", "run"):
            del self._decisions[0]
        if self._kind not in ("agent", "run"):
            more: tuple[str, ...] = (command.id, getattr(command, "approval", ""))
            more += (_call(command),) if self._kind != "finding" else ()
            self._ids.update(dict.fromkeys(id_ for id_ in more if id_))

    def _concerns(self, command: Command, made: Decision) -> bool:
        if self._kind == "run":
            return command.durable
        if self._kind == "agent":
            return made.agent == self._target or self._target == str(getattr(command, "agent", ""))
        if self._kind == "decision":
            return command.id == self._target
        about = (command.id, made.finding, _call(command), getattr(command, "approval", ""))
        return any(id_ in self._ids for id_ in about if id_)

    def _decided(self, event: Event, told: Told, command: Command, made: Decision) -> Decided:
        booking = getattr(command, "booking", None)
        error = getattr(command, "error", None) or getattr(getattr(command, "message", None), "fault", None)
        why = str(getattr(command, "why", "") or getattr(getattr(command, "message", None), "why", ""))
        approval = str(getattr(command, "approval", ""))
        return Decided(
            seq=event.seq,
            at=moment(event.at_s),
            decision=made,
            cause=told.text,
            record=self._numbers.get(command.id, 0),
            policy=str(getattr(command, "policy", "")) or (booking.policy if booking is not None else ""),
            rule=str(getattr(command, "rule", "")) or (booking.rule if booking is not None else ""),
            because=str(getattr(command, "because", "")) or (error.text if error is not None else why),
            approval=approval or (booking.approval if booking is not None else ""),
            by=booking.by if booking is not None else "",
            command=clean_value(plain(command)),
        )

    def _turns(self, event: Event) -> bool:
        """Whether an entry is one that an agent, or the run, stands as it does because of."""
        message = event.message if isinstance(event, Recorded) else None
        if not isinstance(message, _TURNS):
            return False
        if self._kind == "run":
            return not isinstance(message, m.Left | m.ProcessStarted)
        return self._target in (event.sender, getattr(message, "agent", ""))

    def _tells(self, lines: list[Line]) -> bool:
        finding = self._finding()
        return bool(finding) and any(f" {finding} " in f" {line.text} ".replace(":", " ") for line in lines)

    def _follow(self, told: Told) -> None:
        if len(self._followed) < FOLLOWED_MAX:
            self._followed.append(told)
        else:
            self._more += 1

    def _before(self, event: Event, named: Iterable[str]) -> list[Told]:
        """What was said before about what this entry is about, and what the finding rests on."""
        incident = self.story.fold.supervisor.incidents.get(self._finding())
        ids = dict.fromkeys(named)
        if incident is not None:
            ids |= dict.fromkeys(edge.message for edge in incident.finding.edges)
        found = {told.seq: told for id_ in ids for told in self._heard.get(id_, ()) if told.seq < event.seq}
        return [found[seq] for seq in sorted(found)]

    def _remember(self, name: str, told: Told) -> None:
        known = self._heard.get(name)
        if known is None:
            known = self._heard[name] = []
            if len(self._heard) > REMEMBERED_MAX:
                self._heard.popitem(last=False)
        if len(known) < SENTENCES_MAX:
            known.append(told)

    # --- what is said of it ---

    def _finding(self) -> str:
        if self._kind == "finding":
            return self._target
        if self._kind == "decision" and self._decisions:
            return self._decisions[0].decision.finding
        return ""

    def _stands(self, incident: Incident | None) -> str:
        core = self.story.fold.supervisor
        if self._kind == "run":
            return core.state
        if self._kind == "agent":
            return str(core.agents[self._target].status)
        if self._kind == "finding" and incident is not None:
            return incident.state
        if self._kind == "approval" and (approval := core.gate.approvals.get(self._target)) is not None:
            return approval.state
        if self._decisions:
            last = self._decisions[-1].decision
            return " ".join(part for part in (last.act, last.code) if part) or "decided"
        return "seen, nothing was decided about it"

    def _rule(self, first: Decided | None, incident: Incident | None) -> str:
        crew = self.story.fold.supervisor.crew
        if incident is not None and crew is not None:
            kind = incident.finding.kind
            response = getattr(crew.responses, kind, None)
            if response is None:
                return f"responses.{kind}: as built in"
            return f"responses.{kind}: {_written(kind, response)}"
        if first is None or self._kind in ("agent", "run"):
            return ""
        if first.rule:
            return f"rule {first.rule} of the policy"
        if first.decision.code in _NO_RULES:
            return _NO_RULES[first.decision.code]
        return "no rule of the policy; its default" if first.policy else ""

    def _inputs(self, incident: Incident | None) -> dict[str, Any]:
        if incident is not None and self._kind == "finding":
            return dict(clean_value(incident.finding.evidence))
        if not isinstance(self._asked, Recorded) or self._kind not in ("call", "approval", "decision"):
            return {}
        message = self._asked.message
        found: dict[str, Any] = {"message": type(message).__name__, "from": self._asked.sender}
        for name in message.__struct_fields__:
            value = getattr(message, name)
            if isinstance(value, Raw):
                found[name] = msgspec.json.decode(value)
            elif name not in ("inc", "seq") and value not in (msgspec.UNSET, None, "", False, ()):
                found[name] = msgspec.to_builtins(value)
        return dict(clean_value(found))


def _told(event: Event, lines: list[Line]) -> Told:
    text = "; ".join(line.text for line in lines)
    kind = type(event.message).__name__ if isinstance(event, Recorded) else type(event).__name__
    return Told(seq=event.seq, at=moment(event.at_s), text=text or f"{kind} of {event.sender or 'nobody'}")


def _names(event: Event) -> dict[str, None]:
    """The ids that an entry is about."""
    if not isinstance(event, Recorded):
        return {}
    found = {event.id: None}
    for name in _NAMING:
        value = getattr(event.message, name, "")
        if value and isinstance(value, str):
            found[value] = None
    return found


def _call(command: Command) -> str:
    booking = getattr(command, "booking", None)
    return str(booking.call if booking is not None else getattr(command, "call", ""))


def _written(kind: str, response: Response) -> str:
    """A response as a crew file has it: of its keys, those that count for this kind."""
    keys = {"do": f"[{', '.join(response.do)}]"}
    if kind == "deadlock":
        keys |= {
            "confirm": f"{response.confirm_s:g}s",
            "lasting": f"{response.lasting_s:g}s",
            "victim": response.victim,
        }
    if response.climb_s or response.cool_down_s:
        keys |= {"climb": f"{response.climb_s:g}s", "cool_down": f"{response.cool_down_s:g}s"}
    if "hold" in response.do:
        keys["hold"] = f"{response.hold_s:g}s"
    if response.shadow:
        keys["shadow"] = "true"
    return "{" + ", ".join(f"{key}: {value}" for key, value in keys.items()) + "}"
