"""What a run on somebody's own crew says where its fault has tried nothing, and how the fault is aimed."""

import json
from pathlib import Path
from typing import Any

import pytest

from crewkeeper_supervisor.chaos.plan.library import FIRST
from crewkeeper_supervisor.chaos.plan.scenario import parse
from crewkeeper_supervisor.chaos.real.agent_logs import last_words
from crewkeeper_supervisor.chaos.trial.advice import advice
from crewkeeper_supervisor.chaos.trial.events import Sighting
from crewkeeper_supervisor.chaos.trial.runner import run_sim
from crewkeeper_supervisor.chaos.trial.told import lines
from crewkeeper_supervisor.chaos.trial.verdict import Observed, Struck
from crewkeeper_supervisor.cli.main import run


def told(**events: dict[str, Any]) -> str:
    seen = [Sighting(at_s=fields.pop("at_s"), event=event, fields=fields) for event, fields in events.items()]
    struck = [Struck(index=0, do="kill", target="ann", at_s=3.0)]
    observed = Observed(seen=seen, anchors={}, struck=struck, metrics=[], unsteady=[], unhealed=[], spans=[], end_s=9.0)
    return advice(observed)[0]


def test_a_fault_that_came_when_the_crew_was_over_says_when_it_was() -> None:
    said = told(run_ended={"at_s": 1.2, "state": "done"})
    assert said.startswith("Nothing was tried: the crew was over 1.2 s after it began, and kill came at 3.0 s. ")
    assert "--at 0.3" in said


def test_a_fault_of_somebody_who_had_gone_names_them() -> None:
    said = told(exited={"at_s": 2.0, "agent": "ann", "code": 0, "restart": False})
    assert said.startswith("Nothing was tried: ann had ended 2.0 s after the crew began")
    assert "--target" in said


def test_any_other_fault_that_hit_nothing_says_so() -> None:
    assert told(done={"at_s": 2.0, "agent": "bob"}).startswith("kill hit nothing: ann")


def test_a_fault_that_something_was_in_the_way_of_is_told_of_by_the_verdict() -> None:
    fired = Struck(index=1, do="tool_fails", target="pay", at_s=0.5, fired=2)
    nothing = {"anchors": {}, "seen": [], "metrics": [], "unsteady": [], "unhealed": [], "spans": [], "end_s": 9.0}
    for missed in (
        Struck(index=0, do="kill_leader", target="nats", at_s=1.0, why="no server answers"),
        Struck(index=0, do="tool_hangs", target="pay", at_s=1.0),
    ):
        assert not [each for each in advice(Observed(**nothing, struck=[fired, missed])) if missed.do in each]


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ('{"event": "agent.began"}\n', ""),
        ('starting up\n{"event": "agent.began"}\n\n', "starting up"),
        ('{"exception": "Traceback\\n  File\\nValueError: no key"}\nbye\n', "ValueError: no key"),
        ("", ""),
    ],
)
def test_the_last_words_of_an_agent_are_its_error_or_its_own(tmp_path: Path, log: str, said: str) -> None:
    (tmp_path / "log").write_text(log)
    assert last_words(tmp_path / "log") == said
    assert last_words(tmp_path / "none") == ""


@pytest.mark.parametrize("own_crew", [True, False])
def test_what_a_team_should_know_is_said_of_its_own_crew_or_of_what_went_wrong(own_crew: bool) -> None:
    result = run_sim(parse(FIRST.format(id="x").encode(), "x.yaml"), [0])
    result.mode = "real"
    told = "\n".join(lines(result, own_crew=own_crew))
    assert ("Found: deadlock, over after" in told) is own_crew
    result.verdict = "fail"
    assert "Found: deadlock, over after" in "\n".join(lines(result))


@pytest.mark.parametrize("options", [["--at", "1"], ["--target", "agent:a"]])
def test_aiming_needs_a_crew_of_ones_own(
    tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.yaml").write_text(FIRST.format(id="x"))
    assert run(["chaos", "run", str(tmp_path / "x.yaml"), *options]) == 2
    assert "--crew" in capsys.readouterr().err


def test_a_target_that_is_not_in_the_crew_is_refused_with_those_who_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.yaml").write_text(FIRST.format(id="x"))
    (tmp_path / "crew.yaml").write_text(json.dumps({"crew": "mine", "agents": {"ann": {"run": "true"}}}))
    command = ["chaos", "run", str(tmp_path / "x.yaml"), "--crew", str(tmp_path / "crew.yaml")]
    assert run([*command, "--target", "agent:bob"]) == 2
    assert "use agent: and one of ann, any, all" in capsys.readouterr().err
