"""Access: the durable records of who may be in which run, in KV bucket ACCESS; who connects is judged by `callout`.

One record an agent and run, key `<run>.<agent>`, changed by compare-and-set only and read from the stream's leader, so
that whoever asks next sees what was decided last. A secret is never stored: only its digest is, and the secret leaves
this process once, in what `issue` returns.
"""

import re
import time
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec
import nats.js.errors
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from crewkeeper_bus.codec import PAYLOAD_MAX_BYTES
from crewkeeper_bus.credentials import Credentials
from crewkeeper_bus.errors import SubjectError
from crewkeeper_bus.field_types import TOOL_PATTERN
from crewkeeper_bus.subjects import SERVICES, check_agent, check_token
from crewkeeper_supervisor.core.reach import Reach
from crewkeeper_supervisor.core.scope import (
    HELPERS_KEPT,
    SESSION_S,
    AccessState,
    Record,
    Scope,
    Token,
    Wider,
    is_void,
    narrow,
    voided,
)
from crewkeeper_supervisor.shell import bucket, tokens
from crewkeeper_supervisor.shell.contention import contend
from crewkeeper_supervisor.shell.errors import ShellError, StoreUnavailable
from crewkeeper_supervisor.shell.nats_link import LINK_ERRORS, Link

BUCKET: Final = "ACCESS"
TTL_S: Final = 3600.0
"""How long a token is good for, unless it is said."""
TTL_MIN_S: Final = 1.0
TTL_MAX_S: Final = 30 * 24 * 3600.0
TOKENS_MAX: Final = 32
"""Tokens of one agent in force at a time."""
ENDED_KEEP_S: Final = 24 * 3600
"""How long the records of a run stay after its end: so long its tokens are known to be over, then they are unknown."""
PEERS_MAX: Final = 128
"""Names in a list of peers or of tools. The answer to a login holds six subjects for each peer, for three kinds each
under `crew` and under `held`: 90 KB for so many, 0.7 MB of the server's 1 MiB for a thousand, in every login of every
agent, and the server keeps them for each connection. Beyond that the core refuses what the server could."""

_STREAM: Final = f"KV_{BUCKET}"
_PREFIX: Final = f"$KV.{BUCKET}."
_REVOKED_KEPT: Final = 32

_TOOL: Final = re.compile(TOOL_PATTERN)

Names = tuple[str, ...] | None


class AccessRefused(ShellError):  # noqa: N818 - what the operator reads
    """The state of the agent's access does not allow this; nothing was changed."""


class NoAccess(ShellError):  # noqa: N818
    """Nothing was ever issued to this agent of this run, or not this token."""


class Damaged(StoreUnavailable):
    """A record cannot be read: nobody is let in by it. A kill replaces it."""


class Issued(Struct, frozen=True, kw_only=True):
    """A new token. Its representation never shows the secret."""

    run: str
    agent: str
    token: str
    """Its id; not a secret."""
    credentials: Credentials
    expires_at: float
    """Unix seconds."""


class _Found(NamedTuple):
    record: Record | None
    seq: int
    is_damaged: bool = False


_DECODER: Final = msgspec.json.Decoder(Record)


