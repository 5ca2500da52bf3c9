"""An ending is never called done without its proof, whatever is reported and heard, in whatever order."""

from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from crewkeeper_bus import messages as m
from crewkeeper_bus.subjects import HOST
from crewkeeper_supervisor.core.crew import Agent, Crew
from crewkeeper_supervisor.core.ending import SILENT_S
from support.core_checks import check
from support.journal import Journal, fold

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
CREW = Crew(
    name="c", agents=(Agent(name="a", run=("x",)), Agent(name="out", external=True), Agent(name="b", run=("x",)))
)

steps = st.lists(
    st.one_of(
        st.tuples(st.just("tick"), st.sampled_from((0.01, 0.1, 0.31, 1.0, 4.0, 20.0))),
        st.tuples(st.just("kill"), st.sampled_from((0.0, 1.0, None))),
        st.tuples(st.just("pause"), st.sampled_from((0.0, 1.0))),
        st.tuples(st.just("server"), st.sampled_from(("obeys", "fails", "silent", "absent"))),
        st.tuples(st.sampled_from(("exit", "start", "speak", "join", "leave", "stand", "resume", "stray", "refused"))),
    ),
    min_size=1,
    max_size=40,
)


class Play:
    """One agent to whom everything happens, and what was seen of it."""

    def __init__(self, agent: str) -> None:
        self.agent = agent
        self.journal = Journal(CREW)
        self.journal.start()
        self.journal.task("b", "main", name="main")
        self.runs = agent == "a"
        self.heard_s = self.exited_s = 0.0

    def take(self, step: tuple[Any, ...]) -> None:
        journal, agent = self.journal, self.agent
        match step:
            case ("tick", after_s):
                journal.tick(after_s)
            case ("kill", grace_s):
                journal.op(m.OperatorAsked(action="kill", agent=agent, grace_s=grace_s))
            case ("pause", grace_s):
                journal.op(m.OperatorAsked(action="pause", agent=agent, grace_s=grace_s))
            case ("resume",):
                journal.op(m.OperatorAsked(action="resume", agent=agent))
            case ("server", how):
                journal.server = how
            case ("exit",) if agent == "a":
                pid = journal.core.agents[agent].pid
                journal.op(m.ProcessExited(agent=agent, pid=pid, code=-9), sender=HOST)
                self.runs, self.exited_s = False, journal.now_s
            case ("start",) if agent == "a":
                journal.op(m.ProcessStarted(agent=agent, pid=500), sender=HOST)
                self.runs = True
            case ("refused",):
                journal.op(m.Violation(agent=agent, what="login_refused", count=3))
            case ("stray",):
                journal.store(f"crew.r1.note.{agent}._.x", b"no message")
                self.heard_s = journal.now_s
            case ("speak",):
                journal.say(agent, m.Progress, task="t", text="hello")
                self.heard_s = journal.now_s
            case ("join",):
                journal.join(agent)
                self.heard_s = journal.now_s
            case ("leave",):
                journal.say(agent, m.Left)
                self.heard_s = journal.now_s
            case ("stand",):
                journal.say(agent, m.Standing, state="paused")
                self.heard_s = journal.now_s

    def verify(self, before: str) -> str:
        """What must hold now; returns the outcome."""
        check(self.journal.core)
        view = self.journal.core.agents[self.agent]
        if view.ending is None:
            return ""
        if view.ending.outcome == "terminated" != before:
            now_s = self.journal.now_s
            assert not self.runs, "its process runs"
            assert view.ending.shut_seq or (not view.ending.enforced and not view.external), "it was not shut out"
            if view.ending.shut_seq:
                quiet_s = now_s - max(view.ending.shut_at_s, self.exited_s)
                assert quiet_s >= SILENT_S - 1e-6, "too soon"
            if view.ending.heard_seq:
                assert now_s - self.heard_s >= SILENT_S - 1e-6, "it was heard just now"
        if view.ending.shut_seq:
            assert not view.present, "what is shut out is not there"
        return view.ending.outcome


@QUICK
@given(st.sampled_from(("a", "out")), steps)
@example(
    "out", [("kill", 0.0), ("server", "fails"), ("kill", 0.0), ("server", "obeys"), ("tick", 1.0)]
)  # one order failed
def test_nothing_is_called_terminated_without_its_proof(agent: str, taken: list[tuple[Any, ...]]) -> None:
    play = Play(agent)
    outcome = ""
    for step in taken:
        play.take(step)
        outcome = play.verify(outcome)
    core, commands = fold(play.journal.entries, peek=True)
    assert commands == play.journal.commands
    assert core.digest() == play.journal.core.digest()


@QUICK
@given(steps)
def test_an_obedient_world_comes_to_an_end(taken: list[tuple[Any, ...]]) -> None:
    play = Play("a")
    for step in taken:
        play.take(step)
    play.take(("server", "obeys"))
    play.take(("kill", 0.0))
    play.take(("exit",))
    for after_s in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 0.5, 0.5):
        play.take(("tick", after_s))
        play.take(("kill", 0.0))
    ending = play.journal.core.agents["a"].ending
    assert ending is not None
    assert ending.outcome == "terminated", ending
