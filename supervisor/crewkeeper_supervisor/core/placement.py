"""Placement: which host an agent is given to, and why; pure, and the same for everybody who folds the journal.

The rule is meant to be foreseen by people: of the hosts that have every label the agent wants and a free slot, the one
with the smallest share of its slots taken; among equals the one with fewer agents, then the first by name.
"""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from crewkeeper_supervisor.core.hosting_state import Host

_SHOWN: Final = 5


class Candidate(NamedTuple):
    """A host, with how many agents it has now."""

    host: Host
    load: int


class Chosen(NamedTuple):
    """The host, or None; and the reason for people."""

    host: Host | None
    why: str


def choose(candidates: Iterable[Candidate], labels: Mapping[str, str], refused: Iterable[str] = ()) -> Chosen:
    """Choose a host.

    Args:
        candidates: The hosts that are known and not lost.
        labels: What the agent wants; none: any host will do.
        refused: Incarnations of hosts that would not take it.
    """
    known = list(candidates)
    wanted = ", ".join(f"{key}={value}" for key, value in labels.items())
    fitting = [each for each in known if all(each.host.labels.get(key) == value for key, value in labels.items())]
    of_those = f"with {wanted}" if labels else "known"
    if not known:
        return Chosen(None, "no host is known")
    if not fitting:
        return Chosen(None, f"no host has {wanted}; there are {_listed(known)}")
    turned_down = frozenset(refused)
    free = [each for each in fitting if each.load < each.host.slots and each.host.inc not in turned_down]
    if not free:
        return Chosen(None, f"no slot is free on the {len(fitting)} host{_s(len(fitting))} {of_those}")
    best = min(free, key=lambda each: (each.load / each.host.slots, each.load, each.host.name, each.host.inc))
    taken = f"{best.load} of its {best.host.slots} slots taken"
    if len(free) == 1:
        return Chosen(best.host, f"the only host {of_those} that has a free slot; {taken}")
    return Chosen(best.host, f"the least loaded of {len(free)} hosts {of_those}; {taken}")


def _listed(candidates: list[Candidate]) -> str:
    shown = []
    for host, _ in candidates[:_SHOWN]:
        labels = ", ".join(f"{key}={value}" for key, value in host.labels.items())
        shown.append(f"{host.name} ({labels or 'no labels'})")
    more = len(candidates) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _s(count: int) -> str:
    return "" if count == 1 else "s"
