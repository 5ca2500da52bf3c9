"""What must be true of the traffic of a run, whatever happened in it; checked over a record of messages."""

from collections import defaultdict
from typing import Any, NamedTuple

from crewkeeper_bus import messages as m
from crewkeeper_bus.subjects import SUPERVISOR, Address, Kind


class Recorded(NamedTuple):
    """One decoded message of a run, in journal order."""

    address: Address
    message: Any


class _Incarnation:
    """What one incarnation said about itself."""

    def __init__(self) -> None:
        self.seq = 0
        self.epoch = 0
        self.tasks: set[str] = set()
        self.past: set[str] = set()
        self.working_on: dict[str, str] = {}  # call -> task
        self.ended_calls: set[str] = set()
        self.waits: dict[str, int] = {}  # task -> epoch
        self.left = False
        self.held: set[str] = set()
        self.slots = 0
        self.joined: m.Joined | None = None

    def end(self, task: str) -> None:
        assert task in self.tasks, f"task {task} ends, but it is not alive"
        assert task not in self.waits, f"task {task} ends inside a wait"
        self.tasks.remove(task)
        self.past.add(task)


def check_traffic(record: list[Recorded], *, complete: bool = True) -> None:
    """Assert every invariant; `complete`: all agents have left, so nothing may be open."""
    agents: dict[tuple[str, str], _Incarnation] = defaultdict(_Incarnation)
    requested: dict[str, tuple[str, str]] = {}
    for address, message in record:
        if address.sender == SUPERVISOR or not isinstance(message, m.Sent):
            continue
        state = agents[address.sender, message.inc]
        where = f"{address.subject}: {message}"
        assert message.seq == state.seq + 1, f"after {state.seq} comes {where}"
        state.seq += 1
        assert not state.left, f"after leaving: {where}"
        assert (state.seq == 1) == isinstance(message, m.Joined), f"joins first and once: {where}"
        if address.kind in (Kind.NOTE, Kind.HB):
            assert address.to == SUPERVISOR, where
        _apply(state, address, message, requested, where)
    for (agent, _), state in agents.items():
        if complete:
            assert state.left, f"{agent} has not left"
        if state.left:
            assert not state.tasks, f"{agent}: tasks still alive: {state.tasks}"
            assert not state.waits, f"{agent}: waits still open: {state.waits}"
            assert not state.working_on, f"{agent}: calls neither answered nor ended: {state.working_on}"


def _apply(
    state: _Incarnation, address: Address, message: Any, requested: dict[str, tuple[str, str]], where: str
) -> None:
    match message:
        case m.Joined():
            state.joined = message
        case m.TaskBegan() | m.CallStarted():
            assert message.task not in state.tasks | state.past, f"begins twice: {where}"
            state.tasks.add(message.task)
            if isinstance(message, m.CallStarted):
                assert message.call in requested, f"nobody made it: {where}"
                caller, to = requested[message.call]
                assert caller == message.caller, where
                assert state.joined is not None
                assert to in (address.sender, state.joined.role), f"not for it: {where}"
                assert message.call not in state.ended_calls, f"started after its end: {where}"
                assert message.call not in state.working_on, f"started twice: {where}"
                state.working_on[message.call] = message.task
        case m.TaskEnded():
            state.end(message.task)
            for call in [call for call, task in state.working_on.items() if task == message.task]:
                del state.working_on[call]
                state.ended_calls.add(call)
        case m.WaitBegan():
            assert message.epoch == state.epoch + 1, f"epoch after {state.epoch}: {where}"
            state.epoch += 1
            assert message.task in state.tasks, f"an unknown task waits: {where}"
            assert message.task not in state.waits, f"waits already: {where}"
            state.waits[message.task] = message.epoch
        case m.WaitEnded():
            assert state.waits.pop(message.task, 0) == message.epoch, f"no such wait: {where}"
        case m.Request():
            assert message.task in state.tasks, f"an unknown task calls: {where}"
            assert message.task not in state.waits, f"a waiting task calls: {where}"
            assert address.id not in requested, f"call id used twice: {where}"
            requested[address.id] = (address.sender, address.to)
        case m.Reply():
            assert address.id not in state.ended_calls, f"answered twice: {where}"
            state.ended_calls.add(address.id)
            task = state.working_on.pop(address.id, None)
            if message.early:
                assert task is not None, where
            elif task is not None:
                state.end(task)
        case m.Message() | m.Taken() | m.Acquire() | m.AskHuman() | m.Usage() | m.Progress():
            assert message.task in state.tasks, f"an unknown task: {where}"
        case m.Heartbeat():
            _compare(state, message, where)
        case m.Left():
            state.left = True
        case _:
            pass


def _compare(state: _Incarnation, beat: m.Heartbeat, where: str) -> None:
    """A heartbeat says what the notes before it say."""
    assert {task.task for task in beat.tasks} == state.tasks, f"{where}: notes say {state.tasks}"
    waits = {task.task: task.wait.epoch for task in beat.tasks if task.wait is not None}
    assert waits == state.waits, f"{where}: notes say {state.waits}"
    working_on = {task.call: task.task for task in beat.tasks if task.call}
    assert working_on == state.working_on, f"{where}: notes say {state.working_on}"
