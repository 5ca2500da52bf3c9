"""`supervisor budget`: what may be spent, what is spent and held, and changing it while the crew runs."""

import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import click

from crewkeeper_supervisor.cli.deed import Deed, How, deed_command
from crewkeeper_supervisor.cli.failure import USAGE, Failure
from crewkeeper_supervisor.cli.output import emit_document, output_option
from crewkeeper_supervisor.cli.place_options import opened, place_options
from crewkeeper_supervisor.cli.watching import watch_option

if TYPE_CHECKING:
    from crewkeeper_bus.tool_messages import BudgetChanged
    from crewkeeper_supervisor.core.supervisor import Supervisor

WHAT: Final = (
    "usd",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "tokens",
    "model_calls",
    "tool_calls",
    "messages",
    "wall",
    "depth",
    "fan_out",
)
FLEET: Final = "fleet"
_COUNT: Final = re.compile(r"(\d{1,16})([kM]?)\Z")
_TIME: Final = re.compile(r"(\d{1,8})(s|m|h|d)?\Z")
_USD: Final = re.compile(r"\d{1,10}(\.\d{1,6})?\Z")
_FACTORS: Final = {"": 1, "k": 1000, "M": 1_000_000}
_UNITS_S: Final = {None: 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_MAX: Final = 2**53
_AGENT = click.option("--agent", default="", metavar="NAME", help="The limit of this agent; without, the crew's.")


@click.group()
def budget() -> None:
    """Show and change what a run may spend.

    `fleet` in place of a run stands for all crews of a server together.
    """


@budget.command()
@click.argument("run", required=False, metavar="[RUN|fleet]")
@watch_option
@output_option()
@place_options
def show(run: str | None, output: str, state: Path | None, nats: str | None) -> None:
    """Show limits, what is spent, what is held for calls under way, and how long it lasts at this pace.

    AT END is what will have been spent when the run's time is over (`wall`), or was when it ended. Of `fleet`, IDLE is
    what runs have a share in and do not need now: others get it when they lack it. Runs that have ended are shown too,
    also where nothing runs any more.
    """
    anyio.run(_show, run, output, state, nats)


async def _show(run: str | None, output: str, state: Path | None, nats: str | None) -> None:
    import time

    from crewkeeper_supervisor.cli.runs import find_run, folded
    from crewkeeper_supervisor.views.budget import budget_table, budgets

    if run == FLEET:
        await _show_fleet(output, state, nats)
        return
    async with opened(state, nats, stored=True) as link:
        info = await find_run(link, run)
        view = budgets(await folded(link, info.run), time.time())
    emit_document(view, output, list, table=lambda wide: budget_table(view, wide=wide))


async def _show_fleet(output: str, state: Path | None, nats: str | None) -> None:
    from crewkeeper_supervisor.cli.fleet_budget import shown
    from crewkeeper_supervisor.views.fleet import fleet_table

    async with opened(state, nats, stored=True) as link:
        view = await shown(link)
    emit_document(view, output, list, table=lambda wide: fleet_table(view, wide=wide), name=FLEET)


async def _change_fleet(amounts: dict[str, int | None], agent: str, how: How, *, add: bool, anew: bool) -> Deed:
    from crewkeeper_supervisor.cli.fleet_budget import change, check

    if agent:
        raise Failure("--agent is for the budget of a run: agents have no limit of their own in the fleet", code=USAGE)
    if how.dry_run:
        check(amounts)
        action = "budget top-up" if add else "budget set"
        lines = _wished(amounts, "all crews together", add=add)
        return Deed(action=action, name=FLEET, ok=True, text=lines, dry_run=True)
    async with opened(how.state, how.nats, stored=True) as link:
        return await change(link, amounts, add=add, anew=anew, limit_s=how.timeout_s)


@budget.command(name="top-up")
@click.argument("words", nargs=-1, required=True, metavar="[RUN|fleet] WHAT=AMOUNT...")
@_AGENT
@deed_command
async def top_up(words: tuple[str, ...], agent: str, how: How) -> Deed:
    """Allow so much more, as `usd=2.50`, `tokens=100k`, `tool_calls=20` or `wall=30m`.

    Calls that are held for want of it go on at once. What has no limit gets none.
    """
    run, amounts = parsed(words, clear=False)
    if run == FLEET:
        return await _change_fleet(amounts, agent, how, add=True, anew=False)
    return await _change(run, agent, amounts, how, add=True)


@budget.command(name="set")
@click.argument("words", nargs=-1, required=True, metavar="[RUN|fleet] WHAT=AMOUNT...")
@_AGENT
@click.option("--anew", is_flag=True, help="Of the fleet: forget what runs that have ended have spent.")
@deed_command
async def set_(words: tuple[str, ...], agent: str, anew: bool, how: How) -> Deed:
    """Set limits, as `usd=10`, `tokens=1M`, `wall=2h`, `depth=3` or `messages=none`.

    A limit below what is spent and held becomes just that: what is spent is not undone. `fleet` stands for all crews of
    the server together; what is spent counts until it is told to count anew, which can be done while nothing runs.
    """
    run, amounts = parsed(words, clear=True)
    if run == FLEET:
        return await _change_fleet(amounts, agent, how, add=False, anew=anew)
    if anew:
        raise Failure("--anew is for the budget of the fleet: a run counts from its beginning", code=USAGE)
    return await _change(run, agent, amounts, how, add=False)


async def _change(run: str | None, agent: str, amounts: dict[str, int | None], how: How, *, add: bool) -> Deed:
    from crewkeeper_bus.tool_messages import BudgetChanged
    from crewkeeper_supervisor.cli.agent import find_agent, told
    from crewkeeper_supervisor.cli.asking import observe, operator
    from crewkeeper_supervisor.core.events import Event, Recorded
    from crewkeeper_supervisor.shell import journal
    from crewkeeper_supervisor.shell.registry import ENDED

    async with opened(how.state, how.nats) as link:
        story = await told(link, run)
        core = story.fold.supervisor
        if core.state in ENDED:
            raise Failure(f"{story.fold.run} is over ({core.state}): nothing more is spent", remedy="supervisor ps")
        if agent:
            find_agent(story, agent)
        action = "budget top-up" if add else "budget set"
        if how.dry_run:
            lines = _wished(amounts, agent or "the crew", add=add)
            return Deed(action=action, name=core.run, run=core.run, ok=True, text=lines, dry_run=True)
        by, key = operator(), "add" if add else "limit"
        wished: list[dict[str, Any]] = [{"dimension": what, key: n} for what, n in amounts.items()]
        messages = [BudgetChanged(agent=agent, by=by, **wish) for wish in wished]
        asked = {await journal.publish_op(link, core.run, message): message for message in messages}
        await link.flush()
        seen: dict[str, BudgetChanged] = {}

        def see(event: Event, _text: str) -> None:
            if isinstance(event, Recorded) and event.id in asked:
                seen[event.id] = asked[event.id]

        await observe(link, story, see, lambda: len(seen) == len(asked), how.timeout_s)
    told_lines = [_said(core, message) for message in seen.values()]
    if len(seen) < len(asked):
        told_lines.append(f"within {how.timeout_s:g} s the journal has taken {len(seen)} of {len(asked)} changes")
    ok = len(seen) == len(asked)
    return Deed(action=action, name=core.run, run=core.run, ok=ok, text=tuple(told_lines))


def _wished(amounts: dict[str, int | None], whose: str, *, add: bool) -> tuple[str, ...]:
    from crewkeeper_supervisor.core.budget import amount

    verb = "would get so much more" if add else "would be limited to"
    lines = []
    for dimension, number in amounts.items():
        what = {"microusd": "usd", "wall_s": "wall"}.get(dimension, dimension)
        told = f"{verb}: {what} {amount(dimension, number)}" if number is not None else f"would have no limit of {what}"
        lines.append(f"{whose}: {told}")
    return tuple(lines)


def _said(core: "Supervisor", message: "BudgetChanged") -> str:
    from crewkeeper_supervisor.core.budget import amount
    from crewkeeper_supervisor.views.budget import SHAPE
    from crewkeeper_supervisor.views.wording import duration

    if message.dimension in SHAPE:
        who, shape = message.agent or "the crew", core.limit_of(message.agent, message.dimension)
        what = {"wall_s": "time", "fan_out": "fan-out"}.get(message.dimension, message.dimension)
        if shape is None:
            return f"{who}: no limit of {what}"
        return f"{who}: the limit of {what} is {duration(shape) if what == 'time' else f'{shape:g}'}"
    accounts = core.gate.accounts
    account = accounts.agents.get(message.agent) if message.agent else accounts.crew
    what, whose = message.dimension, message.agent or "the crew"
    limit = None if account is None else account.limit.get(what)
    if account is None or limit is None:
        return f"{whose}: no limit of {'usd' if what == 'microusd' else what}"
    held, spent = account.held.get(what, 0), account.settled.get(what, 0) + account.over.get(what, 0)
    left = amount(what, max(0, limit - spent - held))
    kept = "" if message.limit is None or limit == message.limit else "; less is spent and held already"
    return f"{whose}: the limit is {amount(what, limit)}, {left} left{kept}"


def parsed(words: Sequence[str], *, clear: bool) -> tuple[str | None, dict[str, int | None]]:
    """Words of a command line as a run and amounts by dimension.

    Args:
        words: At most one run, and WHAT=AMOUNT.
        clear: Whether an amount may be `none`.

    Raises:
        Failure: They are something else.
    """
    names = [word for word in words if "=" not in word]
    if len(names) > 1 or len(names) == len(words):
        raise Failure("give at most one run, and what to change as WHAT=AMOUNT", code=USAGE, remedy="usd=2.50")
    amounts: dict[str, int | None] = {}
    for word in words:
        what, mark, text = word.partition("=")
        if not mark:
            continue
        if what not in WHAT:
            raise Failure(f"{what[:40]!r} has no limit to change", code=USAGE, remedy=f"one of {', '.join(WHAT)}")
        key = {"usd": "microusd", "wall": "wall_s"}.get(what, what)
        if key in amounts:
            raise Failure(f"{what} is given twice", code=USAGE)
        amounts[key] = None if clear and text == "none" else _amount(what, text)
    return (names[0] if names else None), amounts


def _amount(what: str, text: str) -> int:
    try:
        value = {"usd": _microusd, "wall": _seconds}.get(what, _count)(text)
    except ValueError:
        wanted = {"usd": "US dollars as 2.50", "wall": "a time as 90s, 30m or 2h"}.get(
            what, "a whole number as 20 or 100k"
        )
        raise Failure(f"{what}={text[:40]!r} is not an amount", code=USAGE, remedy=wanted) from None
    if what in ("wall", "depth", "fan_out") and not value:
        raise Failure(f"{what}=0 would let nothing happen", code=USAGE, remedy="supervisor pause holds a crew")
    if not 0 <= value <= _MAX:
        raise Failure(f"{what}={text[:40]} is out of range", code=USAGE, remedy="0 to 9007199254740992 units")
    return value


def _microusd(text: str) -> int:
    if not _USD.match(text):
        raise ValueError(text)
    return int(Decimal(text) * 1_000_000)


def _seconds(text: str) -> int:
    found = _TIME.match(text)
    if found is None:
        raise ValueError(text)
    return int(found[1]) * _UNITS_S[found[2]]


def _count(text: str) -> int:
    found = _COUNT.match(text)
    if found is None:
        raise ValueError(text)
    return int(found[1]) * _FACTORS[found[2]]
