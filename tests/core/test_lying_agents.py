"""What an agent says falsely about itself is a finding, and does no harm to those who are honest."""

from msgspec import Raw

from crewkeeper_bus import messages as m
from crewkeeper_supervisor.core.anatomy import _blames
from crewkeeper_supervisor.core.commands import Command, TellAgent
from support.told import Told


class Three(Told):
    """Two honest agents and a liar."""

    def __init__(self) -> None:
        super().__init__("honest", "helper", "liar")

    def found(self) -> list[tuple[str, tuple[str, ...]]]:
        return [(each.finding.kind, each.finding.agents) for each in self.core.incidents.values()]

    def granted(self, commands: list[Command]) -> list[str]:
        told = [each for each in commands if isinstance(each, TellAgent)]
        return [each.agent for each in told if isinstance(each.message, m.Granted)]


def test_a_heartbeat_cannot_take_over_the_call_of_another():
    """Whoever was called on the way knows the ids of the chain, and could draw a ring through waits not its own."""
    told = Three()
    told.say("honest", m.TaskBegan, task="main")
    told.say("honest", m.Request, to="helper", id_="call", task="main", body=Raw(b"1"))
    told.say("honest", m.WaitBegan, task="main", epoch=1, condition=m.OnCall(call="call"))
    told.say("helper", m.CallStarted, call="call", caller="honest", task="work")
    told.say("liar", m.TaskBegan, task="t")
    told.say("liar", m.Request, to="honest", id_="own", task="t", body=Raw(b"1"))
    wait = m.OpenWait(epoch=1, condition=m.OnCall(call="own"))
    lie = {
        "role": "liar",
        "tasks": (m.TaskState(task="t", call="call", caller="honest", wait=wait),),
        "calls": (m.OpenCall(call="own", to="honest", task="t"),),
    }
    assert told.say("liar", m.Heartbeat, **lie) == [], "nobody is even asked"
    assert told.later(6) == []
    assert told.found() == [("forgery", ("liar",))]
    assert told.core.incidents[next(iter(told.core.incidents))].finding.summary.endswith("that was made to helper")
    told.say("helper", m.Reply, to="honest", id_="call", body=Raw(b"1"))
    assert told.found() == [("forgery", ("liar",))], "the answer of the true callee is no forgery"
    told.say("honest", m.WaitEnded, task="main", epoch=1)
    assert told.core.waits() != []
    assert {edge.agent for edge in told.core.waits()} == {"liar"}


def test_nobody_makes_a_lock_shared_by_naming_it_first():
    told = Three()
    told.say("liar", m.Acquire, task="t", resource="db", ticket="k", capacity=1_000_000)
    told.say("helper", m.TaskBegan, task="t")
    assert told.granted(told.say("helper", m.Acquire, task="t", resource="db", ticket="k1")) == []
    assert told.found() == [("malformed", ("helper",))]
    summary = next(iter(told.core.incidents.values())).finding.summary
    assert summary == "helper asked for 1 of 'db' of 1, but it has been in use with 1000000 (first in line: liar)"
    told.say("liar", m.Release, task="t", resource="db", ticket="k")
    assert told.granted(told.say("helper", m.Acquire, task="t", resource="db", ticket="k2")) == ["helper"]
    assert told.granted(told.say("honest", m.Acquire, task="t", resource="db", ticket="k3")) == []


def test_nobody_makes_a_wait_impossible_by_naming_a_small_semaphore_first():
    told = Three()
    told.say("liar", m.Acquire, task="t", resource="gpu", ticket="k", capacity=1)
    told.say("honest", m.TaskBegan, task="main")
    told.say("honest", m.Acquire, task="main", resource="gpu", ticket="k1", units=2, capacity=3)
    told.say("honest", m.WaitBegan, task="main", epoch=1, condition=m.OnResource(resource="gpu", ticket="k1"))
    told.say("liar", m.Release, task="t", resource="gpu", ticket="k")
    assert told.later(6) == [], "it waits for nothing that cannot exist: it is not in line"
    assert told.found() == [("malformed", ("honest",))]
    assert told.granted(
        told.say("honest", m.Acquire, task="main", resource="gpu", ticket="k2", units=2, capacity=3)
    ) == ["honest"]


def test_many_waits_for_oneself_are_examined_in_proportion_to_their_number():
    """Each of them could be ended by each other: drawn as edges that is their number squared, from one message."""
    told, number = Three(), 1500
    waits = [m.OpenWait(epoch=n, condition=m.OnMessage(senders=("liar",))) for n in range(1, number + 1)]
    tasks = tuple(m.TaskState(task=f"t{n}", wait=wait) for n, wait in enumerate(waits))
    commands = told.say("liar", m.Heartbeat, role="liar", tasks=tasks)
    assert [each.agent for each in commands if isinstance(each, TellAgent)] == ["liar"], "it is asked, like anybody"
    waiting = dict(told.core._state.graph.waiting)
    assert len(waiting) == number
    assert len(_blames(waiting, told.core._state.graph)) < 10 * number
