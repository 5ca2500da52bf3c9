"""Fleet: a run's share of what all crews may spend together: when more is ordered, what goes back, who waits for it.

The share is the limit of an account above the crew's, so whatever is held or spent stands in it like in any other. What
is leased changes by facts in the journal alone. While an order is under way the share is what was spent and held when
it was made: what the order gives back can no longer be spent here. How shares add up is in `fleet_account`.
"""

from typing import Final

from crewkeeper_bus.tool_messages import FleetTold, ShareLeased
from crewkeeper_supervisor.core.budget import FLEET, Account, Amounts, amount
from crewkeeper_supervisor.core.fleet_account import SHARED
from crewkeeper_supervisor.core.gate_state import FleetShare, GateCall
from crewkeeper_supervisor.core.lifecycle import report
from crewkeeper_supervisor.core.response import resolve
from crewkeeper_supervisor.core.state import RunState

LEASE_S: Final = 20.0
"""How long a call waits for an answer to an order: longer than a controller takes to be replaced."""
REST_S: Final = 1.0
"""After a refusal nothing is ordered for calls that need as much: a spent limit is not asked for all the time."""
AGAIN_MAX_S: Final = 15.0
"""The longest interval at which calls that are held ask again; when people raise a limit they do at once."""


def declare(state: RunState) -> None:
    """The run was declared under limits that all crews share: it has no share yet."""
    crew = state.crew
    if crew is None:
        return
    state.gate.fleet.limits = dict(crew.fleet)
    state.gate.fleet.revision = crew.fleet_revision
    if crew.fleet:
        state.gate.accounts.fleet = Account(name=FLEET, limit=dict.fromkeys(crew.fleet, 0))


def lease(state: RunState, call: GateCall, amounts: Amounts) -> bool:
    """Let a call wait for a larger share. False: that was refused a moment ago, or has taken too long."""
    fleet = state.gate.fleet
    waits = call.stage in ("leasing", "asking")
    if (waits and state.now_s >= call.due_s) or fleet.is_refused(amounts, state.now_s):
        return False
    if not waits:
        state.gate.wait(call, "leasing", state.now_s + LEASE_S)
    fleet.waiting[call.key] = amounts
    state.gate.asking[call.key] = None
    return True


def order(state: RunState) -> None:
    """Order what is due: a share for calls that wait, or the return of what is not needed. One order at a time."""
    fleet, account = state.gate.fleet, state.gate.accounts.fleet
    if account is None or fleet.pending or fleet.closed:
        return
    over = {dimension: value for dimension, value in account.over.items() if value}
    is_due = fleet.is_over or fleet.waiting or over != fleet.told_over or fleet.round > fleet.swept or fleet.is_stale
    if not is_due or (fleet.is_over and not fleet.n and not any(account.settled.values()) and not over):
        return
    kept = {name: account.settled.get(name, 0) + account.held.get(name, 0) for name in SHARED}
    for dimension in account.limit:
        account.limit[dimension] = kept[dimension]
    need = next(iter(fleet.waiting.values()), {})
    want: Amounts = {}
    for amounts in fleet.waiting.values():
        for dimension, value in amounts.items():
            want[dimension] = want.get(dimension, 0) + value
    fleet.n += 1
    fleet.need = {name: value for name, value in need.items() if name in account.limit}
    fleet.swept, fleet.is_stale, fleet.told_over = fleet.round, False, over
    fleet.pending = state.order_share(
        n=fleet.n,
        kept={name: value for name, value in kept.items() if value},
        over=over,
        need=fleet.need,
        want={name: value for name, value in want.items() if name in account.limit},
        revision=fleet.revision,
        closes=fleet.is_over and fleet.n > 1,  # what closes is told apart from what was never begun by its number
    )


