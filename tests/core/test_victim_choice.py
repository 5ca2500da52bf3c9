"""Whose wait is failed, over many rounds: nobody gives way for ever, and the oldest comes to its end."""

from collections import Counter
from itertools import pairwise

import pytest

from crewkeeper_bus import messages as m
from crewkeeper_supervisor.core.commands import TellAgent
from crewkeeper_supervisor.core.crew import Agent, Crew, Repeat, Response, Responses, Webhook
from crewkeeper_supervisor.core.findings import Incident
from crewkeeper_supervisor.core.repetition import RETRY_AFTER_MAX_S, retry_after_s
from support.journal import Journal


def crew(*agents: Agent, **policy: object) -> Crew:
    deadlock = Response(do=("break",), repeat=Repeat(times=1000), **policy)  # type: ignore[arg-type]
    return Crew(name="c", agents=agents, responses=Responses(deadlock=deadlock))


def close_ring(journal: Journal, *names: str, round_: int = 0) -> Incident:
    """Every agent's task `t` asks the next one's agent; the ring is confirmed. Returns its incident."""
    for agent, other in zip(names, [*names[1:], names[0]], strict=True):
        doing = journal.mirrors[agent].tasks.get("t")
        if doing is None:
            journal.task(agent, "t")
        elif doing.wait is not None:
            continue
        journal.call(agent, "t", f"{agent}{round_}", other)
        journal.wait(agent, "t", m.OnCall(call=f"{agent}{round_}"))
    for agent in names:
        journal.affirm(agent)
    journal.tick(0.3)
    return list(journal.core.incidents.values())[-1]


def give_way(journal: Journal, incident: Incident) -> str:
    victim = incident.finding.victim
    assert victim is not None
    journal.obey_breaks(victim.agent)
    assert incident.state == "resolved"
    return victim.agent


@pytest.mark.parametrize("policy", ["least_work", "youngest", "priority"])
def test_the_oldest_fails_at_most_once(policy: str) -> None:
    # The oldest would be the cheapest every time.
    journal = Journal(crew(Agent(name="a", priority=1), Agent(name="b"), Agent(name="c"), victim=policy))
    journal.start()
    journal.task("a", "t")
    for agent in "bc":
        journal.tick(5)
        journal.task(agent, "t")
        journal.say(agent, m.Usage, task="t", input_tokens=10**7)
    failed = Counter(give_way(journal, close_ring(journal, "a", "b", "c", round_=round_)) for round_ in range(12))
    assert failed["a"] <= 1
    assert min(failed["b"], failed["c"]) > 0, "the others take turns"


def test_a_task_that_gave_way_twice_is_spared_while_another_remains() -> None:
    journal = Journal(crew(Agent(name="old"), Agent(name="b"), Agent(name="c")))
    journal.start()
    journal.task("old", "t")
    journal.say("old", m.Usage, task="t", input_tokens=10**7)
    journal.tick(5)
    for agent, tokens in (("b", 1), ("c", 10**6)):
        journal.task(agent, "t")
        journal.say(agent, m.Usage, task="t", input_tokens=tokens)
    failed = [give_way(journal, close_ring(journal, "old", "b", "c", round_=round_)) for round_ in range(3)]
    assert failed == ["b", "b", "c"]  # by price alone b would be it again: 4 times its seconds against 10**6


def test_a_handlers_history_is_that_of_the_root_it_serves() -> None:
    """The root asks `h` anew each time, so that `h` has another task each time."""
    journal = Journal(crew(Agent(name="old"), Agent(name="root"), Agent(name="h", concurrency=1)))
    journal.start()
    journal.task("old", "t")
    journal.tick(1)
    journal.task("root", "t")
    for round_ in range(2):
        journal.call("root", "t", f"r{round_}", "h")
        journal.wait("root", "t", m.OnCall(call=f"r{round_}"))
        journal.begin_call("h", f"r{round_}", f"h{round_}")
        journal.call("h", f"h{round_}", f"x{round_}", "old")
        journal.wait("h", f"h{round_}", m.OnCall(call=f"x{round_}"))
        if journal.mirrors["old"].tasks["t"].wait is None:
            journal.call("old", "t", f"o{round_}", "h")
            journal.wait("old", "t", m.OnCall(call=f"o{round_}"))
        for agent in ("old", "h"):
            journal.affirm(agent)
        journal.tick(0.3)
        incident = list(journal.core.incidents.values())[-1]
        victim = incident.finding.victim
        assert victim is not None
        journal.obey_breaks(victim.agent)
        journal.reply("h", f"h{round_}")
        journal.wake("root", "t")
    assert set(journal.core._state.victims) <= {"old/t", "root/t"}
    assert sum(journal.core._state.victims.values()) == 2


def test_price_and_candidates_stand_beside_the_reason() -> None:
    journal = Journal(crew(Agent(name="a", never_victim=True), Agent(name="b"), Agent(name="c", restart_cost=700)))
    journal.start()
    incident = close_ring(journal, "a", "b", "c")
    victim = incident.finding.victim
    assert victim is not None
    assert (victim.agent, victim.policy, victim.candidates, victim.price) == ("b", "least_work", 2, 500)
    assert not any(char.isdigit() for char in victim.why)


