"""Fleet account: one limit for all crews of a server, and how much of it each run has; who keeps it is `shell.fleet`.

Theory of operation. A run spends nothing of the fleet's before a share of it is its own, here first and then as a fact
in its journal. Its core numbers its orders and has one at a time under way. An order gives back first (`kept` is what
the run has spent and holds, and its share from then on) and then asks. Asked for is given while there is room, somewhat
more than was asked, so that not every call has to ask. Where room is lacking a round begins: every other run gives back
what it does not need, and only then is the order refused.

So the shares never exceed the limit, and every run keeps to its share whoever folds its journal, and how often. An
order that is placed twice, by an owner that was thought dead or by its successor, changes nothing the second time: its
number is known. What was answered is answered alike.
"""

from typing import Final

import msgspec
from msgspec import Struct, field

from crewkeeper_bus.tool_messages import ShareLeased
from crewkeeper_supervisor.core.budget import Amounts
from crewkeeper_supervisor.core.commands import OrderShare

SHARED: Final = ("microusd", "input_tokens", "output_tokens", "tokens", "model_calls", "tool_calls")
"""What can be limited for a fleet: all that is reserved before it is spent."""
HEADROOM: Final = 8
"""One part in so many of what is left is given beyond what was asked for."""
ENDED_MAX: Final = 200
"""Runs that have ended and are still known by name."""


