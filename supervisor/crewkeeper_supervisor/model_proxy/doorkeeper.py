"""Doorkeeper: which agent a request comes from, and whether that agent may go on, from the access records of its run.

The key that a client sends is its agent's own token, judged as a login is. Records are read from the store's leader at
each request, and again whenever one is written, for as long as a request of the agent is under way: so a pause holds
and a kill ends what has begun. What cannot be read lets nobody in.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Protocol

import anyio
import anyio.abc

from crewkeeper_bus.errors import ConnectionLost, SubjectError
from crewkeeper_bus.subjects import check_agent, check_token
from crewkeeper_supervisor.core.scope import Record, Refusal, decide
from crewkeeper_supervisor.model_proxy.problem import Problem
from crewkeeper_supervisor.shell import tokens
from crewkeeper_supervisor.shell.access import BUCKET, Access
from crewkeeper_supervisor.shell.errors import StoreUnavailable
from crewkeeper_supervisor.shell.logbook import logger
from crewkeeper_supervisor.shell.nats_link import LINK_ERRORS, Link
from crewkeeper_supervisor.shell.violations import Violations

SWEEP_S: Final = 2.0
"""Records are read again this often even if nothing is heard of them."""
KEY_MAX_CHARS: Final = 512
_REMEDY: Final = "use the key <run>.<agent>:<password> of the agent's own credentials"


class Standing:
    """One agent with requests under way.

    Attributes:
        agent: Its name.
        record: Its access record as last read.
        requests: How many are under way.
        is_doubtful: Whether the record may be another by now.
        notices: How many changes in the run had been heard of before it was read.
    """

    def __init__(self, record: Record) -> None:
        self.agent = record.agent
        self.record = record
        self.requests = 0
        self.is_doubtful = False
        self.notices = 0
        self._changed = anyio.Event()

    @property
    def is_held(self) -> bool:
        """Whether its answers are to be withheld."""
        return self.record.state == "paused"

    @property
    def ended(self) -> str:
        """Why it gets nothing any more; empty: it is not ended."""
        if self.record.over:
            return "the run is over"
        return f"{self.agent} was killed: {self.record.why or 'no reason given'}" * (self.record.state == "killed")

    def told(self, record: Record) -> None:
        """Its record was read again."""
        self.record, self.is_doubtful = record, False
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def change(self) -> None:
        """Return when its record was read again."""
        await self._changed.wait()


class _Notice(Protocol):
    subject: str


class Doorkeeper:
    """Lets in the agents of one run."""

    def __init__(self, link: Link, run: str) -> None:
        """Judge by the records of `run`, read over `link`."""
        self._link = link
        self._run = run
        self._access = Access(link)
        self._violations = Violations(link)
        self._standings: dict[str, Standing] = {}
        self._notices = 0
        self._wake = anyio.Event()

    async def serve(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Keep an eye on the records until cancelled; started once notices of changes come in.

        Raises:
            ConnectionLost: The server cannot be reached at the start.
        """
        try:
            await self._link.nc.subscribe(f"$KV.{BUCKET}.{self._run}.*", cb=self._noticed)
            await self._link.flush()
        except LINK_ERRORS as error:
            raise ConnectionLost(f"{self._link.place.host} does not answer: {type(error).__name__}") from error
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._violations.work)
            task_status.started()
            while True:
                self._wake = anyio.Event()
                with anyio.move_on_after(SWEEP_S) as waited:
                    if not any(each.is_doubtful for each in self._standings.values()):
                        await self._wake.wait()
                await self._read_again(every=waited.cancelled_caught)

    async def admit(self, headers: Mapping[str, str]) -> Standing:
        """The agent whose key the request bears.

        Args:
            headers: Of the request, names in lower case.

        Raises:
            Problem: It bears none, or one that lets nobody in.
        """
        user, _, password = _key(headers).partition(":")
        run, _, agent = user.partition(".")
        try:
            check_token(run, "run")
            check_agent(agent)
        except SubjectError:
            raise Problem(401, "no_key", f"the key is no key of an agent: {_REMEDY}") from None
        if run != self._run:
            raise Problem(401, "wrong_key", f"this proxy serves run {self._run} alone: {_REMEDY}")
        before = self._notices
        try:
            record = await self._access.get(run, agent)
        except StoreUnavailable:
            text = "who may call cannot be looked up now: nobody is let in"
            raise Problem(503, "gate_closed", text, retry=True, after_s=1.0) from None
        verdict = decide(record, tokens.parse(password), time.time())
        if isinstance(verdict, Refusal) or record is None:
            raise self._refused(agent, verdict if isinstance(verdict, Refusal) else Refusal(reason="unknown"))
        standing = Standing(record)
        standing.notices = before
        return standing

    @contextmanager
    def attend(self, admitted: Standing) -> Iterator[Standing]:
        """Keep what is known of an agent up to date while a request of it is under way; all its requests share one."""
        standing = self._standings.setdefault(admitted.agent, admitted)
        standing.requests += 1
        if standing is not admitted or self._notices != admitted.notices:
            standing.is_doubtful = True
            self._wake.set()
        try:
            yield standing
        finally:
            standing.requests -= 1
            if not standing.requests:
                del self._standings[standing.agent]

    async def look(self, standing: Standing) -> None:
        """Read the record of an agent with requests under way, now; what cannot be read stays as it was known."""
        standing.is_doubtful = True
        await self._read_again(every=False)

    def _refused(self, agent: str, refusal: Refusal) -> Problem:
        doer = agent if refusal.proven else ""
        if refusal.reason in ("killed", "run_over"):
            text = "the run is over" if refusal.reason == "run_over" else f"{agent} was killed: it is not let in again"
            return Problem(403, "cancelled", text)
        self._violations.note(
            self._run, doer, "login_refused", f"a model key of {agent[:32]!r} was refused: {refusal.reason}"
        )
        return Problem(401, "wrong_key", f"the key lets nobody in: {_REMEDY}")

    async def _noticed(self, notice: _Notice) -> None:
        self._notices += 1
        standing = self._standings.get(notice.subject.rpartition(".")[2])
        if standing is not None:
            standing.is_doubtful = True
            self._wake.set()

    async def _read_again(self, *, every: bool) -> None:
        for standing in list(self._standings.values()):
            if not (every or standing.is_doubtful):
                continue
            try:
                record = await self._access.get(self._run, standing.agent)
            except StoreUnavailable as error:  # what began goes on by what was known
                logger().warning("model_proxy.blind", crew=self._run, agent=standing.agent, error=type(error).__name__)
                await anyio.sleep(0.2)
                continue
            if record is not None:
                standing.told(record)


def _key(headers: Mapping[str, str]) -> str:
    """The key in a request, however its client sends it."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    key = value.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "").strip()
    if not key:
        raise Problem(401, "no_key", f"the request bears no key: {_REMEDY}")
    return key if len(key) <= KEY_MAX_CHARS else ""
