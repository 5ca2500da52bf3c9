"""Events: what the core is fed, one for each message that the journal stored, in its order.

An event is the message itself with its place in the journal; what could not be read as one is an event too.
Reading is pure and total: whatever the bytes are, `read` returns an event. Translators of other protocols produce
the same events.
"""

import hashlib
from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct

from crewkeeper_bus import codec, subjects
from crewkeeper_bus.errors import CodecError, SubjectError
from crewkeeper_bus.subjects import MODEL, SIDE, TOOLS, Address, Kind
from crewkeeper_bus.tool_messages import SpendAsked, Spent, ToolRan, ToolsGone, ToolsReady


class Recorded(Struct, frozen=True, kw_only=True, gc=False):
    """A well-formed message, as it was stored."""

    seq: int
    """Journal sequence: 1, 2, 3, … the one total order."""
    at_s: float
    """Journal timestamp, seconds since the Unix epoch."""
    sender: str
    """From the subject, where the server's permissions make it true."""
    to: str
    id: str
    message: Any
    """One of the structs of `crewkeeper_bus.messages`."""


class Rejected(Struct, frozen=True, kw_only=True, gc=False):
    """Something on the crew's subjects that is not a message of the protocol."""

    seq: int
    at_s: float
    sender: str
    """Who sent it, empty where the subject does not say."""
    subject: str
    """At most 200 characters."""
    reason: str
    size_bytes: int
    digest: str
    """SHA-256 of the payload: evidence without the content."""
    call: str = ""
    """Id of the tool call that it was meant to be: whoever made it waits for an answer."""
    forged: bool = False
    """It claims to be somebody that only the supervisor side may be, or a kind its sender may not send."""


class Throttled(Struct, frozen=True, kw_only=True, gc=False):
    """An entry of a sender that sends more than it may: counted, and nothing of it read."""

    seq: int
    at_s: float
    sender: str
    size_bytes: int


Event = Recorded | Rejected | Throttled

_OURS: Final = frozenset((Kind.CTL, Kind.OP))
"""Kinds that only the supervisor side sends."""
_MAY_STATE: Final = {TOOLS: (ToolsReady, ToolsGone, ToolRan), MODEL: (SpendAsked, Spent)}
"""What the parts of the supervisor side that touch foreign code may say, and nothing else."""


def read(
    seq: int,
    at_s: float,
    subject: str,
    payload: bytes,
    limit_bytes: int = codec.PAYLOAD_MAX_BYTES,
    admits: Callable[[str, float, int, Address | None], bool] | None = None,
) -> Event:
    """Read one journal entry.

    Args:
        seq: Its journal sequence.
        at_s: Its journal timestamp, seconds since the Unix epoch.
        subject: `crew.<run>.<kind>.<from>.<to>.<id>`.
        payload: The bytes as published.
        limit_bytes: Size limit of a payload of this crew.
        admits: Whether this sender may add so many bytes at this time, there; asked of agents, before the payload is
            looked at. None: always.
    """
    try:
        address = subjects.parse(subject)
    except SubjectError as error:
        sender = _publisher(subject)
        if admits is not None and not admits(sender, at_s, len(payload), None):
            return Throttled(seq=seq, at_s=at_s, sender=sender, size_bytes=len(payload))
        return _rejected(seq, at_s, sender, subject, str(error), payload, forged=False)
    supervisor_side = address.sender in SIDE
    if not supervisor_side and admits is not None and not admits(address.sender, at_s, len(payload), address):
        return Throttled(seq=seq, at_s=at_s, sender=address.sender, size_bytes=len(payload))
    forged = not supervisor_side and (address.kind in _OURS or address.sender.startswith("_"))
    if forged:
        reason = f"{address.sender} sent a {address.kind} message, which only the supervisor may"
        return _rejected(seq, at_s, address.sender, subject, reason, payload, forged=True)
    try:
        if supervisor_side:
            message = codec.decode_supervisor(address.kind, payload)
        else:
            message = codec.decode_agent(address.kind, payload, limit_bytes)
    except CodecError as error:
        call = address.id if address.kind is Kind.TOOL else ""
        return _rejected(seq, at_s, address.sender, subject, str(error), payload, forged=False, call=call)
    if address.sender in _MAY_STATE and not isinstance(message, _MAY_STATE[address.sender]):
        reason = f"{address.sender} sent {type(message).__name__}, which only the supervisor may"
        return _rejected(seq, at_s, address.sender, subject, reason, payload, forged=True)
    return Recorded(seq=seq, at_s=at_s, sender=address.sender, to=address.to, id=address.id, message=message)


def _publisher(subject: str) -> str:
    """Who published on a subject that is none of ours, if that is an agent.

    The server lets an agent publish only where the sender's place holds its own name, so this much is true of the
    subject whatever else is wrong with it.
    """
    tokens = subject.split(".", 4)
    try:
        return subjects.check_agent(tokens[3]) if len(tokens) > 4 else ""
    except SubjectError:
        return ""


def _rejected(
    seq: int, at_s: float, sender: str, subject: str, reason: str, payload: bytes, *, forged: bool, call: str = ""
) -> Rejected:
    return Rejected(
        seq=seq,
        at_s=at_s,
        sender=sender,
        subject=subject[:200],
        reason=reason[:500],
        size_bytes=len(payload),
        digest=hashlib.sha256(payload).hexdigest(),
        call=call,
        forged=forged,
    )
