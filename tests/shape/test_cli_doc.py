"""docs/cli.md and docs/codes.md hold every command, option and code: what is between their markers is generated.

`REWRITE_DOCS=1 pytest tests/shape/test_cli_doc.py` writes it anew.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from test_docs import check_command

from crewkeeper_supervisor.cli import cheat, codes
from crewkeeper_supervisor.cli.main import cli

DOCS = Path(__file__).resolve().parents[2] / "docs"
BEGIN = "<!-- generated: begin -->"
END = "<!-- generated: end -->"
HOW = "run `REWRITE_DOCS=1 pytest tests/shape/test_cli_doc.py` and read the change"
EVERYWHERE = {"--state", "--nats", "--context", "--output", "--help", "--yes", "--dry-run", "--watch"}
"""Told once at the head of the page, and where a command has them only by name."""


def tree(group: click.Group, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group, info_name=path[-1])
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from tree(command, (*path, name))


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def prose(help_: str) -> str:
    """Help as paragraphs; click's mark for text that it must not fill is left out."""
    parts = [" ".join(part.replace("\b", "").split()) for part in help_.split("\n\n")]
    return "\n\n".join(re.sub(r"<(\w+)>", r"\\<\1>", part) for part in parts if part)


def default_of(option: click.Option) -> str:
    if option.is_flag or option.default in (None, (), "") or callable(option.default):
        return ""
    if "UNSET" in repr(option.default) or not option.show_default:
        return ""
    return f"`{option.default}`"


def kind_of(option: click.Option) -> str:
    if option.is_flag or option.count:
        return ""
    if option.metavar:
        return f" {option.metavar}"
    if isinstance(option.type, click.Choice):
        return f" {'|'.join(map(str, option.type.choices))}"
    return f" {option.type.name.upper()}"


def options(command: click.Command) -> list[str]:
    rows = []
    shared = []
    for each in command.params:
        if not isinstance(each, click.Option) or each.hidden:
            continue
        words = [*each.opts, *each.secondary_opts]
        if EVERYWHERE & set(words):
            shared += [word for word in words if word in EVERYWHERE]
            continue
        told = ", ".join(f"`{word}`" for word in words)
        value = cell(kind_of(each)).strip()
        default = default_of(each)
        rows.append(f"| {told} | {f'`{value}`' if value else ''} | {cell(each.help or '')} | {default} |")
    table = ["| option | value | | default |", "|---|---|---|---|", *rows, ""] if rows else []
    also = [f"Also {', '.join(f'`{word}`' for word in sorted(shared))}.", ""] if shared else []
    return [*table, *also]


def render_commands() -> str:
    parts = [""]
    for path, command in tree(cli, ("supervisor",)):
        level = "###" if len(path) == 2 else "####"
        context = click.Context(command, info_name=" ".join(path))
        parts += [f"{level} {' '.join(path)}", ""]
        if not isinstance(command, click.Group):
            usage = " ".join(["supervisor", *path[1:], *command.collect_usage_pieces(context)])
            parts += [f"`{usage.replace('[OPTIONS]', '[options]')}`", ""]
        parts += [prose(command.help or ""), ""]
        if command.epilog:
            parts += [prose(command.epilog), ""]
        parts += options(command)
    return "\n".join(parts)


def render_codes() -> str:
    parts = [""]
    for family, about in codes.about().items():
        parts += [f"### {family}", "", about, "", "| code | what | what to do | |", "|---|---|---|---|"]
        for each in codes.codes():
            if each.family == family:
                page = each.see.removeprefix("docs/")
                parts.append(f"| `{each.code}` | {cell(each.what)} | {cell(each.do)} | [{page[:-3]}]({page}) |")
        parts.append("")
    return "\n".join(parts)


def holds(name: str, rendered: str) -> None:
    page = DOCS / name
    text = page.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    current = f"{before}{BEGIN}\n{rendered}\n{END}{after}"
    if os.environ.get("REWRITE_DOCS"):
        page.write_text(current)
    assert page.read_text() == current, HOW


def test_the_page_of_commands_is_what_the_commands_say():
    holds("cli.md", render_commands())


def test_the_page_of_codes_is_what_explain_says():
    holds("codes.md", render_codes())


@pytest.mark.parametrize("line", [line for lines in cheat.SHEET.values() for line, _ in lines])
def test_the_cheat_sheet_is_true(line):
    check_command(line)


def test_the_page_tells_the_options_that_many_have():
    head = (DOCS / "cli.md").read_text().partition(BEGIN)[0]
    for word in EVERYWHERE:
        assert f"`{word}" in head or f", `{word}" in head, word
    for form in ("table", "wide", "json", "jsonl", "yaml", "name"):
        assert f"| `{form}` |" in head
    for code in (0, 1, 2, 3, 4, 5, 124, 130):
        assert f"| {code} |" in head
