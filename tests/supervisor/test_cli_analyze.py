"""`supervisor analyze waits`: one line for each case, in order, or every problem and nothing else."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from crewkeeper_supervisor.cli.main import run

ROOT = Path(__file__).parents[2]
CASES: list[dict[str, Any]] = json.loads((ROOT / "tests" / "data" / "wait_cases.json").read_bytes())["cases"]
EXPECTED = [{"id": case["id"], **case["expect"]} for case in CASES]


def written(tmp_path: Path, content: Any) -> Path:
    file = tmp_path / "cases.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


@pytest.mark.parametrize("options", [[], ["-o", "json"], ["-o", "jsonl"]], ids=["piped", "json", "jsonl"])
@pytest.mark.parametrize("bare", [False, True], ids=["format", "list"])
def test_every_case_gets_its_line_in_order(tmp_path, capsys, options, bare):
    file = written(tmp_path, CASES if bare else {"format": 1, "cases": CASES})
    assert run(["analyze", "waits", str(file), *options]) == 0
    captured = capsys.readouterr()
    assert [json.loads(line) for line in captured.out.splitlines()] == EXPECTED
    assert captured.err == ""


def test_a_file_may_hold_one_case_and_no_expectation(tmp_path, capsys):
    case = {key: value for key, value in CASES[0].items() if key in ("id", "agents", "events")}
    assert run(["analyze", "waits", str(written(tmp_path, case))]) == 0
    assert json.loads(capsys.readouterr().out) == EXPECTED[0]


def test_the_session_on_the_page_is_what_is_printed(tmp_path, capsys, monkeypatch):
    text = (ROOT / "docs" / "wait-cases.md").read_text()
    (example,) = re.findall(r"^```json\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (tmp_path / "ring.json").write_text(example)
    broken = json.loads(example)
    broken["id"], broken["agents"]["Carla"], broken["events"][3]["to"] = "X02", {}, "Carl"
    (tmp_path / "torn.json").write_text(json.dumps(broken))
    monkeypatch.chdir(tmp_path)
    (session,) = re.findall(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    told = ""
    for command in re.findall(r"^\$ supervisor (.*)$", session, re.MULTILINE):
        run(command.split())
        captured = capsys.readouterr()
        told += f"$ supervisor {command}\n{captured.out}{captured.err}"
    assert told == session


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"cases": [', "is not JSON"),
        ("7", "holds neither cases nor a case"),
        ({"format": 2, "cases": []}, "format: 2"),
        ({"cases": {}}, "cases: is no list"),
        ([5], "case '#0': case: 5: is no object"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_what_cannot_be_judged_is_refused(tmp_path, capsys, content, said):
    assert run(["analyze", "waits", str(written(tmp_path, content))]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err


def test_one_bad_case_keeps_all_from_being_judged(tmp_path, capsys):
    bad = {**CASES[1], "events": [{"e": "task", "task": "a", "agent": "Z"}, {"e": "nod"}]}
    assert run(["analyze", "waits", str(written(tmp_path, [CASES[0], bad]))]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "case 'A02', event 1: e: 'nod'" in captured.err


def test_a_file_that_is_not_there_is_named(tmp_path, capsys):
    assert run(["analyze", "waits", str(tmp_path / "none.json")]) == 3
    assert "none.json: cannot be read" in capsys.readouterr().err


def test_hostile_names_reach_no_terminal(tmp_path, capsys):
    case = {"id": "\x1b[31m", "agents": {}, "events": []}
    for output in ("json", "table"):
        assert run(["analyze", "waits", str(written(tmp_path, case)), "-o", output]) == 0
        assert "\x1b" not in capsys.readouterr().out
