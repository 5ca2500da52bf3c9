"""The outcome of a request is what the journal shows, and nothing else."""

import msgspec
import pytest
from told_runs import Telling, crew

from crewkeeper_bus import messages as m
from crewkeeper_bus.subjects import HOST, Kind
from crewkeeper_supervisor.cli.asking import Judge, ended_before, operator
from crewkeeper_supervisor.core.crew import Agent
from crewkeeper_supervisor.views.story import Story


class Case:
    """A request in a run of three agents and one that was started elsewhere, judged entry by entry."""

    def __init__(self, action="kill", agent="planner", ask=True, power="full", peer="", grace_s=None):
        agents = (*crew().agents, Agent(name="guest", external=True))
        self.telling = Telling(power=power)
        self.telling.declare(crew(agents=agents))
        self.telling.join("planner", "reviewer", "executor")
        self.telling.note("guest", m.Joined, role="guest")
        self.telling.carry_out()
        self.agent = agent
        self.story = Story(self.telling.run)
        self.judge = Judge(self.story.fold.supervisor, action, agent, "ask1", peer=peer)
        self.catch_up()
        if ask:
            asked = m.OperatorAsked(action=action, agent=agent, peer=peer, by="ann", grace_s=grace_s)
            self.telling.op(asked, id_="ask1")
            self.telling.carry_out()

    def catch_up(self):
        for entry in self.telling.entries[self.story.fold.supervisor.seq :]:
            event, lines = self.story.feed(entry)
            self.judge.see(event, lines[0].text if lines else "")

    def verdict(self):
        self.catch_up()
        return self.judge.verdict()[0]

    def pass_s(self, seconds):
        self.telling.wait_s(seconds)
        self.telling.op(m.Tick())
        self.telling.carry_out()

    def exit(self, restart=False):
        self.telling.op(m.ProcessExited(agent=self.agent, pid=4000, code=-15, restart=restart), HOST)
        self.telling.carry_out()

    def talk(self):
        body = msgspec.Raw(b"1")
        self.telling.agent(self.agent, Kind.MSG, m.Message, {"task": "t", "body": body}, "reviewer")
        self.telling.carry_out()


def test_a_request_that_the_journal_did_not_take():
    case = Case(ask=False)
    case.exit()
    assert case.verdict() == "unknown"
    assert "not taken" in case.judge.verdict()[1]


def test_silence_alone_is_unknown():
    case = Case()
    assert case.verdict() == "unknown"
    assert not case.judge.decided


def test_termination_is_the_end_of_the_process_being_shut_out_and_silence():
    case = Case()
    case.talk()
    case.exit()
    assert case.verdict() == "unknown"
    case.pass_s(0.35)
    assert case.verdict() == "terminated"
    result = case.judge.result("trip-000001")
    assert result.ok
    assert [proof.text for proof in result.evidence] == [
        "ann asks to kill planner",
        "asks planner to stop: asked by ann",
        "asks the host to end planner's process",
        "planner's process was terminated",
        "the server shuts planner out (1 connections closed)",
    ]


def test_what_is_asked_again_is_answered_from_what_is_known():
    case = Case()
    assert ended_before(case.story, "planner") is None
    case.exit()
    case.pass_s(0.35)
    case.catch_up()
    before = ended_before(case.story, "planner")
    assert (before.outcome, before.ok, len(before.evidence)) == ("terminated", True, 2)


def test_the_end_of_another_process_is_not():
    case = Case(grace_s=1)
    case.telling.op(m.ProcessExited(agent="reviewer", pid=4001), HOST)
    case.pass_s(2)
    case.pass_s(2)
    assert case.verdict() == "unknown"


def test_a_process_that_is_started_again_is_not_terminated():
    case = Case(grace_s=1)
    case.pass_s(1.1)
    case.exit(restart=True)
    case.telling.op(m.ProcessStarted(agent="planner", pid=5000, restarts=1), HOST)
    case.telling.carry_out()
    case.pass_s(1)
    assert case.verdict() == "unknown"
    assert "not reported the end" in case.judge.result("r").why or "not complete" in case.judge.result("r").why


def test_its_word_that_it_leaves_is_no_proof_where_a_host_runs_it():
    case = Case()
    case.telling.note("planner", m.Left, why="stopped")
    case.telling.carry_out()
    case.pass_s(1)
    assert case.verdict() == "unknown"
    case.pass_s(10)
    assert case.verdict() == "unknown"
    assert "its host has not reported" in case.judge.verdict()[1]


def test_an_agent_without_a_process_is_terminated_when_the_server_has_shut_it_out():
    case = Case(agent="guest", grace_s=1)
    case.talk()
    case.pass_s(1.1)
    assert case.verdict() == "unknown"
    case.pass_s(0.35)
    assert case.verdict() == "terminated"


def test_without_power_over_the_server_nothing_proves_that_a_guest_is_gone():
    case = Case(agent="guest", grace_s=1, power="none")
    case.telling.note("guest", m.Left, why="stopped")
    case.telling.carry_out()
    case.pass_s(20)
    case.pass_s(20)
    assert case.verdict() == "unknown"
    assert case.judge.result("r").why.startswith("it says that it left, but nobody")


def test_one_that_talks_after_it_was_shut_out_is_still_talking():
    case = Case(grace_s=1)
    case.talk()
    assert case.verdict() == "unknown"
    case.pass_s(1.1)
    case.talk()
    assert case.verdict() == "still_talking"
    result = case.judge.result("r")
    assert not result.ok
    assert result.evidence[-1].text == "planner tells reviewer something"


@pytest.mark.parametrize(("action", "state"), [("pause", "paused"), ("resume", "running")])
def test_pause_and_resume_are_what_the_agent_reports(action, state):
    case = Case("pause")
    assert case.verdict() == "unknown"
    case.telling.note("planner", m.Standing, state="paused")
    assert case.verdict() == "paused"
    if action == "resume":
        case.judge = Judge(case.story.fold.supervisor, "resume", "planner", "ask2")
        case.telling.op(m.OperatorAsked(action="resume", agent="planner", by="ann"), id_="ask2")
        assert case.verdict() == "unknown"
        case.telling.carry_out()
        assert case.verdict() == "unknown"
        case.telling.note("planner", m.Standing, state="running")
        assert case.verdict() == state
    assert case.judge.decided


def test_one_that_does_not_obey_is_paused_when_the_server_holds_it():
    case = Case("pause", grace_s=1)
    case.pass_s(0.5)
    assert case.verdict() == "unknown"
    case.pass_s(0.6)
    assert case.verdict() == "paused"
    assert "the server holds it" in case.judge.verdict()[1]


def test_one_that_does_not_obey_is_not_paused_where_nobody_can_hold_it():
    case = Case("pause", grace_s=1, power="none")
    case.pass_s(1.1)
    case.pass_s(1.1)
    assert case.verdict() == "unknown"
    assert "nobody has power" in case.judge.verdict()[1]


def test_one_that_was_not_paused_is_running_as_soon_as_it_is_let_go():
    case = Case("resume", ask=False)
    case.telling.op(m.OperatorAsked(action="resume", agent="planner"), id_="ask1")
    assert case.verdict() == "unknown"
    case.telling.carry_out()
    assert case.verdict() == "running"


def test_two_are_held_apart_when_the_server_says_so():
    case = Case("pause", peer="reviewer")
    assert case.verdict() == "paused"
    assert case.judge.result("r").peer == "reviewer"
    case = Case("pause", peer="reviewer", power="none")
    assert case.verdict() == "unknown"


def test_who_asks_is_a_person_at_a_machine():
    assert "@" in operator()
