"""Message base: what messages of one origin have in common; the messages themselves are in `messages` and beside it."""

from typing import Annotated

from msgspec import Meta, Struct

from crewkeeper_bus.field_types import Count, Name, Text, TraceContext


class Sent(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What every agent-sent message carries: its place in the sender's own gap-free stream."""

    inc: Name
    """Incarnation: a random token made anew at every start of the agent's process."""
    seq: Annotated[int, Meta(ge=1, le=2**53)]
    """1, 2, 3, … over everything this incarnation publishes, whatever the kind."""


class Traced(Sent, frozen=True, kw_only=True, omit_defaults=True):
    """What begins something carries along what it belongs to, as content: it proves nothing."""

    trace: TraceContext = ""
    """W3C `traceparent` of the span that sent it; what is none is no reason to refuse the message."""


class Control(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What every command carries. A command id is obeyed once; a term older than the newest seen is ignored."""

    id: str
    term: Count = 0


class Fault(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why there is no answer."""

    code: Name
    """`would_deadlock`, `peer_gone`, `cancelled`, `queue_full`, `no_handler`, `handler_failed`, `refused`, …"""
    text: Text
    path: tuple[Text, ...] = ()
    finding: str = ""
