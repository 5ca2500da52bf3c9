"""The format of scenario files as data: every key, its kind of value, its limits and its default.

What keys mean together is checked in `scenario`; which faults and events there are stands in their registries.
"""

from typing import Final

import msgspec

from crewkeeper_supervisor.chaos.faults.registry import KINDS
from crewkeeper_supervisor.chaos.plan.steps import ANY, STEPS
from crewkeeper_supervisor.shell.crew_format import AGENT, CREW
from crewkeeper_supervisor.shell.crew_gate_format import POLICY_FILE, TOOL
from crewkeeper_supervisor.shell.crew_kinds import (
    Choice,
    Count,
    Duration,
    Flag,
    Free,
    Key,
    Listing,
    Name,
    Section,
    Table,
    Text,
    Whole,
)

VERSION: Final = 1
GUARANTEES: Final = ("G1", "G2", "G3", "G4", "G5", "G6", "G7", "G8", "G9")
MODES: Final = ("sim", "real")
TIMEOUT_S: Final = 60.0
"""How long a scenario may take that does not say."""
PROBES: Final = ("agents", "owner", "incidents")
ACTIONS: Final = ("pause", "resume", "kill", "stop", "answer", "approve", "deny", "budget", "policy")
COPIES_MAX: Final = 1000
HOUR_S: Final = 3600.0
_LONG: Final = 7 * 24 * HOUR_S
_OURS: Final = {"run", "external", "env", "cwd"}
"""Keys of an agent in a crew file that a scripted agent has not."""
_AT: Final = Key(name="at", kind=Duration(high_s=_LONG), default="0", doc="How long after `after`.")
_AFTER: Final = Key(
    name="after",
    kind=Text(max_chars=80),
    default="start",
    doc="What the time counts from: `start`, `truth.deadlock`, `fault.0`, `fault.0.end`, `event.NAME`, `action.0`.",
)

