"""Documentation says what is there: modules, files, links, commands, variables, decisions, versions."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

from crewkeeper_bus.settings import Settings
from crewkeeper_supervisor.cli.main import cli
from crewkeeper_supervisor.core.wait_case import WaitCase
from support.stories import Story

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
ARCHITECTURE = DOCS / "architecture.md"
SOURCES = ("bus/crewkeeper_bus", "agents/crewkeeper_agents", "supervisor/crewkeeper_supervisor")
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md"), *ROOT.glob("examples/*/README.md")])
DECISIONS = sorted((DOCS / "decisions").glob("*.md"))

page = pytest.mark.parametrize("file", PAGES, ids=lambda file: file.relative_to(ROOT).as_posix())


def prose(text: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def rooms() -> dict[str, list[str]]:
    """By folder of source: the files that the architecture page names in it."""
    found: dict[str, list[str]] = {}
    folder = ""
    for line in ARCHITECTURE.read_text().splitlines():
        if line.startswith("#"):
            heading = re.fullmatch(r"### `([\w/]+)`", line)
            folder = heading[1] if heading else ""
        row = re.match(r"\| `(\w+\.py)` \| \S.*\. \|$", line)
        if row and folder:
            found.setdefault(folder, []).append(row[1])
    return found


def test_the_architecture_names_every_module_where_it_is():
    there: dict[str, list[str]] = {}
    for source in SOURCES:
        for file in (ROOT / source).rglob("*.py"):
            there.setdefault(file.parent.relative_to(ROOT).as_posix(), []).append(file.name)
    named = rooms()
    missing = [f"{folder}/{name}" for folder, names in there.items() for name in names if name not in named[folder]]
    assert missing == [], "add a row to its room in docs/architecture.md"
    invented = [f"{folder}/{name}" for folder, names in named.items() for name in names if name not in there[folder]]
    assert invented == [], "docs/architecture.md names modules that are not there"
    twice = [folder for folder, names in named.items() if len(names) != len(set(names))]
    assert twice == []


def test_the_rows_of_the_architecture_are_short():
    rows = [line for line in ARCHITECTURE.read_text().splitlines() if re.match(r"\| `\w+\.py` \|", line)]
    assert len(rows) == sum(map(len, rooms().values())), "a row stands outside of a room or does not end with a stop"
    assert [row for row in rows if len(row) > 120] == []


@page
def test_named_files_and_folders_exist(file: Path):
    known_roots = {each.name for each in ROOT.iterdir()}
    missing = []
    for name in re.findall(r"`([\w.-]+/[\w./-]*)`", prose(file.read_text())):
        if name.partition("/")[0] in known_roots and not (ROOT / name).exists():
            missing.append(name)
    assert missing == []


def test_pages_that_the_source_refers_to_exist():
    missing = set()
    for source in (*SOURCES, "tests"):
        for file in (ROOT / source).rglob("*.py"):
            for name in re.findall(r"\bdocs/[\w-]+\.md\b", file.read_text()):
                if not (ROOT / name).is_file():
                    missing.add(f"{file.relative_to(ROOT).as_posix()} refers to {name}")
    assert missing == set()


def anchor(heading: str) -> str:
    """The fragment that a heading gets."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@page
def test_links_lead_somewhere(file: Path):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(file.read_text())):
        if re.match(r"\w+:", target):
            continue
        path, _, fragment = target.partition("#")
        found = (file.parent / path).resolve() if path else file
        if not found.exists():
            broken.append(target)
        elif fragment:
            headings = re.findall(r"^#+ (.+)$", found.read_text(), re.MULTILINE)
            if fragment not in map(anchor, headings):
                broken.append(target)
    assert broken == []


def blocks(text: str) -> list[str]:
    """What stands in blocks of code that show a terminal, or that name no language."""
    found: list[str] = []
    language: str | None = None
    for line in text.splitlines():
        if line.startswith("```"):
            language = line[3:].strip() if language is None else None
            found.append("")
        elif language in ("", "sh", "console"):
            found[-1] += line + "\n"
    return found


def command_lines(text: str) -> list[str]:
    """Every `supervisor …` that a page shows: in the text, and at the beginning of a line of a block."""
    inline = re.findall(r"`(supervisor [a-z][^`\n]*)`", prose(text))
    shown = re.findall(r"^(?:\$ )?(supervisor [a-z].*)$", "\n".join(blocks(text)), re.MULTILINE)
    return inline + [line.partition("  ")[0] for line in shown]


