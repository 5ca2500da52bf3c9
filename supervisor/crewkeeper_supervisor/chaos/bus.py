"""Bus: the simulated message bus: a journal with one total order first, delivery at most once afterwards.

A publisher's messages are stored in the order in which it sent them, those of different publishers in any. What is
stored is then delivered: late, twice, or never. Everything on its way is listed, so that the oracle can count what is
still to arrive, and what was lost is remembered by what it was about.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from crewkeeper_bus import codec, subjects
from crewkeeper_bus import messages as m
from crewkeeper_bus.subjects import SUPERVISOR, Kind
from crewkeeper_supervisor.chaos.chance import Faults, Stream
from crewkeeper_supervisor.chaos.clock import Clock
from crewkeeper_supervisor.core import events

RUN: Final = "r1"
_TRIP_S: Final = 0.004
_TRIP_MAX_S: Final = 0.06
_AGAIN_S: Final = (0.001, 0.3)
_LATE_S: Final = (0.1, 0.9)


class Envelope:
    """One message on its way."""

    __slots__ = ("id", "kind", "message", "sender", "stored", "to")

    def __init__(self, kind: Kind, sender: str, to: str, id_: str, message: Any) -> None:
        self.kind = kind
        self.sender = sender
        self.to = to
        self.id = id_
        self.message = message
        self.stored = False

    def about(self) -> tuple[str, str] | None:
        """What its loss would be about: a kind and the id that somebody waits by."""
        match self.message:
            case m.Request():
                return "req", self.id
            case m.Reply() | m.SupervisorReply():
                return "rep", self.id
            case m.Granted() | m.Acquire() | m.Release():
                return type(self.message).__name__.lower(), self.message.ticket
            case m.AskHuman():
                return "rep", self.message.question
            case m.Message():
                return "msg", self.id
            case _:
                return None


class Receiver(Protocol):
    """Who takes deliveries."""

    def resolve(self, envelope: Envelope) -> str:
        """The instance that a stored message goes to; empty if it goes to nobody."""

    def deliver(self, agent: str, envelope: Envelope) -> bool:
        """Take one. False if the agent is alive and cut off, so that it is lost."""


class Touched(NamedTuple):
    """What is done to one message on its way."""

    lost: bool = False
    doubled: bool = False
    overtaken: bool = False
    """It is late, and those after it are not."""
    later_s: float = 0.0


Tampers = Callable[[str, str, Any], Touched]
"""Decides what is done to a message of an agent (`out`) or for one (`in`)."""
_UNTOUCHED: Final = Touched()


def _untouched(_agent: str, _direction: str, _message: Any) -> Touched:
    return _UNTOUCHED


class Bus:
    """The journal and the ways to and from it.

    Attributes:
        journal: Every entry, as the core reads it.
        flying: Messages under way, to the journal or to a receiver.
        lost: What was lost and is not known to have been replaced: (what, id).
        counts: How often interesting things happened to messages.
    """

    def __init__(self, clock: Clock, seed: int, faults: Faults, receiver: Receiver, *, wire: bool) -> None:
        self._clock = clock
        self._faults = faults
        self._receiver = receiver
        self._network = Stream(seed, "network")
        self._wire = wire
        self._sent: Counter[str] = Counter()
        self._last_store_s: dict[str, float] = {}
        self._last_delivery_s: dict[str, float] = {}
        self.journal: list[events.Event] = []
        self.flying: dict[int, Envelope] = {}
        self.lost: set[tuple[str, str]] = set()
        self.counts: Counter[str] = Counter()
        self.on_stored: list[Callable[[events.Event, Envelope], None]] = []
        self.read: Callable[[int, float, str, bytes], events.Event] = events.read
        """Reads what comes over the wire, once for each entry."""
        self.tampers: Tampers = _untouched

    # --- to the journal ---

    def publish(self, sender: str, envelope: Envelope) -> None:
        """Send a message; it is stored after a moment, or never."""
        touched = self.tampers(sender, "out", envelope.message)
        at_s = self._clock.now_s + self._trip_s(sender) + touched.later_s
        if touched.lost or self._is_lost(sender, envelope.message):
            self._lose(envelope)
            self.counts["publish_lost"] += 1
            return
        if not touched.overtaken:
            at_s = self._last_store_s[sender] = max(at_s, self._last_store_s.get(sender, 0.0))
        self.flying[id(envelope)] = envelope
        self._clock.at(at_s, self._store, envelope)
        if touched.doubled or self._faults.strikes("double_store", sender):
            again = Envelope(envelope.kind, envelope.sender, envelope.to, envelope.id, envelope.message)
            self.flying[id(again)] = again
            self.counts["stored_twice"] += 1
            self._clock.at(at_s + self._faults.size("double_store", sender, *_AGAIN_S), self._store, again)

    def _is_lost(self, sender: str, message: Any) -> bool:
        if sender in subjects.SIDE:
            return False  # the owner sends again what leaves no trace
        match message:
            case m.Heartbeat():
                return self._faults.strikes("lose_heartbeat", sender)
            case m.Request() | m.Reply() | m.Message() | m.Cancel() | m.CallProgress():
                return self._faults.strikes("lose_request", sender)
            case m.Joined():
                return False  # without it nothing of the incarnation is believed; the next heartbeat stands in for it
            case _:
                return self._faults.strikes("lose_note", sender)

    def _trip_s(self, place: str) -> float:
        self._sent[place] += 1
        trip_s = self._network.spread(f"{place} {self._sent[place]}", _TRIP_S, _TRIP_MAX_S)
        if self._faults.strikes("late", place):
            trip_s += self._faults.size("late", place, *_LATE_S)
        return trip_s

    def _store(self, envelope: Envelope) -> None:
        event = self._event(envelope)
        self.journal.append(event)
        envelope.stored = True
        agent = self._receiver.resolve(envelope) if envelope.kind in subjects.RECEIVED_KINDS else ""
        if agent:
            self._dispatch(agent, envelope)
        else:
            self.flying.pop(id(envelope), None)
        for listener in self.on_stored:
            listener(event, envelope)

    def _event(self, envelope: Envelope) -> events.Event:
        seq, at_s = len(self.journal) + 1, round(self._clock.now_s, 6)
        if self._wire:
            subject = subjects.build(RUN, envelope.kind, envelope.sender, envelope.to, envelope.id)
            return self.read(seq, at_s, subject, codec.encode(envelope.message))
        return events.Recorded(
            seq=seq, at_s=at_s, sender=envelope.sender, to=envelope.to, id=envelope.id, message=envelope.message
        )

    def publish_raw(self, sender: str, subject: str, payload: bytes) -> None:
        """Publish bytes as they are: stored as whatever they read as, delivered to nobody."""
        at_s = self._last_store_s[sender] = max(
            self._clock.now_s + self._trip_s(sender), self._last_store_s.get(sender, 0.0)
        )
        self._clock.at(at_s, self._store_raw, sender, subject, payload)

    def _store_raw(self, sender: str, subject: str, payload: bytes) -> None:
        event = self.read(len(self.journal) + 1, round(self._clock.now_s, 6), subject, payload)
        self.journal.append(event)
        for listener in self.on_stored:
            listener(event, Envelope(Kind.NOTE, sender, SUPERVISOR, "raw", None))

    # --- from the journal ---

    def _dispatch(self, agent: str, envelope: Envelope) -> None:
        touched = self.tampers(agent, "in", envelope.message)
        at_s = self._clock.now_s + self._trip_s(f"to {agent}") + touched.later_s
        if touched.lost or self._faults.strikes(_delivery_fault(envelope.message), agent):
            self._lose(envelope)
            self.flying.pop(id(envelope), None)
            self.counts["delivery_lost"] += 1
            return
        if not touched.overtaken:
            at_s = self._last_delivery_s[agent] = max(at_s, self._last_delivery_s.get(agent, 0.0))
        self._clock.at(at_s, self._arrive, agent, envelope)
        if touched.doubled or self._faults.strikes("double_delivery", agent):
            self.counts["delivered_twice"] += 1
            self._clock.at(at_s, self._arrive, agent, envelope)

    def _arrive(self, agent: str, envelope: Envelope) -> None:
        self.flying.pop(id(envelope), None)
        if not self._receiver.deliver(agent, envelope):
            self._lose(envelope)
            self.counts["delivery_missed"] += 1

    def _lose(self, envelope: Envelope) -> None:
        about = envelope.about()
        if about is not None:
            self.lost.add(about)


def _delivery_fault(message: Any) -> str:
    match message:
        case m.Probe():
            return "lose_probe"
        case m.Break():
            return "lose_break"
        case _:
            return "lose_delivery"
