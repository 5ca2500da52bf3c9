"""`supervisor explain`: what a code means, and what to do about it."""

from typing import TYPE_CHECKING

import click

from crewkeeper_supervisor.cli.failure import NOT_FOUND, USAGE, Failure
from crewkeeper_supervisor.cli.output import emit_rows, output_option, write

if TYPE_CHECKING:
    from crewkeeper_supervisor.cli.codes import Code


@click.command()
@click.argument("code", required=False)
@click.option("--family", metavar="NAME", help="Only codes of this family, as finding or fault.")
@output_option()
def explain(code: str | None, family: str | None, output: str) -> None:
    """Say what a code means, and what to do about it.

    CODE is the kind of a finding (deadlock), what an agent gets instead of an answer (budget_spent), the code of a
    mistake in a crew file (CREW-110), the name of an error (NothingRuns), or an exit code (124). Without one all are
    listed.
    """
    from crewkeeper_supervisor.cli import codes
    from crewkeeper_supervisor.views.tables import Table

    known = codes.about()
    if family is not None and family not in known:
        raise Failure(f"no family {family[:40]!r}", code=USAGE, remedy=f"one of {', '.join(known)}")
    found = list(codes.explain(code) if code else codes.codes())
    found = [each for each in found if family in (None, each.family)]
    if not found:
        from crewkeeper_supervisor.cli.runs import near

        words = [each.code for each in codes.codes()]
        raise Failure(
            f"no code {str(code)[:60]!r}{near(str(code), words)}", code=NOT_FOUND, remedy="supervisor explain"
        )
    if code and output in ("table", "wide"):
        for number, each in enumerate(found):
            for line in ("",) * bool(number) + _lines(each, known[each.family]):
                write(line)
        return

    def table(wide: bool) -> Table:
        rows = tuple((each.family, each.code, each.what, *((each.do, each.see) if wide else ())) for each in found)
        return Table(columns=("FAMILY", "CODE", "WHAT", *(("DO", "SEE") if wide else ())), rows=rows)

    emit_rows(found, output, table=table, name=lambda each: str(each.code))


def _lines(each: "Code", about: str) -> tuple[str, ...]:
    return (f"{each.code} ({each.family})", f"  {each.what}", f"  do   {each.do}", f"  see  {each.see}", f"  {about}")
