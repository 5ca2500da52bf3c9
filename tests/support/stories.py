"""Stories: text files that tell what happened to a crew and, indented below each line, what the core did about it.

A story goes through the real core as real messages, encoded and read back. Unindented lines are what happens; indented
lines are what is expected, and `pytest --rewrite-stories` writes them. Commands are carried out as they are given, and
answers to probes are what an honest client would say. `tests/core/stories/README.md` explains the words.
"""

import shlex
from pathlib import Path
from typing import Any

import msgspec

from crewkeeper_bus import messages as m
from crewkeeper_bus.subjects import HOST
from crewkeeper_supervisor.core.commands import (
    Admit,
    AnswerCall,
    AskHost,
    CancelCall,
    Command,
    Escalate,
    SetAccess,
    TellAgent,
)
from crewkeeper_supervisor.core.crew import Crew
from crewkeeper_supervisor.core.findings import Incident
from support.core_checks import check
from support.journal import Journal, fold

INDENT = "    "


class Story:
    """One story being told.

    Args:
        text: The story's file.
    """

    def __init__(self, text: str) -> None:
        self.lines = [line.rstrip() for line in text.splitlines()]
        self.agents: dict[str, dict[str, Any]] = {}
        self.crew: dict[str, Any] = {"name": "story"}
        self.journal: Journal | None = None
        self._steps: dict[str, int] = {}

    def told(self) -> str:
        """The story with what the core really does about each line."""
        out: list[str] = []
        for line in self.lines:
            if line.startswith(INDENT):
                continue
            out.append(line)
            if line and not line.startswith("#"):
                out += [INDENT + each for each in self._line(line)]
        self._check_again()
        return "\n".join(out).rstrip() + "\n"

    def _check_again(self) -> None:
        """The same journal folded anew comes to the same end."""
        journal = self._run()
        core, commands = fold(journal.entries, peek=True)
        assert commands == journal.commands
        assert core.digest() == journal.core.digest()

    def _run(self) -> Journal:
        if self.journal is None:
            crew = {**self.crew, "agents": [{"name": name, **spec} for name, spec in self.agents.items()]}
            self.journal = Journal(msgspec.convert(crew, Crew))
        return self.journal

    def _line(self, line: str) -> list[str]:
        words = shlex.split(line)
        if words[0] in ("agent", "policy", "crew"):
            assert self.journal is None, f"{line!r}: the crew is declared before anything happens"
            self._declare(words)
            return []
        journal = self._run()
        state = journal.core.state
        try:
            commands = self._happens(words)
        except (KeyError, IndexError, TypeError) as error:
            raise AssertionError(f"story line {line!r}: {error!r}") from error
        check(journal.core)
        said = [command_line(command) for command in commands]
        said += self._incidents()
        if journal.core.state != state:
            said.append(f"== {journal.core.state}")
        return said if words[0] != "show" else self._show(words[1])

    def _declare(self, words: list[str]) -> None:
        values: dict[str, Any] = {word.removeprefix("+"): True for word in words if word.startswith("+")}
        for key, value in (word.split("=", 1) for word in words if "=" in word):
            outer, _, inner = key.rpartition(".")
            (values.setdefault(outer, {}) if outer else values)[inner] = _value(value)
        match words[0]:
            case "crew":
                receiver = values.pop("tells", None)
                self.crew.update(values, escalate=[{"webhook": receiver}] if receiver else [])
            case "policy":
                values["do"] = [word for word in str(values.get("do", "warn")).split(",") if word]
                self.crew.setdefault("responses", {})[words[1]] = values
            case _:
                for name in [word for word in words[1:] if "=" not in word and not word.startswith("+")]:
                    self.agents[name] = values

    # --- what happens ---

    def _happens(self, words: list[str]) -> list[Command]:
        journal = self._run()
        match words:
            case ["start", *names]:
                return journal.start(names or None)
            case ["tick", after]:
                return journal.tick(float(after))
            case ["tick", after, "x", count]:
                return [command for _ in range(int(count)) for command in journal.tick(float(after))]
            case ["host", *rest]:
                return self._host(rest)
            case ["operator", action, *rest]:
                fields = dict(word.split("=", 1) for word in rest)
                return journal.op(m.OperatorAsked(action=action, **_fields(fields)))
            case ["server", "saw", what, *rest]:
                fields = dict(word.split("=", 1) for word in rest)
                return journal.op(m.Violation(what=what, **_fields(fields)))
            case ["server", how]:
                journal.server = how
                return []
            case ["raw", subject, payload]:
                return journal.store(subject, payload.encode())
            case ["again", count]:
                _, subject, payload = journal.entries[-int(count)]
                return journal.store(subject, payload)
            case ["show", _]:
                return []
            case ["lost:", agent, *rest]:
                return self._agent(agent, rest, lost=True)
            case [agent, *rest]:
                return self._agent(agent, rest, lost=False)
            case _:
                raise AssertionError(f"a story line says nothing: {words}")

    def _host(self, words: list[str]) -> list[Command]:
        journal = self._run()
        match words:
            case ["started", agent, pid]:
                return journal.op(m.ProcessStarted(agent=agent, pid=int(pid)), sender=HOST)
            case ["exited", agent, code, *rest]:
                return journal.exited(agent, int(code), restart=bool(rest))
            case ["gave-up", agent]:
                return journal.op(m.RestartsExhausted(agent=agent, intensity=3, period_s=60), sender=HOST)
            case ["ended", state]:
                return journal.op(m.RunEnded(state=state), sender=HOST)
            case _:
                raise AssertionError(f"unknown host line {words}")

    def _agent(self, agent: str, words: list[str], *, lost: bool) -> list[Command]:
        journal = self._run()
        mirror = journal.mirrors[agent]
        options = dict(word.split("=", 1) for word in words if "=" in word)
        match [word for word in words if "=" not in word]:
            case ["joins"]:
                return journal.join(agent)
            case ["begins", task]:
                slot = options.get("slot") != "no"
                return journal.task(agent, task, name=options.get("name", task), slot=slot, lost=lost)
            case ["ends", task]:
                return journal.end(agent, task, lost=lost)
            case ["calls", to, call, "in", task]:
                return journal.call(agent, task, call, to, deadline_s=_seconds(options, "within"), lost=lost)
            case ["asks", to, call, "in", task]:
                given = journal.call(agent, task, call, to, lost=lost)
                condition = m.OnCall(call=call)
                return given + journal.wait(agent, task, condition, deadline_s=_seconds(options, "within"), lost=lost)
            case ["handles", call, "as", task]:
                return journal.begin_call(agent, call, task, lost=lost)
            case ["answers", task]:
                return journal.reply(agent, task, early="early" in options, lost=lost)
            case ["cancels", call]:
                return journal.cancel(agent, call, lost=lost)
            case ["waits", task, "for", *parts]:
                condition = read_condition(" ".join(parts))
                return journal.wait(agent, task, condition, deadline_s=_seconds(options, "within"), lost=lost)
            case ["wakes", task, *outcome]:
                return journal.wake(agent, task, *outcome, lost=lost)
            case ["acquires", resource, ticket, "in", task]:
                values = {key: _value(value) for key, value in options.items()}
                return journal.acquire(agent, task, resource, ticket, lost=lost, **values)
            case ["releases", ticket]:
                return journal.release(agent, ticket, lost=lost)
            case ["sends", to, message, "in", task]:
                return journal.send(agent, task, to, message, lost=lost)
            case ["takes", message, "in", task]:
                return journal.take(agent, task, message, lost=lost)
            case ["questions", who, question, text, "in", task]:
                return journal.say(agent, m.AskHuman, task=task, question=question, who=who, text=text)
            case ["affirms"]:
                return journal.affirm(agent)
            case ["obeys"]:
                return journal.obey_breaks(agent)
            case ["heartbeat"]:
                return journal.heartbeat(agent, lost=lost)
            case ["stands", state]:
                return journal.say(agent, m.Standing, state=state)
            case ["spends", tokens, "in", task]:
                return journal.say(agent, m.Usage, task=task, input_tokens=int(tokens))
            case ["leaves"]:
                return journal.say(agent, m.Left, done=options.get("done") != "no")
            case ["says", type_]:
                values = {key: _value(value) for key, value in options.items()}
                to, id_ = values.pop("to", "_"), values.pop("id", "")
                return journal.say(agent, getattr(m, type_), to=to, id_=id_, lost=lost, **values)
            case ["delegates", helper, "in", task]:
                named = {key: tuple(options.get(key, "").split(",")) for key in ("peers", "tools") if options.get(key)}
                fields: dict[str, Any] = {"limit_s": float(options.get("limit", "60")), **named}
                digest, id_ = "0" * 64, options.get("id", "d1")
                return journal.say(
                    agent, m.Delegate, id_=id_, task=task, agent=helper, digest=digest, token="t1", **fields
                )
            case ["floods", count, "over", seconds]:
                return self._flood(agent, int(count), float(seconds))
            case ["becomes", inc]:
                mirror.inc, mirror.seq = inc, 0
                return []
            case _:
                raise AssertionError(f"unknown line of {agent}: {words}")

    def _flood(self, agent: str, count: int, over_s: float) -> list[Command]:
        """Many messages, evenly over a time; what the core does about them, told once."""
        journal, given = self._run(), list[Command]()
        for _ in range(count):
            journal.now_s += over_s / count
            view = journal.core.agents[agent]
            if (view.hold is not None and view.hold.step == "held") or (
                view.ending is not None and view.ending.shut_seq
            ):
                continue  # the server takes nothing of it
            given += journal.say(agent, m.Progress, task="t", text="again")
        return given

    # --- what is expected ---

    def _incidents(self) -> list[str]:
        said = []
        for incident in self._run().core.incidents.values():
            known = self._steps.get(incident.id)
            if known is None:
                said.append(finding_line(incident))
            summary = incident.finding.summary
            news = [step.text for step in incident.steps[known or 0 :] if known is not None or step.text != summary]
            said += [f".. {incident.id}: {text}" for text in news]
            self._steps[incident.id] = len(incident.steps)
        return said

    def _show(self, what: str) -> list[str]:
        core = self._run().core
        match what:
            case "waits":
                return [edge.text for edge in core.waits()]
            case "agents":
                return [f"{view.name}: {view.status}" for view in core.agents.values()]
            case "endings":
                return [
                    f"{view.name}: {view.ending.outcome or 'not decided'}: {view.ending.why_so}"
                    for view in core.agents.values()
                    if view.ending is not None
                ]
            case "holds":
                holds = [f"{view.name}: {view.hold.step}" for view in core.agents.values() if view.hold is not None]
                return holds + [f"{one} and {other}: {step}" for (one, other), step in core._state.apart.items()]
            case "incidents":
                return [
                    f"{each.id} {each.finding.kind}: {each.state}, seen {each.count}"
                    for each in core.incidents.values()
                ]
            case "pending":
                return [command_line(command) for command in core.pending.values()] or ["nothing"]
            case "questions":
                return [f"{q.id}: {q.agent} asks {q.who}: {q.text}" for q in core.questions.values()] or ["nothing"]
            case "chosen":
                return [f"{i.id}: {i.finding.victim.why}" for i in core.incidents.values() if i.finding.victim]
            case _:
                raise AssertionError(f"nothing known of {what!r}")


