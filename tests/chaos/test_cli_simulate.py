"""`supervisor simulate`: exit codes, output, mutations, seeds kept."""

import json
from pathlib import Path

import pytest

from crewkeeper_supervisor.cli.main import run


def test_a_clean_sweep_says_what_it_saw(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", "--seeds", "0..1", "--events", "300"]) == 0
    out = capsys.readouterr().out
    assert "2 seeds" in out
    assert "0 failed" in out
    assert "deadlock reported" in out


def test_json_has_the_counts_and_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", "--seeds", "3", "--events", "200", "--agents", "3", "-o", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["ok"], document["seeds"], document["options"]["agents"]) == (True, 1, 3)
    assert document["failures"] == []


def test_a_mutation_fails_and_its_seed_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["simulate", "--seeds", "0..9", "--events", "300", "--mutate", "slots-collapsed"]
    assert run([*command, "--shrink", "--keep", str(tmp_path)]) == 1
    assert " 0 failed" not in capsys.readouterr().out
    assert len(list(tmp_path.glob("*.json"))) == 1


def test_mutations_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", "--mutate", "list"]) == 0
    assert "no-confirmation" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--seeds", "5..1"], ["--seeds", "x"], ["--mutate", "none"], ["--agents", "0"]])
def test_usage_errors(arguments: list[str]) -> None:
    assert run(["simulate", *arguments]) == 2
