"""The surface format of crew files as data: every key, its kind of value, its limits and its default.

The loader reads by this table, the JSON Schema is derived from it and `docs/crew-file.md` is held to it by a test, so
the three cannot disagree. Kinds of values are in `crew_kinds`, the keys of tools and rules in `crew_gate_format`,
those of responses in `crew_response_format`, how text becomes a value in `crew_values`, what keys mean together in
`crewfile`.
"""

from typing import Final

from crewkeeper_supervisor.shell.crew_gate_format import GATE_KEYS, TOOL_NAME
from crewkeeper_supervisor.shell.crew_kinds import (
    YEAR_S,
    Choice,
    Command,
    Count,
    Duration,
    Flag,
    Key,
    Listing,
    Money,
    Name,
    Section,
    Size,
    Table,
    Text,
    Whole,
)
from crewkeeper_supervisor.shell.crew_proxy_format import MODEL_PROXY
from crewkeeper_supervisor.shell.crew_response_format import ESCALATION, RESPONSES
from crewkeeper_supervisor.shell.crew_watch_format import OUTCOME, STALL, WATCH

CREW_NAME_MAX_CHARS: Final = 20
"""A run id is the crew's name, a dash and what makes the run unique, within the 32 characters of a subject token."""
MAX_INSTANCES: Final = 5000
"""Agents in one crew, replicas counted."""

