"""Commands that judge how runs are, wait for them and complete their names, on a real server with a deadlock on it."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from looking import INCIDENT, OTHER, RUN, look, state

from crewkeeper_supervisor.cli import failure
from crewkeeper_supervisor.shell import journal

pytestmark = pytest.mark.live
__all__ = ["look", "state"]  # fixtures


# --- check ---


def test_a_run_without_an_owner_and_with_a_deadlock_is_critical(look):
    code, out, _ = look("check", "--timeout", "60s", "-o", "json")
    assert code == failure.FAILED
    checked = json.loads(out)
    assert (checked["level"], checked["word"]) == (2, "CRITICAL")
    texts = [problem["text"] for problem in checked["problems"]]
    assert any("no controller owns it" in text for text in texts)
    assert any(INCIDENT in text for text in texts)
    assert all(problem["fix"].startswith("supervisor ") for problem in checked["problems"])
    assert checked["numbers"]["deadlocks_open"] == 1


def test_a_monitoring_system_gets_one_line_and_its_exit_code(look):
    code, out, _ = look("check", "--timeout", "60s", "--format", "nagios")
    assert code == 2
    assert len(out.splitlines()) == 1
    head, _, numbers = out.strip().partition(" | ")
    assert head.startswith("CREWKEEPER CRITICAL - ")
    assert "deadlocks_open=1" in numbers.split()
    assert look("check", OTHER, "--timeout", "60s", "--format", "nagios")[0] == 0
    assert look("check", "nobody", "--timeout", "60s", "--format", "nagios")[0] == 3


def test_where_nothing_answers_it_is_unknown(look, tmp_path):
    code, out, _ = look("check", "--state", str(tmp_path), "--format", "nagios")
    assert code == 3
    assert out.startswith("CREWKEEPER UNKNOWN - nothing runs here")
    assert look("check", "--state", str(tmp_path))[0] == failure.FAILED


def test_a_deadlock_that_is_young_is_a_warning(look):
    _, out, _ = look("check", "--timeout", "60s", "--deadlock", "365d", "-o", "json")
    (level,) = [each["level"] for each in json.loads(out)["problems"] if INCIDENT in each["text"]]
    assert level == 1


# --- wait ---


def test_what_is_so_already_is_not_waited_for(look):
    code, out, _ = look("wait", "--for", "deadlock", "--timeout", "60s")
    assert (code, out) == (0, f"{RUN}: deadlock {INCIDENT}\n")
    code, out, _ = look("wait", OTHER, "--timeout", "60s", "-o", "json")
    assert (code, json.loads(out)["state"]) == (0, "done")


def test_what_is_not_so_in_time_is_exit_code_124(look):
    code, out, err = look("wait", "--for", "done", "--timeout", "100ms")
    assert (code, out) == (failure.TIMED_OUT, "")
    assert "not done within 0.1 s" in err


def test_what_was_so_in_the_past_is_not_what_is_asked_for(look, monkeypatch):
    """The journal comes in parts: after the first of them there is no deadlock yet."""
    whole = journal.follow

    class InParts:
        def __init__(self, link, run):
            self.entries = whole(link, run)
            self.left = []

        async def __aenter__(self):
            await self.entries.__aenter__()
            return self

        async def __aexit__(self, *how):
            return await self.entries.__aexit__(*how)

        async def batch(self, timeout_s):
            self.left = self.left or await self.entries.batch(timeout_s=timeout_s)
            part, self.left = self.left[:1], self.left[1:]
            return part

        @property
        def caught_up(self):
            return not self.left and self.entries.caught_up

    monkeypatch.setattr(journal, "follow", InParts)
    assert look("wait", "--for", "deadlock-free", "--timeout", "500ms")[0] == failure.TIMED_OUT


def test_what_cannot_be_so_any_more_fails(look):
    code, out, _ = look("wait", OTHER, "--for", "deadlock", "--timeout", "60s")
    assert code == failure.FAILED
    assert "the run is over (done)" in out


# --- completion ---


def completed(state, words, **environment):
    """What a shell is offered for the last of these words."""
    shell = {"_SUPERVISOR_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    done = subprocess.run(
        [sys.executable, "-m", "crewkeeper_supervisor.cli.main"],
        env={"PATH": os.defpath, "PYTHONPATH": ":".join(sys.path), "CREWKEEPER_STATE": str(state)}
        | shell
        | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stderr == ""
    return {line.partition(",")[2] for line in done.stdout.splitlines() if line}


def test_names_are_completed_as_they_are_now(state, monkeypatch):
    from crewkeeper_supervisor.cli import live_values

    # In this process, so that a slow machine may take its time.
    monkeypatch.setattr(live_values, "LIMIT_S", 60.0)
    monkeypatch.setenv("CREWKEEPER_STATE", str(state))
    monkeypatch.setenv("_SUPERVISOR_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_CWORD", "3")
    from click.shell_completion import BashComplete

    from crewkeeper_supervisor.cli.main import cli

    def offered(*words):
        found = BashComplete(cli, {}, "supervisor", "_SUPERVISOR_COMPLETE").get_completions(list(words[:-1]), words[-1])
        return {item.value for item in found}

    assert offered("graph", "tr") == {RUN}
    assert {"planner", "reviewer", RUN} <= offered("agent", "kill", "")
    assert offered("agent", "kill", RUN, "rev") == {"reviewer"}
    assert offered("incidents", "show", "F") == {INCIDENT}
    assert {"planner", RUN} <= offered("why", "")
    assert offered("budget", "top-up", "tr") == {RUN}
    assert offered("explain", "would") == {"would_deadlock"}
    assert "--format" in offered("check", "--f")
    assert offered("incidents", "resolve", "F") == {INCIDENT}
    assert "deadlock" in offered("events", "--type", "de")
    assert offered("events", "--type", "reque") == {"Request"}
    assert offered("agent", "pause", "--with", "rev") == {"reviewer"}
    assert offered("explain", "--family", "fin") == {"finding"}
    assert offered("cheat", "be") == {"begin"}
    assert offered("drain", "") == set(), "no controller serves here"


def test_where_nothing_runs_nothing_is_offered_and_nothing_said(tmp_path):
    assert completed(tmp_path, "supervisor graph t") == set()
    assert completed(tmp_path, "supervisor graph t", CREWKEEPER_NATS_URL="nats://127.0.0.1:9") == set()


# --- one page of a run ---


def test_a_run_is_described_on_one_page(look):
    code, out, _ = look("crew", "describe", RUN)
    assert code == 0
    assert out.startswith(f"run {RUN}\n")
    assert "nobody: it is not supervised" in out
    assert INCIDENT in out
    for title in ("Agents", "Waits", "Incidents", "Events"):
        assert f"\n{title}\n" in out
    assert look("crew", "describe", RUN, "-o", "name")[1] == f"{RUN}\n"
    assert json.loads(look("crew", "describe", RUN, "-o", "json")[1])["run"]["run"] == RUN
    assert look("crew", "ls", "-o", "name")[1] == look("ps", "-o", "name")[1]


# --- everything that lists, in every format ---


@pytest.mark.parametrize("form", ["table", "wide", "json", "jsonl", "yaml", "name", "text"])
@pytest.mark.parametrize(
    "words",
    [
        ("ps",),
        ("crew", "describe"),
        ("top",),
        ("agent", "ls"),
        ("agent", "describe", "planner"),
        ("graph",),
        ("events",),
        ("timeline",),
        ("incidents", "ls"),
        ("incidents", "show", INCIDENT),
        ("why", INCIDENT),
        ("responses",),
        ("budget", "show"),
        ("approvals", "ls"),
        ("questions", "ls"),
        ("policy", "show"),
        ("check", "--timeout", "60s"),
    ],
    ids=" ".join,
)
def test_every_look_has_every_format(look, words, form):
    code, out, err = look(*words, "-o", form)
    assert code == (failure.FAILED if words[0] == "check" else 0), err
    assert "\x1b" not in out
    match form:
        case "json":
            assert isinstance(json.loads(out), dict)
        case "jsonl":
            assert all(isinstance(json.loads(line), dict) for line in out.splitlines())
        case "yaml":
            assert isinstance(yaml.safe_load(out), dict)
        case "name":
            assert all(line and " " not in line.strip() for line in out.splitlines())
