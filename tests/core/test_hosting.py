"""Agents are given to hosts by a rule that can be foreseen, and lost ones come back once, if at all, after a cut."""

from typing import Any

import msgspec
import pytest

from crewkeeper_bus import messages as m
from crewkeeper_bus.subjects import HOST, TOOLS
from crewkeeper_supervisor.core.commands import AskHost, Command, EndRun, SetAccess
from crewkeeper_supervisor.core.crew import Agent, Crew, Restart
from crewkeeper_supervisor.core.hosting_state import Host, Place
from crewkeeper_supervisor.core.placement import Candidate, choose
from crewkeeper_supervisor.core.tools import Tool
from crewkeeper_supervisor.gate.rules import make_fold
from support.core_checks import check
from support.journal import RUN, Journal, fold

MOVES = Restart(elsewhere=True)
CREW = Crew(
    name="trip",
    agents=(
        Agent(name="a", run=("x",), restart=MOVES),
        Agent(name="b", run=("x",)),
        Agent(name="c", run=("x",), restart=MOVES),
    ),
)


class Stage:
    """A run whose agents are given to hosts."""

    def __init__(self, crew: Crew = CREW) -> None:
        self.journal = Journal(crew, spread=True)
        self.places: dict[str, str] = {}

    def does(self, commands: list[Command]) -> list[Any]:
        check(self.journal.core)
        orders = [command.message for command in commands if isinstance(command, AskHost)]
        self.places |= {each.agent: each.id for each in orders if isinstance(each, m.StartProcess)}
        return orders

    def sees(self, *hosts: m.HostSeen) -> list[tuple[str, str]]:
        orders = self.does(self.journal.op(m.HostsSeen(hosts=hosts)))
        return [(each.agent, each.host) for each in orders if isinstance(each, m.StartProcess)]

    def loses(self, host: m.HostSeen) -> list[Command]:
        commands = self.journal.op(m.HostLost(host=host.host, inc=host.inc, why="it does not answer"))
        self.does(commands)
        return commands

    def starts(self, *agents: str) -> None:
        for agent in agents:
            self.does(self.journal.op(m.ProcessStarted(agent=agent, pid=7, place=self.places[agent]), sender=HOST))
            if agent != TOOLS:
                self.journal.join(agent)

    def exits(self, agent: str, code: int = 0, place: str = "") -> list[Command]:
        exited = m.ProcessExited(agent=agent, pid=7, code=code, place=place or self.places[agent])
        commands = self.journal.op(exited, sender=HOST)
        self.does(commands)
        return commands

    def status(self, agent: str) -> str:
        return self.journal.core.agents[agent].status

    def folded_anew_is_the_same(self) -> None:
        core, commands = fold(self.journal.entries, peek=True)
        assert commands == self.journal.commands
        assert core.digest() == self.journal.core.digest()


def host(name: str, slots: int = 8, taken: int = 0, inc: str = "", **labels: str) -> m.HostSeen:
    return m.HostSeen(host=name, inc=inc or f"i{name}", labels=labels, slots=slots, taken=taken)


def orders_of(commands: list[Command], type_: type[Any]) -> list[Any]:
    return [each.message for each in commands if isinstance(each, AskHost) and isinstance(each.message, type_)]


# --- the rule ---


@pytest.mark.parametrize(
    ("hosts", "labels", "chosen", "why"),
    [
        ([], {}, None, "no host is known"),
        ([("w1", 4, 0, {})], {"gpu": "yes"}, None, "no host has gpu=yes; there are w1 (no labels)"),
        ([("w1", 4, 4, {})], {}, None, "no slot is free on the 1 host known"),
        ([("w1", 4, 1, {}), ("w2", 4, 0, {})], {}, "w2", "the least loaded of 2 hosts known; 0 of its 4 slots taken"),
        ([("w1", 10, 2, {}), ("w2", 4, 1, {})], {}, "w1", "the least loaded of 2 hosts known; 2 of its 10 slots taken"),
        ([("w2", 4, 1, {}), ("w1", 4, 1, {})], {}, "w1", "the least loaded of 2 hosts known; 1 of its 4 slots taken"),
        (
            [("w1", 4, 3, {"zone": "eu"}), ("w2", 4, 0, {"zone": "us"})],
            {"zone": "eu"},
            "w1",
            "the only host with zone=eu that has a free slot; 3 of its 4 slots taken",
        ),
    ],
)
def test_the_least_loaded_host_with_the_labels_is_chosen(
    hosts: list[tuple[str, int, int, dict[str, str]]], labels: dict[str, str], chosen: str | None, why: str
) -> None:
    candidates = [Candidate(Host(name=n, inc=n, labels=has, slots=slots), load) for n, slots, load, has in hosts]
    found = choose(candidates, labels)
    assert (found.host.name if found.host else None, found.why) == (chosen, why)