class Share(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one run has."""

    n: int
    """Number of its last order."""
    leased: Amounts = field(default_factory=dict)
    """The most it may have spent and held; where there is no limit, what it had spent and held at its last order."""
    over: Amounts = field(default_factory=dict)
    """Spent beyond that: it takes room from the others."""
    need: Amounts = field(default_factory=dict)
    """Of an order that is not answered: what would do."""
    want: Amounts = field(default_factory=dict)
    """Of an order that is not answered: what all calls that wait would take."""
    is_open: bool = False
    """Whether the order is not answered yet."""
    lacking: str = ""
    """The dimension for which it was refused."""
    round: int = 0
    """The round that its order has begun."""
    swept: int = 0
    """The last round for which it has given back what it did not need."""
    revision: int = 0
    """The limits that its core knows."""
    crossed: tuple[str, ...] = ()
    """Dimensions of which its order has made the warned share of the limit full."""


class FleetAccount(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The account of all runs of one server."""

    limit: Amounts = field(default_factory=dict)
    """As people have set it; see `bound`."""
    revision: int = 0
    """How often that has changed."""
    by: str = ""
    """Who changed it last."""
    warn_percent: int = 80
    shares: dict[str, Share] = field(default_factory=dict)
    """By run; runs that have ended have none."""
    closed: Amounts = field(default_factory=dict)
    """Spent by runs that have ended."""
    ended: dict[str, Amounts] = field(default_factory=dict)
    """The newest of those."""
    ended_count: int = 0
    round: int = 0
    warned: Amounts = field(default_factory=dict)
    """Dimensions of which people were warned, with the limit at that time."""

    def taken(self, dimension: str) -> int:
        """Spent by runs that have ended, and given to those that have not."""
        shares = self.shares.values()
        given = sum(share.leased.get(dimension, 0) + share.over.get(dimension, 0) for share in shares)
        return self.closed.get(dimension, 0) + given

    def bound(self, dimension: str) -> int | None:
        """The limit that holds now: what was set, or what is given where that is more, since nothing is undone."""
        limit = self.limit.get(dimension)
        given = self.closed.get(dimension, 0) + sum(share.leased.get(dimension, 0) for share in self.shares.values())
        return None if limit is None else max(limit, given)

    def left(self, dimension: str) -> int:
        """What can still be given; 0 also where there is no limit."""
        return max(0, self.limit.get(dimension, 0) - self.taken(dimension))


def place(account: FleetAccount, run: str, order: OrderShare) -> FleetAccount:
    """Give back what an order gives back, and note what it asks for. An order that is known changes nothing."""
    known = account.shares.get(run)
    if run in account.ended or (known is not None and known.n >= order.n):
        return account
    leased, over = dict(order.kept), {}
    without = _with_share(account, run, None)
    for dimension, amount in order.over.items():
        fits = amount
        if dimension in account.limit:
            fits = min(amount, max(0, without.left(dimension) - leased.get(dimension, 0)))
        leased[dimension] = leased.get(dimension, 0) + fits
        if fits < amount:
            over[dimension] = amount - fits
    if order.closes:
        return _close(without, run, {name: leased.get(name, 0) + over.get(name, 0) for name in (*leased, *over)})
    share = Share(
        n=order.n,
        leased={name: amount for name, amount in leased.items() if amount},
        over=over,
        need=order.need,
        want=order.want,
        is_open=True,
        swept=account.round,
        revision=order.revision,
    )
    placed = _with_share(account, run, share)
    if _lacking(placed, share):
        # A round that others have begun and that goes on serves this order, too: or all would sweep for each.
        goes_on = any(each.is_open and each.round == account.round for each in without.shares.values())
        number = account.round if goes_on and account.round else account.round + 1
        share = msgspec.structs.replace(share, round=number, swept=number)
        placed = msgspec.structs.replace(_with_share(placed, run, share), round=number)
    return placed


def answer(account: FleetAccount, run: str, *, late: bool = False) -> FleetAccount:
    """Answer a run's order if that can be done now: there is room, or everybody has given back what they could.

    Args:
        account: The account as it stands.
        run: Whose order.
        late: Whether those who have given nothing back are no longer waited for.
    """
    share = account.shares.get(run)
    if share is None or not share.is_open:
        return account
    lacking = _lacking(account, share)
    others = [each for name, each in account.shares.items() if name != run]
    if lacking and not late and any(each.swept < share.round for each in others):
        return account
    leased = dict(share.leased)
    for dimension in () if lacking else tuple(account.limit):
        left, needed = account.left(dimension), share.need.get(dimension, 0)
        if needed:
            more = max(needed, share.want.get(dimension, 0), left // HEADROOM)
            leased[dimension] = leased.get(dimension, 0) + min(left, more)
    answered = msgspec.structs.replace(share, leased=leased, need={}, want={}, is_open=False, lacking=lacking)
    found = _with_share(account, run, answered)
    crossed = tuple(name for name in found.limit if _is_new_warning(found, name))
    if crossed:
        warned = found.warned | {name: found.limit[name] for name in crossed}
        answered = msgspec.structs.replace(answered, crossed=crossed)
        found = msgspec.structs.replace(_with_share(found, run, answered), warned=warned)
    return found


def said(account: FleetAccount, run: str, order: OrderShare) -> ShareLeased | None:
    """The answer to an order, as the run's journal is told; None: there is none yet."""
    limits, left = account.limit, {name: account.left(name) for name in account.limit}
    if run in account.ended:
        return ShareLeased(command=order.id, n=order.n, limits=limits, left=left, closed=True)
    share = account.shares.get(run)
    if share is None or share.n < order.n or share.is_open:
        return None
    return ShareLeased(
        command=order.id,
        n=order.n,
        leased=share.leased,
        over=share.over,
        lacking=share.lacking,
        limits=limits,
        left=left,
        crossed=share.crossed,
    )


def set_limits(account: FleetAccount, limits: dict[str, int | None], by: str) -> FleetAccount:
    """Change limits; None takes one away."""
    limit = {name: value for name, value in (account.limit | limits).items() if value is not None}
    return msgspec.structs.replace(account, limit=limit, revision=account.revision + 1, by=by)


def begin_anew(account: FleetAccount) -> FleetAccount:
    """Forget what was spent. Only while no run goes on: of runs that have ended the shares are forgotten, too."""
    return msgspec.structs.replace(account, shares={}, closed={}, ended={}, ended_count=0, warned={})


def _lacking(account: FleetAccount, share: Share) -> str:
    for dimension, needed in share.need.items():
        if dimension in account.limit and needed > account.left(dimension):
            return dimension
    return ""


def _is_new_warning(account: FleetAccount, dimension: str) -> bool:
    limit = account.limit[dimension]
    if account.warned.get(dimension) == limit:
        return False
    return account.taken(dimension) * 100 >= limit * account.warn_percent


def _with_share(account: FleetAccount, run: str, share: Share | None) -> FleetAccount:
    shares = {name: each for name, each in account.shares.items() if name != run}
    if share is not None:
        shares[run] = share
    return msgspec.structs.replace(account, shares=shares)


def _close(account: FleetAccount, run: str, spent: Amounts) -> FleetAccount:
    closed = dict(account.closed)
    for dimension, amount in spent.items():
        closed[dimension] = closed.get(dimension, 0) + amount
    ended = {**account.ended, run: {name: amount for name, amount in spent.items() if amount}}
    while len(ended) > ENDED_MAX:
        del ended[next(iter(ended))]
    return msgspec.structs.replace(account, closed=closed, ended=ended, ended_count=account.ended_count + 1)
