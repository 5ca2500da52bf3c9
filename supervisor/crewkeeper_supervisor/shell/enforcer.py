"""Enforcer: what is decided about an agent's access, done by the servers: kill, pause, resume; nothing is decided here.

Theory of operation. State first: the access record is written before any connection is touched, so that whoever comes
back from then on is judged by it.

*Kill*: every server is asked for the agent's connections, and all of them are closed; this is repeated until nothing is
found, and again a little later, for a login that was being judged while the record was written. Only a last look that
every server took part in, and that found nothing, counts as done.

*Pause*: in mode `operator`, and for few, what the agent says is held by the server and put into the journal when it
goes on (`holds`); it stays connected and hears everything. Otherwise its connections are closed, and it comes back to
a login that lets it hear the supervisor only; what was addressed to it meanwhile is delivered again when it goes on
(`redelivery`). What it says meanwhile is refused: only a client that obeys a pause keeps it.

Everything is told by the records (`access`, `holds`) and the servers themselves, so that another supervisor may repeat
or finish what one has begun, and doing it twice does no harm.
"""

import contextlib
import time
import weakref
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
from msgspec import Struct
from msgspec.structs import replace

from crewkeeper_bus.errors import ConnectionLost, SubjectError
from crewkeeper_bus.subjects import check_agent, check_token, stream_name
from crewkeeper_supervisor.core.scope import Record
from crewkeeper_supervisor.shell import excerpt, fail_points, redelivery, tokens
from crewkeeper_supervisor.shell.access import Access, AccessRefused, Damaged, NoAccess
from crewkeeper_supervisor.shell.authority import Authority
from crewkeeper_supervisor.shell.contention import contend
from crewkeeper_supervisor.shell.errors import ClaimsRefused, StoreUnavailable
from crewkeeper_supervisor.shell.holds import MAPPED_MAX, Hold, Holds, Mapping, mappings_of
from crewkeeper_supervisor.shell.logbook import logger
from crewkeeper_supervisor.shell.nats_link import Link, WrongLastSequence
from crewkeeper_supervisor.shell.system_link import Connection, Scan, SystemLink

LOOK_AGAIN_S: Final = (0.05, 0.25)
"""After the connections are closed, the servers are asked again at these times: seconds since they were last closed.
The last is longer than a login may be judged by a record that it has read (`callout.FRESH_S`)."""
CLEAR_S: Final = 5.0
"""How long it may take until no connection is found."""
BACK_S: Final = 5.0
"""How long an agent that goes on may take to connect again."""
BACK_POLL_S: Final = 0.02
SETTLE_S: Final = 0.05
"""A subscription that one server lists is known to all of a cluster after this time."""
CLOSED_AT_ONCE: Final = 32
"""Agents of a run that has ended whose connections are closed at the same time."""
DRAIN_ROUNDS_MAX: Final = 20
DRAINED: Final = 100
"""Held words are put into the journal until so few came meanwhile; then the agent's way is opened."""
PUSH_LIMIT_S: Final = 30.0
"""How long the list of mappings may go on changing while the servers are brought to it."""

FAILURES: Final = (AccessRefused, NoAccess, Damaged, StoreUnavailable, ClaimsRefused, ConnectionLost, SubjectError)
"""What keeps an order from being carried out: told in its outcome, never raised."""


class Done(Struct, frozen=True, kw_only=True):
    """What came of an order to the servers.

    Attributes:
        ok: It is in force on every server.
        connections: How many connections were closed.
        took_ms: How long it took.
        detail: Why it is not in force, for people; or what else there is to say.
        enforced: False: the servers cannot be told at all: trying again is of no use.
    """

    ok: bool
    connections: int = 0
    took_ms: int = 0
    detail: str = ""
    enforced: bool = True


