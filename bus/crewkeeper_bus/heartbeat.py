"""Heartbeat: the agent's whole state as one message; when it is sent is decided in `membership`."""

import asyncio

from crewkeeper_bus.calls import Calls
from crewkeeper_bus.checkpoint import Checkpoint
from crewkeeper_bus.grants import Grants
from crewkeeper_bus.mailbox import Mailbox
from crewkeeper_bus.messages import Heartbeat, Held, OpenCall, OpenWait, TaskState
from crewkeeper_bus.outgoing import Outgoing, new_id
from crewkeeper_bus.serving import Serving
from crewkeeper_bus.settings import Settings
from crewkeeper_bus.subjects import SUPERVISOR, Kind
from crewkeeper_bus.tasks import Task, Tasks


def open_wait(task: Task, now_s: float) -> OpenWait | None:
    """The open wait of a task, as a heartbeat tells it."""
    wait = task.wait
    if wait is None:
        return None
    left_s = None if wait.deadline_at is None else max(0.0, wait.deadline_at - now_s)
    return OpenWait(
        epoch=wait.epoch, condition=wait.condition, for_s=max(0.0, now_s - wait.began_at), deadline_s=left_s
    )


class Heartbeats:
    """Makes heartbeats."""

    def __init__(
        self,
        settings: Settings,
        outgoing: Outgoing,
        tasks: Tasks,
        calls: Calls,
        serving: Serving,
        mailbox: Mailbox,
        grants: Grants,
        checkpoint: Checkpoint,
    ) -> None:
        self._settings = settings
        self._outgoing = outgoing
        self._tasks = tasks
        self._calls = calls
        self._serving = serving
        self._mailbox = mailbox
        self._grants = grants
        self._checkpoint = checkpoint

    def beat(self, nonce: str = "") -> None:
        """Send the state as it is now. Raises CodecError where it is larger than a message may be."""
        now_s = asyncio.get_running_loop().time()
        settings = self._settings
        tasks = tuple(
            TaskState(task=task.id, call=task.call, caller=task.caller, slot=task.slot, wait=open_wait(task, now_s))
            for task in self._tasks.alive.values()
        )
        calls = tuple(OpenCall(call=call.id, to=call.to, task=call.task.id) for call in self._calls.open.values())
        held = tuple(
            Held(resource=grant.resource, ticket=grant.ticket, task=grant.task.id)
            for grant in self._grants.held.values()
        )
        self._outgoing.send(
            Kind.HB,
            SUPERVISOR,
            new_id(),
            Heartbeat,
            nonce=nonce,
            role=settings.role,
            concurrency=settings.concurrency,
            reentrant=settings.reentrant,
            mailbox=settings.mailbox,
            heartbeat_s=settings.heartbeat_s,
            state=self._checkpoint.state,
            tasks=tasks,
            queued=self._serving.queued(),
            calls=calls,
            unread=self._mailbox.unread(),
            held=held,
        )
