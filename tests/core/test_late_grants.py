"""A grant is taken back only from a holder that was told of it, long enough ago."""

from crewkeeper_bus import messages as m
from crewkeeper_supervisor.core.commands import TellAgent
from crewkeeper_supervisor.core.crew import Agent, Crew
from support.journal import Journal, wire


def granted(journal: Journal) -> list[str]:
    told = [c for c in journal.commands if isinstance(c, TellAgent) and isinstance(c.message, m.Granted)]
    return [command.agent for command in told]


def test_a_grant_nobody_could_be_told_of_is_not_given_to_another() -> None:
    journal = Journal(Crew(name="late", agents=(Agent(name="a"), Agent(name="b"))))
    journal.start()
    journal.obey = False  # the owner is gone
    for agent in "ab":
        journal.task(agent, "t")
        journal.acquire(agent, "t", "l", f"k{agent}")
        journal.wait(agent, "t", m.OnResource(resource="l", ticket=f"k{agent}"))
    for _ in range(10):
        journal.now_s += 2.0
        journal.heartbeat("a")
    assert granted(journal) == ["a"]
    for command in list(journal.core.pending.values()):  # its successor says what is pending
        journal.store(*wire(command))
    journal.mirrors["a"].held.clear()  # not there yet
    journal.heartbeat("a")
    assert granted(journal) == ["a"]
    for _ in range(10):
        journal.now_s += 2.0
        journal.heartbeat("a")  # it was lost on the way
    assert granted(journal) == ["a", "a"], "told again, once, and not given to another: its task still waits for it"
