"""Live steps: what a running crew does, made into the steps that detectors see; nothing is judged here.

A call of an agent or of a tool is one step, made when its answer is there, as in a recorded trace; a message is one
when it is sent. What has no words is not looked at: a crew whose messages are empty costs nothing here.

Agents are not trusted, so everything is bounded: of a body of more than `READ_MAX_BYTES` only its beginning and its end
are read, and all of it counts by a checksum; arguments of more than `FIELDS_MAX` parts count by their digest; of each
agent `OPEN_MAX` calls are remembered until they are answered.
"""

import zlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from crewkeeper_bus.messages import Fault
from crewkeeper_supervisor.core import fingerprint, grounding
from crewkeeper_supervisor.core.fingerprint import NO_ARGUMENTS, NOTHING, VOLATILE_KEYS, Arguments, Fingerprint
from crewkeeper_supervisor.core.gate_state import GateCall
from crewkeeper_supervisor.core.nodes import Call, Task
from crewkeeper_supervisor.core.roster import AgentView
from crewkeeper_supervisor.core.steps import (
    CAME_KEPT_CHARS,
    EVERYBODY,
    TEXT_KEPT_CHARS,
    TOKEN_CHARS,
    Step,
    StepKind,
    tells_failure,
)
from crewkeeper_supervisor.core.victim import root_of

EMPTY_MAX_BYTES: Final = 4
"""Bodies up to this size say nothing: `null`, `{}`, `true`."""
READ_MAX_BYTES: Final = 16 * 1024
HEAD_BYTES: Final = 8 * 1024
TAIL_BYTES: Final = 1024
FIELDS_MAX: Final = 64
OPEN_MAX: Final = 256
CHAINS_MAX: Final = 4096
"""Conversations by messages, and messages not taken, that are remembered."""
_PROSE_SPACES: Final = 2
"""A text with fewer is a name or a number: it says nothing of the topic."""
_DEPTH_MAX: Final = 8
_NOT_STEPS: Final = frozenset(("cancelled", "gate_closed", "call_id_reused", "killed", "held"))
"""Ends of calls that say nothing of who made them."""
PASSING: Final = frozenset(("circuit_open", "rate_limited"))
"""Refusals that pass by themselves; how long that takes is in their words, and is no news."""
_REFUSALS: Final = frozenset(("denied", "bad_arguments", "too_large"))
"""Refusals that its caller should learn from; limits that are reached are findings of their own."""


class Said(Struct, frozen=True):
    """A body as far as it is read."""

    text: str
    """A text as it is; anything else as JSON."""
    fields: Mapping[str, Any] | None
    """If it is an object, and not too large."""
    words: str
    """Its prose, for the models of topic and courtesy."""
    size_bytes: int
    cut: int = 0
    """Checksum of the whole if only a part was read."""

    def print(self, *, names: bool = False, echoes: Iterable[str] = ()) -> Fingerprint:
        """What it comes down to."""
        found = fingerprint.of_text(self.text, names=names, echoes=echoes)
        if not self.cut:
            return found
        return msgspec.structs.replace(
            found, digest=found.digest ^ self.cut, literal=found.literal ^ self.cut, chars=self.size_bytes
        )

    def arguments(self) -> Arguments:
        """What it comes down to as the arguments of a call."""
        if self.fields is not None:
            return fingerprint.of_arguments(self.fields)
        if not self.cut:
            return fingerprint.of_arguments({"": self.text})
        return digested(self.cut)


SILENCE: Final = Said("", None, "", 0)


class _Asked(Struct):
    """A call between agents that waits for its answer, as far as it matters then."""

    began: int
    chain: str
    arguments: Arguments = NO_ARGUMENTS
    said: Fingerprint = NOTHING
    words: str = ""
    size_bytes: int = 0
    echoes: tuple[str, ...] = ()


def read(raw: Raw | bytes) -> Said:
    """Read a body; whatever it holds, this is total and bounded."""
    data = bytes(raw)
    size = len(data)
    if size <= EMPTY_MAX_BYTES:
        return SILENCE
    if size > READ_MAX_BYTES:
        text = f"{data[:HEAD_BYTES].decode('utf-8', 'replace')} {data[-TAIL_BYTES:].decode('utf-8', 'replace')}"
        return Said(text, None, text[:TEXT_KEPT_CHARS], size, zlib.crc32(data) or 1)
    try:
        value = msgspec.json.decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        text = data.decode("utf-8", "replace")
        return Said(text, None, text[:TEXT_KEPT_CHARS], size)
    if isinstance(value, str):
        return Said(value, None, value[:TEXT_KEPT_CHARS] if _is_prose(value) else "", size)
    fields = value if isinstance(value, dict) and len(value) <= FIELDS_MAX else None
    return Said(data.decode("utf-8", "replace"), fields, prose_of(value), size)


def prose_of(value: Any) -> str:
    """The sentences in a value, at most `TEXT_KEPT_CHARS`; names and numbers are none."""
    found: list[str] = []
    room = _prose(value, found, TEXT_KEPT_CHARS, 0)
    return " ".join(found) if room < TEXT_KEPT_CHARS else ""


