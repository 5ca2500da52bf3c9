"""Product mutations: faults put into the product on purpose, each with the scenarios that must then turn red.

A scenario that stays green whatever is broken proves nothing. Those of mode `sim` patch the core in this process, those
of mode `real` the controllers that the runner starts.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import SimpleNamespace
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
    breaks: tuple[str, ...] = ()
    """The promises that do not hold with it, by their numbers."""


def _nothing(_right: Any) -> Callable[..., None]:
    return lambda *_arguments, **_named: None


def _looped_by_number(right: Any) -> Callable[..., Any]:
    """A detector that looks at who speaks to whom, and takes all that they say for the same."""

    def step(self: Any, taken: Step) -> Any:
        return right(self, msgspec.structs.replace(taken, said=_SAME, outcome=_SAME))

    return step


def _as_new(right: Any) -> Callable[..., Any]:
    """A gate that knows no call again."""

    def take(state: Any, view: Any, call: Any) -> None:
        state.gate.open.pop(call.key, None)
        state.gate.ended.get(call.agent, {}).pop(call.id, None)
        right(state, view, call)

    return take


def _unfenced(right: Any) -> Callable[..., Any]:
    """Writes whatever others have written there meanwhile."""

    async def store(self: Any, subject: str, payload: bytes, **named: Any) -> Any:
        return await right(self, subject, payload, headers=named.get("headers"))

    return store


def _in_memory(right: Any) -> Any:
    return SimpleNamespace(FILE=right.MEMORY, MEMORY=right.MEMORY)


def _unsigned(right: Any) -> Callable[..., Any]:
    def sign(_secret: str, *arguments: Any, **_named: Any) -> Any:
        return right("", *arguments)

    return sign


def _once(right: Any) -> Callable[..., Any]:
    def init(self: Any, link: Any, _retries_s: Any = (), *arguments: Any, **named: Any) -> None:
        right(self, link, (), *arguments, **named)

    return init


def _always(_right: Any) -> Callable[..., bool]:
    return lambda *_arguments: True


def _unrecorded(right: Any) -> Callable[..., Any]:
    """A ledger that takes decisions for recorded, but for who owns the run."""

    async def commit(self: Any, batch: Any) -> None:
        if batch[0].kind == "Owner":
            await right(self, batch)
        else:
            self._ids.update(record.id for record in batch)

    return commit


def _undone(_right: Any) -> Callable[..., Any]:
    async def nothing(*_arguments: Any) -> None:
        return None

    return nothing


def _open_door(right: Any) -> Callable[..., Any]:
    """A judge of logins who does not know who was shut out."""

    def decide(record: Any, *arguments: Any) -> Any:
        if record is not None and record.state == "killed":
            record = msgspec.structs.replace(record, state="running")
        return right(record, *arguments)

    return decide


def _constant(value: Any) -> Callable[[Any], Any]:
    return lambda _right: value


def _of(name: str, *scenarios: str, breaks: str = "G3") -> ProductMutation:
    return ProductMutation(
        mutation=mutations.named(name), mode="sim", scenarios=scenarios, breaks=tuple(breaks.split())
    )


def _sim(place: str, name: str, make: Callable[[Any], Any], *scenarios: str, breaks: str = "") -> ProductMutation:
    made = Mutation(name=name, place=place, make=make)
    return ProductMutation(mutation=made, mode="sim", scenarios=scenarios, breaks=tuple(breaks.split()))


def _real(place: str, name: str, make: Callable[[Any], Any], *scenarios: str, breaks: str = "") -> ProductMutation:
    return msgspec.structs.replace(_sim(place, name, make, *scenarios, breaks=breaks), mode="real")


_NO_IDEMPOTENCY: Final = Mutation(
    name="no-idempotency",
    place="gate:_take",
    make=_as_new,
    also=(mutations.named("duplicates-not-dropped"),),
)

_NO_FENCE: Final = Mutation(
    name="no-fence",
    place="shell.nats_link:Link.store",
    make=_unfenced,
    also=(Mutation(name="lease-for-ever", place="shell.lease:Lease.still_mine", make=_always),),
)
_NO_BLOCK: Final = Mutation(
    name="no-block",
    place="shell.callout:decide",
    make=_open_door,
    also=(Mutation(name="not-shown-out", place="shell.sentry:Sentry._look_at", make=_undone),),
)
"""Whoever is let in again is shown out at once by the sentry, most often before a word: alone it shows by chance."""
PRODUCT_MUTATIONS: Final = (
    _real("shell.webhook:sign", "unsigned-webhook", _unsigned, "webhook-refused", "mutual-approval", breaks="G4"),
    _real("shell.outbox:Outbox.__init__", "no-retry", _once, "webhook-refused", breaks="G4"),
    _real("shell.system_link:SystemLink.kick", "no-kick", _nothing, "rogue-ignores-kill", breaks="G2"),
    ProductMutation(mutation=_NO_BLOCK, mode="real", scenarios=("rogue-ignores-kill",), breaks=("G2",)),
    _real("shell.ledger:Ledger._commit", "unrecorded", _unrecorded, "rogue-ignores-kill", breaks="G5"),
    _real("shell.sessions:Sessions._look", "intrusion-unseen", _undone, "stolen-credential", breaks="G2"),
    ProductMutation(mutation=_NO_FENCE, mode="real", scenarios=("paused-owner",), breaks=("G7",)),
    _real("shell.journal:StorageType", "journal-in-memory", _in_memory, "nats-restart", breaks="G6 G9"),
    _of("any-as-all", "or-wait-is-no-deadlock"),
    _of("slots-ignored", "ring-of-three", "hub-queue-full"),
    _of("silent-peers-as-live", "message-ring"),
    _of("all-as-any", "and-wait"),
    _of("holders-as-stuck", "dining-philosophers"),
    _of("no-confirmation", "partition-heals"),
    _of("probe-not-repeated", "partition-heals"),
    _of("started-work-broken", "hub-queue-full"),
    _of("lost-too-soon", "late-news"),
    _of("traces-ignored", "orphan-wait", "tool-trouble", "budget-race", breaks="G7"),
    _of("ids-not-from-the-journal", "supervisor-kill", breaks="G6 G7"),
    ProductMutation(mutation=_NO_IDEMPOTENCY, mode="sim", scenarios=("impersonation-and-replay",), breaks=("G1",)),
    _sim("lifecycle:orphaned", "orphans-forgotten", _nothing, "orphan-wait", breaks="G3"),
    _sim("budget:Account.hold", "no-reserve", _nothing, "budget-race", breaks="G1"),
    _sim("response:break_wait", "found-not-broken", _nothing, "ring-of-three", "mutual-approval"),
    _sim("state:RunState.escalate", "nobody-told", _nothing, "webhook-down", breaks="G4"),
    _sim("escalation:_has_room", "cap-ignored", _always, "200-deadlocks-at-once", breaks="G4"),
    _sim("gate.rules:Rules.policy_changed", "old-rules", _nothing, "policy-reload-under-load", breaks="G5"),
    _sim("gate:GRACE_S", "absence-counted", _constant(-59.0), "all-supervisors-down", breaks="G8"),
    _sim("watch:Watch._looped", "loops-untold", _nothing, "ping-pong", "paraphrase-loop"),
    _sim("loops:LoopDetector.step", "counted-as-loop", _looped_by_number, "long-useful-dialogue"),
    _sim("drift:DriftModel.did", "drift-unseen", _nothing, "drift"),
    _sim("retry_storm:RetryStorms.failed", "storms-unseen", _nothing, "retry-storm"),
    _sim("gate.arguments:ArgumentCheck.check", "arguments-unchecked", _nothing, "tool-hallucination"),
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