_VARIABLE_NAME = Text(max_chars=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", hint="letters, digits and _")
_COUNT = Count()
_DEEP = Count(low=1)

BUDGET: Final = Section(
    title="budget",
    keys=(
        Key(name="usd", kind=Money(), default="no limit", doc="Money spent on models and tools, in US dollars."),
        Key(name="tokens", kind=_COUNT, default="no limit", doc="Tokens in and out of models."),
        Key(name="input_tokens", kind=_COUNT, default="no limit", doc="Tokens into models."),
        Key(name="output_tokens", kind=_COUNT, default="no limit", doc="Tokens out of models."),
        Key(name="cached_tokens", kind=_COUNT, default="no limit", doc="Tokens into models that were cached."),
        Key(name="model_calls", kind=_COUNT, default="no limit", doc="Calls of models."),
        Key(name="tool_calls", kind=_COUNT, default="no limit", doc="Calls of tools."),
        Key(name="messages", kind=_COUNT, default="no limit", doc="Messages and calls sent to other agents."),
        Key(name="depth", kind=_DEEP, default="no limit", doc="How long a chain of calls may grow."),
        Key(name="fan_out", kind=_DEEP, default="no limit", doc="How many calls one task may have open at once."),
        Key(name="wall", kind=Duration(positive=True), default="no limit", doc="Time from the first message on."),
        Key(
            name="warn_percent",
            kind=Whole(low=1, high=100),
            default="80",
            doc="Share of a limit from which on it counts as nearly spent.",
        ),
        Key(
            name="hand_back_percent",
            kind=Whole(low=0, high=50),
            default="0",
            doc="Share of each limit kept for one last model call of each agent, to hand back what it has.",
        ),
        Key(
            name="ask",
            kind=Duration(high_s=24 * 3600),
            default="0s",
            doc="How long a call that does not fit is held for people to raise the limit; 0s refuses it at once.",
        ),
    ),
)
RESTART: Final = Section(
    title="restart",
    keys=(
        Key(
            name="policy",
            kind=Choice(options=("permanent", "transient", "temporary")),
            default="transient",
            doc="Start again always; unless it ended with status 0; never.",
        ),
        Key(name="intensity", kind=Whole(low=0, high=1000), default="3", doc="Restarts allowed within `period`."),
        Key(name="period", kind=Duration(positive=True), default="60s", doc="Window in which restarts are counted."),
        Key(name="shutdown", kind=Duration(high_s=3600), default="5s", doc="Grace between SIGTERM and SIGKILL."),
        Key(
            name="elsewhere",
            kind=Flag(),
            default="false",
            doc="Start it on another host when its own is gone; for `supervisor launch`.",
        ),
    ),
)
AGENT: Final = Section(
    title="agent",
    keys=(
        Key(name="run", kind=Command(), default="none", doc="Command line; needed unless `external`. No shell."),
        Key(name="external", kind=Flag(), default="false", doc="Started elsewhere; excludes `run`."),
        Key(name="replicas", kind=Whole(low=1, high=1000), default="1", doc="Instances, named name-1 to name-n."),
        Key(
            name="concurrency",
            kind=Whole(low=1, high=10_000),
            default="1",
            doc="Tasks one instance works on at once (slots).",
        ),
        Key(
            name="reentrant",
            kind=Choice(options=("none", "chain", "full")),
            default="none",
            doc="Who needs no free slot: nobody; calls that descend from its own; every call.",
        ),
        Key(
            name="mailbox",
            kind=Count(high=1_000_000),
            default="1000",
            doc="Calls that may queue for a slot; more are refused.",
        ),
        Key(
            name="may_call",
            kind=Listing(of=Name(), unique=True),
            default="anybody",
            doc="Agents it may call, and tell something; `[]` is nobody. The server refuses it all others.",
        ),
        Key(
            name="may_tell",
            kind=Listing(of=Name(), unique=True),
            default="[]",
            doc="Besides `may_call`: agents that it may send one-way messages to.",
        ),
        Key(
            name="env",
            kind=Table(
                of=Text(max_chars=8192, empty=True, variables=True), what="variable", key=_VARIABLE_NAME, max_items=500
            ),
            default="{}",
            doc="Environment variables of its process. `CREWKEEPER_…` are reserved.",
        ),
        Key(
            name="cwd", kind=Text(max_chars=1024), default="the file's folder", doc="Working directory of its process."
        ),
        Key(
            name="host",
            kind=Table(
                of=Text(max_chars=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", hint="letters, digits, . _ and -"),
                what="label",
                key=Name(),
                max_items=20,
            ),
            default="any host",
            doc="Labels that a host must have to be given it; for `supervisor launch`.",
        ),
        Key(name="restart", kind=RESTART, default="the crew's `restart`", doc="Key by key over the crew's `restart`."),
        Key(name="budget", kind=BUDGET, default="no limits", doc="Limits of this agent alone."),
        Key(name="task_budget", kind=BUDGET, default="no limits", doc="Limits of each of its tasks."),
        Key(
            name="tools",
            kind=Listing(of=TOOL_NAME, max_items=500, unique=True),
            default="[]",
            doc="Tools it may use: names under `tools`, or tool.function.",
        ),
        Key(
            name="priority",
            kind=Whole(low=0, high=100),
            default="10",
            doc="Weight when a victim is chosen; higher is spared.",
        ),
        Key(name="never_victim", kind=Flag(), default="false", doc="Its waits are never broken."),
        Key(
            name="restart_cost",
            kind=_COUNT,
            default="0",
            doc="Tokens it takes to get going again after a broken wait; added to what a victim loses.",
        ),
        STALL,
    ),
)


WEBHOOK: Final = Section(
    title="escalate",
    keys=(
        Key(
            name="webhook",
            kind=Text(variables=True, url=True),
            required=True,
            default="required",
            doc="Where to POST: https, or `${NAME}` of an environment variable that holds it; also http if private.",
        ),
        Key(
            name="secret",
            kind=Text(variables=True),
            default="not signed",
            doc="Key of the signature (Standard Webhooks), best as `${NAME}`.",
        ),
        Key(
            name="previous_secret",
            kind=Text(variables=True),
            default="none",
            doc="The secret before, while receivers change over: requests are signed with both.",
        ),
        Key(
            name="format",
            kind=Choice(options=("standard", "cloudevents", "slack", "pagerduty", "alertmanager")),
            default="standard",
            doc="Shape of the request; see escalation.md.",
        ),
        Key(
            name="routing_key",
            kind=Text(variables=True),
            default="none",
            doc="Of the service, best as `${NAME}`; for `format: pagerduty` alone.",
        ),
        Key(
            name="after",
            kind=Duration(high_s=86400),
            default="0s",
            doc="How long the others have to acknowledge before this one is told; see escalation.md.",
        ),
        Key(
            name="allow_private",
            kind=Flag(),
            default="false",
            doc="Whether it may be at a private or loopback address, also without https.",
        ),
    ),
)
LIMITS: Final = Section(
    title="limits",
    keys=(
        Key(
            name="payload",
            kind=Size(low=1024, high=8 * 1024 * 1024),
            default="256KiB",
            doc="Largest message on the bus.",
        ),
        Key(
            name="heartbeat",
            kind=Duration(low_s=0.05, high_s=300),
            default="2s",
            doc="How often agents report all their waits.",
        ),
        Key(
            name="start_timeout",
            kind=Duration(positive=True),
            default="30s",
            doc="How long to wait for all agents before beginning without the missing ones.",
        ),
        Key(
            name="messages_per_s",
            kind=Count(low=1, high=1_000_000),
            default="200",
            doc="Messages that are read of one agent in a second; what it sends beyond that is counted and not read.",
        ),
        Key(
            name="bytes_per_s",
            kind=Size(low=1024, high=2**40),
            default="8MiB",
            doc="Bytes that are read of one agent in a second; one of a heartbeat counts as 16.",
        ),
        Key(
            name="burst",
            kind=Count(low=1, high=10_000_000),
            default="2000",
            doc="Messages that one agent may send at once after a pause, and bytes in the same proportion.",
        ),
    ),
)
RETAIN: Final = Section(
    title="retain",
    keys=(
        Key(
            name="journal",
            kind=Duration(low_s=3600, high_s=100 * YEAR_S),
            default="for ever",
            doc="How long the journal is kept once the run is over; ledger and heads stay.",
        ),
        Key(
            name="ledger",
            kind=Duration(low_s=3600, high_s=100 * YEAR_S),
            default="for ever",
            doc="How long the ledger is kept once the run is over, no shorter than the journal; heads stay.",
        ),
    ),
)
CREW: Final = Section(
    title="crew file",
    keys=(
        Key(
            name="crew",
            kind=Name(max_chars=CREW_NAME_MAX_CHARS),
            required=True,
            default="required",
            doc="Name of the crew.",
        ),
        Key(name="objective", kind=Text(max_chars=10_000), default="none", doc="What the crew is for, for people."),
        Key(
            name="agents",
            kind=Table(of=AGENT, what="agent", key=Name(), min_items=1),
            required=True,
            default="required",
            doc="The agents by name.",
        ),
        Key(name="restart", kind=RESTART, default="see below", doc="How every agent is restarted."),
        Key(name="budget", kind=BUDGET, default="no limits", doc="Limits of the whole crew."),
        Key(name="responses", kind=RESPONSES, default="see below", doc="What to do about each kind of finding."),
        Key(
            name="escalate",
            kind=Listing(of=WEBHOOK, max_items=20),
            default="[]",
            doc="Who is told when a response says `escalate`.",
        ),
        WATCH,
        OUTCOME,
        Key(name="escalation", kind=ESCALATION, default="see below", doc="How often people are told."),
        Key(name="limits", kind=LIMITS, default="see below", doc="Limits of the bus."),
        Key(name="retain", kind=RETAIN, default="for ever", doc="How long what is recorded of an ended run is kept."),
        *GATE_KEYS,
        MODEL_PROXY,
    ),
)
