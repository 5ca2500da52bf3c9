"""Back-test: what other rules would have decided upon a recorded journal, beside what was decided; looks, never acts.

The same entries are folded twice, once as they are and once with another crew or policy in the first of them. The
journal is what agents did under the old rules. So up to the first difference the answer is exact, and after it it
says what the new rules make of what was done, not what would have been done instead.
"""

from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from crewkeeper_bus import codec
from crewkeeper_bus.messages import RunDeclared
from crewkeeper_bus.subjects import SIDE
from crewkeeper_bus.tool_messages import PolicyChanged
from crewkeeper_supervisor.core.commands import AskApproval, AskHook, Command
from crewkeeper_supervisor.core.crew import Crew
from crewkeeper_supervisor.core.events import Recorded
from crewkeeper_supervisor.core.rules import Rule
from crewkeeper_supervisor.core.supervisor import Supervisor
from crewkeeper_supervisor.gate.rules import make_fold
from crewkeeper_supervisor.shell.journal import Entry
from crewkeeper_supervisor.views.stepping import Decision, decision
from crewkeeper_supervisor.views.wording import dollars, money, safe

SHOWN_MAX: Final = 20
Verdict = Literal["granted", "refused", "asks a person", "asks a hook", "nothing"]


class Outcome(Struct, kw_only=True):
    """What became of one call under one set of rules."""

    verdict: Verdict = "nothing"
    code: str = ""
    rule: str = ""
    because: str = ""
    seq: int = 0
    cost_microusd: int = 0
    """Settled; while it is not, reserved."""
    tokens: int = 0


class CallChange(Struct, frozen=True, kw_only=True):
    """One call that is decided otherwise."""

    agent: str
    call: str
    task: str
    what: str
    """The tool or model."""
    before: Outcome
    after: Outcome


class Counted(Struct, frozen=True, kw_only=True):
    """Findings or interventions of one kind about the same agents."""

    what: str
    agents: tuple[str, ...]
    before: int
    after: int


class Backtested(Struct, kw_only=True):
    """What a back-test found."""

    run: str
    policy_before: str
    policy_after: str
    entries: int
    calls: int
    """Calls of tools and models that either set of rules decided upon."""
    first_seq: int | None
    """Journal sequence of the first difference: up to it the answer is exact; null: there is none."""
    changed: list[CallChange]
    findings: list[Counted]
    interventions: list[Counted]
    saved_usd: Decimal
    """Spent by calls that would not have been granted."""
    saved_tokens: int
    stopped_calls: int
    """Calls that were granted and would not have been."""
    stopped_tasks: int
    """Tasks that had one of them."""
    freed_calls: int
    """Calls that were not granted and would have been."""
    freed_usd: Decimal
    """What they would have reserved."""
    strangers: tuple[str, ...]
    """Agents of the journal that the new crew does not have."""
    schema_version: int = 1

    @property
    def is_same(self) -> bool:
        """Whether nothing is decided otherwise."""
        return not (self.changed or self.findings or self.interventions)


