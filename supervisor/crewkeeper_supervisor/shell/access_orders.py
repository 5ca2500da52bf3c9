"""Access orders: what the core decided about agents' access, carried out beside the fold, and reported to the journal.

Making every server shut an agent out takes up to a second, and the fold must not stand still for it. So orders wait in
a line for each agent, several agents are served at once, and one agent's orders are carried out in the order in which
they were decided. Each ends in an `AccessSet`, a `Delegated` or an `Outcome`; one that does not, because the journal
could not be reached, is ordered again by the owner and does no harm twice.

A kill waits for nothing. It goes to the head of its agent's line; a pause or a resume that is being carried out there
is broken off, since nothing comes of it any more; and hands are kept free for kills while others wait for slow agents.
"""

from collections.abc import Callable
from typing import Final, assert_never

import anyio

from crewkeeper_bus.codec import PAYLOAD_MAX_BYTES
from crewkeeper_bus.errors import BusError, ConnectionLost
from crewkeeper_bus.messages import AccessSet, Delegated, Outcome
from crewkeeper_supervisor.core.commands import Admit, SetAccess
from crewkeeper_supervisor.shell import fail_points, journal
from crewkeeper_supervisor.shell.access import AccessRefused, Damaged
from crewkeeper_supervisor.shell.enforcer import Done, Enforcer
from crewkeeper_supervisor.shell.errors import StoreUnavailable
from crewkeeper_supervisor.shell.logbook import logger
from crewkeeper_supervisor.shell.nats_link import Link
from crewkeeper_supervisor.shell.powers import Powers

AT_ONCE: Final = 16
"""Agents whose orders are carried out at the same time."""
KILLS_AT_ONCE: Final = 8
"""Kills that are carried out beside those, however many others wait."""
LIMIT_S: Final = 30.0
"""One order takes no longer; then it has failed."""
NO_POWER: Final = "nobody here has power over who may connect to the server"

Order = SetAccess | Admit


