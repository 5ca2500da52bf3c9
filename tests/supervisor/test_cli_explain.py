"""`supervisor explain`: codes looked up in whatever spelling, listed, and told with a way out."""

import json

import pytest

from crewkeeper_supervisor.cli import failure, main
from crewkeeper_supervisor.cli.failure import report
from crewkeeper_supervisor.shell.errors import NothingRuns


@pytest.mark.parametrize("word", ["would_deadlock", "would-deadlock", "WOULD_DEADLOCK"])
def test_a_code_is_found_in_any_spelling(word, capsys):
    assert main.run(["explain", word]) == 0
    out = capsys.readouterr().out
    assert out.startswith("would_deadlock (fault)\n")
    assert "  do   " in out


def test_a_word_of_two_families_is_explained_twice(capsys):
    assert main.run(["explain", "budget_spent"]) == 0
    out = capsys.readouterr().out
    assert "budget_spent (finding)" in out
    assert "budget_spent (fault)" in out
    assert main.run(["explain", "budget_spent", "--family", "fault", "-o", "json"]) == 0
    (item,) = json.loads(capsys.readouterr().out)["items"]
    assert item["family"] == "fault"


def test_a_mistyped_code_gets_near_ones(capsys):
    assert main.run(["explain", "CREW-999"]) == failure.NOT_FOUND
    assert main.run(["explain", "dedlock"]) == failure.NOT_FOUND
    assert "did you mean 'deadlock'" in capsys.readouterr().err
    assert main.run(["explain", "--family", "none"]) == failure.USAGE
    assert "finding, fault" in capsys.readouterr().err


def test_all_codes_are_listed(capsys):
    assert main.run(["explain", "-o", "name"]) == 0
    names = capsys.readouterr().out.split()
    assert {"deadlock", "CREW-110", "NothingRuns", "124"} <= set(names)


def test_an_error_points_at_its_explanation(capsys):
    assert report(NothingRuns("nothing runs here")) == failure.UNREACHABLE
    assert capsys.readouterr().err == "error: nothing runs here\n  try: supervisor explain NothingRuns\n"
