"""What pages show to be copied is right: crew files load, Python compiles and imports what is there, JSON is JSON."""

import ast
import importlib
import json
import re
from pathlib import Path

import pytest

from crewkeeper_supervisor.shell import crewfile
from crewkeeper_supervisor.shell.crew_problems import CrewFileError

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_CREW_FILES = {"chaos.md", "metrics.md"}
"""Pages that show YAML of another kind."""


def shown(language: str) -> list[tuple[str, str]]:
    """Every block of code in this language: what to call it, and its text."""
    found = []
    for page in PAGES:
        for block in re.finditer(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            line = page.read_text().count("\n", 0, block.start()) + 1
            found.append((f"{page.name}:{line}", block[1]))
    assert found, f"no page shows {language}"
    return found


def blocks(language: str, skip: frozenset[str] = frozenset()) -> pytest.MarkDecorator:
    found = [each for each in shown(language) if each[0].partition(":")[0] not in skip]
    return pytest.mark.parametrize("text", [text for _, text in found], ids=[name for name, _ in found])


def whole(text: str) -> str:
    """A part of a crew file, with as much around it as makes a whole one."""
    if not re.search(r"^crew:", text, re.MULTILINE):
        text = f"crew: shown\n{text}"
    if not re.search(r"^agents:", text, re.MULTILINE):
        text += "agents:\n  somebody: {run: python somebody.py}\n"
    return text


def mistakes(text: str, folder: Path) -> list[str]:
    """What is wrong with it; a part of a file may name what other parts declare."""
    try:
        crewfile.parse(whole(text).encode(), "page.yaml", folder)
    except CrewFileError as error:
        return [str(each) for each in error.problems if whole(text) == text or each.code != "CREW-118"]
    return []


@blocks("yaml", frozenset(NOT_CREW_FILES))
def test_crew_files_on_the_pages_are_read_without_a_mistake(text: str, tmp_path: Path):
    assert mistakes(text, tmp_path) == []


def test_a_mistake_on_a_page_would_be_found(tmp_path: Path):
    assert len(mistakes("rules:\n  - {tool: [x], do: deny}\n", tmp_path)) == 1
    assert len(mistakes("crew: x\nagents:\n  a: {run: python a.py, tools: [y]}\n", tmp_path)) == 1
    assert mistakes("rules:\n  - {tools: [x], do: deny}\n", tmp_path) == []


@blocks("python")
def test_python_on_the_pages_imports_what_there_is(text: str):
    tree = compile(text, "page", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("crewkeeper_"):
            module = importlib.import_module(node.module)
            assert [name.name for name in node.names if not hasattr(module, name.name)] == []


@blocks("jsonl?")
def test_json_on_the_pages_is_json(text: str):
    try:
        json.loads(text)
    except ValueError:
        assert [json.loads(line) for line in text.splitlines()]