class AccessOrders:
    """The orders of one run under one term."""

    def __init__(
        self, link: Link, run: str, term: int, powers: Powers | None, journal_now_s: Callable[[], float]
    ) -> None:
        """Prepare; `work` carries them out.

        Args:
            link: Where outcomes are published.
            run: The run.
            term: The owner's term.
            powers: What the server can be made to do; None: nothing.
            journal_now_s: Tells the journal's time, seconds since the epoch.
        """
        self._payload_bytes = PAYLOAD_MAX_BYTES
        self._journal_now_s = journal_now_s
        self._link = link
        self._run = run
        self._term = term
        self._powers = powers
        self._lines: dict[str, dict[str, Order]] = {}
        """By agent: orders by their id, in the order in which they are carried out."""
        self._idle: dict[str, None] = {}
        """Agents with orders that nobody is carrying out yet."""
        self._urgent: dict[str, None] = {}
        """Those of them that are to be killed."""
        self._holding: dict[str, anyio.CancelScope] = {}
        """By agent: a pause or a resume that is being carried out."""
        self._given = anyio.Event()

    @property
    def is_idle(self) -> bool:
        """Whether every order that was given has been carried out."""
        return not self._lines

    def give(self, order: Order, payload_bytes: int) -> None:
        """Take an order; one that waits already, or is being carried out, is not taken twice.

        Args:
            order: What is to be done.
            payload_bytes: The largest message in this crew.
        """
        self._payload_bytes = payload_bytes
        is_new = order.agent not in self._lines
        line = self._lines.setdefault(order.agent, {})
        if order.id in line:
            return
        if _is_kill(order):
            self._lines[order.agent] = {order.id: order, **line}
            if order.agent in self._holding:
                self._holding[order.agent].cancel()
            elif is_new or order.agent in self._idle:
                self._idle.pop(order.agent, None)
                self._urgent[order.agent] = None
        else:
            line[order.id] = order
            if is_new:
                self._idle[order.agent] = None
        self._given.set()

    async def work(self) -> None:
        """Carry out orders until cancelled."""
        async with anyio.create_task_group() as group:
            for number in range(AT_ONCE + KILLS_AT_ONCE):
                group.start_soon(self._serve, (self._urgent, self._idle) if number < AT_ONCE else (self._urgent,))

    async def _serve(self, waiting: tuple[dict[str, None], ...]) -> None:
        while True:
            while not any(waiting):
                self._given = anyio.Event() if self._given.is_set() else self._given
                await self._given.wait()
            first = next(each for each in waiting if each)
            agent = next(iter(first))
            del first[agent]
            while self._lines[agent]:
                order = next(iter(self._lines[agent].values()))
                try:
                    await self._carry_out(order)
                except (ConnectionLost, StoreUnavailable) as error:
                    logger().warning("order.unreported", crew=self._run, agent=agent, cause=type(error).__name__)
                except Exception as error:  # noqa: BLE001 - one order must not end the carrying out of all others
                    logger().error("order.failed", crew=self._run, agent=agent, cause=type(error).__name__)
                del self._lines[agent][order.id]
            del self._lines[agent]

    async def _carry_out(self, order: Order) -> None:
        fact = await (self._set(order) if isinstance(order, SetAccess) else self._admit(order))
        fail_points.passed("access-done")
        await journal.publish_op(self._link, self._run, fact)

    # --- one order ---

    async def _set(self, order: SetAccess) -> AccessSet:
        done = Done(ok=False, detail=f"not done within {LIMIT_S:g} s")
        enforcer = self._powers.enforcer if self._powers is not None else None
        if self._powers is None or enforcer is None:
            detail = NO_POWER if self._powers is None else self._powers.lacks
            done = Done(ok=False, enforced=False, detail=detail)
        else:
            with anyio.move_on_after(LIMIT_S) as scope:
                if not _is_kill(order):
                    self._holding[order.agent] = scope
                try:
                    done = await self._enforce(enforcer, order)
                finally:
                    self._holding.pop(order.agent, None)
            if scope.cancelled_caught and any(_is_kill(each) for each in self._lines[order.agent].values()):
                done = Done(ok=False, detail="broken off: the agent is to be killed")
        logger().info(
            "access.set",
            crew=self._run,
            agent=order.agent,
            state=order.state,
            ok=done.ok,
            connections=done.connections,
            latency_ms=done.took_ms,
            command_id=order.id,
        )
        return AccessSet(
            command=order.id,
            agent=order.agent,
            peer=order.peer,
            state=order.state,
            ok=done.ok,
            enforced=done.enforced,
            connections=done.connections,
            took_ms=done.took_ms,
            detail=done.detail[:500],
        )

    async def _enforce(self, enforcer: Enforcer, order: SetAccess) -> Done:
        run, agent, why, term = self._run, order.agent, order.why, self._term
        match order.state:
            case "killed":
                return await enforcer.kill(run, agent, why=why, term=term)
            case "paused" if order.peer:
                return await enforcer.pause_pair(run, agent, order.peer)
            case "paused":
                return await enforcer.pause(run, agent, why=why, term=term, keep=order.keep)
            case "revoked":
                return await enforcer.cut_off(run, agent, place=order.place or "")
            case "running" if order.peer:
                return await enforcer.resume_pair(run, agent, order.peer)
            case "running":
                return await enforcer.resume(run, agent, why=why, term=term)
            case _:
                assert_never(order.state)

    async def _admit(self, order: Admit) -> Delegated | Outcome:
        left_s = order.expires_s - self._journal_now_s()
        if self._powers is None or self._powers.enforcer is None:
            return Outcome(command=order.id, ok=False, detail=NO_POWER)
        if left_s <= 0:
            return Outcome(command=order.id, ok=False, detail="its time is up before it was let in")
        try:
            await self._powers.access.admit(
                self._run,
                order.agent,
                order.role,
                parent=order.parent,
                task=order.task,
                peers=order.peers,
                tools=order.tools,
                expires_s=left_s,
                token=order.token,
                digest=order.digest,
                payload_bytes=self._payload_bytes,
            )
        except (AccessRefused, Damaged, BusError) as error:
            if isinstance(error, ConnectionLost):
                raise
            return Outcome(command=order.id, ok=False, detail=str(error)[:500])
        return Delegated(
            command=order.id,
            agent=order.agent,
            parent=order.parent,
            task=order.task,
            role=order.role,
            peers=order.peers,
            tools=order.tools,
            expires_s=left_s,
        )


def _is_kill(order: Order) -> bool:
    return isinstance(order, SetAccess) and order.state == "killed"
