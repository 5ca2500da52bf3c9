"""Spending: the proxy's side of the talk with the gate: may this be spent, and what it has cost.

A question is said again until it is answered, and so is what a call has cost until it is in the books: the gate knows
a call by its id. A grant for a call that is no longer wanted is given back at once. Whatever stays unsaid is charged in
full by the gate when its time is over.
"""

import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import anyio
import anyio.abc
from msgspec import Struct

from crewkeeper_bus import codec, subjects
from crewkeeper_bus.errors import CodecError, ConnectionLost
from crewkeeper_bus.messages import Fault
from crewkeeper_bus.subjects import MODEL, SUPERVISOR, Kind
from crewkeeper_bus.tool_messages import SpendAsked, SpendBooked, SpendGranted, SpendRefused, Spent, Withhold
from crewkeeper_supervisor.model_proxy.problem import Problem
from crewkeeper_supervisor.shell import journal
from crewkeeper_supervisor.shell.logbook import logger
from crewkeeper_supervisor.shell.nats_link import LINK_ERRORS, Link

REPEAT_S: Final = 2.0
"""What the gate has not answered is said again this often."""
HELD_REPEAT_S: Final = 30.0
"""The same, once it has said to wait."""
ANSWER_LIMIT_S: Final = 15.0
"""How long the gate may be silent."""
BOOK_LIMIT_S: Final = 300.0
"""How long a cost is said again; by then the gate has charged the call in full."""
GIVE_BACK_LIMIT_S: Final = 20.0
"""The same for a call that was given up, which the gate may never have granted."""
UNBOOKED_MAX: Final = 10_000

Tick = Callable[[], Awaitable[None]]


class _Delivered(Protocol):
    data: bytes


class _Question(Struct):
    event: anyio.Event
    grant: SpendGranted | None = None
    fault: Fault | None = None
    withheld: bool = False


class _Cost(Struct):
    spent: Spent
    until_s: float
    next_s: float = 0.0


