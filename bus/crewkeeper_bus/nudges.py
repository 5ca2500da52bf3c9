"""Nudges: what the supervisor wants this agent's model to read, kept until whoever speaks to the model takes it."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import structlog
from msgspec import Struct

from crewkeeper_bus import messages as m
from crewkeeper_bus.outgoing import Outgoing

KEPT_MAX: Final = 100
"""Nudges that nobody has taken; the oldest is dropped first."""
KNOWN_MAX: Final = 1000
HEADING: Final = "[supervisor]"
"""What stands before the text of a nudge where a model reads it."""

log = structlog.get_logger()


class Nudge(Struct, frozen=True, kw_only=True):
    """What the model should be told, once.

    Attributes:
        id: Names it.
        finding: Id of the supervisor's finding, for `supervisor incidents show`.
        text: For the model: what it repeats, what came of it, what to do instead.
    """

    id: str
    finding: str
    text: str


def appended(text: str, nudges: list[Nudge]) -> str:
    """A text for the model, with nudges after it."""
    return "\n\n".join([text, *(f"{HEADING} {nudge.text}" for nudge in nudges)]) if nudges else text


class Nudges:
    """The nudges of one incarnation.

    Args:
        outgoing: Says which were taken.
    """

    def __init__(self, outgoing: Outgoing) -> None:
        self._outgoing = outgoing
        self._kept: OrderedDict[str, Nudge] = OrderedDict()
        self._known: OrderedDict[str, None] = OrderedDict()
        self._listener: Callable[[Nudge], None] | None = None

    def accept(self, told: m.Nudge) -> None:
        """The supervisor nudges; what came before is known again."""
        if told.nudge in self._known:
            if told.nudge not in self._kept:  # that it was taken has not been heard
                self._say_taken(told.nudge)
            return
        self._known[told.nudge] = None
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)
        nudge = Nudge(id=told.nudge, finding=told.finding, text=told.text)
        if self._listener is not None:
            self._hand(nudge)
            return
        self._kept[nudge.id] = nudge
        if len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)

    def take(self) -> list[Nudge]:
        """All that were not taken, oldest first; each is given once."""
        taken = list(self._kept.values())
        self._kept.clear()
        for nudge in taken:
            self._say_taken(nudge.id)
        return taken

    def listen(self, listener: Callable[[Nudge], None]) -> None:
        """Give every nudge to a function at once, those that are kept now too."""
        self._listener = listener
        kept = list(self._kept.values())
        self._kept.clear()
        for nudge in kept:
            self._hand(nudge)

    def _hand(self, nudge: Nudge) -> None:
        assert self._listener is not None
        try:
            self._listener(nudge)
        except Exception:
            # It is the author's code, called from the midst of the client: the next `take` gives the nudge instead.
            log.exception("bus.nudge_not_taken", nudge=nudge.id)
            self._kept[nudge.id] = nudge
            return
        self._say_taken(nudge.id)

    def _say_taken(self, id_: str) -> None:
        if not self._outgoing.is_closed:
            self._outgoing.note(m.NudgeTaken, nudge=id_)
