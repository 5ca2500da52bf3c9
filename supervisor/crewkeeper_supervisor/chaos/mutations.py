"""Mutations: single faults put into the core on purpose, to see that the simulation notices each of them.

A checker that no fault has ever alarmed proves nothing. Each mutation names the one place it patches; when the core
moves, this table is what has to follow.
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import msgspec
from msgspec import Struct

from crewkeeper_bus import messages as m
from crewkeeper_supervisor.chaos.options import Mode, Options
from crewkeeper_supervisor.core.anatomy import blockers
from crewkeeper_supervisor.core.findings import Victim
from crewkeeper_supervisor.core.reduction import Verdict

_PACKAGE: Final = "crewkeeper_supervisor"


class Mutation(Struct, frozen=True, kw_only=True):
    """One fault of the core."""

    name: str
    place: str
    """`module:attribute` or `module:Class.attribute`, in the core, or with the package where it has a dot."""
    make: Callable[[Any], Any]
    """The faulty thing from the right one."""
    mode: Mode = "safety"
    """In which mode of the simulation it shows."""
    raised: dict[str, float] = msgspec.field(default_factory=dict)
    """Rates of the faults that bring it out, where the usual ones take many seeds."""
    also: tuple["Mutation", ...] = ()
    """What has to be broken with it to be seen, where the product has a second line of defence."""

    def options(self, options: Options) -> Options:
        """The options with which it shows soon."""
        rates = {**options.rates, **self.raised}
        return msgspec.structs.replace(options, mode=self.mode, rates=rates)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The core with this fault, for a while. Raises AttributeError where the place is gone."""
        module, _, path = self.place.partition(":")
        inside = module if "." in module else f"core.{module}"
        owner: Any = importlib.import_module(f"{_PACKAGE}.{inside}")
        *outer, name = path.split(".")
        for part in outer:
            owner = getattr(owner, part)
        right = getattr(owner, name)
        with ExitStack() as stack:
            for other in self.also:
                stack.enter_context(other.applied())
            setattr(owner, name, self.make(right))
            stack.callback(setattr, owner, name, right)
            yield


def _unasked(right: Any) -> Any:
    def pursue(self: Any, epochs: Any, suspicion: Any) -> Any:
        suspicion.silent.clear()
        return right(self, epochs, suspicion)

    return pursue


def _asked_once(right: Any) -> Any:
    def pursue(self: Any, epochs: Any, suspicion: Any) -> Any:
        result = right(self, epochs, suspicion)
        if all(suspicion.silent.values()):
            suspicion.ask_again_s = suspicion.since_s + 1e6
        return result

    return pursue


def _any_answer(_right: Any) -> Any:
    def affirmed(self: Any, agent: str, _nonce: str) -> None:
        for suspicion in self._suspicions.values():
            suspicion.silent.pop(agent, None)

    return affirmed