class Access:
    """The access records of one server. Cheap to make; holds no state of its own."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def open(self) -> None:
        """Create the bucket if it is not there.

        Raises:
            StoreUnavailable: The server did not answer.
        """
        await self._link.ensure_bucket(BUCKET, "Who may be in a run")

    async def is_there(self) -> bool:
        """Whether the bucket is there: whether anything can have been issued on this server.

        Raises:
            StoreUnavailable: The server did not answer.
        """
        try:
            await self._link.js.stream_info(_STREAM)
        except nats.js.errors.NotFoundError:
            return False
        except LINK_ERRORS as error:
            raise StoreUnavailable(f"bucket {BUCKET}: {type(error).__name__}") from error
        return True

    # --- letting in ---

    async def issue(
        self,
        run: str,
        agent: str,
        role: str = "",
        *,
        peers: Names | UnsetType = UNSET,
        tools: Names | UnsetType = UNSET,
        reach: Reach | None = None,
        ttl_s: float = TTL_S,
        by: str = "",
        replaces: bool = False,
        payload_bytes: int = PAYLOAD_MAX_BYTES,
    ) -> Issued:
        """Make a token for an agent; it is good from now on.

        Args:
            run: The run.
            agent: The agent's name.
            role: Its role; empty: the one it has, or its own name.
            peers: Names it may address; None: any; not given: as before. It holds for all its tokens, from the next
                login on.
            tools: Names of its tools; the same.
            reach: Whom the crew file lets it address; only for an agent that nothing was issued to yet.
            ttl_s: How long the token lives.
            by: Who issues it, for people.
            replaces: Revoke the tokens that the same `by` issued before.
            payload_bytes: The largest message it may publish.

        Raises:
            AccessRefused: The agent was killed, the run is over, the role is another, or it has too many tokens.
            SubjectError: A name is invalid.
            StoreUnavailable: The server did not store it.
        """
        # A service is let in by its host alone, and never by an agent that wants a helper: see `admit`.
        _check_given(run, () if agent in SERVICES and role in ("", agent) else (agent, role or agent), peers, tools)
        if not TTL_MIN_S <= ttl_s <= TTL_MAX_S:
            raise AccessRefused(f"a token lives {TTL_MIN_S:g} s to {TTL_MAX_S / 86400:g} days, not {ttl_s:g} s")
        made = tokens.new_token()
        now_s = time.time()
        token = Token(id=made.id, digest=made.digest, issued_at=now_s, expires_at=now_s + ttl_s, by=by[:200])

        def change(found: Record | None) -> Record:
            record = found or _first(run, agent, role or agent, reach, now_s)
            _check_admits(record, role, by)
            return replace(
                record,
                peers=record.peers if peers is UNSET else peers,
                tools=record.tools if tools is UNSET else tools,
                payload_bytes=payload_bytes,
                tokens=(*_with_room(record, now_s, by if replaces else None), token),
            )

        await self._change(run, agent, change)
        ends_s, user = token.expires_at, f"{run}.{agent}"
        credentials = Credentials(
            url=self._link.place.url, user=user, password=made.password, expires_at=ends_s, session_s=float(SESSION_S)
        )
        return Issued(run=run, agent=agent, token=made.id, credentials=credentials, expires_at=ends_s)

    async def admit(
        self,
        run: str,
        agent: str,
        role: str,
        *,
        parent: str,
        task: str,
        peers: Names,
        tools: Names,
        expires_s: float,
        token: str,
        digest: str,
        payload_bytes: int = PAYLOAD_MAX_BYTES,
    ) -> Record:
        """Let in a sub-agent whose secret was made, and is known, only where it will be used. Repeating it is harmless.

        Args:
            run: The run.
            agent: The sub-agent's name, new to the run.
            role: Its role.
            parent: The agent that asked for it.
            task: The parent's task that it lives and dies with.
            peers: Names it may address; None: any.
            tools: Names of its tools; None: any.
            expires_s: Seconds until its deadline.
            token: Id of its only token.
            digest: SHA-256 of the secret, hex.
            payload_bytes: The largest message it may publish.

        Raises:
            AccessRefused: The name is taken by another agent, or was killed; or it could do more than `parent` may now.
            ConfigError: `token` or `digest` is none.
            SubjectError: A name is invalid.
            StoreUnavailable: The server did not store it.
        """
        _check_given(run, (agent, role, parent), peers, tools)
        now_s = time.time()
        # What the crew file says of the parent, the core has looked at; an operator may have left it less than that.
        _check_within(await self.get(run, parent), parent, peers, tools)
        id_, digest = tokens.check_id(token), tokens.check_digest(digest)
        made = Token(id=id_, digest=digest, issued_at=now_s, expires_at=now_s + expires_s, by=parent)
        new = Record(
            run=run,
            agent=agent,
            role=role,
            peers=peers,
            tools=tools,
            since_s=now_s,
            payload_bytes=payload_bytes,
            parent=parent,
            task=task,
            tokens=(made,),
        )
        record = await self._change(run, agent, lambda found: new if found is None else _admitted(found, new))
        await self._change(run, parent, lambda found: _with_helper(found, parent, agent))
        return record

    # --- looking ---

    async def get(self, run: str, agent: str) -> Record | None:
        """An agent's record as it is now; None if nothing was ever issued to it.

        Raises:
            Damaged: It cannot be read.
            StoreUnavailable: The server did not answer.
        """
        found = await self._find(run, agent)
        if found.is_damaged:
            raise Damaged(f"the access record of {agent} of run {run} cannot be read; kill the agent to replace it")
        return found.record

    async def ls(self, run: str | None = None) -> list[Record]:
        """The records of a run, or of every run, by run and agent; damaged ones, and those of no run, are left out.

        Raises:
            StoreUnavailable: The server did not answer.
        """
        found = [each for each in await self._all(run) if each and (run or not each.run.startswith("_"))]
        return sorted(found, key=lambda each: (each.run, each.agent))

    # --- shutting out ---

    async def revoke(self, run: str, agent: str, token_id: str | None = None, *, by: str | None = None) -> Record:
        """End one token, or every one, of an agent; connections that are open stay so until they must log in again.

        With `by`: those that it issued, and it issues none any more.

        Raises:
            NoAccess: Nothing was issued to it, or not this token.
            StoreUnavailable: The server did not store it.
        """
        now_s = time.time()

        def change(found: Record | None) -> Record:
            if found is None:
                raise NoAccess(f"nothing was issued to {agent!r} of run {run!r}; `supervisor creds ls` lists what was")
            if token_id is not None and all(each.id != token_id for each in found.tokens):
                known = ", ".join(each.id for each in found.tokens if each.in_force(now_s)) or "none"
                raise NoAccess(f"{agent} of run {run} has no token {token_id[:40]!r}; in force: {known}")
            ended = [
                replace(each, revoked_at=each.revoked_at or now_s) if token_id in (None, each.id) else each
                for each in found.tokens
            ]
            ended = ended if by is None else list(voided(found.tokens, by, now_s))
            return replace(found, tokens=_kept(ended, now_s))

        return await self._change(run, agent, change)

    async def set_state(self, run: str, agent: str, state: AccessState, why: str = "", term: int = 0) -> Record:
        """Set an agent's state; repeating it is harmless. The next login is judged by it.

        Args:
            run: The run.
            agent: The agent. `killed` also holds for one that nothing was issued to yet.
            state: The new state.
            why: Reason, for people.
            term: Term of the owner that decides; 0: of nobody in particular. One older than the record's is refused,
                except for `killed`: between two owners, whoever shuts out prevails.

        Raises:
            AccessRefused: It would lead out of `killed`, or a newer owner has decided.
            NoAccess: Nothing was issued to it.
            StoreUnavailable: The server did not store it.
        """
        check_token(run, "run")
        check_agent(agent)

        def change(found: Record | None) -> Record:
            if found is None:
                if state != "killed":
                    raise NoAccess(f"nothing was issued to {agent!r} of run {run!r}: there is nothing to set")
                found = Record(run=run, agent=agent, role=agent)
            if found.state == state:
                return found
            if found.state == "killed":
                raise AccessRefused(
                    f"{agent} of run {run} was killed ({found.why or 'no reason given'}): that is final"
                )
            if state != "killed" and 0 < term < found.term:
                raise AccessRefused(
                    f"{agent} of run {run}: an owner of term {found.term} has decided after term {term}"
                )
            term_ = max(term, found.term)
            return replace(found, state=state, why=why[:500], since_s=time.time(), term=term_)

        return await self._change(run, agent, change, replace_damaged=state == "killed")

    async def end_run(self, run: str, agent: str = "") -> int:
        """Shut out everybody of a run that has ended, or one agent; returns how many. Repeating it is harmless.

        Raises:
            StoreUnavailable: The server did not store it.
        """
        records = [each for each in await self._all(run) if each and agent in ("", each.agent)]
        for record in records:

            def change(found: Record | None, record: Record = record) -> Record:
                found = found or record
                if found.over:
                    return found
                why = found.why if found.state == "killed" else "the run is over"
                return replace(found, over=True, state="killed", why=why, since_s=time.time())

            await self._change(run, record.agent, change, keep_s=ENDED_KEEP_S)
        return len(records)

    # --- the bucket ---

    async def _change(
        self,
        run: str,
        agent: str,
        change: Callable[[Record | None], Record],
        *,
        keep_s: int = 0,
        replace_damaged: bool = False,
    ) -> Record:
        """Store what `change` makes of the record; it is called again if somebody was faster."""
        headers = {"Nats-TTL": f"{keep_s}s"} if keep_s else None

        async def attempt() -> Record:
            found = await self._find(run, agent)
            if found.is_damaged and not replace_damaged:
                raise Damaged(f"the access record of {agent} of run {run} cannot be read; kill the agent to replace it")
            record = change(found.record)
            if record is found.record:
                return record
            await self._link.store(
                f"{_PREFIX}{run}.{agent}", msgspec.json.encode(record), expected_last=found.seq, headers=headers
            )
            return record

        return await contend(f"access of {agent} of run {run}", attempt)

    async def _find(self, run: str, agent: str) -> _Found:
        last = await self._link.last(_STREAM, f"{_PREFIX}{check_token(run, 'run')}.{check_token(agent, 'agent')}")
        if last is None:
            return _Found(None, 0)
        seq = int(last.seq or 0)
        if not last.data:
            return _Found(None, seq)
        record = _decode(last.data, f"{run}.{agent}")
        return _Found(record, seq, record is None)

    async def _all(self, run: str | None) -> list[Record | None]:
        keys = ">" if run is None else f"{check_token(run, 'run')}.*"
        stored = await bucket.entries(self._link, BUCKET, keys)
        found = {each.key: _decode(each.value, each.key) if each.value else None for each in stored}
        return list(found.values())


def _decode(data: bytes | None, user: str) -> Record | None:
    """The record, if it can be read and is the one it stands for."""
    try:
        record = _DECODER.decode(data or b"")
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return record if record.user == user else None


def _check_admits(record: Record, role: str, by: str = "") -> None:
    if is_void(record.tokens, by[:200]):
        raise AccessRefused(f"{record.agent} of run {record.run}: {by} was given up as lost, and gets nothing any more")
    if record.over:
        raise AccessRefused(f"run {record.run} is over: nobody is let in any more")
    if record.state == "killed":
        why = f" ({record.why})" if record.why else ""
        raise AccessRefused(f"{record.agent} of run {record.run} was killed{why}: it is not let in again")
    if role and role != record.role:
        raise AccessRefused(f"{record.agent} of run {record.run} has role {record.role!r}, not {role!r}")


def _admitted(found: Record, wanted: Record) -> Record:
    """The record that is there, if it is of the same admission."""
    _check_admits(found, "")
    ids = {each.id for each in found.tokens}
    if (found.parent, found.task) != (wanted.parent, wanted.task) or wanted.tokens[0].id not in ids:
        raise AccessRefused(f"run {found.run} has an agent {found.agent!r} already; choose another name")
    return found


def _first(run: str, agent: str, role: str, reach: Reach | None, now_s: float) -> Record:
    peers, tells = reach or Reach()
    if len(peers or ()) + len(tells) > PEERS_MAX:
        peers, tells = None, ()  # the core refuses then
    return Record(run=run, agent=agent, role=role, peers=peers, tells=tells if peers is not None else (), since_s=now_s)


def _with_helper(parent: Record | None, name: str, helper: str) -> Record:
    """The record of who let in a helper: who may address few may address the helper, too, from its next login on."""
    if parent is None:
        raise AccessRefused(f"{name} may not be in the run itself: it can let in nobody")
    if parent.peers is None or helper in parent.helpers:
        return parent
    return replace(parent, helpers=(*parent.helpers, helper)[-HELPERS_KEPT:])


def _check_within(parent: Record | None, name: str, peers: Names, tools: Names) -> None:
    """Raise unless an agent may itself do what it wants to let another do."""
    if parent is None or parent.state == "killed":
        raise AccessRefused(f"{name} may not be in the run itself: it can let in nobody")
    own = None if parent.peers is None else (*parent.peers, name)
    verdict = narrow(Scope(peers=own, tools=parent.tools), Scope(peers=peers, tools=tools))
    # "Any" of one who has not any is inherited where it is a wish; here it is what would be granted.
    is_any = (peers is None and own is not None) or (tools is None and parent.tools is not None)
    if isinstance(verdict, Wider) or is_any:
        text = verdict.text if isinstance(verdict, Wider) else "it may not reach everything itself"
        raise AccessRefused(f"the credentials of {name} allow less: {text}")


def _with_room(record: Record, now_s: float, by: str | None) -> tuple[Token, ...]:
    """The tokens that stay beside a new one."""
    kept = _kept(record.tokens, now_s, by=by)
    if sum(each.in_force(now_s) for each in kept) >= TOKENS_MAX:
        raise AccessRefused(
            f"{record.agent} of run {record.run} has {TOKENS_MAX} tokens in force; revoke some: "
            f"supervisor creds revoke {record.run} {record.agent} --token ID"
        )
    return kept


def _check_given(run: str, names: tuple[str, ...], peers: Names | UnsetType, tools: Names | UnsetType) -> None:
    check_token(run, "run")
    for name in names:
        check_agent(name)
    _check_names(peers, "peers")
    _check_names(tools, "tools")


def _check_names(names: Names | UnsetType, what: str) -> None:
    if names is UNSET or names is None:
        return
    if len(names) > PEERS_MAX:
        raise AccessRefused(f"{len(names)} {what}; at most {PEERS_MAX} can be named: name roles, or none for any")
    for name in names:
        if what == "peers":
            check_agent(name)
        elif not _TOOL.match(name):
            raise SubjectError(f"tool {name[:80]!r} is not a valid name: use that of a tool, or tool.function")


def _kept(found: "tuple[Token, ...] | list[Token]", now_s: float, *, by: str | None = None) -> tuple[Token, ...]:
    """The tokens worth keeping: those in force, and the newest of the others, so that their use is recognised."""
    every = [replace(each, revoked_at=now_s) if by == each.by and each.in_force(now_s) else each for each in found]
    ended = [each for each in every if not each.in_force(now_s)][-_REVOKED_KEPT:]
    return tuple(each for each in every if each.in_force(now_s) or each in ended)