def test_backing_off_grows_and_ends_and_is_the_same_in_every_fold() -> None:
    assert retry_after_s(1, "F1-0 a/t") == 1.0
    grown = [retry_after_s(count, "F1-0 a/t") for count in range(1, 12)]
    assert grown == sorted(grown)
    assert grown[-1] == retry_after_s(10**9, "F1-0 a/t") == RETRY_AFTER_MAX_S
    assert grown == [retry_after_s(count, "F1-0 a/t") for count in range(1, 12)]
    assert len({retry_after_s(3, f"F{number}-0 a/t") for number in range(50)}) > 40
    assert all(4 <= retry_after_s(3, f"F{number}-0 a/t") <= 6 for number in range(50))


def test_victims_of_the_same_ring_are_told_to_wait_longer_each_time() -> None:
    journal = Journal(crew(Agent(name="a"), Agent(name="b")))
    journal.start()
    for round_ in range(4):
        give_way(journal, close_ring(journal, "a", "b", round_=round_))
    told = [c.message for c in journal.commands if isinstance(c, TellAgent) and isinstance(c.message, m.Break)]
    waits = [each.retry_after_s for each in told]
    assert waits[0] == 1.0
    assert all(later > sooner for sooner, later in pairwise(waits))
    assert [incident.closed for incident in journal.core.incidents.values()] == [1, 2, 3, 4]


def test_every_receiver_of_an_escalation_is_noted() -> None:
    deadlock = Response(do=("escalate",))
    receivers = (Webhook(webhook="http://127.0.0.1:1/"), Webhook(webhook="http://127.0.0.1:2/"))
    told = Crew(
        name="c",
        agents=(Agent(name="a"), Agent(name="b")),
        responses=Responses(deadlock=deadlock),
        escalate=receivers,
    )
    journal = Journal(told)
    journal.start()
    incident = close_ring(journal, "a", "b")
    [escalation] = [command for command in journal.commands if type(command).__name__ == "Escalate"]
    journal.op(m.Outcome(command=escalation.id, ok=False, detail="refused by the second"))
    assert [step.text for step in incident.steps][-2:] == [
        "people were told: delivered",
        "people could NOT be told: refused by the second",
    ]


def test_nobody_is_told_that_it_is_over_who_cannot_be_told() -> None:
    journal = Journal(crew(Agent(name="a"), Agent(name="b")))
    journal.start()
    incident = close_ring(journal, "a", "b")
    incident.told = True
    give_way(journal, incident)
    assert not [command for command in journal.commands if type(command).__name__ == "Escalate"]


def test_a_person_is_named_by_whoever_waits_for_one() -> None:
    journal = Journal(crew(Agent(name="a")))
    journal.start()
    journal.task("a", "t")
    journal.wait("a", "t", m.OnHuman(who="ops"))
    [edge] = journal.core.waits()
    assert edge.agents == ("human:ops",)


def test_a_wait_is_spared_that_has_started_work_behind_a_part_of_it() -> None:
    """`a` asks `b`, who works on it and asks back, and `c`, who is busy; failing `a`'s wait would be the cheapest."""
    journal = Journal(crew(*(Agent(name=name) for name in "abc")))
    journal.start()
    journal.task("c", "t")
    journal.task("a", "t")
    journal.call("a", "t", "ab", "b")
    journal.begin_call("b", "ab", "h")
    journal.say("b", m.Usage, task="h", input_tokens=10**6)
    journal.call("a", "t", "ac", "c")
    journal.wait("a", "t", m.OnAll(of=(m.OnCall(call="ab"), m.OnCall(call="ac"))))
    journal.call("b", "h", "ba", "a")
    journal.wait("b", "h", m.OnCall(call="ba"))
    for agent in "ab":
        journal.affirm(agent)
    journal.tick(0.3)
    [incident] = journal.core.incidents.values()
    assert incident.finding.victim is not None
    assert incident.finding.victim.task == "b/h"
    assert "throws no started work away" in incident.finding.victim.why


def test_where_a_timer_has_its_time_first_the_choice_is_made_after_it() -> None:
    journal = Journal(crew(Agent(name="a"), Agent(name="b"), lasting_s=10.0))
    journal.start()
    for agent, other in (("a", "b"), ("b", "a")):
        journal.task(agent, "t")
        journal.call(agent, "t", f"c{agent}", other)
        journal.wait(agent, "t", m.OnCall(call=f"c{agent}"), deadline_s=60.0)
        journal.tick(1)
    for agent in "ab":
        journal.affirm(agent)
    journal.tick(0.3)
    [incident] = journal.core.incidents.values()
    assert incident.finding.victim is not None
    assert incident.finding.victim.agent == "b"
    journal.say("b", m.Usage, task="t", input_tokens=10**6)  # what its last call of a model took is known late
    journal.tick(12)
    assert list(journal.mirrors["a"].breaks) != []
    assert list(journal.mirrors["b"].breaks) == []
