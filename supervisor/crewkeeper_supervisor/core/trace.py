"""Traces: runs recorded elsewhere, one JSON object per event, and how their events become steps.

`docs/traces.md` documents the format. A reader pairs calls with answers and judges nothing.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any, Final, Literal

from msgspec import Struct

from crewkeeper_supervisor.core import fingerprint, grounding
from crewkeeper_supervisor.core.steps import EVERYBODY, TEXT_KEPT_CHARS, Step, StepKind, tells_failure, tokens_of

HUMANS: Final = frozenset(("user", "human", "customer", "operator", "human_proxy", "userproxy", "user_proxy"))
"""Names that are people unless the trace says who is."""
OPEN_CALLS_MAX: Final = 256
"""Calls without an answer that are remembered, over all agents."""


class TraceEvent(Struct, kw_only=True, rename={"sender": "from"}):
    """One event of a trace, as recorded."""

    i: int
    sender: str
    kind: Literal["message", "tool_call", "tool_result", "llm"]
    to: str | None = None
    text: str = ""
    ts: str | float | None = None
    tool: str | None = None
    args: Any = None
    call: str | None = None
    """Id that ties an answer to its call."""
    tokens: int | dict[str, Any] | None = None
    chars: int | None = None
    error: bool | None = None
    """Answer: whether it tells of a failure; None: to be read from its text."""
    poll: bool = False
    progress: bool = False
    """The event declares progress."""
    chain: str = ""


class _Open(Struct):
    """A call that waits for its answer."""

    event: TraceEvent
    tokens: int


class StepReader:
    """Turns the events of one run into steps, in order.

    Args:
        humans: Names of people; None takes the usual ones.
        tools: Names of all tools there are; None if unknown.
    """

    def __init__(self, humans: frozenset[str] | None = None, tools: frozenset[str] | None = None) -> None:
        self._humans = humans
        self._tools = tools
        self._open: deque[_Open] = deque()
        self._spent: dict[str, int] = {}

    def read(self, event: TraceEvent, at_s: float = 0.0) -> list[Step]:
        """The steps that this event completes; at most one, and one more for an answer that never came."""
        tokens = tokens_of(event.tokens, event.chars if event.chars is not None else len(event.text))
        if event.progress:
            return [Step(at=event.i, began=event.i, at_s=at_s, agent=event.sender, kind="progress", chain=event.chain)]
        match event.kind:
            case "llm":
                self._spent[event.sender] = self._spent.get(event.sender, 0) + tokens
                return []
            case "tool_call":
                return self._called(event, tokens, at_s)
            case "tool_result":
                return self._answered(event, tokens, at_s)
            case "message":
                return self._said(event, tokens, at_s)

    def _said(self, event: TraceEvent, tokens: int, at_s: float) -> list[Step]:
        kind: StepKind = "human" if self.is_human(event.sender) else "message"
        if event.kind == "tool_result":
            kind = "report"
        return [
            Step(
                at=event.i,
                began=event.i,
                at_s=at_s,
                agent=event.sender,
                kind=kind,
                peer=event.to or EVERYBODY,
                said=fingerprint.of_text(event.text, names=True),
                failed=tells_failure(event.text),
                poll=event.poll,
                chain=event.chain,
                tokens=tokens + self._spent.pop(event.sender, 0),
                text=event.text[:TEXT_KEPT_CHARS],
            )
        ]

    def _called(self, event: TraceEvent, tokens: int, at_s: float) -> list[Step]:
        self._open.append(_Open(event, tokens))
        if len(self._open) <= OPEN_CALLS_MAX:
            return []
        lost = self._open.popleft()
        return [self._step(lost.event, None, lost.tokens, event.i, at_s)]

    def _answered(self, event: TraceEvent, tokens: int, at_s: float) -> list[Step]:
        call = self._take(event)
        if call is None:
            if event.args is None:
                return self._said(event, tokens, at_s)  # a report of nobody's call
            return [self._step(event, event, tokens, event.i, at_s)]
        return [self._step(call.event, event, call.tokens + tokens, event.i, at_s)]

    def _take(self, answer: TraceEvent) -> _Open | None:
        """The oldest open call that this can be the answer to."""
        for index, call in enumerate(self._open):
            if answer.call is not None or call.event.call is not None:
                fits = answer.call == call.event.call
            else:
                fits = (answer.to in (call.event.sender, None, EVERYBODY)) and (
                    answer.tool is None or answer.tool == call.event.tool or answer.sender == call.event.to
                )
            if fits:
                del self._open[index]
                return call
        return None

    def _step(self, call: TraceEvent, answer: TraceEvent | None, tokens: int, at: int, at_s: float) -> Step:
        text = answer.text if answer is not None else ""
        arguments = call.args if isinstance(call.args, Mapping) else ({} if call.args is None else {"": call.args})
        failed = tells_failure(text) if answer is None or answer.error is None else answer.error
        name = call.tool or ""
        return Step(
            at=at,
            began=call.i,
            at_s=at_s,
            agent=call.sender,
            kind="tool",
            name=name,
            peer=(call.to if call is not answer else answer.sender) or "",
            arguments=fingerprint.of_arguments(arguments),
            outcome=fingerprint.of_text(text, echoes=fingerprint.echoes_of(arguments)),
            failed=failed,
            answered=answer is not None,
            public=answer is not None and answer is not call and answer.to == EVERYBODY,
            poll=call.poll,
            chain=call.chain,
            tokens=tokens + self._spent.pop(call.sender, 0),
            known=None if self._tools is None else name in self._tools,
            quotes=grounding.identifiers_in(arguments),
            text=(call.text if call is not answer else "")[:TEXT_KEPT_CHARS],
        )

    def is_human(self, name: str) -> bool:
        """Whether this is a person."""
        return name in self._humans if self._humans is not None else name.lower() in HUMANS
