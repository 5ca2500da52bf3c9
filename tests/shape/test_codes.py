"""Every code that the source can print, send or raise is explained, in words that are true."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
from test_docs import check_command

from crewkeeper_bus import errors as bus_errors
from crewkeeper_supervisor.cli import codes, failure, main
from crewkeeper_supervisor.core.findings import FindingKind
from crewkeeper_supervisor.core.scope import RefusalReason
from crewkeeper_supervisor.shell import errors as shell_errors
from crewkeeper_supervisor.shell.crew_problems import CODES

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("bus/crewkeeper_bus", "agents/crewkeeper_agents", "supervisor/crewkeeper_supervisor")
WORD = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*\Z")
ORDINARY = {"bytes", "deadlock", "reason", "unknown"}
"""Words beside codes in the same expressions, and codes of logins, which are asked for below."""
PLACES = {"Problem": 1, "_refuse": 1, "_bad": 1, "_failed": 0}
"""Functions whose argument at this place is a code."""


def family(name: str) -> set[str]:
    return {each.code for each in codes.codes() if each.family == name}


def texts(node: ast.expr) -> Iterator[str]:
    """Constant texts that an expression can be."""
    match node:
        case ast.Constant(value=str(value)):
            yield value
        case ast.IfExp(body=body, orelse=orelse):
            yield from texts(body)
            yield from texts(orelse)


@cache
def said() -> dict[str, str]:
    """Every code of a fault or a problem in the source, with a place where it is."""
    found: dict[str, str] = {}
    for root in SOURCES:
        for file in (ROOT / root).rglob("*.py"):
            if "chaos" in file.parts:
                continue  # it plays what others say
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if not isinstance(node, ast.Call):
                    continue
                called = ast.unparse(node.func).rpartition(".")[2]
                given = [each.value for each in node.keywords if each.arg == "code"]
                if called.endswith(("Refused", "Timeout")):
                    given += [each.value for each in node.keywords if each.arg == "reason"]
                if called in PLACES and len(node.args) > PLACES[called]:
                    given.append(node.args[PLACES[called]])
                for code in (text for value in given for text in texts(value)):
                    found.setdefault(code, f"{file.name}:{node.lineno}")
    return {code: where for code, where in found.items() if WORD.match(code) and code not in ORDINARY}


def test_every_code_of_an_answer_is_explained():
    known = family("fault") | family("proxy")
    assert {code: where for code, where in said().items() if code not in known} == {}, "add it to cli/codes.yaml"


def test_the_source_is_searched():
    assert len(said()) > 40
    assert {"would_deadlock", "budget_spent", "upstream_garbage", "queue_full", "tool_failed"} <= set(said())


def test_every_kind_of_finding_is_explained():
    assert family("finding") == set(get_args(FindingKind))


def test_every_reason_of_a_refused_login_is_explained():
    assert family("login") >= set(get_args(RefusalReason))


def test_every_mistake_in_a_crew_file_is_explained():
    assert family("crew-file") == set(CODES)


@pytest.mark.parametrize("module", [bus_errors, shell_errors])
def test_every_error_with_an_exit_code_is_explained(module):
    # Errors of the client are raised in agents; what they are called there is explained as the code that they carry.
    raised = {name for name in vars(module) if name in dict(failure._CODES)}
    assert raised <= family("command")
    assert set(dict(failure._CODES)) <= family("command")


def test_errors_of_the_supervisor_are_explained():
    errors = {name for name, each in vars(shell_errors).items() if isinstance(each, type)} - {"Sequence"}
    assert errors <= family("command")


def test_every_exit_code_is_explained():
    numbers = {str(value) for name, value in vars(failure).items() if name.isupper() and isinstance(value, int)}
    assert family("exit") == numbers | {"0"}
    (epilog,) = re.findall(r"Exit codes: (.*)", main.cli.epilog or "")
    assert set(re.findall(r"\b(\d+) ", epilog)) == family("exit")


@pytest.mark.parametrize("code", codes.codes(), ids=lambda code: f"{code.family} {code.code}")
def test_what_is_said_is_true(code):
    for text in (code.what, code.do):
        assert text.endswith("."), text
        for line in re.findall(r"`(supervisor [a-z][^`]*)`", text):
            check_command(line)
    assert (ROOT / code.see).is_file()


def test_nothing_is_explained_that_nobody_says():
    """A word that the source no longer has cannot come up."""
    source = "\n".join(file.read_text() for root in SOURCES for file in (ROOT / root).rglob("*.py"))
    assert [code for code in family("fault") | family("proxy") if f'"{code}"' not in source] == []
