"""Kind: what every kind of fault says of itself, and what one that was injected can be asked."""

from collections.abc import Awaitable, Callable
from typing import Any

from msgspec import Struct


class Strike:
    """One fault that has been injected.

    Args:
        heal: Undoes it; harmless when repeated. In a simulation a plain function, with real processes an async one.
        fired: How often it has had an effect so far; a fault with none proves nothing.
    """

    def __init__(self, heal: Callable[[], Any], fired: Callable[[], int]) -> None:
        self.heal = heal
        self.fired = fired


class FaultKind(Struct, frozen=True, kw_only=True):
    """One kind of fault.

    `sim` and `real` inject it: they take the stage, the fault as planned and the name that its target turned out to be.
    """

    word: str
    doc: str
    """One line for `supervisor chaos faults` and the documentation."""
    targets: tuple[str, ...]
    """Kinds of targets: `agent`, `supervisor`, `nats`, `webhook`, `tool`, `model`."""
    default_target: str
    for_s: float = 1.0
    """When it heals if the scenario does not say."""
    by_s: float = 0.2
    """Its size if the scenario does not say."""
    heeds: tuple[str, ...] = ()
    """Which of `direction`, `percent` and `by` mean something for it; the others are refused."""
    servers_min: int = 1
    """How many servers the scenario must have."""
    missing: Callable[[], str] | None = None
    """Says what this machine lacks for it, empty if nothing: then a scenario with it is skipped."""
    sim: Callable[[Any, Any, str], Strike] | None = None
    real: Callable[[Any, Any, str], Awaitable[Strike]] | None = None

    def lacks(self) -> str:
        """What this machine lacks for it, in words; empty if nothing."""
        return "" if self.missing is None else self.missing()

    @property
    def modes(self) -> tuple[str, ...]:
        """Where it can be injected."""
        return tuple(mode for mode, made in (("sim", self.sim), ("real", self.real)) if made is not None)


def once(count: int) -> Callable[[], int]:
    """For faults that have had their whole effect when they are injected."""
    return lambda: count


def nothing() -> None:
    """For faults that leave nothing to undo."""


def undoing(function: Callable[..., object], *arguments: object) -> Callable[[], Awaitable[None]]:
    """What heals a fault of real processes by a plain function."""

    async def heal() -> None:
        function(*arguments)

    return heal


async def nothing_left() -> None:
    """As `nothing`, for real processes."""
