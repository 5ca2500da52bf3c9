"""The outcome of a request is what the journal shows, and nothing else."""

import msgspec
import pytest
from told_runs import Telling

from crewkeeper_bus import messages as m
from crewkeeper_bus.subjects import HOST, Kind
from crewkeeper_supervisor.cli.asking import Judge, operator
from crewkeeper_supervisor.views.story import Story


class Case:
    """A request in a run of three agents, judged entry by entry."""

    def __init__(self, action="kill", has_process=True, ask=True, paused=False):
        self.telling = Telling()
        self.telling.declare()
        self.telling.join("planner", "reviewer", "executor")
        self.judge = Judge(action, "planner", "ask1", has_process=has_process, paused=paused, grace_s=5.0)
        self.story = Story(self.telling.run)
        self.catch_up()
        if ask:
            self.telling.op(m.OperatorAsked(action=action, agent="planner", by="ann"), id_="ask1")
            self.catch_up()

    def catch_up(self):
        for entry in self.telling.entries[self.story.fold.supervisor.seq :]:
            event, lines = self.story.feed(entry)
            self.judge.see(event, lines[0].text)

    def verdict(self):
        self.catch_up()
        return self.judge.verdict()[0]

    def exit(self, restart=False):
        self.telling.op(m.ProcessExited(agent="planner", pid=4000, code=-15, restart=restart), HOST)

    def talk(self):
        body = msgspec.Raw(b"1")
        self.telling.agent("planner", Kind.MSG, m.Message, {"task": "t", "body": body}, "reviewer")


def test_a_request_that_the_journal_did_not_take():
    case = Case(ask=False)
    case.exit()
    assert case.verdict() == "unknown"
    assert "not taken" in case.judge.verdict()[1]


def test_silence_is_unknown():
    case = Case()
    assert case.verdict() == "unknown"
    assert not case.judge.decided


def test_the_end_of_the_process_is_termination():
    case = Case()
    case.talk()
    case.exit()
    assert case.verdict() == "terminated"
    result = case.judge.result("trip-000001")
    assert result.ok
    assert [proof.text for proof in result.evidence] == ["ann asks to kill planner", "planner's process was terminated"]


def test_the_end_of_another_process_is_not():
    case = Case()
    case.telling.op(m.ProcessExited(agent="reviewer", pid=4001), HOST)
    assert case.verdict() == "unknown"


def test_a_process_that_is_started_again_is_not_terminated():
    case = Case()
    case.exit(restart=True)
    assert case.verdict() == "unknown"
    case.exit()
    assert case.verdict() == "terminated"
    case.telling.op(m.ProcessStarted(agent="planner", pid=5000, restarts=1), HOST)
    assert case.verdict() == "unknown"


def test_its_word_that_it_leaves_is_no_proof_where_a_host_runs_it():
    case = Case()
    case.telling.note("planner", m.Left, why="stopped")
    assert case.verdict() == "unknown"
    assert "its host has not reported" in case.judge.verdict()[1]


def test_an_external_agent_is_terminated_when_it_has_left():
    case = Case(has_process=False)
    case.telling.note("planner", m.Left, why="stopped")
    assert case.verdict() == "terminated"
    case.talk()
    assert case.verdict() == "unknown"


def test_one_that_talks_after_its_grace_is_still_talking():
    case = Case()
    case.talk()
    assert case.verdict() == "unknown"
    case.telling.wait_s(6)
    case.talk()
    assert case.verdict() == "still_talking"
    result = case.judge.result("r")
    assert not result.ok
    assert result.evidence[-1].text == "planner tells reviewer something"


@pytest.mark.parametrize(("action", "state"), [("pause", "paused"), ("resume", "running")])
def test_pause_and_resume_are_what_the_agent_reports(action, state):
    case = Case(action)
    assert case.verdict() == "unknown"
    other = "running" if state == "paused" else "paused"
    case.telling.note("planner", m.Standing, state=other)
    assert case.verdict() == "unknown"
    case.telling.note("planner", m.Standing, state=state)
    assert case.verdict() == state
    assert case.judge.decided


def test_one_that_was_not_paused_is_running_as_soon_as_it_is_let_go():
    case = Case("resume")
    case.telling.carry_out()
    assert case.verdict() == "running"
    assert case.judge.verdict()[1] == "it was not paused"


def test_one_that_is_paused_already_needs_no_new_report():
    case = Case("pause", paused=True)
    assert case.verdict() == "paused"
    case = Case("resume", paused=True)
    case.telling.carry_out()
    assert case.verdict() == "unknown"


def test_who_asks_is_a_person_at_a_machine():
    assert "@" in operator()
