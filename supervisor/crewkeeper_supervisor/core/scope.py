"""Scope: who is let in, with which rights and until when, and what an agent may pass on; decided from records alone.

An access record says what is durable about one agent of one run: its scope, its state, and the digests of its tokens.
`decide` turns a record and a login into a grant or a refusal, `narrow` a wish for a sub-agent into a part of its
parent's scope. Where records are kept is `shell.access`, who asks is `shell.callout`.
"""

from collections.abc import Iterable, Mapping
from hmac import compare_digest
from typing import Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from crewkeeper_bus.codec import PAYLOAD_MAX_BYTES
from crewkeeper_bus.subjects import SERVICES, Permissions, agent_permissions, paused_permissions, service_permissions

SESSION_S: Final = 600
"""How long the server keeps a connection before it must log in again."""
SUBSCRIPTIONS_MAX: Final = 20
"""How many subscriptions a connection may have: an agent needs seven. Stated in what is signed; nats-server 2.15 does
not hold connections to it, nor to the size of messages, when they were let in by a callout."""

HELPERS_KEPT: Final = 16
"""Names of helpers in a record: as many as an agent may have at a time."""

AccessState = Literal["running", "paused", "killed"]
"""`paused`: it may connect, hear the supervisor, and say nothing. `killed`: for good; nothing leads out of it."""

RefusalReason = Literal["unknown", "wrong_token", "revoked", "expired", "killed", "run_over"]


