"""`supervisor incidents ack` and `resolve`: what a person says of an incident; its agents are left alone."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from crewkeeper_supervisor.cli.deed import Deed, How, deed_command
from crewkeeper_supervisor.cli.failure import NOT_FOUND, USAGE, Failure
from crewkeeper_supervisor.cli.place_options import opened

if TYPE_CHECKING:
    from crewkeeper_supervisor.core.findings import Incident
    from crewkeeper_supervisor.core.supervisor import Supervisor
    from crewkeeper_supervisor.shell.nats_link import Link
    from crewkeeper_supervisor.views.story import Story

REASON_MAX_CHARS = 500
_TARGET = click.argument("target", nargs=-1, required=True, metavar="[RUN] INCIDENT")


@click.command()
@_TARGET
@click.option("--reason", default="", metavar="TEXT", help="What is being done about it.")
@deed_command
async def ack(target: tuple[str, ...], reason: str, how: How) -> Deed:
    """Acknowledge an incident or an approval: recipients with `after` are not told of it any more.

    INCIDENT is its id, or the webhook-id of what was sent: of a digest, all that it names. Whoever was told hears who
    knows of it. Nothing else changes: it stays open until it is over. Exit status: 0 it is acknowledged, 1 the journal
    has not taken it in time, or somebody was first, 5 nothing open is called that.
    """
    _check(target, reason)
    return await _ack(target, reason, how)


async def _ack(target: tuple[str, ...], reason: str, how: How) -> Deed:
    from crewkeeper_supervisor.cli.asking import operator
    from crewkeeper_supervisor.views.wording import safe

    async with opened(how.state, how.nats) as link:
        story, name = await _found(link, target)
        core = story.fold.supervisor
        names, known = core.told_of(name), core.ladder.acknowledged

        def taken() -> bool:
            return all(each in known for each in names)

        before = taken()
        if not before:
            await _ask(link, story, "acknowledge", name, reason, how, taken)
    first = known.get(names[0])
    what = f"{_some(names)} of {core.run}"
    if first is not None:
        text = f"{what} is acknowledged by {safe(first.by)}: who is not told yet will not be"
    else:
        text = f"would acknowledge {what}" if how.dry_run else _late(how)
    ours = first is not None and not before and first.by == operator() and taken()
    return Deed(
        action="incidents ack",
        name=names[0],
        run=core.run,
        ok=how.dry_run or ours,
        text=(text,),
        dry_run=how.dry_run,
    )


@click.command()
@_TARGET
@click.option("--reason", required=True, metavar="TEXT", help="Why it is over; kept in the journal, told to people.")
@deed_command
async def resolve(target: tuple[str, ...], reason: str, how: How) -> Deed:
    """Close an incident that is over for you, or was none.

    Agents are left as they are: whom it holds goes on when its time is over, or by `supervisor agent resume`. Conduct
    that goes on is not told again while it lasts; what can only happen anew, as a crash or a refused call, is told when
    it does: acknowledge it to hear no more of it. INCIDENT is its id, or the webhook-id of what was sent: of a digest,
    all that it names. A certain deadlock cannot be closed: it is over when one of its waits is.

    Exit status: 0 it is closed, 1 the journal has not taken it in time, or it is a deadlock, 5 nothing open is called
    that.
    """
    _check(target, reason)
    if not reason.strip():
        raise Failure("--reason is empty: whoever looks next wants to know why", code=USAGE)
    return await _resolve(target, reason.strip(), how)


async def _resolve(target: tuple[str, ...], reason: str, how: How) -> Deed:
    from crewkeeper_supervisor.core.acknowledgement import may_be_closed

    async with opened(how.state, how.nats) as link:
        story, name = await _found(link, target)
        core = story.fold.supervisor
        stand = [core.incidents[each] for each in core.told_of(name) if each in core.incidents]
        chosen = [each for each in stand if may_be_closed(each)]
        kept = [each.id for each in stand if not may_be_closed(each)]
        if not chosen:
            raise Failure(_why_not(core.run, name, kept), remedy=f"supervisor why {name} --run {core.run}")
        await _ask(link, story, "resolve", name, reason, how, lambda: all(each.state == "resolved" for each in chosen))
        closed = [each.id for each in chosen if each.state == "resolved"]
    what = f"{_some([each.id for each in chosen])} of {core.run}"
    done = f"{what} is closed; agents are as they were" if len(closed) == len(chosen) else _late(how)
    lines = [f"would close {what}" if how.dry_run else done]
    if kept:
        lines.append(f"{_some(kept)} stays: a deadlock is over when one of its waits is")
    ok = how.dry_run or len(closed) == len(chosen)
    return Deed(
        action="incidents resolve", name=chosen[0].id, run=core.run, ok=ok, text=tuple(lines), dry_run=how.dry_run
    )


def _why_not(run: str, name: str, kept: list[str]) -> str:
    if kept:
        return f"{kept[0]} of {run} is a deadlock that stands: it is over when one of its waits is, and not before"
    return f"{name[:60]} of {run} is an approval, not an incident: decide on it"


def _check(target: tuple[str, ...], reason: str) -> None:
    if len(target) > 2:
        raise Failure("give one incident, and at most one run before it", code=USAGE)
    if len(reason) > REASON_MAX_CHARS:
        raise Failure(f"the reason has {len(reason)} characters; the limit is {REASON_MAX_CHARS}", code=USAGE)


async def _found(link: "Link", target: tuple[str, ...]) -> "tuple[Story, str]":
    """The run that this stands in, and what it is called there.

    Raises:
        Failure: Nothing that stands is called that, or it is in several runs and none is named.
    """
    from crewkeeper_supervisor.cli.agent import told
    from crewkeeper_supervisor.cli.runs import near
    from crewkeeper_supervisor.shell.registry import ENDED, Registry

    wanted = target[-1]
    if len(target) == 2:
        runs = [target[0]]
    else:
        known = [info.run for info in await Registry(link).ls() if info.state not in ENDED]
        runs = [run for run in known if wanted.startswith(f"msg_{run}_")] or known
    stories = [await told(link, run) for run in runs]
    fitting = [(story, name) for story in stories if story.fold.supervisor.told_of(name := _own(story, wanted))]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        where = ", ".join(story.fold.run for story, _ in fitting)
        raise Failure(
            f"{wanted[:60]!r} stands in {len(fitting)} runs: {where}", code=USAGE, remedy="name the run first"
        )
    stand = [each.id for story in stories for each in _standing(story.fold.supervisor)]
    where = stories[0].fold.run if len(stories) == 1 else "any active run"
    raise Failure(
        f"nothing that stands in {where} is called {wanted[:60]!r}{near(wanted, stand)}",
        code=NOT_FOUND,
        remedy="supervisor incidents ls --open",
    )


def _own(story: "Story", wanted: str) -> str:
    """A webhook-id as the run itself calls it; ids are told in capitals, and may be typed without."""
    name = wanted.removeprefix(f"msg_{story.fold.run}_")
    core = story.fold.supervisor
    return name if core.told_of(name) else name.upper()


def _standing(core: "Supervisor") -> "list[Incident]":
    return [each for each in core.incidents.values() if each.state != "resolved"]


async def _ask(
    link: "Link", story: "Story", action: str, name: str, reason: str, how: How, done: Callable[[], bool]
) -> None:
    """Put it into the journal, unless it is only tried, and wait until that shows it."""
    from crewkeeper_bus.messages import OperatorAsked
    from crewkeeper_supervisor.cli.asking import observe, operator, request

    if how.dry_run:
        return
    await request(link, story.fold.run, OperatorAsked(action=action, incident=name, by=operator(), why=reason))
    await observe(link, story, lambda _event, _text: None, done, how.timeout_s)


def _some(names: "tuple[str, ...] | list[str]") -> str:
    from crewkeeper_supervisor.views.wording import safe

    return safe(names[0]) if len(names) == 1 else f"{len(names)} incidents"


def _late(how: How) -> str:
    return f"asked, but within {how.timeout_s:g} s the journal has not taken it"