def test_who_refused_is_not_asked_again() -> None:
    candidates = [Candidate(Host(name=name, inc=name, slots=1), 0) for name in ("w1", "w2")]
    assert choose(candidates, {}, ("w1",)).host == candidates[1].host


# --- placing ---


def test_agents_are_spread_over_the_hosts_that_are_seen() -> None:
    stage = Stage()
    assert stage.sees(host("w1"), host("w2")) == [("a", "w1"), ("b", "w2"), ("c", "w1")]
    stage.starts("a", "b", "c")
    assert stage.journal.core.state == "running"
    stage.folded_anew_is_the_same()


def test_what_others_have_counts_and_the_rest_waits_for_room() -> None:
    stage = Stage()
    assert stage.sees(host("w1", slots=2, taken=1)) == [("a", "w1")]
    assert stage.sees(host("w1", slots=2, taken=1), host("w2", slots=1)) == [("b", "w2")]
    stage.journal.tick(11)
    told = [each.finding.summary for each in stage.journal.core.incidents.values()]
    assert told == ["c has no host: no slot is free on the 2 hosts known"]
    assert stage.sees(host("w1", slots=2, taken=0)) == [("c", "w1")]
    assert [each.state for each in stage.journal.core.incidents.values()] == ["resolved"]
    stage.folded_anew_is_the_same()


def test_an_agent_goes_where_its_labels_are() -> None:
    crew = Crew(name="t", agents=(Agent(name="a", run=("x",), host={"gpu": "yes"}), Agent(name="b", run=("x",))))
    stage = Stage(crew)
    assert stage.sees(host("w1"), host("w2", gpu="no")) == [("b", "w1")]
    assert stage.sees(host("w3", gpu="yes")) == [("a", "w3")]


def test_nobody_is_late_before_everybody_has_a_host() -> None:
    stage = Stage()
    stage.journal.tick(100)
    assert stage.journal.core.state == "starting"
    stage.sees(host("w1"))
    stage.starts("a", "b")
    stage.journal.tick(29)
    assert stage.journal.core.state == "starting"
    stage.journal.tick(2)
    assert stage.journal.core.state == "running"


def test_the_tool_host_is_placed_first_and_moves_by_itself() -> None:
    tool = Tool(command=("x",))
    stage = Stage(Crew(name="t", agents=(Agent(name="a", run=("x",)),), tools={"t": tool}))
    w1, w2 = host("w1"), host("w2")
    assert stage.sees(w1, w2) == [(TOOLS, "w1"), ("a", "w2")]
    stage.starts(TOOLS, "a")
    commands = stage.loses(w1)
    assert [each.agent for each in commands if isinstance(each, SetAccess)] == [TOOLS]
    assert [(each.agent, each.host) for each in orders_of(commands, m.StartProcess)] == [(TOOLS, "w2")]


# --- losing a host ---


def lost() -> tuple[Stage, m.HostSeen, list[Command]]:
    stage, w1 = Stage(), host("w1")
    stage.sees(w1)
    stage.starts("a", "b", "c")
    stage.sees(w1, host("w2"))
    stage.journal.server = "silent"
    return stage, w1, stage.loses(w1)


def places(stage: Stage) -> dict[str, Place]:
    assert stage.journal.core.hosting is not None
    return stage.journal.core.hosting.places


def answer(stage: Stage, command: SetAccess, **fields: Any) -> list[Any]:
    fact = m.AccessSet(command=command.id, agent=command.agent, state=command.state, **{"ok": True, **fields})
    return stage.does(stage.journal.op(fact))


def test_agents_of_a_lost_host_are_cut_off_before_any_is_started_again() -> None:
    stage, _, commands = lost()
    cuts = [each for each in commands if isinstance(each, SetAccess)]
    assert [(each.agent, each.state, each.place) for each in cuts] == [
        (name, "revoked", stage.places[name]) for name in "abc"
    ]
    assert [(each.agent, each.place) for each in orders_of(commands, m.StopProcess)] == [
        (name, stage.places[name]) for name in "abc"
    ]
    assert not orders_of(commands, m.StartProcess)
    assert [stage.status(name) for name in "abc"] == ["starting", "crashed", "starting"]
    started = [each for cut in cuts for each in answer(stage, cut)]
    assert [(each.agent, each.host) for each in started] == [("a", "w2"), ("c", "w2")]
    assert not answer(stage, cuts[0])  # the server's word twice is one start
    stage.starts("a", "c")
    assert [stage.status(name) for name in "abc"] == ["up", "crashed", "up"]
    [incident] = stage.journal.core.incidents.values()
    said = "host w1 is gone: it does not answer; a, c: to be started on another host; b: not started again"
    assert incident.finding.summary == said
    assert any("a is started on host w2" in step.text for step in incident.steps)
    assert incident.state == "open", "it is about b, too, who is not back"
    stage.folded_anew_is_the_same()