def run_story(path: Path, *, rewrite: bool) -> None:
    """Tell the story of a file and compare, or with `rewrite` write down what really happens."""
    before = path.read_text(encoding="utf-8")
    after = Story(before).told()
    if rewrite:
        path.write_text(after, encoding="utf-8")
    else:
        assert after.splitlines() == before.splitlines(), f"{path.name} differs; see --rewrite-stories"


def command_line(command: Command) -> str:
    """A command in one line."""
    match command:
        case TellAgent():
            told = command.message
            what = type(told).__name__.lower()
            match told:
                case m.Break():
                    return f"-> {command.agent}: break {told.task}'s wait {told.epoch} ({told.code}, {told.finding})"
                case m.Granted():
                    return f"-> {command.agent}: granted {told.resource} to {told.ticket}"
                case m.Pause() | m.Stop():
                    return f"-> {command.agent}: {what} ({told.why})"
                case _:
                    return f"-> {command.agent}: {what}"
        case AnswerCall():
            why = command.error.text if command.error is not None else bytes(command.body or b"").decode()
            code = command.error.code if command.error is not None else "answer"
            return f"-> {command.agent}: answer to {command.call}: {code}: {why}"
        case CancelCall():
            return f"-> {command.agent}: cancel {command.caller}'s {command.call} ({command.why})"
        case AskHost():
            asked = command.message
            what = asked.agent if isinstance(asked, m.StopProcess) else f"{asked.state} ({asked.why})"
            return f"-> host: {type(asked).__name__} {what}"
        case Escalate():
            return f"-> people: {command.incident} {command.kind}"
        case SetAccess():
            pair = f" and {command.peer}" if command.peer else ""
            return f"-> server: {command.agent}{pair} {command.state} ({command.why})"
        case Admit():
            return (
                f"-> server: admit {command.agent} for {command.parent}/{command.task}, to {', '.join(command.peers)}"
            )


