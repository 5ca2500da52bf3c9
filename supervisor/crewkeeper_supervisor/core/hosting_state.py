"""Hosting state: which hosts a run knows and where each of its agents is; what is decided about that is `hosting`.

Only runs whose agents are spread over hosts have it. Plain data, and part of the digest of the state.
"""

from typing import Any, Final, Literal

from msgspec import Struct, field, to_builtins

NEVER: Final = float("inf")
HOSTS_MAX: Final = 1000
"""Incarnations of hosts that are remembered; of those that are lost the oldest is forgotten first."""

End = Literal["done", "failed", "stopped"]


class Host(Struct, kw_only=True):
    """One incarnation of a host."""

    name: str
    inc: str
    labels: dict[str, str] = field(default_factory=dict)
    slots: int = 1
    taken: int = 0
    """How many of its slots other runs had when it was last seen."""
    leaving: bool = False
    """It ends its agents in order, and takes none."""
    lost: bool = False
    incident: str = ""
    """Id of the incident that says so."""


class Place(Struct, kw_only=True):
    """Where one agent is to run, or runs. Times are journal time in seconds.

    `wanted`: it has no host yet. `ordered`: a host was told to start it. `running`: the host has done so. `cutting`:
    its host is lost, and what it logs in with is made void before anything else. `over`: it has ended for good.
    """

    agent: str
    step: Literal["wanted", "ordered", "running", "cutting", "over"] = "wanted"
    id: str = ""
    """Id of the order by which it was started last."""
    host: str = ""
    inc: str = ""
    refused: tuple[str, ...] = ()
    """Incarnations of hosts that would not take it, until they are seen again."""
    moves: bool = False
    """While it is cut off: whether it is started elsewhere after that."""
    moved_at_s: tuple[float, ...] = ()
    """When it was lost with a host, as far as its restart rule remembers."""
    cut: str = ""
    """The command by which it is cut off."""
    tries: int = 0
    due_s: float = NEVER
    """When it is tried again to cut it off."""
    main: bool = False
    """Its main activity was under way when its host was lost, or began to leave."""
    failed: bool = False
    """It did not end in order."""
    said: str = ""
    """What was last said about why it has no host."""
    incident: str = ""
    """Id of the incident that says so."""


class Ordered(Struct, frozen=True, kw_only=True):
    """How the run is to end once no host has a process of it."""

    state: End
    why: str
    limit_s: float = NEVER
    """When it ends, whatever hosts have not said."""


class Hosting(Struct, kw_only=True):
    """Hosts and places of one run."""

    hosts: dict[str, Host] = field(default_factory=dict)
    """By incarnation."""
    places: dict[str, Place] = field(default_factory=dict)
    """By agent; the tool host stands among them under its own name."""
    idle_s: float = NEVER
    """When a run whose processes have all ended by themselves is given up."""
    end: Ordered | None = None
    ended: str = ""
    """The command that states the end."""

    def facts(self) -> Any:
        """Everything, as plain data."""
        return to_builtins(self)

    @property
    def waits(self) -> bool:
        """Whether an agent has no host yet."""
        return any(place.step == "wanted" for place in self.places.values())

    @property
    def owes(self) -> bool:
        """Whether an agent is on its way to another host whose work is not done."""
        return any(place.main and self._moves(place) for place in self.places.values())

    def _moves(self, place: Place) -> bool:
        host = self.hosts.get(place.inc)
        leaves = host is not None and host.leaving and place.step in ("ordered", "running")
        return leaves or place.step == "wanted" or (place.step == "cutting" and place.moves)

    def found(self, agent: str, order: str) -> Place | None:
        """The place that an agent has by this order, and by no later one."""
        place = self.places.get(agent)
        return place if place is not None and order and place.id == order else None

    def loads(self) -> dict[str, int]:
        """How many agents each host has, by incarnation: of this run as of now, of others as it was last seen."""
        loads = {inc: host.taken for inc, host in self.hosts.items()}
        for place in self.places.values():
            if place.step in ("ordered", "running") and place.inc in loads:
                loads[place.inc] += 1
        return loads