class _Side:
    """One fold, with what it decided."""

    def __init__(self, run: str) -> None:
        self.core: Supervisor = make_fold(run)
        self.calls: dict[tuple[str, str], Outcome] = {}
        self.about: dict[tuple[str, str], tuple[str, str]] = {}
        """Task and tool of each call."""
        self.acts: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self.firsts: dict[tuple[str, tuple[str, ...]], int] = {}

    def take(self, entry: Entry) -> Recorded | None:
        event = self.core.read(*entry)
        for command in self.core.handle(event):
            self._note(entry.seq, command)
        return event if isinstance(event, Recorded) else None

    def _note(self, seq: int, command: Command) -> None:
        made = decision(command)
        booking: Any = getattr(command, "booking", None)
        if isinstance(command, AskApproval | AskHook):
            tool = command.tool if isinstance(command, AskApproval) else command.asked.tool
            found = self._call((command.agent, command.call), "", tool)
            found.seq, found.verdict = seq, "asks a hook"
            if isinstance(command, AskApproval):
                found.verdict, found.rule, found.because = "asks a person", command.rule, command.because
        elif booking is not None:
            self._book(seq, booking, command)
        elif command.durable:
            self._act(seq, made)

    def _call(self, key: tuple[str, str], task: str, what: str) -> Outcome:
        known_task, known_what = self.about.get(key, ("", ""))
        self.about[key] = (known_task or task, known_what or what)
        return self.calls.setdefault(key, Outcome())

    def _book(self, seq: int, booking: Any, command: Command) -> None:
        found = self._call((booking.agent, booking.call), booking.task, booking.what)
        error = getattr(command, "error", None) or getattr(getattr(command, "message", None), "fault", None)
        match booking.act:
            case "reserve":
                found.verdict, found.seq = "granted", seq
                found.rule = booking.rule
                found.cost_microusd = booking.amounts.get("microusd", 0)
            case "refuse":
                found.code, found.because = booking.code, error.text if error is not None else ""
                if found.verdict != "asks a person":  # then it is how the asking ended
                    found.verdict, found.seq, found.rule = "refused", seq, booking.rule
            case "settle" | "expire":
                found.cost_microusd = booking.amounts.get("microusd", 0)
                found.tokens = sum(booking.amounts.get(name, 0) for name in ("input_tokens", "output_tokens"))

    def _act(self, seq: int, made: Decision) -> None:
        incident = self.core.incidents.get(made.finding)
        about = f" upon {incident.finding.kind.replace('_', ' ')}" if incident is not None else ""
        key = (f"{made.kind}{about}", (made.agent,) if made.agent else ())
        self.acts[key] += 1
        self.firsts.setdefault(key, seq)

    def findings(self) -> tuple[Counter[tuple[str, tuple[str, ...]]], dict[tuple[str, tuple[str, ...]], int]]:
        counted: Counter[tuple[str, tuple[str, ...]]] = Counter()
        firsts: dict[tuple[str, tuple[str, ...]], int] = {}
        for incident in self.core.incidents.values():
            key = (incident.finding.kind, tuple(sorted(incident.finding.agents)))
            counted[key] += 1
            firsts.setdefault(key, incident.finding.seq)
        return counted, firsts

    @property
    def policy(self) -> str:
        rules = self.core.gate.prepared()
        return "" if rules is None else rules.version


class Backtest:
    """Folds a journal under the old rules and under others; feed it the journal in order.

    Args:
        run: The run.
        crew: The new crew; None: the crew as it was.
        rules: The new rules of the policy; None: those of the crew.
        default: What becomes of a call that no rule decides on, with `rules`.
    """

    def __init__(
        self, run: str, *, crew: Crew | None = None, rules: Iterable[Rule] | None = None, default: str = "allow"
    ) -> None:
        self._run = run
        self._crew = crew
        self._rules = None if rules is None else tuple(rules)
        self._default = default
        self._old, self._new = _Side(run), _Side(run)
        self._senders: dict[str, None] = {}
        self._entries = 0

    def take(self, entry: Entry) -> None:
        """Take in the next entry."""
        self._entries += 1
        event = self._old.take(entry)
        if event is not None and event.sender not in SIDE:
            self._senders[event.sender] = None
        if event is not None and isinstance(event.message, RunDeclared):
            entry = entry._replace(payload=self._declared(event.message))
        elif event is not None and isinstance(event.message, PolicyChanged) and event.sender in SIDE:
            entry = entry._replace(payload=_TICK)  # the policy that is tried stays in force
        self._new.take(entry)

    def _declared(self, message: RunDeclared) -> bytes:
        crew: dict[str, Any] = dict(message.crew) if self._crew is None else msgspec.to_builtins(self._crew)
        redact = message.crew.get("redact")
        if isinstance(redact, dict) and isinstance(crew.get("redact"), dict):
            crew["redact"] = {**crew["redact"], "key": redact.get("key", "")}
        if self._rules is not None:
            crew |= {"rules": msgspec.to_builtins(self._rules), "policy_default": self._default}
        return codec.encode(msgspec.structs.replace(message, crew=crew))

    def finish(self) -> Backtested:
        """What was found."""
        old, new = self._old, self._new
        changed = self._changed()
        findings, seqs = _compared(old.findings(), new.findings())
        acts, more = _compared((old.acts, old.firsts), (new.acts, new.firsts))
        seqs += more + [min(seq for seq in (c.before.seq, c.after.seq) if seq) for c in changed]
        stopped = [c for c in changed if c.before.verdict == "granted" and c.after.verdict != "granted"]
        freed = [c for c in changed if c.before.verdict != "granted" and c.after.verdict == "granted"]
        return Backtested(
            run=self._run,
            policy_before=old.policy,
            policy_after=new.policy,
            entries=self._entries,
            calls=len({**old.calls, **new.calls}),
            first_seq=min(seqs, default=None),
            changed=changed,
            findings=findings,
            interventions=acts,
            saved_usd=money(sum(c.before.cost_microusd for c in stopped)),
            saved_tokens=sum(c.before.tokens for c in stopped),
            stopped_calls=len(stopped),
            stopped_tasks=len({(c.agent, c.task) for c in stopped}),
            freed_calls=len(freed),
            freed_usd=money(sum(c.after.cost_microusd for c in freed)),
            strangers=tuple(name for name in self._senders if name not in new.core.agents),
        )

    def _changed(self) -> list[CallChange]:
        old, new = self._old, self._new
        found = []
        for key in {**old.calls, **new.calls}:
            before, after = old.calls.get(key, Outcome()), new.calls.get(key, Outcome())
            if (before.verdict, before.code) == (after.verdict, after.code):
                continue
            task, what = old.about.get(key) or new.about[key]
            found.append(CallChange(agent=key[0], call=key[1], task=task, what=what, before=before, after=after))
        return found


