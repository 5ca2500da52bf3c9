"""Control: commands of the supervisor, each obeyed once, none of a replaced owner; what they do is in `membership`."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from crewkeeper_bus.messages import Begin, Break, Ctl, Granted, HostCtl, Nudge, Pause, Probe, Resume, Stop

REMEMBERED_MAX: Final = 10_000
"""Command ids that are kept: a command re-sent after more than so many others would be obeyed twice."""

_FOR_AGENTS: Final = (Begin, Break, Granted, Nudge, Pause, Probe, Resume, Stop)


class Control:
    """Lets each command through once."""

    def __init__(self, obey: Callable[[Ctl], bool]) -> None:
        self._obey = obey
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._term = 0

    def accept(self, command: Ctl | HostCtl) -> bool:
        """Obey. False: obeyed before, of an old term, not for agents, or about something that is over."""
        if not isinstance(command, _FOR_AGENTS) or command.term < self._term:
            return False
        self._term = command.term
        if command.id in self._seen:
            return False
        self._seen[command.id] = None
        if len(self._seen) > REMEMBERED_MAX:
            self._seen.popitem(last=False)
        return self._obey(command)