def _condition(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def make(right: Any) -> Any:
        def condition(self: Any, which: Any, *rest: Any) -> Any:
            return right(self, change(which), *rest)

        return condition

    return make


def _any_as_all(which: Any) -> Any:
    return m.OnAll(of=which.of) if isinstance(which, m.OnSome) else which


def _all_as_any(which: Any) -> Any:
    return m.OnSome(k=1, of=which.of) if isinstance(which, m.OnAll) else which


def _one_more(which: Any) -> Any:
    return m.OnSome(k=min(which.k + 1, len(which.of)), of=which.of) if isinstance(which, m.OnSome) else which


def _one_less(which: Any) -> Any:
    return m.OnSome(k=max(which.k - 1, 1), of=which.of) if isinstance(which, m.OnSome) else which


def _verdict(verdict: Verdict, *, when: Callable[..., bool]) -> Callable[[Any], Any]:
    def make(right: Any) -> Any:
        def gate(self: Any, *arguments: Any) -> Any:
            return self._constant[verdict] if when(*arguments) else right(self, *arguments)

        return gate

    return make


def _all_slots(right: Any) -> Any:
    def slot(self: Any, node: Any, call: Any) -> Any:
        known = node.name in self._slots
        gate = right(self, node, call)
        if not known and node.name in self._slots:
            self._slots[node.name].need = max(1, sum(task.slot for task in node.tasks.values()))
        return gate

    return slot


def _no_reentry(right: Any) -> Any:
    def slot(self: Any, node: Any, call: Any) -> Any:
        manner, node.reentrant = node.reentrant, "none"
        try:
            return right(self, node, call)
        finally:
            node.reentrant = manner

    return slot


def _nothing_unread(right: Any) -> Any:
    def message(self: Any, condition: Any, task: Any) -> Any:
        unread, task.agent.unread = task.agent.unread, {}
        try:
            return right(self, condition, task)
        finally:
            task.agent.unread = unread

    return message


def _with_tails(right: Any) -> Any:
    def anatomy(*arguments: Any, **named: Any) -> Any:
        return [(tuple(sorted(core + tail)), ()) for core, tail in right(*arguments, **named)]

    return anatomy


def _all_blockers(stuck: dict[str, Any], graph: Any) -> list[tuple[str, str]]:
    behind = ((key, other) for key, task in stuck.items() for _, _, tasks in blockers(task, graph) for other in tasks)
    return [(key, other.key) for key, other in behind if other.key in stuck]


def _timers(value: bool) -> Callable[[Any], Any]:
    def make(right: Any) -> Any:
        def begin(self: Any, *arguments: Any, **named: Any) -> None:
            right(self, *arguments, **{**named, "timers": value})

        return begin

    return make


def _placed(change: Callable[[str], str]) -> Callable[[Any], Any]:
    def make(right: Any) -> Any:
        def admit(self: Any, inc: str, seq: int) -> str:
            return change(right(self, inc, seq))

        return admit

    return make


def _dearest(right: Any) -> Any:
    def choose(core: Any, tasks: Any, edges: Any, *rest: Any, **named: Any) -> Victim | None:
        started = [msgspec.structs.replace(edge, kind="call") for edge in edges if edge.kind != "call"]
        kinds = [msgspec.structs.replace(edge, kind="queued_call") for edge in edges if edge.kind == "call"]
        victim: Victim | None = right(core, tasks, started + kinds, *rest, **named)
        return victim

    return choose


def _counted(_right: Any) -> Any:
    numbers = iter(range(10**9))
    return lambda _self: f"{next(numbers)}-0"


def _constant(value: Any) -> Callable[[Any], Any]:
    return lambda _right: value


def _unhelped(right: Any) -> Any:
    def reduction(graph: Any, **named: Any) -> Any:
        return right(graph, **{**named, "helped": False})

    return reduction


_DEAF: Final = {"lose_delivery": 0.04}
_FORGETFUL: Final = {"lose_note": 0.1, "late": 0.1}
_MORTAL: Final = {"crash": 0.03}

MUTATIONS: Final = (
    Mutation(
        name="no-confirmation",
        place="detection:Detector._pursue",
        make=_unasked,
        raised={"lose_note": 0.2, "late": 0.3},
    ),
    Mutation(
        name="stale-answers",
        place="detection:Detector.affirmed",
        make=_any_answer,
        raised={"late": 0.8, "lose_note": 0.3, "lose_probe": 0.3},
    ),
    Mutation(name="probe-not-repeated", place="detection:Detector._pursue", make=_asked_once),
    Mutation(name="any-as-all", place="reduction:Reduction._condition", make=_condition(_any_as_all)),
    Mutation(name="all-as-any", place="reduction:Reduction._condition", make=_condition(_all_as_any)),
    Mutation(name="k-one-more", place="reduction:Reduction._condition", make=_condition(_one_more)),
    Mutation(name="k-one-less", place="reduction:Reduction._condition", make=_condition(_one_less)),
    Mutation(
        name="slots-ignored",
        place="reduction:Reduction._slot",
        make=_verdict(Verdict.LIVE, when=lambda _node, _call: True),
    ),
    Mutation(name="slots-collapsed", place="reduction:Reduction._slot", make=_all_slots),
    Mutation(name="reentrancy-ignored", place="reduction:Reduction._slot", make=_no_reentry),
    Mutation(
        name="reply-in-transit-ignored",
        place="reduction:Reduction._call",
        make=_verdict(Verdict.STUCK, when=lambda call, _task: call is None or call.state == "answered"),
    ),
    Mutation(
        name="lost-call-as-stuck",
        place="reduction:Reduction._call",
        make=_verdict(Verdict.STUCK, when=lambda call, _task: call is not None and call.state == "lost"),
    ),
    Mutation(
        name="errors-as-answers",
        place="reduction:Reduction._failed",
        make=_constant(lambda _self, _part: False),
        raised={"lose_request": 0.04},
    ),
    Mutation(name="unread-ignored", place="reduction:Reduction._message", make=_nothing_unread),
    Mutation(
        name="silent-peers-as-live",
        place="reduction:Reduction._message",
        make=_verdict(Verdict.EXTERNAL, when=lambda _condition, _task: True),
    ),
    Mutation(
        name="lock-queue-ignored",
        place="reduction:blockers_of",
        make=lambda right: lambda ticket: ([], right(ticket)[1]),
    ),
    Mutation(
        name="tail-as-member",
        place="detection:anatomy",
        make=_with_tails,
    ),
    Mutation(name="timers-as-never", place="reduction:Reduction.__init__", make=_timers(False)),
    Mutation(name="timers-as-now", place="reduction:Reduction.__init__", make=_timers(True)),
    Mutation(
        name="duplicates-not-dropped",
        place="roster:AgentView.admit",
        make=_placed(lambda place: "next" if place == "old" else place),
    ),
    Mutation(
        name="lost-requests-not-noticed",
        place="heartbeat:_undelivered",
        make=_constant(lambda *_: []),
        mode="liveness",
        raised=_DEAF,
    ),
    Mutation(
        name="lost-answers-not-given",
        place="heartbeat:_heal_answer",
        make=_constant(lambda *_: False),
        mode="liveness",
        raised=_DEAF,
    ),
    Mutation(
        name="lost-grants-not-told",
        place="heartbeat:_heal_grant",
        make=_constant(lambda *_: False),
        mode="liveness",
        raised=_DEAF,
    ),
    Mutation(name="lost-too-soon", place="heartbeat:LOST_AFTER_S", make=_constant(-4.0)),
    Mutation(name="callers-of-the-dead-ignored", place="detection:Reduction", make=_unhelped, raised=_MORTAL),
    Mutation(
        name="heartbeat-heals-no-task", place="heartbeat:_tasks", make=_constant(lambda *_: []), raised=_FORGETFUL
    ),
    Mutation(name="second-victim-at-once", place="detection:OBEY_S", make=_constant(0.02)),
    Mutation(
        name="no-second-victim",
        place="detection:OBEY_S",
        make=_constant(1e9),
        mode="liveness",
        raised={"lose_break": 0.4},
    ),
    Mutation(
        name="untold-victims",
        place="detection:_breaks_on_the_way",
        make=_constant(lambda _state: set()),
        raised={"command_lost": 0.7},
    ),
    Mutation(name="every-part-blamed", place="anatomy:_blames", make=_constant(_all_blockers)),
    Mutation(name="started-work-broken", place="detection:choose", make=_dearest),
    Mutation(name="ids-not-from-the-journal", place="state:RunState.next_id", make=_counted),
    Mutation(name="traces-ignored", place="state:RunState.traced", make=_constant(lambda _self, _command: None)),
    Mutation(
        name="holders-as-stuck",
        place="reduction:Reduction._holder",
        make=_verdict(Verdict.STUCK, when=lambda _ticket: True),
    ),
)
"""Every mutation, each of which the simulation must notice."""


def named(name: str) -> Mutation:
    """The mutation of this name. Raises KeyError."""
    return {mutation.name: mutation for mutation in MUTATIONS}[name]
