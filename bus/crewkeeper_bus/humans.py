"""Humans: questions that this agent put to a person through the supervisor, and the answers."""

import msgspec

from crewkeeper_bus import codec
from crewkeeper_bus.calls import error_of
from crewkeeper_bus.errors import CodecError
from crewkeeper_bus.messages import AskHuman, OnHuman, SupervisorReply
from crewkeeper_bus.outgoing import Outgoing, new_id
from crewkeeper_bus.subjects import check_token
from crewkeeper_bus.tasks import Tasks
from crewkeeper_bus.waits import Wait, Waits, check_timeout, outcome_of


class Humans:
    """The questions of one incarnation that wait for a person, by id."""

    def __init__(self, outgoing: Outgoing, tasks: Tasks, waits: Waits) -> None:
        self._outgoing = outgoing
        self._tasks = tasks
        self._waits = waits
        self._open: dict[str, Wait] = {}
        self._answers: dict[str, str] = {}

    async def ask(self, text: str, who: str, timeout_s: float | None) -> str:
        """Ask and wait for the answer.

        Raises:
            CodecError: The question is longer than a message takes.
            BusError: What ended the wait.
        """
        check_token(who, "person")
        check_timeout(timeout_s)
        task = self._tasks.current()
        question = new_id()
        self._outgoing.note(AskHuman, task=task.id, question=question, who=who, text=text)
        wait = self._waits.begin(task, OnHuman(who=who, question=question), timeout_s)
        self._open[question] = wait
        try:
            await self._waits.rest(wait)
            return self._answers[question]
        finally:
            self._open.pop(question, None)
            self._answers.pop(question, None)

    def accept(self, id_: str, reply: SupervisorReply) -> bool:
        """Take an answer. False: no such question waits."""
        wait = self._open.pop(id_, None)
        if wait is None or wait.outcome:
            return False
        if reply.error is not None:
            error = error_of(reply.error, "_")
            return self._waits.finish(wait, outcome_of(error), error)
        try:
            value = "" if reply.body is msgspec.UNSET else codec.decode_body(reply.body)
        except CodecError as bad:
            return self._waits.finish(wait, "failed", bad)
        self._answers[id_] = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        return self._waits.finish(wait, "met")
