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
    "no results", "no matches", "0 results", "0 matches", "nothing found", "no code", "does not exist", "unavailable",
    "not permitted", "not allowed", "rejected", "too many requests", "rate limit",
    "fehler", "fehlgeschlagen", "nicht gefunden", "keine treffer", "keine ergebnisse", "abgelehnt", "ungültig",
    "erreur", "échec", "introuvable", "aucun résultat", "refusé", "no encontrad", "sin resultados", "fallo", "denegado",
    "错误", "失败", "未找到", "无法", "拒绝", "エラー", "失敗", "見つかりません",
)  # fmt: skip
"""What the beginnings of answers say that tell of a failure, in the tongues that tools mostly speak."""
_PASSING: Final = """
    temporarily later retry retrying retries busy overloaded throttled 429 502 503 504
    timeout timed unavailable reset
    vorübergehend später überlastet réessayer ocupado
"""
_TEMPORARY: Final = frozenset(_PASSING.split())
"""Words of a failure that passes by itself."""
_UNFINISHED: Final = "pending queued waiting running starting progress processing scheduled incomplete unfinished"
_PENDING: Final = frozenset(_UNFINISHED.split())
"""Words of an answer about something that is not over; so is a state that ends with `ing`."""
_STATES: Final = frozenset(("state", "status", "phase"))
_PENDING_WORDS_MAX: Final = 20
"""Words up to which an answer is nothing but that."""
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
    public: bool = False
    """Everybody heard the answer, not only who asked."""
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
    came: str = ""
    """The beginning of what came back, at most `CAME_KEPT_CHARS`, for a nudge to quote."""
    text: str = ""
    """Its own words, at most `TEXT_KEPT_CHARS`, for the models of topic and courtesy."""


TEXT_KEPT_CHARS: Final = 2000
CAME_KEPT_CHARS: Final = 160


def tells_failure(text: str) -> bool:
    """Whether an answer in words tells of a failure, or of nothing found."""
    head = text[:_FAILURE_HEAD_CHARS].strip().lower()
    if head in _NOTHING_FOUND:
        return True
    if head.startswith(("exitcode: ", "exit code: ")):
        return head.split(":", 1)[1].strip()[:1] not in ("0", "")
    for sign in FAILURES:  # noqa: SIM110 - twice as fast as any(), and asked for every answer
        if sign in head:
            return True
    return False


def tells_to_wait(answer: Fingerprint, *, failed: bool) -> bool:
    """Whether an answer says that it will be another one in time: something is not over, or somebody is busy."""
    if len(answer.words) > _PENDING_WORDS_MAX:
        return False
    if failed:
        return not answer.words.isdisjoint(_TEMPORARY)
    if answer.words.isdisjoint(_STATES):
        return not answer.words.isdisjoint(_PENDING)
    return any(word in _PENDING or word.endswith("ing") for word in answer.words)


def tokens_of(value: Any, chars: int) -> int:
    """Tokens as counted, or estimated from characters."""
    if isinstance(value, Mapping):
        counts = {name: count for name, count in value.items() if isinstance(count, int) and count >= 0}
        value = next((counts[name] for name in counts if "total" in str(name)), sum(counts.values()) or None)
    return value if isinstance(value, int) and value >= 0 else chars // TOKEN_CHARS
