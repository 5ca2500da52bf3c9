"""Delegation: letting in a helper of one's own, with less than one may do oneself; the supervisor decides about it.

The secret is made here and goes to the helper by whatever way its author chooses; only its digest crosses the bus.
"""

import hashlib
import secrets
import time
from collections.abc import Sequence
from typing import Final

import anyio

from crewkeeper_bus.calls import error_of
from crewkeeper_bus.credentials import Credentials
from crewkeeper_bus.errors import BusError, ConfigError, Timeout
from crewkeeper_bus.messages import Delegate, SupervisorReply
from crewkeeper_bus.outgoing import Outgoing, new_id
from crewkeeper_bus.settings import SECONDS_MAX, Settings
from crewkeeper_bus.subjects import SUPERVISOR, Kind, check_agent, check_token
from crewkeeper_bus.tasks import Tasks

ANSWER_S: Final = 30.0
"""How long the supervisor may take to decide. It waits for nobody, so this is no wait that it needs to see."""


class _Asked:
    __slots__ = ("done", "error")

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.error: BusError | None = None


class Delegations:
    """The helpers that one incarnation has asked for and has no answer about, by the id of the note that asked."""

    def __init__(self, settings: Settings, outgoing: Outgoing, tasks: Tasks) -> None:
        self._settings = settings
        self._outgoing = outgoing
        self._tasks = tasks
        self._open: dict[str, _Asked] = {}

    async def ask(self, name: str, peers: Sequence[str], tools: Sequence[str], limit_s: float) -> Credentials:
        """Ask for a helper and wait for the answer; raises as `Client.delegate`."""
        check_agent(name)
        for each in peers:
            check_token(each, "peer")
        for each in tools:
            check_token(each, "tool")
        if not 0 < limit_s <= SECONDS_MAX:
            raise ConfigError(f"limit_s is {limit_s}: give seconds from 0 to {SECONDS_MAX:g}")
        token, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        id_, asked = new_id(), _Asked()
        expires_at = time.time() + limit_s
        self._outgoing.send(
            Kind.NOTE,
            SUPERVISOR,
            id_,
            Delegate,
            task=self._tasks.current().id,
            agent=name,
            peers=tuple(peers),
            tools=tuple(tools),
            limit_s=limit_s,
            digest=hashlib.sha256(secret.encode()).hexdigest(),
            token=token,
        )
        self._open[id_] = asked
        try:
            with anyio.move_on_after(ANSWER_S):
                await asked.done.wait()
        finally:
            self._open.pop(id_, None)
        if asked.error is not None:
            raise asked.error
        if not asked.done.is_set():
            raise Timeout(f"no supervisor let {name} in within {ANSWER_S:g} s: does one run?", limit_s=ANSWER_S)
        return Credentials(
            url=self._settings.url,
            user=f"{self._settings.run}.{name}",
            password=f"{token}-{secret}",
            expires_at=expires_at,
            session_s=self._settings.session_s,
        )

    def accept(self, id_: str, reply: SupervisorReply) -> bool:
        """Take an answer of the supervisor. False: nothing of this id was asked for."""
        asked = self._open.pop(id_, None)
        if asked is None:
            return False
        asked.error = None if reply.error is None else error_of(reply.error, SUPERVISOR)
        asked.done.set()
        return True

    def fail_all(self, error: BusError) -> None:
        """Fail whatever waits for an answer: this agent goes."""
        for asked in self._open.values():
            asked.error = error
            asked.done.set()
        self._open.clear()
