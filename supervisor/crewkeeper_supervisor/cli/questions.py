"""`supervisor questions`: what agents ask people, and the answers."""

from datetime import UTC, datetime
from pathlib import Path

import anyio
import click

from crewkeeper_supervisor.cli.deed import Deed, How, deed_command
from crewkeeper_supervisor.cli.failure import NOT_FOUND, USAGE, Failure
from crewkeeper_supervisor.cli.output import emit_rows, output_option
from crewkeeper_supervisor.cli.place_options import opened, place_options
from crewkeeper_supervisor.cli.watching import watch_option

ANSWER_MAX_CHARS = 2000


@click.group()
def questions() -> None:
    """List and answer what agents ask people."""


@questions.command()
@click.argument("run", required=False)
@watch_option
@output_option()
@place_options
def ls(run: str | None, output: str, state: Path | None, nats: str | None) -> None:
    """List open questions of a run, or of all active runs."""
    anyio.run(_ls, run, output, state, nats)


async def _ls(run: str | None, output: str, state: Path | None, nats: str | None) -> None:
    from crewkeeper_supervisor.cli.runs import folded, named_or_active
    from crewkeeper_supervisor.views.snapshot import snapshot
    from crewkeeper_supervisor.views.tables import questions_table

    async with opened(state, nats) as link:
        chosen = await named_or_active(link, run)
        rows = [row for info in chosen for row in snapshot(await folded(link, info.run)).questions]
    now = datetime.now(UTC)
    emit_rows(rows, output, table=lambda wide: questions_table(rows, now, wide=wide), name=lambda row: str(row.id))


@questions.command()
@click.argument("words", nargs=-1, required=True, metavar="[RUN] QUESTION TEXT")
@deed_command
async def answer(words: tuple[str, ...], how: How) -> Deed:
    """Answer a question.

    TEXT is one argument: quote it, and write `--` before QUESTION if it begins with a dash. QUESTION may be the
    beginning of an id.
    """
    if len(words) not in (2, 3):
        raise Failure("give a question and one quoted text, and at most one run before them", code=USAGE)
    question, text = words[-2:]
    if len(text) > ANSWER_MAX_CHARS:
        raise Failure(f"the answer has {len(text)} characters; the limit is {ANSWER_MAX_CHARS}", code=USAGE)
    return await _answer(words[0] if len(words) == 3 else None, question, text, how)


async def _answer(run: str | None, question: str, text: str, how: How) -> Deed:
    from crewkeeper_bus.messages import OperatorAsked
    from crewkeeper_supervisor.cli.agent import told
    from crewkeeper_supervisor.cli.asking import observe, operator, request
    from crewkeeper_supervisor.views.wording import safe

    async with opened(how.state, how.nats) as link:
        story = await told(link, run)
        supervisor = story.fold.supervisor
        fitting = [each for each in supervisor.questions.values() if each.id.startswith(question)]
        if len(fitting) != 1:
            problem = "is no open question" if not fitting else f"fits {len(fitting)} questions"
            code = USAGE if fitting else NOT_FOUND
            raise Failure(
                f"{question[:60]!r} {problem} of {story.fold.run}", code=code, remedy="supervisor questions ls"
            )
        found = fitting[0]
        about = f"{safe(found.agent)}'s question {safe(found.text)!r}"

        def deed(ok: bool, text: str) -> Deed:
            run, id_ = story.fold.run, found.id
            return Deed(action="questions answer", name=id_, run=run, ok=ok, text=(text,), dry_run=how.dry_run)

        if how.dry_run:
            return deed(True, f"would answer {about}")
        message = OperatorAsked(action="answer", agent=found.agent, question=found.id, answer=text, by=operator())
        await request(link, story.fold.run, message)
        await observe(
            link, story, lambda _event, _text: None, lambda: found.id not in supervisor.questions, how.timeout_s
        )
    if found.id in supervisor.questions:
        return deed(
            False, f"asked, but within {how.timeout_s:g} s no controller has passed the answer on; is one running?"
        )
    return deed(True, f"answered {about}")
