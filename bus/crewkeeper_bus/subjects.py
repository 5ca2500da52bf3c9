"""Subjects: build, parse and validate every token of every subject that Crewkeeper uses.

The grammar is `crew.<run>.<kind>.<from>.<to>.<id>`, exactly six tokens. `<from>` is fixed by the publisher's
permission on the server, so it is the one true statement of who sent a message; headers and payloads are not.
What is published on `crew.…` is stored first and delivered on `out.crew.…` (log-first); agents subscribe only there.
"""

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Final, NamedTuple

from crewkeeper_bus.errors import SubjectError

TOKEN_MAX_CHARS: Final = 32
SUPERVISOR: Final = "_"
"""The sender and receiver that is nobody's name: the supervisor itself."""
HOST: Final = "_host"
"""The host of a run: starts, signals and reaps its processes."""
TOOLS: Final = "_tools"
"""The tool host of a run: runs what the gate has granted."""
MODEL: Final = "_model"
"""The model proxy: asks the gate in the name of agents, and says what their calls have cost."""
SERVICES: Final = (TOOLS, MODEL)
"""Parts of the supervisor side that touch foreign code: each logs in as itself, confined to its own subjects."""
SIDE: Final = (SUPERVISOR, HOST, *SERVICES)
"""The supervisor side: whoever may say what agents may not."""
OUT: Final = "out"
"""First token of the delivery side of the log-first journal."""
HELD: Final = "held"
"""First token, instead of `crew`, of what an agent says while the server holds it: kept, and delivered later."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,32}\Z")
_TOKEN_RULE: Final = f"1 to {TOKEN_MAX_CHARS} characters of A-Z a-z 0-9 _ -"


class Kind(StrEnum):
    """What a message is, third token of its subject."""

    MSG = "msg"
    """One-way message, agent to agent."""
    REQ = "req"
    """A call, agent to agent."""
    REP = "rep"
    """The answer to a call, on the replier's own subject; from `_` it is the supervisor's error or a human's answer."""
    CANCEL = "cancel"
    """The caller gives up a call."""
    PROG = "prog"
    """Progress of a call, callee to caller."""
    TOOL = "tool"
    """A tool call, agent to gate."""
    HB = "hb"
    """Heartbeat with the full list of tasks and open waits, agent to supervisor."""
    NOTE = "note"
    """One fact about the agent (start, wait, wake, acquire, usage, …), agent to supervisor."""
    CTL = "ctl"
    """A command, supervisor to agent or host."""
    OP = "op"
    """A fact from the supervisor side (operator, host, tick, outcome of an effect)."""


AGENT_KINDS: Final = (Kind.REQ, Kind.REP, Kind.MSG, Kind.PROG, Kind.CANCEL, Kind.TOOL, Kind.HB, Kind.NOTE)
"""What an agent may publish, always in its own name."""
RECEIVED_KINDS: Final = (Kind.REQ, Kind.REP, Kind.MSG, Kind.PROG, Kind.CANCEL, Kind.CTL)
"""What an agent may receive, always addressed to it."""
NARROWED_KINDS: Final = (Kind.REQ, Kind.MSG, Kind.CANCEL)
"""What an agent addresses by its own choice: only to its peers, where it has a list of them."""
OWED_KINDS: Final = (Kind.REP, Kind.PROG)
"""What an agent owes to whoever called it."""
REPORTED_KINDS: Final = (Kind.HB, Kind.NOTE)
"""What an agent tells the supervisor, and nobody else."""


_KINDS: Final = {str(kind): kind for kind in Kind}
_SOUND: Final = re.compile(
    rf"(?:{OUT}\.)?crew\.(TOKEN)\.({'|'.join(_KINDS)})\.(TOKEN)\.(TOKEN)\.(TOKEN)\Z".replace(
        "TOKEN", _TOKEN.pattern.removesuffix(r"\Z")
    )
)


class Address(NamedTuple):
    """The six tokens of a subject, parsed."""

    run: str
    kind: Kind
    sender: str
    to: str
    id: str

    @property
    def subject(self) -> str:
        """The subject to publish on."""
        return f"crew.{self.run}.{self.kind}.{self.sender}.{self.to}.{self.id}"


def check_token(value: str, what: str) -> str:
    """Return `value` if it is a valid subject token.

    Args:
        value: The token to check.
        what: What it names, for the message ("agent", "run", "call id").

    Raises:
        SubjectError: It is empty, too long, or holds a character outside `[A-Za-z0-9_-]`.
    """
    if not isinstance(value, str) or not _TOKEN.match(value):
        shown = value if isinstance(value, str) and len(value) <= 80 else repr(value)[:80]
        raise SubjectError(f"{what} {shown!r} is not a valid name: use {_TOKEN_RULE}")
    return value


def check_agent(value: str) -> str:
    """Return `value` if an agent may bear it: a valid token that does not begin with `_`.

    Raises:
        SubjectError: It is not a token or is reserved.
    """
    check_token(value, "agent")
    if value.startswith("_"):
        raise SubjectError(f"agent {value!r} is reserved: names that begin with '_' belong to the supervisor")
    return value


def check_member(value: str) -> str:
    """Return `value` if somebody may log in to a run under it: an agent's name, or one of `SERVICES`.

    Raises:
        SubjectError: It is neither.
    """
    return value if value in SERVICES else check_agent(value)


def build(run: str, kind: Kind, sender: str, to: str, id: str) -> str:  # noqa: A002 - the protocol's word
    """Build a subject, validating every token.

    Raises:
        SubjectError: A token is invalid.
    """
    check_token(run, "run")
    check_token(sender, "sender")
    check_token(to, "receiver")
    check_token(id, "id")
    return f"crew.{run}.{kind}.{sender}.{to}.{id}"


