"""Program: what simulated agents do: small random plans of work, calls, waits, locks and messages.

A plan belongs to the activity or call it is made for, by name, so that it stays the same whatever else happens. Plans
are careless on purpose: they hold locks while asking, ask back along the chain, and wait for many at once.
"""

import random
from collections.abc import Callable
from typing import Final

from crewkeeper_bus import messages as m
from crewkeeper_supervisor.chaos.actor import Actor
from crewkeeper_supervisor.chaos.chance import Stream
from crewkeeper_supervisor.chaos.doing import Body, Failed, Task, Work
from crewkeeper_supervisor.chaos.options import Options

LOCKS: Final = ("l1", "l2", "l3")
POOLS: Final = {"p1": 2, "p2": 3}
RETRY_S: Final = 1.0
_NESTED_S: Final = 0.35

Step = Callable[["Plan"], Body]


class Programs:
    """Makes the body of every task of a run."""

    def __init__(self, options: Options, seed: int, names: tuple[str, ...]) -> None:
        self._options = options
        self._agents = Stream(seed, "agents")
        self._names = names
        """Whom agents may ask: instances that stand alone, and roles."""

    def body(self, actor: Actor, task: Task, work: Work) -> Body:
        """The body of one task."""
        rnd = self._agents.generator(f"{actor.name} {work.id}")
        yield from Plan(actor, task, rnd, self._options, self._names).run()


class Plan:
    """One task's plan, made as it is carried out."""

    def __init__(self, actor: Actor, task: Task, rnd: random.Random, options: Options, names: tuple[str, ...]) -> None:
        self.actor, self.task, self.rnd = actor, task, rnd
        self.names = names
        self._options = options

    def run(self) -> Body:
        """A few steps. An activity may try again what a deadlock ended; a handler fails with it."""
        rnd = self.rnd
        deep = len(self.task.chain) >= self._options.depth
        for _ in range(rnd.randint(1, 2 if self.task.chain else 3)):
            step = self._choose(deep=deep)
            try:
                yield from step(self)
            except Failed as failed:
                if self.task.call and rnd.random() < 0.5:
                    raise
                if failed.code == "would_deadlock" and rnd.random() < 0.7:
                    yield RETRY_S + 0.25 * rnd.random()
                    yield from self._again(step)
        yield self.moment()

    def _again(self, step: Step) -> Body:
        try:
            yield from step(self)
        except Failed:
            yield self.moment()

    def moment(self) -> float:
        """How long a piece of work takes, seconds."""
        return min(3.0, self.rnd.expovariate(1 / 0.3))

    def _choose(self, *, deep: bool) -> Step:
        weights = self._options.features
        names = [name for name in STEPS if weights.get(name, 0.0) > 0 and not (deep and name in _DEEPER)]
        if not names:
            return _work
        return STEPS[self.rnd.choices(names, [weights[name] for name in names])[0]]

    def target(self) -> str:
        """Somebody to ask; seldom oneself."""
        others = [name for name in self.names if name != self.actor.name]
        if not others or self.rnd.random() < 0.03:
            return self.actor.spec.name
        return self.rnd.choice(others)

    def timeout(self) -> float | None:
        """Mostly none, and sometimes a long one."""
        kind = self.rnd.random()
        return self.rnd.uniform(2.0, 15.0) if kind < 0.11 else self.rnd.uniform(45.0, 80.0) if kind < 0.16 else None

    def within(self) -> Body:
        """What is done while a lock is held: work, or a call."""
        yield self.moment()
        if self.rnd.random() < _NESTED_S and len(self.task.chain) < self._options.depth:
            yield from _ask(self)
        elif self.rnd.random() < _NESTED_S:
            yield from _lock(self)


def _work(plan: Plan) -> Body:
    yield plan.moment()


def _ask(plan: Plan) -> Body:
    timeout_s = plan.timeout()
    call = plan.actor.call(plan.task, plan.target(), timeout_s)
    if plan.rnd.random() < 0.1:
        yield plan.moment()
    yield from plan.actor.join(plan.task, [call], 1, m.OnCall(call=call.id), timeout_s)


def _many(plan: Plan, count: int, k: int) -> Body:
    timeout_s = plan.timeout()
    calls = [plan.actor.call(plan.task, plan.target(), timeout_s) for _ in range(count)]
    parts = tuple(m.OnCall(call=call.id) for call in calls)
    condition = m.OnAll(of=parts) if k == count else m.OnSome(k=k, of=parts)
    yield from plan.actor.join(plan.task, calls, k, condition, timeout_s)


def _ask_all(plan: Plan) -> Body:
    count = plan.rnd.randint(2, 3)
    yield from _many(plan, count, count)


def _ask_any(plan: Plan) -> Body:
    yield from _many(plan, plan.rnd.randint(2, 3), 1)


def _gather(plan: Plan) -> Body:
    yield from _many(plan, 3, 2)


def _nested(plan: Plan) -> Body:
    calls = [plan.actor.call(plan.task, plan.target()) for _ in range(3)]
    first, second, third = (m.OnCall(call=call.id) for call in calls)
    either: m.Condition = m.OnSome(k=1, of=(second, third))
    condition: m.Condition = m.OnAll(of=(first, either))
    if plan.rnd.random() < 0.5:
        condition = m.OnSome(k=1, of=(first, m.OnAll(of=(second, third))))
    yield from plan.actor.join(plan.task, calls, 3, condition)


def _lock(plan: Plan, mode: str = "x") -> Body:
    name = plan.rnd.choice(LOCKS)
    yield from plan.actor.holding(plan.task, name, plan.within(), plan.timeout(), mode=mode)


def _shared(plan: Plan) -> Body:
    yield from _lock(plan, "s")


def _semaphore(plan: Plan) -> Body:
    name = plan.rnd.choice(list(POOLS))
    units = plan.rnd.randint(1, POOLS[name])
    yield from plan.actor.holding(plan.task, name, plan.within(), plan.timeout(), units=units, capacity=POOLS[name])


def _tell(plan: Plan) -> Body:
    plan.actor.tell(plan.task, plan.target())
    yield plan.moment()


def _receive(plan: Plan) -> Body:
    senders = tuple(dict.fromkeys(plan.target() for _ in range(plan.rnd.randint(1, 2))))
    timeout_s = plan.rnd.uniform(2.0, 12.0) if plan.rnd.random() < 0.5 else None
    yield from plan.actor.receive(plan.task, senders, timeout_s)


def _human(plan: Plan) -> Body:
    yield from plan.actor.ask_person(plan.task)


def _sleep(plan: Plan) -> Body:
    yield from plan.actor.sleep(plan.task, plan.moment())


def _early(plan: Plan) -> Body:
    plan.actor.reply_early(plan.task)
    yield from _ask(plan)


STEPS: Final[dict[str, Step]] = {
    "work": _work,
    "ask": _ask,
    "ask_all": _ask_all,
    "ask_any": _ask_any,
    "gather": _gather,
    "nested": _nested,
    "lock": _lock,
    "shared": _shared,
    "semaphore": _semaphore,
    "tell": _tell,
    "receive": _receive,
    "human": _human,
    "sleep": _sleep,
    "early": _early,
}
_DEEPER: Final = ("ask", "ask_all", "ask_any", "gather", "nested", "early")