class Token(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One secret that an agent may log in with; only its digest is kept."""

    id: str
    digest: str
    """SHA-256 of the secret, hex."""
    issued_at: float
    """Unix seconds."""
    expires_at: float
    """Unix seconds."""
    by: str = ""
    """Who issued it, for people."""
    revoked_at: float = 0.0
    """Unix seconds; 0: it is not revoked."""

    def in_force(self, now_s: float) -> bool:
        """Whether it lets anybody in."""
        return not self.revoked_at and now_s < self.expires_at


class Record(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of one agent's right to be in a run."""

    run: str
    agent: str
    role: str
    peers: tuple[str, ...] | None = None
    """Names it may address; None: any."""
    tells: tuple[str, ...] = ()
    """Besides its peers: names that it may send one-way messages to."""
    helpers: tuple[str, ...] = ()
    """Helpers it has let in, which it may address beside its peers; the newest `HELPERS_KEPT`."""
    tools: tuple[str, ...] | None = None
    """Tools it may ask for; None: any that the gate allows."""
    state: AccessState = "running"
    why: str = ""
    since_s: float = 0.0
    """When the state began, unix seconds; for people."""
    term: int = 0
    """Term of the owner that set the state."""
    payload_bytes: int = PAYLOAD_MAX_BYTES
    parent: str = ""
    """Agent that asked for it; empty: it is of the crew file, or was let in by an operator."""
    task: str = ""
    """The parent's task that it lives and dies with."""
    over: bool = False
    """The run has ended."""
    tokens: tuple[Token, ...] = ()

    @property
    def user(self) -> str:
        """The name that the server knows its connections by."""
        return f"{self.run}.{self.agent}"


class Login(Struct, frozen=True, kw_only=True):
    """What somebody who connects presents, taken apart; the secret itself has become its digest."""

    token: str
    digest: str
    nonce: str = ""
    """Names the client process; empty if it gave none."""


class Grant(Struct, frozen=True, kw_only=True):
    """Let in."""

    permissions: Permissions
    expires_at: int
    """When the server closes the connection, unix seconds."""
    payload_bytes: int
    subscriptions: int = SUBSCRIPTIONS_MAX


class Refusal(Struct, frozen=True, kw_only=True):
    """Not let in."""

    reason: RefusalReason
    proven: bool = False
    """Whether the secret was right: only then was it the agent itself, or somebody with its token."""


def decide(record: Record | None, login: Login | None, now_s: float) -> Grant | Refusal:
    """Whether a login is let in.

    The token is judged before the state, so that nobody without one learns how an agent is doing.

    Args:
        record: The agent's record, as its store has it at this moment; None: there is none.
        login: What was presented; None: nothing that could be a token.
        now_s: The time, unix seconds.
    """
    if record is None:
        return Refusal(reason="unknown")
    token = None if login is None else _presented(record.tokens, login)
    if token is None:
        return Refusal(reason="wrong_token")
    if record.over:
        return Refusal(reason="run_over", proven=True)
    if record.state == "killed":
        return Refusal(reason="killed", proven=True)
    if token.revoked_at:
        return Refusal(reason="revoked", proven=True)
    expires_at = int(min(now_s + SESSION_S, token.expires_at))
    if expires_at <= now_s:
        return Refusal(reason="expired", proven=True)
    return Grant(permissions=permissions_of(record), expires_at=expires_at, payload_bytes=record.payload_bytes)


def voided(tokens: Iterable[Token], by: str, now_s: float) -> tuple[Token, ...]:
    """Tokens with all that `by` has issued revoked, and with a mark that it issues none any more."""
    ended = [replace(each, revoked_at=each.revoked_at or now_s) if each.by == by else each for each in tokens]
    if is_void(ended, by):
        return tuple(ended)
    mark = Token(id="void", digest="", issued_at=now_s, expires_at=now_s, by=by, revoked_at=now_s)
    return (*ended, mark)


def is_void(tokens: Iterable[Token], by: str) -> bool:
    """Whether `by` is marked as issuing nothing any more."""
    return any(each.by == by and not each.digest for each in tokens)


def permissions_of(record: Record) -> Permissions:
    """What an agent, or a service, that is let in may do at this moment."""
    if record.agent in SERVICES:
        return service_permissions(record.run, record.agent)
    if record.state == "paused":
        return paused_permissions(record.run, record.agent)
    peers = None if record.peers is None else (*record.peers, *record.helpers)
    return agent_permissions(record.run, record.agent, record.role, peers, tools=record.tools, tells=record.tells)


def _presented(tokens: Iterable[Token], login: Login) -> Token | None:
    for token in tokens:
        if token.id == login.token:
            # In constant time, although what is compared are digests: nothing is to be learned from how long it takes.
            return token if compare_digest(token.digest.encode(), login.digest.encode()) else None
    return None


# --- delegation ---


class Scope(Struct, frozen=True, kw_only=True):
    """What an agent may reach: an upper bound for whomever it lets in for itself."""

    peers: tuple[str, ...] | None = None
    """Names of agents and roles it may address; None: any."""
    tools: tuple[str, ...] | None = None
    """Names of tools; None: any that the gate allows."""
    until_s: float | None = None
    """When it ends, on the clock of whoever asks; None: with the run."""


class Wider(Struct, frozen=True, kw_only=True):
    """A wish that goes beyond what the parent has."""

    what: Literal["peers", "tools", "deadline"]
    text: str
    """For the agent that asked."""


def narrow(parent: Scope, wanted: Scope) -> Scope | Wider:
    """The scope of a sub-agent: what was wanted, if the parent has all of it.

    What is not named is inherited, so that a wish can say less and never more.

    Args:
        parent: What the agent that asks may do itself.
        wanted: What it asks for.
    """
    peers = _within(parent.peers, wanted.peers)
    if peers is None and parent.peers is not None:
        return Wider(what="peers", text=_excess("peers", parent.peers, wanted.peers))
    tools = _within(parent.tools, wanted.tools)
    if tools is None and parent.tools is not None:
        return Wider(what="tools", text=_excess("tools", parent.tools, wanted.tools))
    until_s = parent.until_s if wanted.until_s is None else wanted.until_s
    if parent.until_s is not None and until_s is not None and until_s > parent.until_s:
        over_s = until_s - parent.until_s
        return Wider(
            what="deadline", text=f"the deadline is {over_s:.3f} s later than the asker's own; ask for less time"
        )
    return Scope(peers=peers, tools=tools, until_s=until_s)


def expand_peers(peers: Iterable[str], roles: Mapping[str, str]) -> tuple[str, ...]:
    """Names with the instances of every role among them: a call to a role is given up at the instance that has it.

    Args:
        peers: Names of agents and roles.
        roles: The role of each agent.
    """
    named = dict.fromkeys(peers)
    return tuple(dict.fromkeys([*named, *(agent for agent, role in roles.items() if role in named)]))


def _within(allowed: tuple[str, ...] | None, wanted: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """What is wanted of what is allowed; None for "any", and for a wish that goes beyond."""
    if wanted is None:
        return allowed
    if allowed is not None and not set(wanted) <= set(allowed):
        return None
    return tuple(dict.fromkeys(wanted))


def _excess(what: str, allowed: tuple[str, ...], wanted: tuple[str, ...] | None) -> str:
    more = [name for name in wanted or () if name not in allowed]
    shown = ", ".join(more[:5]) + (" …" if len(more) > 5 else "")
    return f"{what} {shown} are not the asker's to give; it has {', '.join(allowed[:20]) or 'none'}"