class Spending:
    """Asks the gate of one run, and tells it."""

    def __init__(self, link: Link, run: str) -> None:
        """Talk over `link` with whoever owns `run`."""
        self._link = link
        self._run = run
        self._prefix = f"m{secrets.token_hex(4)}-"
        self._made = 0
        self._questions: dict[str, _Question] = {}
        self._costs: dict[str, _Cost] = {}
        self._term = 0
        self._wake = anyio.Event()

    async def serve(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Listen to the gate and tell it what was spent, until cancelled; started once it can be heard.

        Raises:
            ConnectionLost: The server cannot be reached at the start.
        """
        delivered = f"{subjects.OUT}.crew.{self._run}.{Kind.CTL}.{SUPERVISOR}.{MODEL}.*"
        try:
            await self._link.nc.subscribe(delivered, cb=self._heard)
            await self._link.flush()
        except LINK_ERRORS as error:
            raise ConnectionLost(f"{self._link.place.host} does not answer: {type(error).__name__}") from error
        task_status.started()
        while True:
            self._wake = anyio.Event()
            await self._tell_costs()
            with anyio.move_on_after(REPEAT_S / 2):
                await self._wake.wait()

    def new_call(self) -> str:
        """An id for a call; no other proxy makes the same."""
        self._made += 1
        return f"{self._prefix}{self._made}"

    async def ask(self, asked: SpendAsked, tick: Tick, hold_s: float) -> SpendGranted:
        """Return when the gate grants a call.

        Args:
            asked: The call, under an id of `new_call`.
            tick: Called about once a second for as long as the gate lets it wait.
            hold_s: The longest that it may let it wait.

        Raises:
            Problem: It refuses, is silent, or lets it wait for too long.
        """
        question = self._questions[asked.call] = _Question(event=anyio.Event())
        try:
            return await self._answer(asked, question, tick, hold_s)
        finally:
            del self._questions[asked.call]
            if question.grant is None and question.fault is None:  # it may have been granted meanwhile
                self._give_back(asked.call, asked.agent)

    def settle(self, spent: Spent, limit_s: float = BOOK_LIMIT_S) -> None:
        """Tell the gate what a granted call has cost, now and until it knows, or for `limit_s` seconds."""
        if len(self._costs) >= UNBOOKED_MAX:
            logger().error("model_proxy.unbooked", crew=self._run, agent=spent.agent)
            return  # the gate charges it in full
        self._costs[spent.call] = _Cost(spent=spent, until_s=time.monotonic() + limit_s)
        self._wake.set()

    async def flush(self, limit_s: float) -> None:
        """Return when all costs are booked, at the latest after `limit_s` seconds."""
        with anyio.move_on_after(limit_s):
            while self._costs:
                await self._tell_costs()
                await anyio.sleep(0.05)

    # --- asking ---

    async def _answer(self, asked: SpendAsked, question: _Question, tick: Tick, hold_s: float) -> SpendGranted:
        began_s = time.monotonic()
        next_s = 0.0
        while True:
            now_s = time.monotonic()
            if question.grant is not None:
                return question.grant
            if question.fault is not None:
                raise Problem.of_fault(question.fault)
            if now_s - began_s > (hold_s if question.withheld else ANSWER_LIMIT_S):
                raise _silent(question.withheld, hold_s)
            if now_s >= next_s:
                await self._publish(asked)
                next_s = now_s + (HELD_REPEAT_S if question.withheld else REPEAT_S)
            if question.withheld:
                await tick()
            with anyio.move_on_after(1.0):
                await question.event.wait()
            question.event = anyio.Event()

    def _give_back(self, call: str, agent: str) -> None:
        spent = Spent(call=call, agent=agent, ok=False, forwarded=False, error="it was given up before it was sent")
        self.settle(spent, GIVE_BACK_LIMIT_S)

    # --- listening ---

    async def _heard(self, msg: _Delivered) -> None:
        try:
            said = codec.decode_supervisor(Kind.CTL, msg.data)
        except CodecError as error:
            logger().warning("model_proxy.malformed", crew=self._run, error=str(error)[:200])
            return
        if not isinstance(said, SpendGranted | SpendRefused | Withhold | SpendBooked) or said.term < self._term:
            return
        self._term = said.term
        if isinstance(said, SpendBooked | SpendRefused):
            self._costs.pop(said.call, None)
        question = self._questions.get(said.call)
        if question is None:
            if isinstance(said, SpendGranted) and self._is_ours(said.call) and said.call not in self._costs:
                self._give_back(said.call, said.agent)
            return
        match said:
            case SpendGranted():
                question.grant = said
            case SpendRefused():
                question.fault = said.fault
            case Withhold():
                question.withheld = True
        question.event.set()

    def _is_ours(self, call: str) -> bool:
        return call.startswith(self._prefix)

    # --- telling ---

    async def _tell_costs(self) -> None:
        now_s = time.monotonic()
        for call, cost in list(self._costs.items()):
            if cost.until_s < now_s:
                self._costs.pop(call, None)
                logger().warning("model_proxy.unbooked", crew=self._run, agent=cost.spent.agent)
            elif cost.next_s <= now_s:
                cost.next_s = now_s + REPEAT_S
                await self._publish(cost.spent)

    async def _publish(self, message: SpendAsked | Spent) -> None:
        try:
            await journal.publish_op(self._link, self._run, message, sender=MODEL)
        except ConnectionLost:
            logger().info("model_proxy.retry", crew=self._run, agent=message.agent)


def _silent(withheld: bool, hold_s: float) -> Problem:
    if withheld:
        return Problem(503, "held", f"the call was held for {hold_s:g} s, and nothing was decided: nothing was sent")
    text = f"the gate has not answered within {ANSWER_LIMIT_S:g} s: no call goes through without its grant"
    return Problem(503, "gate_closed", text, retry=True, after_s=2.0)
