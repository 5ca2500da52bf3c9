"""Who hangs on somebody whose call is about to be failed is no orphan: that one can go on and do what it owes."""

from typing import Any

from msgspec import Raw, to_builtins

from crewkeeper_bus import messages as m
from crewkeeper_supervisor.core.commands import AnswerCall, Command, TellAgent
from crewkeeper_supervisor.core.crew import Agent, Crew
from crewkeeper_supervisor.core.events import Recorded
from crewkeeper_supervisor.core.supervisor import Supervisor


class Told:
    """A crew of three whose words are written into the journal one by one."""

    def __init__(self) -> None:
        self.core, self._seqs = Supervisor("r"), {"a": 0, "b": 0, "c": 0}
        crew = Crew(name="three", agents=tuple(Agent(name=name, external=True) for name in self._seqs))
        self._store("_", "_", "x", m.RunDeclared(crew=to_builtins(crew)))
        for name in self._seqs:
            self.say(name, m.Joined, role=name)
        for name in "ab":
            self.say(name, m.TaskBegan, task="t")

    def _store(self, sender: str, to: str, id_: str, message: Any) -> list[Command]:
        event = Recorded(seq=self.core.seq + 1, at_s=1000.0, sender=sender, to=to, id=id_, message=message)
        return self.core.handle(event)

    def say(self, agent: str, kind: type, *, to: str = "_", id_: str = "x", **fields: Any) -> list[Command]:
        self._seqs[agent] += 1
        return self._store(agent, to, id_, kind(inc=f"i{agent}", seq=self._seqs[agent], **fields))

    def waits(self, agent: str, condition: Any) -> list[Command]:
        return self.say(agent, m.WaitBegan, task="t", epoch=1, condition=condition)


def breaks(commands: list[Command]) -> list[str]:
    return [c.agent for c in commands if isinstance(c, TellAgent) and isinstance(c.message, m.Break)]


def b_asks_c(told: Told) -> None:
    told.say("b", m.Request, to="c", id_="call", task="t", body=Raw(b"null"))
    told.waits("b", m.OnCall(call="call"))


def test_who_waits_for_words_of_a_caller_of_the_dead_is_left_alone():
    told = Told()
    told.waits("a", m.OnMessage(senders=("b",)))
    b_asks_c(told)
    commands = told.say("c", m.Left)
    assert [c.agent for c in commands if isinstance(c, AnswerCall)] == ["b"]
    assert breaks(commands) == []


def test_who_waits_for_a_lock_of_a_caller_of_the_dead_is_left_alone():
    told = Told()
    told.say("b", m.Acquire, task="t", resource="lock", ticket="kb")
    told.say("a", m.Acquire, task="t", resource="lock", ticket="ka")
    told.waits("a", m.OnResource(resource="lock", ticket="ka"))
    b_asks_c(told)
    commands = told.say("c", m.Left)
    assert [c.agent for c in commands if isinstance(c, AnswerCall)] == ["b"]
    assert breaks(commands) == []


def test_who_waits_for_words_of_the_dead_alone_is_told():
    told = Told()
    told.waits("a", m.OnMessage(senders=("c",)))
    assert breaks(told.say("c", m.Left)) == ["a"]
