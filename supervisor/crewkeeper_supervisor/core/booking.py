"""Booking: what a decision of the gate means for the budgets, as it stands in the ledger with the decision.

Whoever reads the ledger can add up the bookings without this program: what is held and what is spent at every place,
and that neither exceeds a limit.
"""

from typing import Literal

from msgspec import Struct, field

from crewkeeper_supervisor.core.budget import Amounts, Path


class Balance(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One limited dimension of one account after a booking."""

    account: str
    dimension: str
    limit: int
    settled: int = 0
    held: int = 0
    over: int = 0
    """Spent beyond the limit."""


class Booking(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One decision about one call.

    `reserve` holds `amounts`; `settle` frees `freed` and charges `amounts`; `expire` is a settlement in full because
    nobody said what was spent; `release` frees and charges nothing; `refuse` changes nothing.
    """

    act: Literal["reserve", "settle", "expire", "release", "refuse"]
    agent: str
    call: str
    task: str = ""
    what: str = ""
    """The tool or model."""
    amounts: Amounts = field(default_factory=dict)
    freed: Amounts = field(default_factory=dict)
    noted: dict[str, Amounts] = field(default_factory=dict)
    """By agent: charged without a reservation since the last booking of the run, as agents said."""
    accounts: tuple[str, ...] = ()
    """Accounts that the amounts stand in, from below."""
    balances: tuple[Balance, ...] = ()
    policy: str = ""
    """Version of the policy that decided."""
    rule: str = ""
    warned: tuple[str, ...] = ()
    shadow: tuple[str, ...] = ()
    approval: str = ""
    by: str = ""
    """Who has approved."""
    last: bool = False
    """Granted out of what is kept for handing back."""
    code: str = ""
    """Why it was refused or went wrong."""


def balances(path: Path) -> tuple[Balance, ...]:
    """Where the limited dimensions of these accounts stand."""
    return tuple(
        Balance(
            account=each.name,
            dimension=dimension,
            limit=limit,
            settled=each.settled.get(dimension, 0),
            held=each.held.get(dimension, 0),
            over=each.over.get(dimension, 0),
        )
        for each in path
        for dimension, limit in each.limit.items()
    )
