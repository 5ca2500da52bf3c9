"""The fleet's part of `supervisor budget`: limits of all crews together, set, shown, and seen to be in force."""

import time
from typing import TYPE_CHECKING, Final

import anyio

from crewkeeper_supervisor.cli.asking import operator
from crewkeeper_supervisor.cli.deed import Deed
from crewkeeper_supervisor.cli.failure import USAGE, Failure
from crewkeeper_supervisor.cli.runs import folded
from crewkeeper_supervisor.core import fleet_account
from crewkeeper_supervisor.core.budget import amount
from crewkeeper_supervisor.core.fleet_account import SHARED, FleetAccount
from crewkeeper_supervisor.shell.fleet import Fleet
from crewkeeper_supervisor.shell.registry import ENDED, Registry
from crewkeeper_supervisor.views.fleet import FleetView, fleet_view

if TYPE_CHECKING:
    from crewkeeper_supervisor.shell.nats_link import Link

_POLL_S: Final = 0.05
_NAMED: Final = 5


async def shown(link: "Link") -> FleetView:
    """The fleet's budget as it stands: the account, and the journals of the runs that go on or have a share."""
    fleet = Fleet(link)
    await fleet.open()
    account = fleet.account
    going_on = await _going_on(link) if account.revision else []
    return fleet_view(account, {run: await folded(link, run) for run in dict.fromkeys([*account.shares, *going_on])})


async def change(link: "Link", amounts: dict[str, int | None], *, add: bool, anew: bool, limit_s: float) -> Deed:
    """Change the fleet's limits, and wait until every run that goes on keeps to them.

    Args:
        link: A connection.
        amounts: By dimension; None takes a limit away.
        add: Whether the amounts are added to the limits there are.
        anew: Whether what ended runs have spent is forgotten.
        limit_s: How long to wait for the runs.

    Raises:
        Failure: A dimension cannot be limited for all crews, or runs go on that `anew` would forget.
    """
    check(amounts)
    fleet = Fleet(link)
    await fleet.open()
    runs = await _going_on(link)
    if anew and runs:
        raise Failure(
            f"{len(runs)} runs go on ({_some(runs)}): what they have spent cannot be forgotten",
            remedy="supervisor down",
        )

    def changed(account: FleetAccount) -> FleetAccount:
        if anew:  # whoever still has a share has ended, and would only say what it has spent
            account = fleet_account.begin_anew(account)
        limits = amounts
        if add:
            bounds = {name: account.bound(name) for name in amounts}
            limits = {name: bound + (amounts[name] or 0) for name, bound in bounds.items() if bound is not None}
        return fleet_account.set_limits(account, limits, operator())

    account = await fleet.change(changed)
    runs = await _going_on(link)  # whoever was registered before this is waited for; whoever comes later knows
    until_s = time.monotonic() + limit_s
    while (waiting := _unaware(account, runs)) and time.monotonic() < until_s:
        await anyio.sleep(_POLL_S)  # whoever takes it over writes it there
        account, going_on = await fleet.read(), await _going_on(link)
        runs = [run for run in runs if run in going_on]
    lines = [said(account, name, amounts[name] if not add else None) for name in amounts]
    if waiting:
        late = f"{len(waiting)} of {len(runs)} runs have not taken it over within {limit_s:g} s ({_some(waiting)})"
        lines.append(f"{late}: they do when a controller owns them, and spend nothing before that")
    return Deed(action="budget top-up" if add else "budget set", name="fleet", ok=not waiting, text=tuple(lines))


def check(amounts: dict[str, int | None]) -> None:
    """Whether all of these can be limited for all crews together.

    Raises:
        Failure: One cannot.
    """
    for name in amounts:
        if name not in SHARED:
            known = ", ".join("usd" if each == "microusd" else each for each in SHARED)
            what = name.removesuffix("_s")
            raise Failure(f"{what} cannot be limited for all crews together", code=USAGE, remedy=f"one of {known}")


def said(account: FleetAccount, dimension: str, asked: int | None) -> str:
    """Where one limit of all crews stands, for people; `asked`: what it was to be."""
    what, bound = "usd" if dimension == "microusd" else dimension, account.bound(dimension)
    if bound is None:
        return f"all crews together: no limit of {what}"
    kept = "; less is spent and held already" if asked is not None and bound > asked else ""
    limit, left = amount(dimension, bound), amount(dimension, account.left(dimension))
    return f"all crews together: the limit is {limit}, {left} of it given to no run yet{kept}"


def _unaware(account: FleetAccount, runs: list[str]) -> list[str]:
    known = {run: share.revision for run, share in account.shares.items()}
    return [run for run in runs if known.get(run, 0) < account.revision and run not in account.ended]


async def _going_on(link: "Link") -> list[str]:
    registry = Registry(link)
    await registry.open()
    return [info.run for info in await registry.ls() if info.state not in ENDED]


def _some(runs: list[str]) -> str:
    return ", ".join(runs[:_NAMED]) + (f" and {len(runs) - _NAMED} more" if runs[_NAMED:] else "")
