"""Observing: what a controller tells metrics and traces about its runs; what they make of it is in their own files.

Nothing here can touch a run: whatever an observer raises is counted, logged once for each kind, and goes no further.
Without observers an owner holds none, and pays one comparison for a batch of entries.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from crewkeeper_bus.subjects import SUPERVISOR, Kind
from crewkeeper_supervisor.core.commands import Command
from crewkeeper_supervisor.core.findings import Incident
from crewkeeper_supervisor.shell.journal import Entry
from crewkeeper_supervisor.shell.logbook import logger
from crewkeeper_supervisor.shell.nats_link import Link

_OWN_KINDS: Final = frozenset((Kind.CTL, Kind.OP, Kind.REP, Kind.CANCEL))
Let = Literal["over", "lost", "failed", "ended"]
"""How an owner let go of a run: it is over, the lease was lost, something failed, or the controller ends."""


class RunObserver(Protocol):
    """Hears of one run while this controller owns it, in the event loop; must not wait."""

    def took(self, entries: Sequence[Entry]) -> None:
        """These entries were folded."""

    def owned(self) -> None:
        """Everything before is folded; from now on what is decided is carried out here."""

    def sent(self, command: Command, attempt: int, error: str, latency_ms: float) -> None:
        """A command was sent for the `attempt`-th time, or could not be; `error` names why."""

    def left(self, how: Let) -> None:
        """The run is owned here no more."""


@dataclass(kw_only=True)
class Standing:
    """What a controller can do now; it keeps this up to date.

    Attributes:
        link: Its connection; None before it has one.
        opened: Whether the streams and buckets that controllers share are there.
        draining: Whether it gives its runs to others and takes no more.
    """

    link: Link | None = None
    opened: bool = False
    draining: bool = False


class Observer(Protocol):
    """Hears of a controller."""

    def run(self, run: str, fold: Any) -> RunObserver:
        """Somebody begins to fold a run here; `fold` is its core, to be read only."""

    def webhook(self, host: str, outcome: str) -> None:
        """One attempt to tell people: `delivered`, `failed` (tried again) or `dead` (given up)."""


class Words:
    """Where owners spoke last in a journal that is caught up with: who spoke has heard what came before.

    Attributes:
        before: Sequence of the word before the last one: what follows it, nobody else has told of.
    """

    def __init__(self) -> None:
        self.before = 0
        self._last: int | None = None

    def hear(self, entry: Entry, kind: str, sender: str) -> bool:
        """Take the next entry; whether it is such a word."""
        if self._last is None:
            self.before = self._last = entry.seq - 1  # a snapshot was written there
        if sender != SUPERVISOR or kind not in _OWN_KINDS:
            return False
        self.before, self._last = self._last, entry.seq
        return True


class Unseen:
    """Which incidents of one run nothing has been said of yet."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def skip(self, incidents: dict[str, Incident], last_seq: int) -> None:
        """Take what was found by this entry, or before, for seen."""
        self._seen.update(id_ for id_, each in incidents.items() if each.finding.seq <= last_seq)

    def new(self, incidents: dict[str, Incident]) -> Iterator[Incident]:
        """Those that are new since the last time, the latest first: cores append them, so a known one ends it."""
        if len(self._seen) > 2 * len(incidents) + 100:
            self._seen.intersection_update(incidents)
        for id_, incident in reversed(incidents.items()):
            if id_ in self._seen:
                return
            self._seen.add(id_)
            yield incident


class Observers:
    """Several observers as one, none of which can do harm.

    Args:
        parts: By name.

    Attributes:
        errors: How often each failed.
    """

    def __init__(self, parts: dict[str, Observer]) -> None:
        self.errors = dict.fromkeys(parts, 0)
        self._parts = parts
        self._logged: set[tuple[str, str]] = set()

    def run(self, run: str, fold: Any) -> "RunObservers":
        """All of them on one run."""
        heard: dict[str, RunObserver] = {}
        for name, part in self._parts.items():
            self.guarded(name, lambda name=name, part=part: heard.update({name: part.run(run, fold)}))  # type: ignore[misc]
        return RunObservers(self, heard)

    def webhook(self, host: str, outcome: str) -> None:
        """Tell all of them of an attempt."""
        for name, part in self._parts.items():
            self.guarded(name, lambda part=part: part.webhook(host, outcome))  # type: ignore[misc]

    def guarded(self, name: str, tell: Callable[[], object]) -> None:
        """Call `tell`; what it raises is counted."""
        try:
            tell()
        except Exception as error:  # noqa: BLE001 - telemetry must never break supervision
            self.errors[name] = self.errors.get(name, 0) + 1
            kind = (name, type(error).__name__)
            if kind not in self._logged:
                self._logged.add(kind)
                logger().exception("telemetry.failed", part=name)


class RunObservers:
    """Several observers of one run as one."""

    def __init__(self, all_: Observers, parts: dict[str, RunObserver]) -> None:
        self._all = all_
        self._parts = parts

    def took(self, entries: Sequence[Entry]) -> None:
        """As `RunObserver.took`."""
        self._tell(lambda part: part.took(entries))

    def owned(self) -> None:
        """As `RunObserver.owned`."""
        self._tell(lambda part: part.owned())

    def sent(self, command: Command, attempt: int, error: str, latency_ms: float) -> None:
        """As `RunObserver.sent`."""
        self._tell(lambda part: part.sent(command, attempt, error, latency_ms))

    def left(self, how: Let) -> None:
        """As `RunObserver.left`."""
        self._tell(lambda part: part.left(how))

    def _tell(self, tell: Callable[[RunObserver], None]) -> None:
        for name, part in self._parts.items():
            self._all.guarded(name, lambda part=part: tell(part))  # type: ignore[misc]