class Enforcer:
    """Carries out orders about agents, for every run of one server. None of its orders raises."""

    def __init__(self, link: Link, system: SystemLink | None, access: Access, authority: Authority) -> None:
        """Take what it works with.

        Args:
            link: The supervisor's connection.
            system: The connection to the system account; None where there is none: then the records are all it sets.
            access: The access records.
            authority: What may be signed.
        """
        self._link = link
        self._system = system
        self._access = access
        self._authority = authority
        self._holds = Holds(link)
        self._locks: weakref.WeakValueDictionary[str, anyio.Lock] = weakref.WeakValueDictionary()

    async def open(self) -> None:
        """Create what it keeps its state in, and bring the servers to what is recorded there; before any order.

        Raises:
            ClaimsRefused: A server does not take the recorded mappings.
            ConnectionLost: There is no connection to the system account.
            StoreUnavailable: The server did not answer.
        """
        await self._holds.open(mapping=self._maps)
        if self._maps and (await self._holds.mapped())[1]:
            await self._push()

    # --- orders ---

    async def kill(self, run: str, agent: str, *, why: str, term: int) -> Done:
        """Shut an agent out for good. Repeating it is harmless, and looks again.

        `ok` means: no server has a connection of it any more, and none lets it in.
        """
        return await self._timed(lambda: self._kill(run, agent, why, term))

    async def cut_off(self, run: str, agent: str, *, place: str) -> Done:
        """Make void what one process of an agent logs in with, and close every connection of the agent.

        The agent may be let in with what another process is given. `ok` means: no server has a connection of it that
        was there before, and none lets that process in.
        """
        return await self._timed(lambda: self._cut_off(run, agent, place))

    async def end_run(self, run: str, *, closes: bool) -> None:
        """Let nobody of a run in any more that has ended; `closes`: and close the connections of those who are.

        A host closes those of its own runs. Whoever cannot be reached now goes when the connection's session ends.

        Raises:
            StoreUnavailable: The server did not store it.
        """
        await self._access.end_run(run)
        if not closes or self._system is None:
            return
        users, limit = [record.user for record in await self._access.ls(run)], anyio.CapacityLimiter(CLOSED_AT_ONCE)

        async def close(user: str) -> None:
            async with limit:
                await self._timed(lambda: self._clear(user, lambda _connection, _asked_s: False))

        async with anyio.create_task_group() as tasks:
            for user in users:
                tasks.start_soon(close, user)

    async def pause(self, run: str, agent: str, *, why: str, term: int, keep: bool = True) -> Done:
        """Hold an agent: nothing that it says reaches anybody until `resume`. Repeating it is harmless.

        With `keep` what it says meanwhile is kept, where that can be done; without, the server refuses it, which is
        what an agent that says too much needs.
        """
        return await self._timed(lambda: self._pause(run, agent, why, term, keep), f"{run}.{agent}")

    async def resume(self, run: str, agent: str, *, why: str, term: int) -> Done:
        """Let a held agent go on: with what it said meanwhile where that was kept, and with what was said to it.

        `ok` means: it has all its rights again, and everything was delivered. Repeating it finishes what is left.
        """
        return await self._timed(lambda: self._resume(run, agent, why, term), f"{run}.{agent}")

    async def pause_pair(self, run: str, agent: str, other: str) -> Done:
        """Hold what two agents say to each other; everything else goes on. Mode `operator` only."""
        return await self._timed(lambda: self._pause_pair(*_pair(run, agent, other)), run)

    async def resume_pair(self, run: str, agent: str, other: str) -> Done:
        """Deliver what two agents said to each other meanwhile, and let them go on."""
        return await self._timed(lambda: self._resume_pair(*_pair(run, agent, other)), run)

    async def _kill(self, run: str, agent: str, why: str, term: int) -> Done:
        await self._access.set_state(run, agent, "killed", why, term)
        fail_points.passed("access-stored")
        done = await self._clear(f"{run}.{agent}", lambda _connection, _asked_s: False)
        if done.ok:
            try:
                await self._release(run, agent)
            except FAILURES as error:  # it is shut out all the same; what is left of its holds holds nobody
                logger().warning("hold.left", crew=run, agent=agent, cause=type(error).__name__)
        return done

    async def _cut_off(self, run: str, agent: str, place: str) -> Done:
        if self._system is None:
            return self._powerless()
        with contextlib.suppress(NoAccess):  # its host was lost before it had anything to log in with
            await self._access.revoke(run, agent, by=tokens.issuer_of(place))
        return await self._clear(f"{run}.{agent}", lambda _connection, _asked_s: False)

    # --- pause and resume ---

    async def _pause(self, run: str, agent: str, why: str, term: int, keep: bool) -> Done:
        user = f"{run}.{agent}"
        hold = await self._holds.get(run, agent)
        if hold is None and self._system is not None:
            hold = Hold(
                run=run,
                agent=agent,
                via="mapping" if self._maps and keep else "permissions",
                journal_seq=await excerpt.last_seq(self._link, stream_name(run)),
                # Whoever connects from now on may be let in with less, and must log in again to get it back.
                stayed=tuple((each.server, each.cid) for each in (await self._system.connections(user)).connections),
            )
            await self._holds.put(hold)
        await self._access.set_state(run, agent, "paused", why, term)
        fail_points.passed("access-stored")
        written_s = time.monotonic()
        if hold is None:
            return self._powerless()
        if hold.via == "mapping" and not keep:  # it was held before, and fills the store of its words
            await self._holds.put(replace(hold, stayed=()))
        elif hold.via == "mapping":
            if await self._map(hold):
                return await self._pushed()
            await self._holds.put(replace(hold, via="permissions", stayed=()))
        return await self._clear(user, lambda connection, asked_s: connection.age_s < asked_s - written_s)

    async def _resume(self, run: str, agent: str, why: str, term: int) -> Done:
        before = await self._access.get(run, agent)
        record = await self._access.set_state(run, agent, "running", why, term)
        fail_points.passed("access-stored")
        written_s = time.monotonic()
        hold = await self._holds.get(run, agent)
        if self._system is None:
            return self._powerless()
        if hold is None and (before is None or before.state != "paused"):
            return Done(ok=True)
        detail = ""
        if hold is not None and hold.via == "mapping":
            opened = await self._unmap(mappings_of(hold), (agent,))
            if not opened.ok:
                return opened
            detail = opened.detail
        stayed = frozenset(hold.stayed if hold is not None and hold.via == "mapping" else ())
        is_there = False

        def keeps(connection: Connection, asked_s: float) -> bool:
            nonlocal is_there
            has_stayed = (connection.server, connection.cid) in stayed
            is_there = is_there or has_stayed
            return has_stayed or connection.age_s < asked_s - written_s

        done = await self._clear(f"{run}.{agent}", keeps)
        if done.ok and hold is not None and not is_there:
            done = await self._make_up(record, hold.journal_seq, written_s, done)
        if done.ok and hold is not None:
            await self._holds.drop(hold)
        return replace(done, detail=done.detail or detail)

    async def _pause_pair(self, run: str, agent: str, other: str) -> Done:
        if not self._maps:
            detail = f"two agents can be held apart on an embedded server only: {self._authority.cannot_enforce}"
            return Done(ok=False, enforced=False, detail=detail)
        hold = Hold(run=run, agent=agent, peer=other, via="mapping")
        await self._holds.put(hold)
        if await self._map(hold):
            return await self._pushed()
        await self._holds.drop(hold)
        return Done(ok=False, detail=f"{MAPPED_MAX} mappings are in force: resume others first, or pause the agents")

    async def _resume_pair(self, run: str, agent: str, other: str) -> Done:
        hold = await self._holds.get(run, agent, other)
        if hold is None:
            return Done(ok=True)
        done = await self._unmap(mappings_of(hold), (agent, other))
        if done.ok:
            await self._holds.drop(hold)
        return done

    # --- mappings ---

    @property
    def _maps(self) -> bool:
        """Whether words can be held."""
        return self._authority.mode == "operator" and self._system is not None

    async def _map(self, hold: Hold) -> bool:
        """Put a hold into the list of mappings; False: the list is full."""
        wanted = mappings_of(hold)

        def with_them(before: tuple[Mapping, ...]) -> tuple[Mapping, ...] | None:
            after = (*before, *(each for each in wanted if each not in before))
            return after if len(after) <= MAPPED_MAX else None

        if with_them((await self._holds.mapped())[1]) is None:
            return False
        for each in wanted:
            await self._holds.make_store(each.run, each.sender)
        return await self._holds.change_mapped(with_them) is not None

    async def _unmap(self, mappings: tuple[Mapping, ...], senders: tuple[str, ...]) -> Done:
        """Take mappings out of force, and put what they held into the journal first, up to the last few words."""
        run = mappings[0].run

        def without_them(before: tuple[Mapping, ...]) -> tuple[Mapping, ...]:
            return tuple(each for each in before if each not in mappings)

        await self._holds.change_mapped(without_them)
        overflown = []
        for sender in senders:
            for _ in range(DRAIN_ROUNDS_MAX):
                count, full = await self._holds.replay(run, sender)
                if full:
                    overflown.append(sender)
                if count <= DRAINED:
                    break
        done = await self._pushed()
        if not done.ok:
            return done
        # What was on its way when the mapping ended comes a moment later.
        for wait_s in (0.0, *LOOK_AGAIN_S):
            await anyio.sleep(wait_s)
            for sender in senders:
                for _ in range(DRAIN_ROUNDS_MAX):
                    if not (await self._holds.replay(run, sender))[0]:
                        break
        await self._discard_idle(run, senders)
        if overflown:
            return replace(done, detail=f"more was said than is kept: the last words of {overflown[0]} are lost")
        return done

    async def _discard_idle(self, run: str, senders: tuple[str, ...]) -> None:
        """Delete the stores of those of whom nothing is held any more."""
        _, left = await self._holds.mapped()
        for sender in senders:
            if not any((each.run, each.sender) == (run, sender) for each in left):
                await self._holds.discard(run, sender)

    async def _release(self, run: str, agent: str) -> None:
        """Drop every hold that an agent has a part in, with its own words."""
        hold = await self._holds.get(run, agent)
        if hold is not None:
            await self._holds.drop(hold)
        _, mapped = await self._holds.mapped()
        concerned = tuple(each for each in mapped if each.run == run and agent in (each.sender, each.to))
        if not concerned or not self._maps:
            return
        await self._holds.discard(run, agent)
        others = tuple({each.sender: None for each in concerned if each.sender != agent})
        await self._unmap(concerned, others)
        await self._discard_idle(run, (agent,))
        for other in others:
            await self._holds.drop(Hold(run=run, agent=min(agent, other), peer=max(agent, other), via="mapping"))

    async def _pushed(self) -> Done:
        silent = await self._push()
        detail = f"{', '.join(silent)} did not answer: it may not be in force there" if silent else ""
        return Done(ok=not silent, detail=detail)

    async def _push(self) -> tuple[str, ...]:
        """Bring the servers to the list of mappings; returns the names of those that did not answer."""
        system = self._system
        assert system is not None

        async def attempt() -> tuple[str, ...]:
            seq, mapped = await self._holds.mapped()
            jwt = self._authority.account_claims({each.source: each.target for each in mapped})
            silent = await system.push_account(jwt)
            if (await self._holds.mapped())[0] != seq:
                raise WrongLastSequence("the servers may have an older list now")
            return silent

        return await contend("the list of mappings", attempt, PUSH_LIMIT_S)

    # --- connections ---

    async def _clear(self, user: str, keeps: Callable[[Connection, float], bool]) -> Done:
        """Close a user's connections until none is left but those that may stay.

        Args:
            user: Its name.
            keeps: Whether a connection may stay, given when the servers were asked, by our monotonic clock.
        """
        if (system := self._system) is None:
            return self._powerless()
        closed: set[tuple[str, int]] = set()
        found: list[Connection] = []
        asked_s = 0.0

        def close(connection: Connection) -> None:
            if not keeps(connection, asked_s):
                found.append(connection)
                closed.add((connection.server, connection.cid))
                system.kick([connection])  # at once: a server that does not answer must not delay it

        quiet_since_s, looks = time.monotonic(), 0
        until_s = quiet_since_s + CLEAR_S
        while True:
            found.clear()
            asked_s = time.monotonic()
            scan = await system.connections(user, found=close)
            now_s = time.monotonic()
            quiet_since_s, looks = (now_s, 0) if found else (quiet_since_s, looks + 1)
            if scan.silent or looks > len(LOOK_AGAIN_S) or now_s > until_s:
                return _cleared(len(closed), scan, looks)
            if not found:
                await anyio.sleep(max(0.0, quiet_since_s + LOOK_AGAIN_S[looks - 1] - now_s))

    async def _make_up(self, record: Record, after: int, written_s: float, done: Done) -> Done:
        """Deliver to an agent that is back what was addressed to it meanwhile."""
        role = record.role if await self._is_alone(record) else ""
        if not await redelivery.count(self._link, record.run, record.agent, after=after, role=role):
            return done
        until_s = time.monotonic() + BACK_S
        while (connection := await self._back(record, written_s, until_s)) is not None:
            await anyio.sleep(SETTLE_S)
            await redelivery.redeliver(self._link, record.run, record.agent, after=after, role=role)
            if connection in await self._listening(record, written_s):
                return done
        waiting = await redelivery.count(self._link, record.run, record.agent, after=after, role=role)
        return replace(done, ok=False, detail=f"it has not come back yet; {waiting} messages wait for it")

    async def _back(self, record: Record, written_s: float, until_s: float) -> tuple[str, int] | None:
        """A connection of the agent that was made after `written_s` and listens; None: not until `until_s`."""
        while time.monotonic() < until_s:
            if found := await self._listening(record, written_s):
                return found[0]
            await anyio.sleep(BACK_POLL_S)
        return None

    async def _listening(self, record: Record, written_s: float) -> list[tuple[str, int]]:
        assert self._system is not None
        asked_s = time.monotonic()
        scan = await self._system.connections(record.user, subjects=True)
        return [
            (each.server, each.cid)
            for each in scan.connections
            if each.age_s < asked_s - written_s and any(".ctl." not in subject for subject in each.subjects)
        ]

    async def _is_alone(self, record: Record) -> bool:
        """Whether nobody else could have taken calls to the agent's role meanwhile."""
        if record.role == record.agent:
            return False
        others = [each for each in await self._access.ls(record.run) if each.role == record.role]
        return all(each.state != "running" or each.agent == record.agent for each in others)

    # --- outcomes ---

    def _powerless(self) -> Done:
        return Done(ok=False, enforced=False, detail=self._authority.cannot_enforce)

    async def _timed(self, work: Callable[[], Awaitable[Done]], key: str = "") -> Done:
        """Do it, one after the other for one `key`; what is in the way becomes part of the outcome."""
        began_s = time.monotonic()
        lock = self._locks.setdefault(key, anyio.Lock()) if key else anyio.Lock()
        try:
            async with lock:
                done = await work()
        except FAILURES as error:
            done = Done(ok=False, detail=str(error))
        took_ms = round((time.monotonic() - began_s) * 1000)
        return replace(done, took_ms=took_ms, detail=done.detail[:500])


def _pair(run: str, agent: str, other: str) -> tuple[str, str, str]:
    """Run and two agents, in the order in which their hold is recorded."""
    check_token(run, "run")
    first, second = sorted((check_agent(agent), check_agent(other)))
    return run, first, second


def _cleared(closed: int, scan: Scan, looks: int) -> Done:
    detail = ""
    if scan.silent:
        detail = f"{', '.join(scan.silent)} did not answer: the agent may be connected there"
    elif looks <= len(LOOK_AGAIN_S):
        detail = f"{len(scan.connections)} connections were still found after {CLEAR_S:g} s"
    return Done(ok=not detail, connections=closed, detail=detail)
