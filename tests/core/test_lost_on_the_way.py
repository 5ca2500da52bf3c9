"""Answers, grants and requests that are lost between journal and agent do not leave a wait open for ever."""

from typing import Any

from msgspec import Raw

from crewkeeper_bus import messages as m
from crewkeeper_supervisor.core.commands import AnswerCall, Command, TellAgent
from support.told import Told


class Two(Told):
    """Agents a and b; a has a task."""

    def __init__(self) -> None:
        super().__init__("a", "b")
        self.say("a", m.TaskBegan, task="t")

    def trace(self, command: TellAgent) -> None:
        self.store("_", command.agent, command.id, command.message)

    def waits(self, condition: Any, calls: tuple[str, ...] = (), later_s: float = 8) -> list[Command]:
        """The heartbeat of `a` while its task waits for this, so much later."""
        self.at_s += later_s
        wait = m.OpenWait(epoch=1, condition=condition, for_s=8)
        open_calls = tuple(m.OpenCall(call=call, to="b", task="t") for call in calls)
        return self.say("a", m.Heartbeat, role="a", tasks=(m.TaskState(task="t", wait=wait),), calls=open_calls)


def asked() -> Two:
    told = Two()
    told.say("a", m.Request, to="b", id_="c", task="t", body=Raw(b"null"))
    told.say("a", m.WaitBegan, task="t", epoch=1, condition=m.OnCall(call="c"))
    told.say("b", m.CallStarted, call="c", caller="a", task="h")
    return told


def test_an_answer_that_never_came_is_given_as_an_error():
    told = asked()
    told.say("b", m.Reply, to="a", id_="c", body=Raw(b"1"))
    [command] = told.waits(m.OnCall(call="c"), calls=("c",))
    assert isinstance(command, AnswerCall)
    assert (command.agent, command.call) == ("a", "c")
    assert command.error is not None
    assert command.error.code == "peer_gone"
    assert told.waits(m.OnCall(call="c"), calls=("c",), later_s=1) == [], "not again before it had time to arrive"


def test_an_answer_on_its_way_is_left_alone():
    told = asked()
    told.at_s += 8
    told.say("b", m.Reply, to="a", id_="c", body=Raw(b"1"))
    assert told.waits(m.OnCall(call="c"), calls=("c",), later_s=0.1) == []


def test_a_call_in_work_is_left_alone():
    assert asked().waits(m.OnCall(call="c"), calls=("c",)) == []


def test_a_grant_that_never_came_is_told_again():
    told = Two()
    [command] = told.say("a", m.Acquire, task="t", resource="lock", ticket="k")
    assert isinstance(command, TellAgent)
    told.trace(command)
    told.say("a", m.WaitBegan, task="t", epoch=1, condition=m.OnResource(resource="lock", ticket="k"))
    [again] = told.waits(m.OnResource(resource="lock", ticket="k"))
    assert isinstance(again, TellAgent)
    assert isinstance(again.message, m.Granted)
    assert (again.agent, again.message.ticket) == ("a", "k")


def test_a_request_that_never_came_fails_its_wait():
    told = Two()
    told.say("a", m.WaitBegan, task="t", epoch=1, condition=m.OnResource(resource="lock", ticket="k"))
    [command] = told.waits(m.OnResource(resource="lock", ticket="k"))
    assert isinstance(command, TellAgent)
    assert isinstance(command.message, m.Break)
    assert (command.message.task, command.message.epoch, command.message.code) == ("t", 1, "peer_gone")


def test_a_question_that_nobody_knows_of_is_failed():
    told = Two()
    told.say("a", m.WaitBegan, task="t", epoch=1, condition=m.OnHuman(who="ops", question="q"))
    [command] = told.waits(m.OnHuman(who="ops", question="q"))
    assert isinstance(command, AnswerCall)
    assert (command.agent, command.call) == ("a", "q")
    assert command.error is not None


def test_a_question_that_is_open_waits_for_people():
    told = Two()
    told.say("a", m.AskHuman, task="t", question="q", who="ops", text="?")
    told.say("a", m.WaitBegan, task="t", epoch=1, condition=m.OnHuman(who="ops", question="q"))
    assert told.waits(m.OnHuman(who="ops", question="q")) == []
