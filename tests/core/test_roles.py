"""Roles with several instances: who has a call, and who may still come back to take one or to send something."""

from crewkeeper_bus import messages as m
from crewkeeper_supervisor.core.crew import Agent, Crew
from support.journal import Journal


def crew_of_two_and_one() -> Journal:
    """`a` waits for role `r`; `r-1`, its only slot taken, waits for `a`."""
    journal = Journal(Crew(name="roles", agents=(Agent(name="a"), Agent(name="r", replicas=2))))
    journal.start()
    journal.task("a", "t")
    journal.task("r-1", "t")
    journal.call("r-1", "t", "back", "a")
    journal.wait("r-1", "t", m.OnCall(call="back"))
    return journal


def deadlocks(journal: Journal) -> list[tuple[str, ...]]:
    for _ in range(3):
        journal.tick(1.0)
        for agent in ("a", "r-1", "r-2"):
            if journal.mirrors[agent].alive:
                journal.affirm(agent)
    return [i.finding.core[0] for i in journal.core.incidents.values() if i.finding.kind == "deadlock"]


def test_the_instance_that_acknowledges_a_call_to_its_role_is_the_one_that_has_it() -> None:
    journal = crew_of_two_and_one()
    journal.call("a", "t", "c", "r")
    journal.wait("a", "t", m.OnCall(call="c"))
    assert deadlocks(journal) == []  # r-2 has a free slot
    journal.mirrors["r-1"].queued["c"] = "a"
    journal.mirrors["r-2"].queued.pop("c", None)
    journal.say("r-1", m.CallProgress, to="a", id_="c")
    assert deadlocks(journal) == [("a/t", "r-1/t")]


def test_an_instance_that_comes_back_may_take_the_call() -> None:
    journal = crew_of_two_and_one()
    journal.exited("r-2", restart=True)
    journal.call("a", "t", "c", "r")
    journal.wait("a", "t", m.OnCall(call="c"))
    assert deadlocks(journal) == []


def test_an_instance_that_comes_back_may_send_the_message() -> None:
    journal = crew_of_two_and_one()
    journal.exited("r-2", restart=True)
    journal.wait("a", "t", m.OnMessage(senders=("r",)))
    assert deadlocks(journal) == []


def test_an_instance_that_does_not_come_back_helps_nobody() -> None:
    journal = crew_of_two_and_one()
    journal.exited("r-2", restart=False)
    journal.wait("a", "t", m.OnMessage(senders=("r",)))
    assert deadlocks(journal) == [("a/t", "r-1/t")]