def leased(state: RunState, message: ShareLeased) -> None:
    """An order was answered."""
    state.traced(message.command)
    fleet, account = state.gate.fleet, state.gate.accounts.fleet
    if account is None or message.command != fleet.pending:
        return  # it was said before
    fleet.pending = ""
    fleet.left = dict(message.left)
    fleet.closed = message.closed
    for dimension in list(account.limit):
        used = account.settled.get(dimension, 0) + account.held.get(dimension, 0)
        given = message.leased.get(dimension, 0)
        fleet.is_stale = fleet.is_stale or used > given
        account.set_limit(dimension, given)
    fleet.told_over = {dimension: value for dimension, value in message.over.items() if value}
    if message.lacking:
        _refused(state, message.lacking)
    elif fleet.need:
        fleet.refusals = 0
    for dimension in message.crossed:
        limit = _limit(fleet, dimension)
        percent = 100 if not limit else 100 * (limit - fleet.left.get(dimension, 0)) // limit
        said = f"all crews together have spent or reserved {percent} % of their {amount(dimension, limit)}"
        report(state, "budget_soft", said, [], key=f"{FLEET} {dimension}")
    for dimension, beyond in message.over.items():
        _spent(state, [], dimension, beyond)
    _go_on(state)


def _refused(state: RunState, dimension: str) -> None:
    """Rest; calls that are held for people ask again at longer and longer intervals."""
    fleet = state.gate.fleet
    least = fleet.need.get(dimension, 0)
    if state.now_s < fleet.rests_until_s:
        least = min(least, fleet.refused.get(dimension, least))
    else:
        fleet.refused = {}
    fleet.refused[dimension] = least
    fleet.rests_until_s = state.now_s + REST_S
    if state.crew is not None and state.crew.budget.ask_s > 0:
        state.due_s["fleet"] = state.now_s + min(AGAIN_MAX_S, REST_S * 2**fleet.refusals)
        fleet.refusals = min(fleet.refusals + 1, 10)


def told(state: RunState, message: FleetTold) -> None:
    """The limits have changed, or others lack what is idle here."""
    fleet = state.gate.fleet
    fleet.round = max(fleet.round, message.round)
    if message.revision <= fleet.revision:
        return
    fleet.revision, fleet.limits, fleet.is_stale = message.revision, dict(message.limits), True
    account = _account(state)
    for dimension in SHARED:
        if dimension not in message.limits:
            account.set_limit(dimension, None)
        elif dimension not in account.limit:
            account.settled[dimension] = account.settled.get(dimension, 0) + account.over.pop(dimension, 0)
            account.set_limit(dimension, 0)
    fleet.refused, fleet.refusals = {}, 0
    _go_on(state)
    for incident in state.incidents.values():
        key = incident.finding.evidence.get("key", "")
        if incident.state != "resolved" and key.startswith(f"{FLEET} "):
            resolve(state, incident, "the limits of the fleet have changed")


def run_over(state: RunState) -> None:
    """Nothing is held any more: what was leased and not spent goes back."""
    state.gate.fleet.is_over = True
    state.gate.fleet.waiting.clear()


def refuse(state: RunState, agent: str, amounts: Amounts, dimension: str) -> str:
    """A call cannot have what it needs, which policy hears of; returns why, for models and people."""
    fleet = state.gate.fleet
    dimension = next(iter(fleet.refused), dimension)
    _spent(state, [agent] if agent in state.agents else [], dimension)
    asked, limit = amounts.get(dimension, 0), _limit(fleet, dimension)
    return (
        f"the budget of all crews together does not allow it: {amount(dimension, asked)} asked, "
        f"{amount(dimension, fleet.left.get(dimension, 0))} left of {amount(dimension, limit)}"
    )


def _spent(state: RunState, agents: list[str], dimension: str, beyond: int = 0) -> None:
    above = f", {amount(dimension, beyond)} beyond it" if beyond else ""
    said = f"all crews together have no more of their {amount(dimension, _limit(state.gate.fleet, dimension))}{above}"
    report(state, "budget_spent", said, agents, key=f"{FLEET} {dimension}")


def _limit(fleet: FleetShare, dimension: str) -> int:
    return fleet.limits.get(dimension, 0)


def _go_on(state: RunState) -> None:
    """Calls that wait look again; whoever still lacks something waits again."""
    state.gate.fleet.waiting.clear()
    state.gate.eased = True


def _account(state: RunState) -> Account:
    """The account, opened with all that the crew has spent and holds: calls under way stand in it from then on."""
    accounts = state.gate.accounts
    if accounts.fleet is None:
        crew = accounts.crew
        spent = {name: crew.settled.get(name, 0) + crew.over.get(name, 0) for name in (*crew.settled, *crew.over)}
        accounts.fleet = Account(name=FLEET, settled=spent, held=dict(crew.held))
        for call in state.gate.open.values():
            if call.path:
                call.path += (accounts.fleet,)
    return accounts.fleet