def finding_line(incident: Incident) -> str:
    """A finding in one line."""
    finding = incident.finding
    victim = f"; victim {finding.victim.task}" if finding.victim is not None else ""
    tail = f"; tail {', '.join(finding.tail)}" if finding.tail else ""
    summary = finding.summary.removeprefix(f"{finding.kind}: ")
    return f"!! {finding.id} {finding.kind}: {summary}{victim}{tail}"


def read_condition(text: str) -> m.Condition:
    """Read a condition: `call c1`, `message a b`, `lock r k1`, `human ops`, `timer 5`, `all(…)`, `any(…)`, `2of(…)`."""
    text = text.strip()
    head, opened, rest = text.partition("(")
    if opened:
        assert rest.endswith(")"), f"{text!r} does not close"
        parts = tuple(read_condition(part) for part in _split(rest[:-1]))
        if head == "all":
            return m.OnAll(of=parts)
        return m.OnSome(k=1 if head == "any" else int(head.removesuffix("of")), of=parts)
    match text.split():
        case ["call", call]:
            return m.OnCall(call=call)
        case ["message", *senders]:
            return m.OnMessage(senders=tuple(senders))
        case ["lock", resource, ticket]:
            return m.OnResource(resource=resource, ticket=ticket)
        case ["human", who]:
            return m.OnHuman(who=who)
        case ["timer", seconds]:
            return m.OnTimer(after_s=float(seconds))
        case _:
            raise AssertionError(f"not a condition: {text!r}")


def _split(text: str) -> list[str]:
    parts, depth = [""], 0
    for char in text:
        depth += {"(": 1, ")": -1}.get(char, 0)
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return parts


def _fields(words: dict[str, str]) -> dict[str, Any]:
    """Words as the fields of a fact: numbers where numbers belong."""
    return {key: _value(text) if key in ("grace_s", "count") else text for key, text in words.items()}


def _seconds(options: dict[str, str], name: str) -> float | None:
    return float(options[name]) if name in options else None


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