def check_command(line: str) -> None:
    """Fail unless the command line names a command, and options that it has."""
    words = shlex.split(line.replace("…", ""), comments=True)[1:]
    words = words[: next((i for i, word in enumerate(words) if word in ("|", ">", "&&", "&")), len(words))]
    command: click.Command = cli
    context = click.Context(cli, info_name="supervisor")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        names = words.pop(0).split("|")
        found = [command.get_command(context, name) for name in names]
        assert all(found), f"{line!r}: there is no such command"
        command = found[0] or command
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    known |= set(context.help_option_names) | {"-h"}
    for word in words:
        if re.match(r"--?[a-z]", word):
            assert word.partition("=")[0] in known, f"{line!r}: {word} is no option of it"


@page
def test_commands_on_the_pages_exist(file: Path):
    for line in command_lines(file.read_text()):
        check_command(line)


def test_the_check_of_commands_can_fail():
    with pytest.raises(AssertionError, match="no such command"):
        check_command("supervisor fly")
    with pytest.raises(AssertionError, match="no option"):
        check_command("supervisor up crew.yaml --faster")
    assert command_lines("Use `supervisor ps -a`.\n\n```\n$ supervisor up crew.yaml\n```\n") == [
        "supervisor ps -a",
        "supervisor up crew.yaml",
    ]


def test_environment_variables_are_documented_and_read():
    source = "\n".join(file.read_text() for root in SOURCES for file in (ROOT / root).rglob("*.py"))
    pages = "\n".join(file.read_text() for file in PAGES)
    read = set(re.findall(r"\bCREWKEEPER_[A-Z_]*[A-Z]\b", source))
    # Made from parts: settings of an agent are CREWKEEPER_ and the name of the setting.
    read |= {f"CREWKEEPER_{name.upper()}" for name in Settings.__struct_fields__ if name != "credentials_file"}
    assert sorted(name for name in read if name not in pages) == [], "name them in docs/environment.md"
    named = set(re.findall(r"\bCREWKEEPER_[A-Z_]*[A-Z]\b", pages))
    assert sorted(named - read) == [], "nothing reads them"


def test_decisions_are_numbered_without_gaps_and_have_their_parts():
    pages = [file for file in DECISIONS if file.name != "README.md"]
    assert [file.name[:4] for file in pages] == [f"{number:04}" for number in range(1, len(pages) + 1)]
    assert len(pages) >= 9
    for file in pages:
        text = file.read_text()
        assert re.match(rf"# {int(file.name[:4])}\. \S.*\n", text), file.name
        headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
        assert headings == ["Context", "Decision", "Consequences"], file.name
        assert len(text.splitlines()) <= 60, f"{file.name}: a decision is a short page"
    index = (DOCS / "decisions" / "README.md").read_text()
    assert re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", index) == [file.name for file in pages]


def test_the_changelog_has_this_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    text = (ROOT / "CHANGELOG.md").read_text()
    heading = re.search(r"^## \[(\S+)\] - (unreleased|\d{4}-\d\d-\d\d)$", text, re.MULTILINE)
    assert heading is not None
    assert heading[1] == version
    kinds = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_make_targets_on_the_pages_exist():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for file in PAGES:
        named = set(re.findall(r"`make (\w+)`", file.read_text()))
        assert named <= targets, f"{file.name}: {sorted(named - targets)}"


def test_the_story_in_contributing_is_true():
    (story,) = re.findall(r"^```text\n(.*?)^```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL | re.MULTILINE)
    assert Story(story).told() == story


def test_the_format_of_wait_cases_is_on_its_page():
    """Every event, key and form of wait that the written cases use, and no event that nothing reads."""
    text = (DOCS / "wait-cases.md").read_text()
    named = set(re.findall(r"`([a-z_]+)`", text))
    cases = json.loads((ROOT / "tests" / "data" / "wait_cases.json").read_text())["cases"]
    kinds = {event["e"] for case in cases for event in case["events"]}
    keys = {key for case in cases for event in case["events"] for key in event}
    keys |= {key for case in cases for key in (*case, *case["expect"])}
    keys |= {key for case in cases for spec in (*case["agents"].values(), *case["resources"].values()) for key in spec}
    assert sorted((kinds | keys) - named) == []
    read = {name.removeprefix("_on_") for name in vars(WaitCase) if name.startswith("_on_")}
    assert set(re.findall(r"^\| `(\w+)` \| `", text, re.MULTILINE)) == read


def test_the_example_of_a_wait_case_is_true():
    (example,) = re.findall(r"^```json\n(.*?)^```", (DOCS / "wait-cases.md").read_text(), re.DOTALL | re.MULTILINE)
    case = json.loads(example)
    replay = WaitCase(case["agents"], case["resources"])
    for event in case["events"]:
        replay.apply(event)
    assert replay.result() == case["expect"]