def test_what_the_lost_process_does_is_not_taken_for_the_new_one() -> None:
    stage, _, commands = lost()
    old = dict(stage.places)
    for cut in [each for each in commands if isinstance(each, SetAccess)]:
        answer(stage, cut)
    stage.starts("a", "c")
    assert stage.exits("a", code=-9, place=old["a"]) == []
    assert stage.status("a") == "up"
    stage.journal.op(m.ProcessStarted(agent="b", pid=9, place=old["b"]), sender=HOST)
    assert stage.status("b") == "crashed"
    before = len(stage.journal.core.incidents)
    stage.journal.op(m.Violation(agent="a", what="revoked_login"))
    assert len(stage.journal.core.incidents) == before


def test_nothing_is_started_elsewhere_where_nobody_can_cut_off() -> None:
    stage, _, commands = lost()
    for cut in [each for each in commands if isinstance(each, SetAccess)]:
        assert not answer(stage, cut, ok=False, enforced=False)
    assert [stage.status(name) for name in "abc"] == ["crashed"] * 3
    said = [each.finding.summary for each in stage.journal.core.incidents.values()]
    reason = "its lost process could not be cut off (nobody here has power over the server)"
    assert said[1:] == [f"{name} is not started elsewhere: {reason}" for name in "ac"]


def test_cutting_off_is_tried_again() -> None:
    stage, _, commands = lost()
    cut = next(each for each in commands if isinstance(each, SetAccess))
    assert not answer(stage, cut, ok=False, detail="n1 did not answer")
    again = [each for each in stage.journal.tick(0.6) if isinstance(each, SetAccess)]
    assert [each.agent for each in again] == ["a"]
    assert not answer(stage, cut)  # an answer to what was tried before proves nothing
    assert [each.agent for each in answer(stage, again[0])] == ["a"]


def test_a_host_that_is_lost_too_often_ends_an_agents_moves() -> None:
    stage = Stage(Crew(name="t", agents=(Agent(name="a", run=("x",), restart=Restart(elsewhere=True, intensity=2)),)))
    spare = host("spare", slots=1, taken=1)
    for number in range(3):
        now = host(f"w{number}")
        assert stage.sees(spare, now) == ([("a", f"w{number}")] if number == 0 else []) or number
        stage.starts("a")
        stage.sees(spare, host(f"w{number + 1}"))
        stage.loses(now)
    assert stage.status("a") == "crashed"


def test_a_host_that_comes_back_is_used_again() -> None:
    stage, w1, commands = lost()
    for cut in [each for each in commands if isinstance(each, SetAccess)]:
        answer(stage, cut)
    stage.starts("a", "c")
    stage.journal.server = "obeys"
    stage.sees(w1, host("w2"))
    again = stage.loses(host("w2"))
    assert [(each.agent, each.host) for each in orders_of(again, m.StartProcess)] == [("a", "w1"), ("c", "w1")]


def test_another_process_under_a_hosts_name_means_that_the_first_is_gone() -> None:
    stage = Stage()
    stage.sees(host("w1"))
    stage.starts("a", "b", "c")
    assert stage.sees(host("w1", inc="second")) == [("a", "w1"), ("c", "w1")]
    assert stage.status("b") == "crashed"


def test_work_that_a_leaving_host_cuts_short_is_not_over() -> None:
    stage, w1 = Stage(), host("w1")
    stage.sees(w1)
    stage.starts("a", "b", "c")
    journal = stage.journal
    journal.task("a", "t1", name="main")
    journal.op(m.HostLeaving(host="w1", inc=w1.inc), sender=HOST)
    journal.end("a", "t1")
    for name in "abc":
        journal.say(name, m.Left, done=False)
    journal.tick(60)
    assert journal.core.state == "running"
    assert stage.sees(host("w2")) == []
    journal.op(m.HostLost(host="w1", inc=w1.inc, why="told to end"), sender=HOST)
    assert {name: place.host for name, place in places(stage).items()} == {"a": "w2", "b": "w1", "c": "w2"}
    stage.does(journal.commands)
    stage.starts("a", "c")
    journal.task("a", "t2", name="main")
    journal.end("a", "t2")
    [stop] = [each for _ in range(2) for each in orders_of(journal.tick(2), m.StopRun)]
    assert (stop.state, stop.why) == ("done", "the work is done")