def parse(subject: str) -> Address:
    """Parse a subject, with or without the leading `out.`.

    Raises:
        SubjectError: Not six tokens, another prefix, an unknown kind, or an invalid token.
    """
    if (sound := _SOUND.match(subject)) is not None:  # nearly always; the rest only says what is wrong
        run, kind, sender, to, id_ = sound.groups()
        return Address(run, _KINDS[kind], sender, to, id_)
    tokens = subject.split(".")
    if tokens[0] == OUT:
        tokens = tokens[1:]
    if len(tokens) != 6 or tokens[0] != "crew":
        raise SubjectError(
            f"subject {subject[:120]!r} has {len(tokens)} tokens; expected crew.<run>.<kind>.<from>.<to>.<id>"
        )
    _, run, kind, sender, to, id_ = tokens
    for token, what in ((run, "run"), (sender, "sender"), (to, "receiver"), (id_, "id")):
        check_token(token, what)
    try:
        return Address(run, Kind(kind), sender, to, id_)
    except ValueError:
        raise SubjectError(f"subject {subject[:120]!r}: unknown kind {kind[:40]!r}") from None


def run_filter(run: str) -> str:
    """The subject filter of one run's journal stream."""
    return f"crew.{check_token(run, 'run')}.>"


def stream_name(run: str) -> str:
    """The name of one run's journal stream."""
    return f"CREW_{check_token(run, 'run')}"


def ledger_subject(run: str) -> str:
    """The subject of one run's decisions in the LEDGER stream."""
    return f"ledger.{check_token(run, 'run')}"


class Permissions(NamedTuple):
    """What the server lets one identity do: deny by default, these subjects allowed."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def agent_permissions(
    run: str,
    agent: str,
    role: str,
    peers: Iterable[str] | None = None,
    *,
    tools: Iterable[str] | None = None,
    tells: Iterable[str] = (),
) -> Permissions:
    """The permissions of exactly one agent in one run (NATS server syntax); everything else is denied.

    Publishing: only the agent kinds, only in its own name, heartbeats and notes only to the supervisor. Subscribing:
    only what is addressed to it, and calls to its role through the role's queue group. Nothing outside the run:
    no `_INBOX`, no `$JS`, no `$SYS`, no `allow_responses`.

    Everything that it may publish on `crew.…` it may publish on `held.…` too: the server checks the subject to which it
    has mapped what a held agent says. Nobody listens there: while it is not held, that only loses its own words.

    `peers` narrows what an agent begins by itself: calls, one-way messages, and giving up calls. It never narrows what
    an agent owes to others: the answer to a call and the progress of it go to whoever called, and who may call is
    decided by the caller's permissions. An unasked answer reaches only the inbox of an agent that did not ask, whose
    client drops it. Calls to a role are given up at the instance that has them, so name the instances of a role too.

    Args:
        run: The run.
        agent: Its name.
        role: The role it has; its own name where it is the only one.
        peers: Names of agents and roles that it may address; None: every one of the run.
        tools: Names of the tools it may ask the gate for; None: what the gate allows. With none at all, the server
            refuses tool calls; which of several tools are asked for, the gate checks.
        tells: Besides the peers: names that it may send one-way messages to.

    Raises:
        SubjectError: A name is invalid.
    """
    check_token(run, "run")
    check_agent(agent)
    check_agent(role)
    receivers = ["*"] if peers is None else sorted({check_agent(peer) for peer in peers})
    publish = [f"crew.{run}.{kind}.{agent}.{to}.*" for kind in NARROWED_KINDS for to in receivers]
    if peers is not None:
        told = sorted({check_agent(each) for each in tells} - set(receivers))
        publish += [f"crew.{run}.{Kind.MSG}.{agent}.{to}.*" for to in told]
    publish += [f"crew.{run}.{kind}.{agent}.*.*" for kind in OWED_KINDS]
    if tools is None or any(True for _ in tools):
        publish.append(f"crew.{run}.{Kind.TOOL}.{agent}.*.*")
    publish += [f"crew.{run}.{kind}.{agent}.{SUPERVISOR}.*" for kind in REPORTED_KINDS]
    publish += [HELD + subject.removeprefix("crew") for subject in publish]
    subscribe = [f"{OUT}.crew.{run}.{kind}.*.{agent}.*" for kind in RECEIVED_KINDS]
    if role != agent:
        subscribe.append(f"{OUT}.crew.{run}.req.*.{role}.* {role}")
    return Permissions(tuple(publish), tuple(subscribe))


def paused_permissions(run: str, agent: str) -> Permissions:
    """What is left to an agent that the server holds: to hear the supervisor, and nothing else.

    Raises:
        SubjectError: A name is invalid.
    """
    check_token(run, "run")
    check_agent(agent)
    return Permissions((), (f"{OUT}.crew.{run}.{Kind.CTL}.*.{agent}.*",))


def service_permissions(run: str, service: str) -> Permissions:
    """The permissions of one of `SERVICES`: to hear what it is told, and to say what came of it.

    Raises:
        SubjectError: The run's name is invalid, or there is no such service.
    """
    check_token(run, "run")
    if service not in SERVICES:
        raise SubjectError(f"service {service[:80]!r} does not exist: use {' or '.join(SERVICES)}")
    publish = f"crew.{run}.{Kind.OP}.{service}.{SUPERVISOR}.*"
    return Permissions((publish,), (f"{OUT}.crew.{run}.{Kind.CTL}.{SUPERVISOR}.{service}.*",))