def _prose(value: Any, found: list[str], room: int, depth: int) -> int:
    if isinstance(value, str):
        if _is_prose(value):
            found.append(value[:room])
            room -= len(found[-1])
        return room
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in parts if depth < _DEPTH_MAX else ():
        if room <= 0:
            break
        room = _prose(part, found, room, depth + 1)
    return room


def _is_prose(text: str) -> bool:
    return text.count(" ", 0, TEXT_KEPT_CHARS) >= _PROSE_SPACES


def digested(digest: int) -> Arguments:
    """Arguments of which only a digest is known: they are equal, or they are others."""
    return Arguments(digest, (), ())


class StepMaker:
    """Makes the steps of one run. Feed it what has words, in order."""

    def __init__(self) -> None:
        self.asked: dict[str, _Asked] = {}
        """Calls between agents that wait for their answer, by id."""
        self.told: dict[str, str] = {}
        """Messages that were not taken yet, with their chains."""
        self._open: dict[str, dict[str, None]] = {}
        self._talks: dict[str, str] = {}
        self._spent: dict[str, int] = {}
        self.cut = False
        """Whether anything was too large to be read as a whole."""

    # --- calls between agents ---

    def request(self, view: AgentView, call: Call, body: Raw, seq: int) -> tuple[Said, Fingerprint]:
        """A call with words, and what they come down to; the step follows with its answer."""
        said = self._read(body)
        whole = said.print()
        mine = self._open.setdefault(view.name, {})
        mine[call.id] = None
        if len(mine) > OPEN_MAX:
            self.forget(view.name, next(iter(mine)))
        echoes = fingerprint.echoes_of(said.fields) if said.fields is not None else ()
        self.asked[call.id] = _Asked(
            seq, self.chain_of(call.task), said.arguments(), whole, said.words, said.size_bytes, echoes
        )
        return said, whole

    def forget(self, agent: str, call: str) -> None:
        """A call of this agent will not be answered."""
        self.asked.pop(call, None)
        self._open.get(agent, {}).pop(call, None)

    def gone(self, agent: str) -> None:
        """The incarnation is over: nothing it asked for concerns the next one."""
        for call in self._open.pop(agent, {}):
            self.asked.pop(call, None)

    def reply(
        self, view: AgentView, call: Call, said: Said, error: Fault | None, seq: int, now_s: float
    ) -> tuple[Step, Fingerprint]:
        """The answer to a call of this agent, with what was asked; and what the answer comes down to by itself."""
        asked = self.asked.get(call.id) or _Asked(seq, self.chain_of(call.task))
        self.forget(view.name, call.id)
        told = said if error is None else Said(error.text or error.code, None, "", 0)
        outcome = told.print(echoes=asked.echoes)
        failed = error is not None or (bool(said.text) and tells_failure(said.text))
        step = Step(
            at=seq,
            began=asked.began,
            at_s=now_s,
            agent=view.name,
            kind="tool",
            name=call.verb,
            peer=call.callee.role if call.callee is not None else call.to,
            arguments=asked.arguments,
            said=asked.said,
            outcome=outcome,
            failed=failed,
            chain=asked.chain,
            tokens=self.tokens(view, asked.size_bytes + said.size_bytes),
            came=(said.text if error is None else error.text)[:CAME_KEPT_CHARS],
            text=asked.words,
        )
        return step, outcome if told is said and not asked.echoes else said.print()

    # --- messages ---

    def message(self, view: AgentView, task: Task | None, to: str, id_: str, body: Raw, seq: int, now_s: float) -> Step:
        """Something said to somebody."""
        said = self._read(body)
        chain = self.chain_of(task)
        self.told[id_] = chain
        _bound(self.told, CHAINS_MAX)
        return self.said(view.name, to, said, chain, seq, now_s, tokens=self.tokens(view, said.size_bytes))

    def said(
        self,
        agent: str,
        to: str,
        said: Said,
        chain: str,
        seq: int,
        now_s: float,
        *,
        tokens: int,
        kind: StepKind = "message",
    ) -> Step:
        """What was said as a step of its own."""
        return Step(
            at=seq,
            began=seq,
            at_s=now_s,
            agent=agent,
            kind=kind,
            peer=to or EVERYBODY,
            said=said.print(names=True),
            failed=tells_failure(said.text),
            chain=chain,
            tokens=tokens,
            text=said.words or said.text[:TEXT_KEPT_CHARS],
        )

    def spoken(self, agent: str, to: str, said: Said, whole: Fingerprint, chain: str, seq: int, now_s: float) -> Step:
        """What is said in a call, to be judged as a courtesy only; `whole` is what it comes down to."""
        return Step(
            at=seq,
            began=seq,
            at_s=now_s,
            agent=agent,
            kind="message",
            peer=to or EVERYBODY,
            said=whole,
            chain=chain,
            tokens=said.size_bytes // TOKEN_CHARS,
            text=said.words,
        )

    def taken(self, task: Task | None, message: str) -> None:
        """A task took a message: from now on it takes part in that conversation."""
        chain = self.told.pop(message, None)
        if chain is not None and task is not None and task.call is None:
            self._talks.pop(task.key, None)
            self._talks[task.key] = chain
            _bound(self._talks, CHAINS_MAX)

    # --- the gate ---

    def called(
        self, view: AgentView, call: GateCall, error: Fault | None, body: Raw | None, seq: int, now_s: float
    ) -> Step | None:
        """A call of a tool or model through the gate is over; None where that is no step."""
        if error is not None and error.code in _NOT_STEPS:
            return None
        if call.kind == "model":
            return self._modelled(view, call, error, seq, now_s)
        said, went_well = self._result(call, body)
        small = call.args_bytes <= READ_MAX_BYTES and isinstance(call.args, dict) and len(call.args) <= FIELDS_MAX
        code = error.code if error is not None else ""
        refused = f"{code} {call.name[:64]}" if code in _REFUSALS else ""
        if code == "denied" and call.decided is not None and call.decided.rule:
            refused = f"rule {call.decided.rule}"
        echoes = fingerprint.echoes_of(call.args) if small else ()
        told = said if error is None else Said(_reason(call, error), None, "", 0)
        outcome = told.print(echoes=echoes)
        return Step(
            at=seq,
            began=call.opened_seq or seq,
            at_s=now_s,
            agent=view.name,
            kind="tool",
            name=call.name[:128],
            arguments=fingerprint.of_arguments(call.args) if small else digested(int(call.digest[:15], 16)),
            outcome=outcome,
            failed=error is not None or not went_well or (bool(said.text) and tells_failure(said.text)),
            poll=call.tool is not None and call.tool.poll,
            chain=self.chain_of(view.tasks.get(call.task)),
            tokens=self.tokens(view, call.args_bytes + said.size_bytes),
            known=code != "unknown_tool",
            came=(said.text if error is None else error.text)[:CAME_KEPT_CHARS],
            refused=refused,
            quotes=grounding.identifiers_in(_lasting(call.args)) if small and not self.cut else (),
            text=prose_of(call.args) if small else "",
        )

    def _modelled(self, view: AgentView, call: GateCall, error: Fault | None, seq: int, now_s: float) -> Step | None:
        """An identical request to a model, again, after the one before it was answered.

        What came back is not in the journal, only how much: the same request with answers of another length is a
        sample, not a repetition, and so are requests that are open at the same time.
        """
        tokens = self.tokens(view, 0)
        if not call.content or call.beside:
            self._spent[view.name] = self._spent.get(view.name, 0) - tokens
            return None
        came = f"{error.code} {error.text}" if error is not None else f"an answer of {call.made_tokens} tokens"
        outcome = fingerprint.of_text(came[:TEXT_KEPT_CHARS], masked=error is not None)
        return Step(
            at=seq,
            began=call.opened_seq or seq,
            at_s=now_s,
            agent=view.name,
            kind="tool",
            name=f"request to {call.name[:100]}",
            arguments=digested(int(call.content[:15] or "0", 16)),
            outcome=outcome,
            failed=error is not None,
            chain=self.chain_of(view.tasks.get(call.task)),
            tokens=tokens,
        )

    def _result(self, call: GateCall, body: Raw | None) -> tuple[Said, bool]:
        """What came of a tool, and whether it went well."""
        if body is None:
            return SILENCE, True
        if not call.inside:
            return self._read(body), True
        try:  # what an agent carried out itself: what it says came of it, without what the gate adds
            told = msgspec.json.decode(bytes(body), type=dict[str, Raw])
        except (msgspec.MsgspecError, RecursionError, ValueError):
            return SILENCE, True
        return self._read(told.get("result") or told.get("error") or Raw(b"")), told.get("ok") == Raw(b"true")

    # --- parts ---

    def _read(self, body: Raw) -> Said:
        said = read(body)
        self.cut = self.cut or bool(said.cut)
        return said

    def tokens(self, view: AgentView, size_bytes: int) -> int:
        """What a step cost: what its agent spent on models since its step before, and the words themselves."""
        total = view.input_tokens + view.output_tokens
        since = total - self._spent.get(view.name, 0)
        self._spent[view.name] = total
        return max(0, since) + size_bytes // TOKEN_CHARS

    def chain_of(self, task: Task | None) -> str:
        """The causal chain of a task: its root, or the conversation by messages that the root takes part in."""
        if task is None:
            return ""
        root = root_of(task).key
        return self._talks.get(root, root)

    def facts(self) -> list[Any]:
        """What is remembered, for the state's digest."""
        return [list(self.asked), self.told, self._talks, self._spent, self.cut]


def _reason(call: GateCall, error: Fault) -> str:
    """Why a call failed, in words that are the same as long as the reason is."""
    if error.code in PASSING:
        return f"{error.code} {call.name[:64]}: retry later"
    return error.text[:TEXT_KEPT_CHARS]


def _lasting(args: Mapping[str, Any]) -> Mapping[str, Any]:
    """Arguments without those that are new with every call."""
    return {name: value for name, value in args.items() if name.lower() not in VOLATILE_KEYS}


def _bound(known: dict[str, Any], limit: int) -> None:
    while len(known) > limit:
        del known[next(iter(known))]
