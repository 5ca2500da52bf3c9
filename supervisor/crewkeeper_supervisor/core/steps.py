"""Steps: the neutral record of one thing an agent did and what came of it, which is all that detectors see.

Where a step comes from, a recorded trace or a message on the bus, is the business of whoever makes it. A call and
its answer are one step, made when the answer is there; a message is a step when it is sent.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

from msgspec import Struct

from crewkeeper_supervisor.core.fingerprint import NO_ARGUMENTS, NOTHING, Arguments, Fingerprint

StepKind = Literal["tool", "message", "model", "progress", "human", "report"]
"""`tool`: a call of a tool or agent with its answer. `message`: something said to somebody. `model`: a model call.
`progress`: the agent declared that it got on. `human`: something a person said. `report`: what an environment told
without being asked."""

EVERYBODY: Final = "*"
"""Receiver of a message that is for all."""
TOKEN_CHARS: Final = 4
"""Characters of a token, where nobody counted: the usual rule of thumb for English text."""

FAILURES: Final = (
    "error", "exception", "traceback", "failed", "failure", "could not", "cannot", "can't", "unable to", "invalid",
    "not found", "no such", "denied", "refused", "forbidden", "unauthorized", "timeout", "timed out", "unknown",
    "no results", "no matches", "nothing found", "no code", "does not exist", "unavailable",
)  # fmt: skip
"""Beginnings of answers that tell of a failure."""
_FAILURE_HEAD_CHARS: Final = 80
_NOTHING_FOUND: Final = frozenset(("[]", "{}", "null", "none", "nil", "()", '""', "''", "false", "-", "n/a"))


class Step(Struct, frozen=True, kw_only=True):
    """One step. Texts are there as fingerprints, except what the last detectors need to quote."""

    at: int
    """Where it ended: index of the event in its trace, or journal sequence."""
    began: int
    """Where it began; the same as `at` for messages."""
    at_s: float = 0.0
    """Journal time of its end, seconds."""
    agent: str
    """Who did it."""
    kind: StepKind
    name: str = ""
    """Tool, verb or model."""
    peer: str = ""
    """Whom it was done to; `*` is everybody."""
    arguments: Arguments = NO_ARGUMENTS
    said: Fingerprint = NOTHING
    """Message: its text. Otherwise what was asked in words, if it was."""
    outcome: Fingerprint = NOTHING
    """What came back."""
    failed: bool = False
    """It was refused, went wrong, or brought nothing."""
    answered: bool = True
    """False: the answer never came."""
    poll: bool = False
    """The caller declared that it asks again and again until something changes."""
    chain: str = ""
    """Root of the causal chain it belongs to, if known."""
    tokens: int = 0
    """What it cost, with everything its agent spent since its step before."""
    known: bool | None = None
    """Tool: whether such a tool exists; None if nobody knows."""
    refused: str = ""
    """Why a gate refused it: a rule, a tool's name, a schema; empty if none did."""
    quotes: tuple[str, ...] = ()
    """Identifiers among its arguments (see `grounding`), as they were written."""
    text: str = ""
    """Its own words, at most `TEXT_KEPT_CHARS`, for the models of topic and courtesy."""


TEXT_KEPT_CHARS: Final = 2000


def tells_failure(text: str) -> bool:
    """Whether an answer in words tells of a failure, or of nothing found."""
    head = text[:_FAILURE_HEAD_CHARS].strip().lower()
    if head in _NOTHING_FOUND:
        return True
    if head.startswith(("exitcode: ", "exit code: ")):
        return head.split(":", 1)[1].strip()[:1] not in ("0", "")
    return any(sign in head for sign in FAILURES)


def tokens_of(value: Any, chars: int) -> int:
    """Tokens as counted, or estimated from characters."""
    if isinstance(value, Mapping):
        counts = {name: count for name, count in value.items() if isinstance(count, int) and count >= 0}
        value = next((counts[name] for name in counts if "total" in str(name)), sum(counts.values()) or None)
    return value if isinstance(value, int) and value >= 0 else chars // TOKEN_CHARS