_TICK: Final = b'{"t":"tick"}'


def _compared(before: Any, after: Any) -> tuple[list[Counted], list[int]]:
    (was, was_at), (now, now_at) = before, after
    found, seqs = [], []
    for key in {**was, **now}:
        if was[key] == now[key]:
            continue
        found.append(Counted(what=key[0], agents=key[1], before=was[key], after=now[key]))
        seqs.append(min(at[key] for at in (was_at, now_at) if key in at))
    return found, seqs


def page(found: Backtested) -> list[str]:
    """The result as lines of safe text."""
    lines = [f"run {safe(found.run)}: {found.entries} journal entries, {found.calls} calls of tools and models"]
    if found.policy_before != found.policy_after:
        lines.append(f"  policy {found.policy_before[:12] or 'none'} -> {found.policy_after[:12] or 'none'}")
    lines += [f"  {safe(name)} took part and is not in the new crew" for name in found.strangers]
    if found.is_same:
        return [*lines, "nothing would have been decided otherwise"]
    lines.append(f"exact up to entry {found.first_seq}; after it: these rules upon what was done under the old ones")
    if found.stopped_calls:
        tokens = f" and {found.saved_tokens} tokens" if found.saved_tokens else ""
        lines.append(
            f"stopped   {found.stopped_calls} calls of {found.stopped_tasks} tasks; "
            f"{dollars(found.saved_usd)}{tokens} not spent"
        )
    if found.freed_calls:
        lines.append(f"let go    {found.freed_calls} calls that were not; up to {dollars(found.freed_usd)} more spent")
    lines += _call_lines(found.changed)
    lines += _counted_lines("Findings", found.findings)
    lines += _counted_lines("Other decisions", found.interventions)
    return lines


def _call_lines(changed: list[CallChange]) -> list[str]:
    if not changed:
        return []
    lines = ["", "Calls"]
    for each in changed[:SHOWN_MAX]:
        cost = f" ({dollars(money(each.before.cost_microusd))})" if each.before.verdict == "granted" else ""
        said = f"{_verdict(each.before)}{cost} -> {_verdict(each.after)}"
        lines.append(f"  {safe(each.agent)} {safe(each.what)!r} {safe(each.call)}: {said}")
        if each.after.because:
            lines.append(f"      {safe(each.after.because, 160)}")
    if len(changed) > SHOWN_MAX:
        lines.append(f"  … and {len(changed) - SHOWN_MAX} more")
    return lines


def _verdict(outcome: Outcome) -> str:
    rule = f", rule {safe(outcome.rule)}" if outcome.rule else ""
    return f"{outcome.verdict}{f' ({safe(outcome.code)}{rule})' if outcome.code else rule}"


def _counted_lines(head: str, rows: list[Counted]) -> list[str]:
    if not rows:
        return []
    shown = [
        f"  {safe(row.what)} {safe(', '.join(row.agents), 120)}: {row.before} -> {row.after}"
        for row in rows[:SHOWN_MAX]
    ]
    return ["", head, *shown, *([f"  … and {len(rows) - SHOWN_MAX} more"] if len(rows) > SHOWN_MAX else [])]