def test_work_that_is_lost_for_good_fails_the_run() -> None:
    stage, w1 = Stage(), host("w1")
    stage.sees(w1)
    stage.starts("a", "b", "c")
    stage.journal.task("b", "t1", name="main")
    stage.sees(w1, host("w2"))
    stage.loses(w1)
    stage.starts("a", "c")
    [stop] = [each for _ in range(2) for each in orders_of(stage.journal.tick(2), m.StopRun)]
    assert (stop.state, stop.why) == ("failed", "b did not finish")


def test_no_agent_goes_to_a_leaving_host() -> None:
    stage = Stage()
    assert stage.sees(host("w1", slots=2)) == [("a", "w1"), ("b", "w1")]
    stage.starts("a", "b")
    stage.journal.op(m.HostLeaving(host="w1", inc="iw1"), sender=HOST)
    stage.exits("b")
    assert stage.sees(host("w2", slots=4, taken=3)) == [("c", "w2")]


def test_an_agent_that_is_refused_goes_to_another_host_and_may_come_back() -> None:
    stage = Stage(Crew(name="t", agents=(Agent(name="a", run=("x",)),)))
    w1, w2 = host("w1"), host("w2", taken=7)
    assert stage.sees(w1, w2) == [("a", "w1")]
    for refuses, then in ((w1, "w2"), (w2, "")):
        orders = stage.does(stage.journal.op(m.StartRefused(agent="a", place=stage.places["a"]), sender=HOST))
        assert [each.host for each in orders] == ([then] if then else []), refuses
    assert stage.sees(w1, w2) == [("a", "w1")]


# --- the end ---


def test_a_run_ends_when_no_host_has_a_process_of_it() -> None:
    stage = Stage()
    stage.sees(host("w1"), host("w2"))
    stage.starts("a", "b", "c")
    stage.journal.op(m.OperatorAsked(action="stop_run", why="enough"))
    assert not [each for name in "ab" for each in stage.exits(name) if isinstance(each, EndRun)]
    [end] = [each for each in stage.exits("c") if isinstance(each, EndRun)]
    assert (end.state, end.why) == ("stopped", "enough")
    assert stage.journal.core.state == "stopped"
    assert not stage.journal.core.pending
    stage.folded_anew_is_the_same()


def test_the_end_is_stated_once() -> None:
    stage = Stage()
    stage.sees(host("w1"))
    stage.starts("a", "b", "c")
    stage.journal.op(m.OperatorAsked(action="stop_run", why="enough"))
    stage.journal.obey = False
    ends = [each for name in "abc" for each in stage.exits(name)] + stage.journal.tick(1) + stage.journal.tick(99)
    assert len([each for each in ends if isinstance(each, EndRun)]) == 1


def test_a_host_that_says_nothing_does_not_keep_a_run_for_ever() -> None:
    stage = Stage()
    stage.sees(host("w1"))
    stage.starts("a", "b", "c")
    stage.journal.op(m.OperatorAsked(action="stop_run", why="enough"))
    stage.exits("a")
    stage.exits("b")
    [end] = [each for each in stage.journal.tick(70) if isinstance(each, EndRun)]
    assert end.why == "enough; not reported to have ended: c on w1"


def test_a_run_whose_processes_all_end_is_over() -> None:
    stage = Stage()
    stage.sees(host("w1"))
    stage.starts("a", "b", "c")
    for name in "abc":
        stage.exits(name, code=1 if name == "b" else 0)
    [end] = [each for each in stage.journal.tick(4) if isinstance(each, EndRun)]
    assert (end.state, end.why) == ("failed", "every process has ended, b not in order")


def test_a_run_with_a_host_of_its_own_places_nobody() -> None:
    journal = Journal(CREW)
    assert not journal.op(m.HostsSeen(hosts=(host("w1"),)))
    assert journal.core.hosting is None


def test_a_snapshot_keeps_hosts_and_places() -> None:
    stage, _, commands = lost()
    core = make_fold(RUN)
    core.restore(stage.journal.core.snapshot(), stage.journal.core.digest())
    assert core.digest() == stage.journal.core.digest()
    stage.journal.core = core
    cut = next(each for each in commands if isinstance(each, SetAccess))
    assert [each.agent for each in answer(stage, cut)] == ["a"]


def test_orders_about_access_are_recorded_as_they_always_were() -> None:
    journal = Journal(CREW)
    journal.start()
    [killed] = [
        each
        for each in journal.op(m.OperatorAsked(action="kill", agent="a", grace_s=0.0))
        if isinstance(each, SetAccess)
    ]
    assert "place" not in msgspec.to_builtins(killed)
