"""Only those to blame are members: a call that is about to start blames nobody."""

import pytest

from crewkeeper_bus import messages as m
from crewkeeper_supervisor.core.crew import Agent, Crew
from support.journal import Journal


@pytest.mark.parametrize("fields", [{"reentrant": "full"}, {"concurrency": 2}], ids=["full", "a free slot"])
def test_who_hangs_on_a_ring_and_lets_a_member_in_is_no_member(fields: dict[str, object]) -> None:
    agents = (Agent(name="a"), Agent(name="b"), Agent(name="f", **fields))
    journal = Journal(Crew(name="ring", agents=agents))
    journal.start()
    for agent, other in (("a", "b"), ("b", "a"), ("f", "a")):
        journal.task(agent, "t")
        journal.call(agent, "t", f"{agent}-{other}", other)
    journal.call("a", "t", "a-f", "f")  # on its way
    journal.wait("b", "t", m.OnCall(call="b-a"))
    journal.wait("f", "t", m.OnCall(call="f-a"))
    journal.wait("a", "t", m.OnAll(of=(m.OnCall(call="a-b"), m.OnCall(call="a-f"))))
    for _ in range(3):
        journal.tick(1.0)
        for agent in "abf":
            journal.affirm(agent)
    findings = [i.finding for i in journal.core.incidents.values() if i.finding.kind == "deadlock"]
    assert [(finding.core, finding.tail) for finding in findings] == [((("a/t", "b/t"),), ("f/t",))]
