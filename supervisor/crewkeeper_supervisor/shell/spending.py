"""Spending: what the ledger of a run says about its budgets, added up without the core that decided it.

Every record with a booking is read as it stands: reservations are added to what is held, settlements are taken from it
and added to what is spent. The sums must agree with what each record says of the limited dimensions, and must keep to
their limits, at every record.
"""

from collections.abc import Iterable
from typing import Any, Final

from msgspec import Struct, field

from crewkeeper_supervisor.core.budget import FLEET
from crewkeeper_supervisor.core.gate_state import ANSWERS_MAX
from crewkeeper_supervisor.shell.chain import Record

_BESIDE: Final = ("call_id_reused", "rate_limited", "tool_lost")
"""Why something is refused that is no call of its own; but for the first, calls that are may be refused so, too."""


class Sums(Struct, kw_only=True):
    """One dimension of one account."""

    held: int = 0
    spent: int = 0


class Spending(Struct, kw_only=True):
    """What a ledger adds up to.

    `wrong`: what is wrong with it, with the record's number. Empty: every prefix keeps every limit.
    """

    wrong: list[tuple[int, str]] = field(default_factory=list)
    grants: dict[tuple[str, str], int] = field(default_factory=dict)
    """Calls that were granted, as (agent, call), with how often."""
    ends: dict[tuple[str, str], int] = field(default_factory=dict)
    """Calls that were settled, expired or released, with how often."""
    refusals: int = 0
    over: dict[str, int] = field(default_factory=dict)
    """How many calls of each agent have ended so far."""
    over_at: dict[tuple[str, str], int] = field(default_factory=dict)
    """How many had when each call that was granted ended."""
    sums: dict[tuple[str, str], Sums] = field(default_factory=dict)
    """By account and dimension."""
    is_shared: bool = False
    """Whether the run spends out of what all crews share."""

    @property
    def problems(self) -> list[str]:
        """What is wrong with it, in words."""
        return [text for _, text in self.wrong]

    def total(self, account: str, dimension: str) -> Sums:
        """One dimension of one account; zero where nothing was booked."""
        return self.sums.get((account, dimension), Sums())


def add_up(records: Iterable[Record]) -> Spending:
    """Add up the bookings of a run's records, in their order; the chain itself is checked by `chain.check`."""
    found = Spending()
    open_: dict[tuple[str, str], dict[str, int]] = {}
    for record in records:
        booking = record.command.get("booking") if isinstance(record.command, dict) else None
        if booking is None:
            continue
        try:
            wrong = [*_book(found, open_, booking), *_kept(found, booking)]
        except (LookupError, TypeError, ValueError, AttributeError):
            wrong = ["its booking cannot be read"]
        found.wrong += [(record.n, f"record {record.n} ({record.id}): {each}") for each in wrong]
    return found


def _book(found: Spending, open_: dict[tuple[str, str], dict[str, int]], booking: dict[str, Any]) -> list[str]:
    key = booking["agent"], booking["call"]
    amounts, freed = booking.get("amounts", {}), booking.get("freed", {})
    accounts = booking.get("accounts", [])
    if FLEET in accounts and not found.is_shared:
        found.is_shared = True  # under way or not: from here on the crew's spending stands there too
        for (account, dimension), sums in list(found.sums.items()):
            if account == "crew":
                found.sums[FLEET, dimension] = Sums(held=sums.held, spent=sums.spent)
    for agent, noted in booking.get("noted", {}).items():
        for account in (f"agent:{agent}", "crew", *([FLEET] if found.is_shared else [])):
            _add(found, account, noted, "spent")
    match booking["act"]:
        case "refuse":
            found.refusals += 1
            if not _is_beside(booking):
                _end(found, booking["agent"])
            return []
        case "reserve":
            found.grants[key] = found.grants.get(key, 0) + 1
            # An id that the gate has forgotten is a new call, and no agent may make the books look wrong by that.
            is_new = key not in open_ and found.over.get(key[0], 0) - found.over_at.get(key, 0) >= ANSWERS_MAX
            problems = [] if found.grants[key] == 1 or is_new else [f"{'/'.join(key)} was granted before"]
            open_[key] = amounts
            for account in accounts:
                _add(found, account, amounts, "held")
            return problems
        case "settle" | "expire" | "release":
            found.ends[key] = found.ends.get(key, 0) + 1
            found.over_at[key] = _end(found, booking["agent"])
            problems = [] if open_.pop(key, None) == freed else [f"{'/'.join(key)} frees what it did not hold"]
            for account in accounts:
                _add(found, account, {name: -amount for name, amount in freed.items()}, "held")
                _add(found, account, amounts, "spent")
            return problems
    return [f"it books {booking['act']!r}"]


def _is_beside(booking: dict[str, Any]) -> bool:
    """Whether the gate has refused without taking it for a call of its own, so that it keeps nothing of it.

    Only then does it not say what was asked for: such calls must crowd out no call that it keeps.
    """
    return booking.get("code") in _BESIDE and not booking.get("amounts")


def _end(found: Spending, agent: str) -> int:
    """One more call of an agent has ended; returns how many have."""
    count = found.over[agent] = found.over.get(agent, 0) + 1
    return count


def _add(found: Spending, account: str, amounts: dict[str, int], what: str) -> None:
    for dimension, amount in amounts.items():
        sums = found.sums.setdefault((account, dimension), Sums())
        setattr(sums, what, getattr(sums, what) + amount)


def _kept(found: Spending, booking: dict[str, Any]) -> list[str]:
    """Whether the sums agree with what the record says of the limits, and keep to them."""
    problems: list[str] = []
    for balance in booking.get("balances", []):
        account, dimension = balance["account"], balance["dimension"]
        settled, held, over = (balance.get(name, 0) for name in ("settled", "held", "over"))
        where = f"{account} {dimension}"
        if settled + held > balance["limit"]:
            problems.append(f"{where}: {settled} spent and {held} held are above the limit of {balance['limit']}")
        if over and settled + held < balance["limit"]:
            problems.append(f"{where}: {over} are said to be above a limit that is not reached")
        if dimension == "messages" or account.startswith("task:"):
            continue  # messages are not booked, and what an agent notes is booked without its task
        sums = found.total(account, dimension)
        if (sums.held, sums.spent) != (held, settled + over):
            problems.append(
                f"{where}: the records add up to {sums.spent} spent and {sums.held} held; "
                f"it says {settled + over} and {held}"
            )
    return problems
