"""Product mutations: faults put into the product on purpose, each with the scenarios that must then turn red.

A scenario that stays green whatever is broken proves nothing. Those of mode `sim` patch the core in this process, those
of mode `real` the controllers that the runner starts.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from crewkeeper_supervisor.chaos import mutations
from crewkeeper_supervisor.chaos.mutations import Mutation
from crewkeeper_supervisor.core.fingerprint import of_text
from crewkeeper_supervisor.core.steps import Step

_SAME: Final = of_text("the same words whatever was said, more than a few of them")


class ProductMutation(Struct, frozen=True, kw_only=True):
    """One mutation and what it must turn red."""

    mutation: Mutation
    mode: Literal["sim", "real"]
    scenarios: tuple[str, ...]


def _nothing(_right: Any) -> Callable[..., None]:
    return lambda *_arguments, **_named: None


def _looped_by_number(right: Any) -> Callable[..., Any]:
    """A detector that looks at who speaks to whom, and takes all that they say for the same."""

    def step(self: Any, taken: Step) -> Any:
        return right(self, msgspec.structs.replace(taken, said=_SAME, outcome=_SAME))

    return step


def _of(name: str, *scenarios: str) -> ProductMutation:
    return ProductMutation(mutation=mutations.named(name), mode="sim", scenarios=scenarios)


def _unsigned(right: Any) -> Callable[..., Any]:
    def sign(_secret: str, *arguments: Any, **_named: Any) -> Any:
        return right("", *arguments)

    return sign


def _once(right: Any) -> Callable[..., Any]:
    def init(self: Any, link: Any, _retries_s: Any = ()) -> None:
        right(self, link, ())

    return init


def _sim(name: str, place: str, make: Callable[[Any], Any], *scenarios: str) -> ProductMutation:
    return ProductMutation(mutation=Mutation(name=name, place=place, make=make), mode="sim", scenarios=scenarios)


def _real(name: str, place: str, make: Callable[[Any], Any], *scenarios: str) -> ProductMutation:
    return ProductMutation(mutation=Mutation(name=name, place=place, make=make), mode="real", scenarios=scenarios)


PRODUCT_MUTATIONS: Final = (
    _real("unsigned-webhook", "shell.webhook:sign", _unsigned, "webhook-refused", "mutual-approval"),
    _real("no-retry", "shell.outbox:Outbox.__init__", _once, "webhook-refused"),
    _real("no-kick", "shell.system_link:SystemLink.kick", _nothing, "rogue-ignores-kill"),
    _of("any-as-all", "or-wait-is-no-deadlock"),
    _of("slots-ignored", "ring-of-three", "hub-queue-full"),
    _of("silent-peers-as-live", "message-ring"),
    _of("all-as-any", "and-wait"),
    _of("holders-as-stuck", "dining-philosophers"),
    _of("no-confirmation", "partition-heals"),
    _of("probe-not-repeated", "partition-heals"),
    _of("started-work-broken", "hub-queue-full"),
    _of("traces-ignored", "orphan-wait", "tool-trouble"),
    _sim("orphans-forgotten", "lifecycle:orphaned", _nothing, "orphan-wait"),
    _sim("no-reserve", "budget:Account.hold", _nothing, "budget-race"),
    _sim("found-not-broken", "response:break_wait", _nothing, "ring-of-three", "mutual-approval"),
    _sim("loops-untold", "watch:Watch._looped", _nothing, "ping-pong", "paraphrase-loop"),
    _sim("counted-as-loop", "loops:LoopDetector.step", _looped_by_number, "long-useful-dialogue"),
    _sim("drift-unseen", "drift:DriftModel.did", _nothing, "drift"),
    _sim("storms-unseen", "retry_storm:RetryStorms.failed", _nothing, "retry-storm"),
)
"""Every mutation with its scenarios."""


def find(name: str) -> Mutation | None:
    """The mutation of this name, of these or of the core's; None: there is none."""
    every = {each.mutation.name: each.mutation for each in PRODUCT_MUTATIONS}
    every |= {mutation.name: mutation for mutation in mutations.MUTATIONS}
    return every.get(name)


def applied(name: str) -> AbstractContextManager[None]:
    """The product with this fault, for a while. Raises KeyError."""
    found = find(name)
    if found is None:
        raise KeyError(name)
    return found.applied()
