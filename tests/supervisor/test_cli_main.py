"""The command tree: quick help, exit codes, errors that name a remedy and never a traceback."""

import json
import subprocess
import sys

import click
import pytest

from crewkeeper_bus import errors as bus_errors
from crewkeeper_supervisor.cli import failure, main
from crewkeeper_supervisor.cli.failure import Failure, report
from crewkeeper_supervisor.shell import crew_problems
from crewkeeper_supervisor.shell import errors as shell_errors

HEAVY = {"nats", "rich", "networkx", "yaml", "httpx2", "anyio", "msgspec", "structlog", "standardwebhooks"}


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("CREWKEEPER_STATE", "CREWKEEPER_NATS_URL", "CREWKEEPER_DEBUG", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


def test_help_loads_nothing_but_click():
    program = (
        "import sys\n"
        "from crewkeeper_supervisor.cli.main import run\n"
        "code = run(['--help'])\n"
        "print('LOADED', code, sorted({name.partition('.')[0] for name in sys.modules}))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    head, _, loaded = done.stdout.partition("LOADED ")
    assert "Usage: supervisor" in head
    assert loaded.startswith("0 ")
    assert not {name for name in HEAVY if f"'{name}'" in loaded}
    assert "'click'" in loaded


def test_without_what_it_needs_it_says_what_to_install():
    program = "import sys; sys.modules['click'] = None; import crewkeeper_supervisor.cli.main"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "pip install 'crewkeeper[supervisor]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [[], ["agent"]])
def test_a_group_without_a_command_shows_its_help(words, capsys):
    assert main.run(words) == failure.USAGE
    err = capsys.readouterr().err
    assert err.startswith("Usage: supervisor")
    assert "error:" not in err


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_is_there_and_says_what_the_list_says(name, capsys):
    command = main.cli.get_command(click.Context(main.cli), name)
    assert command is not None
    first = (command.help or "").split("\n\n")[0].replace("\n", " ").strip()
    assert first == main.COMMANDS[name][1]
    assert main.run([name, "--help"]) == 0
    assert f"Usage: supervisor {name}" in capsys.readouterr().out


def test_a_mistyped_command_gets_near_names(capsys):
    assert main.run(["incidnets"]) == failure.USAGE
    assert "did you mean 'incidents'" in capsys.readouterr().err


def test_a_usage_error_points_at_the_help(capsys):
    assert main.run(["ps", "--no-such-option"]) == failure.USAGE
    err = capsys.readouterr().err
    assert "error: No such option" in err
    assert "try: supervisor ps --help" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["ps"],
        ["graph"],
        ["graph", "--watch"],
        ["events", "-f"],
        ["incidents", "ls"],
        ["agent", "ls"],
        ["agent", "kill", "planner", "--yes"],
        ["agent", "logs", "planner"],
        ["questions", "ls"],
    ],
)
def test_where_nothing_runs_the_exit_code_is_4(arguments, capsys):
    assert main.run(arguments) == failure.UNREACHABLE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: nothing runs here")
    assert "supervisor up crew.yaml" in captured.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Failure("no", code=failure.NOT_FOUND, remedy="look"), 5),
        (shell_errors.NothingRuns("x"), 4),
        (shell_errors.StoreUnavailable("x"), 4),
        (shell_errors.RunNotFound("x"), 5),
        (shell_errors.RunAmbiguous("x"), 2),
        (shell_errors.SettingMissing("x", name="X"), 3),
        (shell_errors.JournalGap("x", first=1, last=2), 1),
        (shell_errors.ShellError("x"), 1),
        (crew_problems.CrewFileError([]), 3),
        (bus_errors.ConnectionLost("x"), 4),
        (bus_errors.ServerError("x"), 4),
        (bus_errors.Timeout("x"), 124),
        (TimeoutError(), 124),
        (bus_errors.BusError("x"), 1),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
        (SystemExit(3), 3),
        (ExceptionGroup("g", [ExceptionGroup("h", [shell_errors.NothingRuns("x")])]), 4),
        (PermissionError(13, "Permission denied", "/x"), 1),
        (RuntimeError("surprise"), 1),
    ],
)
def test_errors_have_their_exit_codes_and_no_traceback(error, code, capsys):
    assert report(error) == code
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert err.strip() not in ("error:", "error: :") or isinstance(error, SystemExit)


def test_the_remedy_is_on_its_own_line(capsys):
    report(Failure("the run is not there", remedy="supervisor ps"))
    assert capsys.readouterr().err == "error: the run is not there\n  try: supervisor ps\n"


def test_an_unexpected_error_is_raised_only_for_debugging(monkeypatch):
    monkeypatch.setenv("CREWKEEPER_DEBUG", "1")
    with pytest.raises(shell_errors.NothingRuns):
        main.run(["ps"])


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell, capsys):
    assert main.run(["completion", shell]) == 0
    assert "_SUPERVISOR_COMPLETE" in capsys.readouterr().out


def test_completion_completes():
    environment = {"_SUPERVISOR_COMPLETE": "bash_complete", "COMP_WORDS": "supervisor inc", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "crewkeeper_supervisor.cli.main"],
        env={"PATH": "/usr/bin", "PYTHONPATH": ":".join(sys.path), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "incidents" in done.stdout


def test_version(capsys):
    assert main.run(["version", "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema_version"] == 1
    assert found["nats_server"].startswith("2.")
    assert main.run(["version"]) == 0
    assert capsys.readouterr().out.startswith("crewkeeper ")


def test_no_color_reaches_children(monkeypatch):
    import os

    monkeypatch.setenv("NO_COLOR", "")
    main.run(["--no-color", "version"])
    assert os.environ["NO_COLOR"] == "1"


def test_a_crew_file_is_no_scenario_to_run(tmp_path, capsys):
    crew, scenario = tmp_path / "crew.yaml", tmp_path / "mine.yaml"
    crew.write_text("# mine\ncrew: trip\nagents: {}\n")
    scenario.write_text("v: 1\nid: mine\ncrew: {budget: {}}\n")
    assert main.run(["run", str(crew)]) == failure.USAGE
    assert f"try: supervisor up {crew}" in capsys.readouterr().err
    assert main.run(["run", str(scenario)]) == 2
    assert "[SCN-1" in capsys.readouterr().err, "it is read as what it is"