SCRIPTED: Final = Section(
    title="agent",
    keys=(
        Key(name="main", kind=STEPS, default="[]", doc="What it does."),
        Key(
            name="handlers",
            kind=Table(of=STEPS, what="verb", key=Text(max_chars=32, pattern=r"^(\*|[A-Za-z0-9_-]{1,32})$")),
            default="{}",
            doc="What it does when it is called, by verb.",
        ),
        Key(
            name="on_error",
            kind=Choice(options=("continue", "fail")),
            default="continue",
            doc="What a broken wait in `main` does: go on with the next step, or fail.",
        ),
        Key(name="leave_when_done", kind=Flag(), default="false", doc="Leave when `main` is over, with handlers too."),
        Key(name="obeys", kind=Flag(), default="true", doc="Whether it heeds pause and stop; only with mode real."),
        Key(
            name="asks_model",
            kind=Section(
                title="asks_model",
                keys=(
                    Key(
                        name="calls",
                        kind=Whole(low=1, high=100_000),
                        required=True,
                        default="required",
                        doc="How often.",
                    ),
                    Key(name="every", kind=Duration(high_s=HOUR_S), default="500ms", doc="Time between two calls."),
                ),
            ),
            default="none",
            doc="Instead of a script: call the runner's model through the model proxy; only with mode real.",
        ),
        *(key for key in AGENT.keys if key.name not in _OURS),
    ),
)
GROUP: Final = Section(
    title="group",
    keys=(
        Key(
            name="count",
            kind=Whole(low=1, high=COPIES_MAX),
            required=True,
            default="required",
            doc="How many copies: agent `a` of copy 7 is `a-7`.",
        ),
        Key(
            name="agents",
            kind=Table(of=SCRIPTED, what="agent", key=Name(), min_items=1),
            required=True,
            default="required",
            doc="Its agents; their names mean those of the same copy.",
        ),
    ),
)
STUB_TOOL: Final = Section(
    title="tool",
    keys=(
        Key(name="answer", kind=ANY, default="null", doc="What it returns."),
        Key(name="takes", kind=Duration(high_s=HOUR_S), default="0", doc="How long it runs."),
        *(key for key in TOOL.keys if key.name not in {"function", "mcp", "command", "inside", "env"}),
    ),
)
FAULT: Final = Section(
    title="fault",
    keys=(
        Key(name="do", kind=Choice(options=tuple(KINDS)), required=True, default="required", doc="What goes wrong."),
        Key(
            name="target",
            kind=Text(max_chars=80),
            default="by the fault",
            doc="`agent:NAME|any|all`, `supervisor:owner|standby|all`, `nats`, `webhook`, `model`, `tool:NAME`.",
        ),
        Key(name="name", kind=Name(), default="its number", doc="Name for anchors, beside its number."),
        _AT,
        _AFTER,
        Key(name="for", kind=Duration(positive=True, high_s=_LONG), default="by the fault", doc="When it heals."),
        Key(
            name="direction",
            kind=Choice(options=("both", "in", "out")),
            default="both",
            doc="Of the network, seen from the agent.",
        ),
        Key(name="percent", kind=Whole(low=1, high=100), default="100", doc="Share of what is hit."),
        Key(
            name="by",
            kind=Duration(positive=True, high_s=HOUR_S),
            default="by the fault",
            doc="Size of a delay (200 ms) or of a clock's jump (1 h).",
        ),
        Key(
            name="point",
            kind=Text(max_chars=60, pattern=r"^[a-z-]+(:[1-9][0-9]{0,5})?$", hint="NAME or NAME:N"),
            default="with `kill_at`: required",
            doc="With `kill_at`: where a controller dies, at its N-th passage.",
        ),
        Key(name="times", kind=Whole(low=1, high=1000), default="1", doc="How often."),
        Key(name="every", kind=Duration(positive=True, high_s=HOUR_S), default="1s", doc="Time between two of them."),
    ),
)
_GIVEN_RULES = POLICY_FILE.find("rules")
assert _GIVEN_RULES is not None
_RULES: Final = msgspec.structs.replace(
    _GIVEN_RULES, default="with `policy`: required", doc="With `policy`: the rules from then on, as in a policy file."
)
ACTION: Final = Section(
    title="action",
    keys=(
        Key(name="do", kind=Choice(options=ACTIONS), required=True, default="required", doc="What a person does."),
        Key(name="agent", kind=Name(), default="everybody", doc="To whom."),
        _AT,
        _AFTER,
        Key(name="grace", kind=Duration(high_s=HOUR_S), default="the crew's", doc="With `kill`: how long it may obey."),
        Key(name="text", kind=Text(), default="yes", doc="With `answer`: the answer."),
        Key(name="add_microusd", kind=Count(), default="0", doc="With `budget`: how much more."),
        _RULES,
        Key(
            name="default",
            kind=Choice(options=("allow", "deny")),
            default="allow",
            doc="With `policy`: what no rule decides.",
        ),
    ),
)
_WHERE: Final = Key(name="where", kind=Free(), default="{}", doc="What it must be about.")
EXPECTED: Final = Section(
    title="expectation",
    keys=(
        Key(name="event", kind=Text(max_chars=60), default="none", doc="What must be seen; this or `metric`."),
        Key(name="metric", kind=Text(max_chars=60), default="none", doc="What is counted at the end."),
        _WHERE,
        Key(name="count", kind=Whole(low=0, high=1_000_000), default="none", doc="Exactly so often."),
        Key(name="least", kind=Count(), default="1 for events", doc="At least so often, or so much."),
        Key(name="most", kind=Count(), default="none", doc="At most so often, or so much."),
        Key(name="within", kind=Duration(positive=True, high_s=_LONG), default="the timeout", doc="Deadline."),
        _AFTER,
    ),
)
NEVER: Final = Section(
    title="never",
    keys=(
        Key(name="event", kind=Text(max_chars=60), required=True, default="required", doc="What must not be seen."),
        _WHERE,
        msgspec.structs.replace(_AFTER, default="the beginning"),
    ),
)
SCENARIO: Final = Section(
    title="scenario",
    keys=(
        Key(name="v", kind=Whole(low=VERSION, high=VERSION), required=True, default="required", doc="Format version."),
        Key(name="id", kind=Name(), required=True, default="required", doc="Its name; the file's name too."),
        Key(name="title", kind=Text(max_chars=120), required=True, default="required", doc="One line."),
        Key(name="story", kind=Text(max_chars=10_000), default="none", doc="What happens, why it matters, what holds."),
        Key(name="tags", kind=Listing(of=Name(), max_items=20, unique=True), default="[]", doc="Words to choose by."),
        Key(
            name="modes",
            kind=Listing(of=Choice(options=MODES), min_items=1, unique=True),
            required=True,
            default="required",
            doc="Where it can be played.",
        ),
        Key(
            name="guarantees",
            kind=Listing(of=Choice(options=GUARANTEES), min_items=1, unique=True),
            required=True,
            default="required",
            doc="What it proves; see the list of promises.",
        ),
        Key(name="timeout", kind=Duration(positive=True, high_s=_LONG), default="60s", doc="When it is over at last."),
        Key(name="supervisors", kind=Whole(low=1, high=5), default="1", doc="Controllers."),
        Key(
            name="servers",
            kind=Whole(low=1, high=5),
            default="1",
            doc="nats-servers, a cluster if more than one; only with mode real.",
        ),
        Key(
            name="weather",
            kind=Choice(options=("calm", "rough")),
            default="calm",
            doc="`rough`: in a simulation, messages are late, doubled and lost by the seed all the time.",
        ),
        Key(
            name="agents",
            kind=Table(of=SCRIPTED, what="agent", key=Name()),
            default="those of `--crew`",
            doc="Scripted agents by name.",
        ),
        Key(
            name="groups",
            kind=Table(of=GROUP, what="group", key=Name()),
            default="{}",
            doc="Agents that are there several times over, each copy among itself.",
        ),
        Key(
            name="crew",
            kind=Section(
                title="crew",
                keys=tuple(key for key in CREW.keys if key.name not in {"crew", "agents", "tools", "model_proxy"}),
            ),
            default="{}",
            doc="Keys of a crew file.",
        ),
        Key(
            name="tools",
            kind=Table(of=STUB_TOOL, what="tool", key=Name()),
            default="{}",
            doc="Tools by name that answer as they are told.",
        ),
        Key(
            name="steady",
            kind=Listing(of=Choice(options=PROBES), unique=True),
            default="[agents, owner]",
            doc="What holds before the first fault, and again after the last one healed.",
        ),
        Key(name="faults", kind=Listing(of=FAULT, max_items=100), default="[]", doc="What goes wrong, and when."),
        Key(name="actions", kind=Listing(of=ACTION, max_items=100), default="[]", doc="What people do, and when."),
        Key(name="expect", kind=Listing(of=EXPECTED, max_items=100), default="[]", doc="What must be seen."),
        Key(name="never", kind=Listing(of=NEVER, max_items=100), default="[]", doc="What must not be seen."),
    ),
)
