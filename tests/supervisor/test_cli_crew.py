import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jsonschema
import pytest
import yaml

from crewkeeper_supervisor.cli.main import run
from crewkeeper_supervisor.shell.crew_schema import schema
from crewkeeper_supervisor.shell.crewfile import read

RING = "crew: ring\nagents:\n  a: {run: x, may_call: [b]}\n  b: {run: x, replicas: 2, may_call: [a]}\n"


@pytest.fixture
def good(tmp_path: Path) -> Path:
    file = tmp_path / "good.yaml"
    file.write_text(RING)
    return file


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    file = tmp_path / "bad.yaml"
    file.write_text("crew: one\nagents:\n  a: {rn: x}\n")
    return file


class Result(NamedTuple):
    exit_code: int
    stdout: str
    stderr: str


Command = Callable[..., Result]


@pytest.fixture
def supervisor(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs one command line as the entry point does."""

    def command(*arguments: object) -> Result:
        code = run([*map(str, arguments)])
        return Result(code, *capsys.readouterr())

    return command


def test_a_valid_file_is_ok_and_its_warnings_stand_apart(supervisor: Command, good: Path) -> None:
    result = supervisor("crew", "check", good)
    assert result.exit_code == 0
    assert result.stdout == f"{good}: ok: crew ring, 2 agents, 3 instances, 1 warning, 1 note\n"
    assert result.stderr.startswith(f"{good}:3:25: warning: agents.a.may_call: a -> b -> a can close a ring")
    assert "      a: {run: x, may_call: [b]}\n                            ^\n" in result.stderr


def test_an_invalid_file_is_exit_3_and_others_are_still_checked(supervisor: Command, good: Path, bad: Path) -> None:
    result = supervisor("crew", "check", bad, good)
    assert result.exit_code == 3
    assert f"{good}: ok" in result.stdout
    assert str(bad) not in result.stdout
    assert f"{bad}:3:7: error: agents.a.rn: unknown key 'rn'" in result.stderr
    assert f"{bad}: refused, 2 errors" in result.stderr


def test_json_has_everything_on_stdout(supervisor: Command, good: Path, bad: Path, tmp_path: Path) -> None:
    result = supervisor("crew", "check", "-o", "json", good, bad, tmp_path / "none.yaml")
    assert result.exit_code == 3
    assert result.stderr == ""
    told = json.loads(result.stdout)
    assert told["schema_version"] == 1
    first, second, third = told["files"]
    assert (first["ok"], first["crew"], first["agents"], first["instances"]) == (True, "ring", 2, 3)
    assert [warning["code"] for warning in first["warnings"]] == ["CREW-210", "CREW-213"]
    assert (second["ok"], [problem["code"] for problem in second["problems"]]) == (False, ["CREW-111", "CREW-110"])
    assert (third["ok"], third["problems"][0]["code"]) == (False, "CREW-101")


def test_check_without_a_file_is_a_usage_error(supervisor: Command) -> None:
    assert supervisor("crew", "check").exit_code == 2


def test_the_schema_is_printed(supervisor: Command) -> None:
    result = supervisor("crew", "schema")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == schema()


def test_init_writes_a_crew_without_a_warning(supervisor: Command, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "crew"
    result = supervisor("init", folder)
    assert result.exit_code == 0, result.stderr
    assert sorted(path.name for path in folder.iterdir()) == [
        "crew.schema.json",
        "crew.yaml",
        "reviewer.py",
        "writer.py",
    ]
    loaded = read(folder / "crew.yaml")
    assert [*loaded.warnings, *loaded.lint()] == []
    written = json.loads((folder / "crew.schema.json").read_text())
    text = (folder / "crew.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=./crew.schema.json\n")
    jsonschema.validate(yaml.safe_load(text), written)
    for agent in loaded.crew.agents:
        program = folder / agent.run[1]
        tree = ast.parse(program.read_text())
        assert f"Agent('{agent.name}')" in ast.unparse(tree)


def test_init_overwrites_only_when_forced(supervisor: Command, tmp_path: Path) -> None:
    mine = tmp_path / "writer.py"
    mine.write_text("mine")
    result = supervisor("init", tmp_path)
    assert result.exit_code == 1
    assert "writer.py" in result.stderr
    assert "--force" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["writer.py"]
    assert mine.read_text() == "mine"
    assert supervisor("init", tmp_path, "--force").exit_code == 0
    assert mine.read_text() != "mine"


def test_init_says_when_it_cannot_write(supervisor: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = supervisor("init", tmp_path / "file" / "below")
    assert result.exit_code == 1
    assert "cannot write" in result.stderr
