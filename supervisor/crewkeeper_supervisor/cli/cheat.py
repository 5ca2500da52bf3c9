"""`supervisor cheat`: what is typed most, by what one wants."""

from typing import Final

import click

from crewkeeper_supervisor.cli.failure import NOT_FOUND, Failure
from crewkeeper_supervisor.cli.output import Rows, output_option, write

SHEET: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "begin": (
        ("supervisor demo", "watch a crew deadlock and be freed"),
        ("supervisor init trip", "write a crew to start from"),
        ("supervisor crew check crew.yaml", "every mistake at once; nothing is started"),
        ("supervisor dev crew.yaml", "run it while you write it: again at each change"),
        ("supervisor up crew.yaml", "run it here"),
        ("supervisor doctor crew.yaml", "what is missing, with what mends it"),
    ),
    "look": (
        ("supervisor ps", "which runs there are; --all: also those that have ended"),
        ("supervisor top", "all agents, live: waits, costs, whoever is in trouble first"),
        ("supervisor agent ls", "who does what, and waits for whom"),
        ("supervisor graph --watch", "the waits, as they change"),
        ("supervisor events -f", "what happens, in sentences"),
        ("supervisor incidents ls --open", "what was found and is not over"),
        ("supervisor timeline", "the story of a run"),
        ("supervisor why ID", "why something was decided"),
        ("supervisor explain CODE", "what a code means"),
    ),
    "act": (
        ("supervisor agent pause AGENT", "hold one agent; its messages wait"),
        ("supervisor agent kill AGENT --why 'loops'", "end one, and see the proof"),
        ("supervisor pause", "hold all of a run"),
        ("supervisor resume", "let them go on"),
        ("supervisor approvals ls", "what waits for a person"),
        ("supervisor approvals approve ID", "let it happen"),
        ("supervisor budget top-up usd=5", "let it spend more"),
        ("supervisor down", "stop a run, in order"),
    ),
    "script": (
        ("supervisor wait --for done --timeout 10m", "until it is over; 124 if it is not"),
        ("supervisor check --format nagios", "one line for a monitoring system"),
        ("supervisor ps -o json", "data; also jsonl, yaml, name"),
        ("supervisor agent ls -w -o jsonl", "a line whenever an agent changes"),
        ("supervisor ps -o name", "what other commands take; supervisor --quiet says nothing else"),
        ("supervisor schema incident", "what the data looks like"),
    ),
    "servers": (
        ("supervisor context add prod --nats tls://host:4222 --creds prod.creds", "name a server"),
        ("supervisor context use prod", "use it where nothing nearer is named"),
        ("supervisor ps --context nats:staging", "a context of the nats command"),
        ("supervisor config view --sources", "which server is meant, and why"),
    ),
    "prove": (
        ("supervisor audit verify RUN", "that nothing recorded was changed"),
        ("supervisor replay RUN", "that the same is decided again"),
        ("supervisor backtest RUN --policy new.yaml", "what other rules would have decided"),
        ("supervisor chaos run", "what holds when things go wrong"),
        ("supervisor bench", "how fast it is on this machine, now"),
    ),
}
"""By topic: command lines, and what each is for."""


@click.command()
@click.argument("topic", required=False)
@output_option()
def cheat(topic: str | None, output: str) -> None:
    """Show what is typed most, by what one wants.

    TOPIC is begin, look, act, script, servers or prove; without one all are shown.
    """
    if topic is not None and topic not in SHEET:
        raise Failure(f"no topic {topic[:40]!r}", code=NOT_FOUND, remedy=f"one of {', '.join(SHEET)}")
    chosen = {name: lines for name, lines in SHEET.items() if topic in (None, name)}
    if output not in ("table", "wide"):
        rows = [
            {"topic": name, "command": line, "what": what} for name, lines in chosen.items() for line, what in lines
        ]
        written = Rows(output, lambda row: str(row["command"]))
        for row in rows:
            written.put(row)
        written.end()
        return
    width = max(len(line) for lines in SHEET.values() for line, _ in lines)
    for number, (name, lines) in enumerate(chosen.items()):
        for text in ("",) * bool(number) + (f"# {name}",):
            write(text)
        for line, what in lines:
            write(f"{line.ljust(width)}  # {what}")
