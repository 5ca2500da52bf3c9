"""Several runs under one limit, in memory: their journals, the fleet's account, and who carries orders between them."""

from typing import Any

from crewkeeper_bus.tool_messages import FleetTold
from crewkeeper_supervisor.core import fleet_account
from crewkeeper_supervisor.core.commands import OrderShare
from crewkeeper_supervisor.core.crew import Budget
from crewkeeper_supervisor.core.fleet_account import FleetAccount
from support.gate_room import Room, crew_of


class Fleet:
    """Rooms that share one account, each with a core of its own.

    Args:
        limits: What all may spend together.
        crews: Names of the runs.
        fields: Of every crew.
    """

    def __init__(self, limits: dict[str, int], *crews: str, **fields: Any) -> None:
        self.account = FleetAccount()
        if limits:
            self.account = fleet_account.set_limits(self.account, dict(limits), "kim")
        told = {"fleet": limits, "fleet_revision": self.account.revision, "budget": Budget()} | fields
        self.rooms = {name: Room(crew_of(**told)) for name in crews}

    def order_of(self, name: str) -> OrderShare | None:
        """The order of a run that has no trace yet."""
        pending = self.rooms[name].core.pending.values()
        return next((command for command in pending if isinstance(command, OrderShare)), None)

    def carry(self, name: str, *, late: bool = False) -> bool:
        """What a controller does for a run: tell it what is new, place its order, tell the answer. False: nothing."""
        room, order = self.rooms[name], self.order_of(name)
        known, share = room.core.gate.fleet, self.account.shares.get(name)
        wanted = share is not None and self.account.round > max(share.swept, known.round)
        if self.account.revision > known.revision or wanted:
            account = self.account
            room.op(FleetTold(limits=account.limit, revision=account.revision, round=account.round, by=account.by))
            return True
        if order is None:
            return False
        before = self.account
        self.account = fleet_account.answer(fleet_account.place(before, name, order), name, late=late)
        said = fleet_account.said(self.account, name, order)
        if said is not None:
            room.op(said)
        return said is not None or self.account != before

    def settle(self) -> None:
        """Everything that controllers can do is done."""
        for _ in range(1000):
            moved = [self.carry(name) for name in self.rooms]
            if not any(moved):
                return
        raise AssertionError("the orders of the runs never come to an end")

    def set(self, **limits: int | None) -> None:
        """A person changes limits."""
        self.account = fleet_account.set_limits(self.account, limits, "kim")

    def spending(self, dimension: str = "microusd") -> int:
        """What all runs together have spent, and hold."""
        accounts = [room.core.gate.accounts.crew for room in self.rooms.values()]
        return sum(
            each.settled.get(dimension, 0) + each.held.get(dimension, 0) + each.over.get(dimension, 0)
            for each in accounts
        )

    def ran(self) -> list[tuple[str, str]]:
        """Calls that tool hosts were told to run, with their runs."""
        return [(name, call) for name, room in self.rooms.items() for call in room.ran_calls()]
