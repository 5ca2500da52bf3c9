"""Contracts of the source that no formatter knows: import layers, sizes, docstrings, and nothing left over."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    ROOT / root for root in ("bus/crewkeeper_bus", "agents/crewkeeper_agents", "supervisor/crewkeeper_supervisor")
]
MODULES = sorted(file for source in SOURCES for file in source.rglob("*.py"))
FILE_MAX_LINES = 500
FUNCTION_MAX_LINES = 60
SKIPPED = {".git", ".venv", "__pycache__", "dist", "out", ".crewkeeper", ".hypothesis", "node_modules"}

# Written so that these lines are not found themselves.
MARKER = re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX|HA" r"CK)\b")
# A home, or a folder that exists on one machine only; containers have neither.
MACHINE = re.compile(r"(?<![\w./*{$<])/(home|Users|root|work|mnt|opt)/\w|(?<![\w./])C:\\\w")

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@cache
def parsed() -> list[tuple[str, ast.Module]]:
    return [(name_of(file), ast.parse(file.read_text("utf-8"))) for file in MODULES]


@cache
def lines_of(file: str) -> list[str]:
    return (ROOT / file).read_text("utf-8").splitlines()


def says_why(file: str, node: ast.expr) -> bool:
    """Whether a comment stands on the line of a node, or on the one before."""
    here, before = lines_of(file)[node.lineno - 1], lines_of(file)[node.lineno - 2]
    return "  # " in here or before.lstrip().startswith("# ")


def calls() -> Iterator[tuple[str, ast.Call, str]]:
    """Every call of the source: file, node, and what is called."""
    for file, module in parsed():
        for node in ast.walk(module):
            if isinstance(node, ast.Call):
                yield file, node, ast.unparse(node.func)


def texts() -> Iterator[tuple[str, int, str]]:
    """Every line of every text file of the repository, with where it stands."""
    for file in sorted(ROOT.rglob("*")):
        parts = file.relative_to(ROOT).parts
        if not file.is_file() or SKIPPED & set(parts) or any(part.endswith(("_cache", ".egg-info")) for part in parts):
            continue
        try:
            lines = file.read_text("utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(lines, 1):
            yield name_of(file), number, line


def public(node: ast.Module | ast.ClassDef) -> Iterator[tuple[str, Definition]]:
    """Public functions, classes and their public methods; overloads and overrides of dunder methods are not."""
    for child in node.body:
        if isinstance(child, Definition) and not child.name.startswith("_"):
            yield child.name, child
            if isinstance(child, ast.ClassDef):
                for name, inner in public(child):
                    yield f"{child.name}.{name}", inner


def test_import_contracts_hold():
    # The programmatic entry point, in a process of its own: the tool keeps state for the life of one.
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_every_module_and_public_name_has_a_docstring():
    bare = []
    for file, module in parsed():
        if not ast.get_docstring(module):
            bare.append(file)
        bare += [
            f"{file}:{node.lineno} {name}"
            for name, node in public(module)
            if not ast.get_docstring(node) and not is_exempt(name, node)
        ]
    assert bare == []


def is_exempt(name: str, node: Definition) -> bool:
    """Setters share their property's docstring, overloads their function's."""
    decorators = {ast.unparse(each).rpartition(".")[2] for each in node.decorator_list}
    return bool(decorators & {"setter", "deleter", "overload", "override"})


def test_docstrings_begin_with_a_sentence():
    wrong = []
    for file, module in parsed():
        for name, node in [("", module), *public(module)]:
            text = (ast.get_docstring(node) or "x.").partition("\n\n")[0]
            if not text.rstrip().endswith((".", "?", ":")):
                wrong.append(f"{file} {name}: {text[:60]!r}")
    assert wrong == []


def test_files_are_short():
    long = {name_of(file): len(file.read_text("utf-8").splitlines()) for file in MODULES}
    assert {file: lines for file, lines in long.items() if lines > FILE_MAX_LINES} == {}


def test_functions_are_short():
    long = []
    for file, module in parsed():
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_MAX_LINES:
                    long.append(f"{file}:{node.lineno} {node.name} has {lines} lines")
    assert long == []


def test_no_error_is_swallowed():
    """A broad handler says or does something; one that only goes on hides every defect behind it."""
    silent = []
    for file, module in parsed():
        for node in ast.walk(module):
            if not isinstance(node, ast.ExceptHandler):
                continue
            caught = ast.unparse(node.type) if node.type is not None else "BaseException"
            nothing = all(isinstance(each, ast.Pass | ast.Continue) or is_ellipsis(each) for each in node.body)
            if nothing and re.search(r"\b(Base)?Exception\b", caught):
                silent.append(f"{file}:{node.lineno}")
    assert silent == []


def is_ellipsis(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and node.value.value is ...


def test_broad_suppression_says_why():
    broad = [
        f"{file}:{node.lineno}"
        for file, node, called in calls()
        if called.endswith("suppress")
        and {ast.unparse(each) for each in node.args} & {"Exception", "BaseException"}
        and not says_why(file, node)
    ]
    assert broad == []


def test_a_task_outside_a_task_group_says_why():
    bare = [
        f"{file}:{node.lineno}"
        for file, node, called in calls()
        if called.endswith((".create_task", "ensure_future")) and not says_why(file, node)
    ]
    assert bare == []


def test_the_nats_library_is_imported_in_few_places():
    """Its API is partly untyped and has traps; what guards against them stands in these files."""
    allowed = {f"bus/crewkeeper_bus/{name}.py" for name in ("wire", "nats_transport")} | {
        f"supervisor/crewkeeper_supervisor/shell/{name}.py"
        for name in (
            *("nats_link", "journal", "ledger", "lease", "safety", "orders", "outbox", "access", "sessions"),
            *("excerpt", "holds", "fleet", "deliveries", "bucket", "snapshots"),
        )
    }
    importers = set()
    for file, module in parsed():
        for node in ast.walk(module):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.partition(".")[0] == "nats" for name in names):
                importers.add(file)
    assert importers <= allowed, "use crewkeeper_bus.wire or shell.nats_link"


@pytest.mark.parametrize(("pattern", "what"), [(MARKER, "a left-over marker"), (MACHINE, "a path of one machine")])
def test_nothing_is_left_over(pattern: re.Pattern[str], what: str):
    found = [f"{file}:{number}: {line.strip()[:80]}" for file, number, line in texts() if pattern.search(line)]
    assert found == [], what


def test_the_patterns_find_what_they_are_for():
    assert MARKER.search("# TO" + "DO: later")
    assert MACHINE.search("see " + "/ho" + "me/ann/notes")
    assert MACHINE.search('"C:' + '\\Temp"')
    assert not MACHINE.search("nats://127.0.0.1:4222/x and `/data`")
