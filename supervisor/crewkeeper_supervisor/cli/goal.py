"""`supervisor goal`: what a run is for from now on."""

import click

from crewkeeper_supervisor.cli.deed import Deed, How, deed_command
from crewkeeper_supervisor.cli.failure import USAGE, Failure
from crewkeeper_supervisor.cli.place_options import opened

GOAL_MAX_CHARS = 2000


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="[RUN] TEXT")
@deed_command
async def goal(words: tuple[str, ...], how: How) -> Deed:
    """Change what a run is for.

    TEXT is one argument: quote it. It takes the place of the objective of the crew file, and drift is measured by it
    alone from then on. The agents do not hear of it: tell them as you tell them anything.

    Exit status: 0 it is in force, 1 the journal has not taken it in time, 2 wrong usage, 4 no server, 5 no such run.
    """
    if len(words) > 2:
        raise Failure("give one quoted text, and at most one run before it", code=USAGE)
    text = words[-1].strip()
    if not text or len(text) > GOAL_MAX_CHARS:
        raise Failure(f"the goal has {len(text)} characters; it takes 1 to {GOAL_MAX_CHARS}", code=USAGE)
    return await _change(words[0] if len(words) == 2 else None, text, how)


async def _change(run: str | None, text: str, how: How) -> Deed:
    from crewkeeper_bus.messages import OperatorAsked
    from crewkeeper_supervisor.cli.agent import told
    from crewkeeper_supervisor.cli.asking import observe, operator, request
    from crewkeeper_supervisor.views.wording import safe

    async with opened(how.state, how.nats) as link:
        story = await told(link, run)
        supervisor = story.fold.supervisor

        def taken() -> bool:
            return supervisor.crew is not None and supervisor.crew.objective == text

        if not taken() and not how.dry_run:
            await request(link, story.fold.run, OperatorAsked(action="goal", answer=text, by=operator()))
            await observe(link, story, lambda _event, _text: None, taken, how.timeout_s)
    name = story.fold.run
    what = f"{name} {'would be' if how.dry_run else 'is now'} for: {safe(text)}"
    if not how.dry_run and not taken():
        what = f"asked, but within {how.timeout_s:g} s the journal has not taken it"
    return Deed(action="goal", name=name, run=name, ok=how.dry_run or taken(), text=(what,), dry_run=how.dry_run)
