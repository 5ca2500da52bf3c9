"""The keys of a crew file that the gate reads, as data: tools, rules, their tests and prices."""

from typing import Final

from crewkeeper_bus.redaction import CLASSES, KINDS
from crewkeeper_supervisor.shell.crew_kinds import (
    Choice,
    Command,
    Count,
    Duration,
    Flag,
    Free,
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

MAX_SIZE_BYTES: Final = 8 * 1024 * 1024
TOOL_NAME: Final = Text(
    max_chars=128,
    pattern=r"^[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z0-9_*-]+)?$",
    hint="a tool, or tool.function",
)
_TOOL_GLOB = Text(
    max_chars=128, pattern=r"^[A-Za-z0-9_.*-]+$", hint="a tool, tool.function, or either with * for any characters"
)
_AGENT_GLOB = Text(max_chars=64, pattern=r"^[A-Za-z0-9_*-]+$", hint="an agent, or a pattern with * for any characters")
_PARTNER_GLOB = Text(
    max_chars=128, pattern=r"^[A-Za-z0-9_.:/@*-]+$", hint="an agent or a model, or a pattern with * for any characters"
)
_TARGET_GLOB = Text(
    max_chars=256, pattern=r"^[!-~]+$", hint="an agent, a model, a resource or a prompt; * stands for any characters"
)
_FUNCTION = Text(
    max_chars=200,
    pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*$",
    hint="module:name",
)
_VARIABLE_NAME = Text(max_chars=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", hint="letters, digits and _")
_HOP = Choice(options=("tool", "agent", "model", "resource", "prompt"))

RATE: Final = Section(
    title="rate",
    keys=(
        Key(name="calls", kind=Count(low=1), required=True, default="required", doc="How many calls."),
        Key(name="per", kind=Duration(positive=True), default="1m", doc="Within how long."),
    ),
)
TOOL: Final = Section(
    title="tool",
    keys=(
        Key(name="function", kind=_FUNCTION, default="none", doc="A Python function, as `module:name`."),
        Key(name="mcp", kind=Command(), default="none", doc="Command line of an MCP server."),
        Key(
            name="command",
            kind=Command(),
            default="none",
            doc="A program: arguments as JSON on its stdin, the result on its stdout. Needs `schema`.",
        ),
        Key(name="inside", kind=Flag(), default="false", doc="It runs inside the agent, which asks the gate first."),
        Key(name="description", kind=Text(), default="none", doc="What it does, told to models."),
        Key(name="schema", kind=Free(), default="the source's", doc="JSON Schema (2020-12) of its arguments."),
        Key(name="cost_usd", kind=Money(), default="0", doc="Price of one call."),
        Key(name="timeout", kind=Duration(positive=True), default="60s", doc="When a call is cut."),
        Key(name="concurrency", kind=Whole(low=1, high=10_000), default="16", doc="Calls at once."),
        Key(name="rate", kind=RATE, default="no limit", doc="Calls within a time."),
        Key(
            name="poll",
            kind=Flag(),
            default="false",
            doc="It is asked again and again until something changes: no loop until that has cost 4000 tokens.",
        ),
        Key(name="args_size", kind=Size(low=64, high=MAX_SIZE_BYTES), default="64KiB", doc="Largest arguments."),
        Key(
            name="env",
            kind=Table(
                of=Text(max_chars=8192, empty=True, variables=True), what="variable", key=_VARIABLE_NAME, max_items=500
            ),
            default="{}",
            doc="Environment variables of its process alone, `${NAME}` allowed: no agent gets them.",
        ),
        Key(name="result_size", kind=Size(low=64, high=MAX_SIZE_BYTES), default="1MiB", doc="Largest result."),
    ),
)
RULE: Final = Section(
    title="rule",
    keys=(
        Key(name="id", kind=Name(), default="rule-N", doc="Its name in decisions; N is its position."),
        Key(name="hop", kind=_HOP, default="by `tools` and `to`", doc="What kind of call it is about."),
        Key(
            name="tools",
            kind=Listing(of=_TOOL_GLOB, min_items=1, max_items=500),
            default="every tool",
            doc="Tools it is about; `*` stands for any characters.",
        ),
        Key(
            name="agents",
            kind=Listing(of=_AGENT_GLOB, min_items=1),
            default="every agent",
            doc="Agents that call, by instance or role; `*` as above.",
        ),
        Key(
            name="to",
            kind=Listing(of=_TARGET_GLOB, min_items=1),
            default="everybody",
            doc="Agents that are called, or what `hop` says: models, resources, prompts.",
        ),
        Key(name="when", kind=Text(max_chars=4000), default="always", doc="Condition (CEL); see policy.md."),
        Key(
            name="hook",
            kind=_FUNCTION,
            default="none",
            doc="Condition as a Python function; together with `when`, both.",
        ),
        Key(
            name="deadline",
            kind=Duration(low_s=0.01, high_s=10),
            default="1s",
            doc="When a hook that has not answered is cut.",
        ),
        Key(
            name="do",
            kind=Choice(options=("allow", "deny", "approve", "redact", "warn")),
            required=True,
            default="required",
            doc="What becomes of the call.",
        ),
        Key(
            name="redact",
            kind=Listing(of=Text(max_chars=200), min_items=1, max_items=100, unique=True),
            default="[secrets, personal]",
            doc="With `do: redact`: `secrets`, `personal`, one kind, or `args.` and a path.",
        ),
        Key(name="because", kind=Text(), default="none", doc="The reason, told to the agent."),
        Key(name="shadow", kind=Flag(), default="false", doc="Count what it would do, and do not do it."),
    ),
)
_TEST_CALL = Section(
    title="call",
    keys=(
        Key(name="hop", kind=_HOP, default="tool", doc="Kind of the call."),
        Key(name="agent", kind=Name(), required=True, default="required", doc="Who calls."),
        Key(name="role", kind=Name(), default="by its name", doc="Role of the caller."),
        Key(name="tool", kind=Text(max_chars=128), default="none", doc="The tool."),
        Key(name="to", kind=Text(max_chars=128), default="none", doc="The agent or model called."),
        Key(name="args", kind=Free(), default="{}", doc="Arguments."),
        Key(name="depth", kind=Count(), default="0", doc="Calls above this one."),
        Key(name="chain", kind=Listing(of=Name()), default="[]", doc="Roles above this call, outermost first."),
        Key(name="cost_usd", kind=Money(), default="0", doc="What the call would cost."),
        Key(name="at", kind=Count(high=32_503_680_000), default="0", doc="Time of the call, in seconds since 1970."),
    ),
)
POLICY_TEST: Final = Section(
    title="test",
    keys=(
        Key(name="name", kind=Text(max_chars=200), default="test-N", doc="What it shows; N is its position."),
        Key(name="call", kind=_TEST_CALL, required=True, default="required", doc="The call."),
        Key(
            name="expect",
            kind=Choice(options=("allow", "deny", "approve")),
            required=True,
            default="required",
            doc="The decision.",
        ),
        Key(name="rule", kind=Name(), default="any", doc="The rule that must have decided."),
        Key(name="warns", kind=Listing(of=Name()), default="not checked", doc="The rules that must warn, no others."),
        Key(name="redacted", kind=Free(), default="not checked", doc="The arguments after redaction."),
    ),
)
POLICY: Final = Section(
    title="policy",
    keys=(
        Key(
            name="default",
            kind=Choice(options=("allow", "deny")),
            default="allow",
            doc="The decision when no rule makes one.",
        ),
        Key(
            name="tests",
            kind=Listing(of=POLICY_TEST, max_items=500),
            default="[]",
            doc="Calls with what must become of them, for `supervisor policy test`.",
        ),
    ),
)
PRICE: Final = Section(
    title="price",
    keys=(
        Key(name="input", kind=Money(), required=True, default="required", doc="A million tokens in."),
        Key(name="output", kind=Money(), required=True, default="required", doc="A million tokens out."),
        Key(name="cached", kind=Money(), default="as `input`", doc="A million tokens in that were cached."),
    ),
)
_ADDRESS = Text(
    max_chars=120,
    pattern=r"^([A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\]):[1-9][0-9]{0,4}$",
    hint="host:port, such as 127.0.0.1:8790",
)
APPROVALS: Final = Section(
    title="approvals",
    keys=(
        Key(
            name="expire",
            kind=Duration(positive=True),
            default="15m",
            doc="How long a person has to decide before the call is refused.",
        ),
        Key(name="who", kind=Text(max_chars=64), default="operator", doc="Who is asked, as people call them."),
        Key(
            name="listen",
            kind=_ADDRESS,
            default="not served",
            doc="Where `supervisor up` serves the forms behind approval links.",
        ),
        Key(
            name="url",
            kind=Text(url=True),
            default="as `listen`",
            doc="Address under which people reach them; with it, webhooks about approvals carry links.",
        ),
    ),
)
_DETECTOR = Text(
    max_chars=200,
    pattern=r"^[A-Za-z_][A-Za-z0-9_]*((\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*)?$",
    hint="a package's short name, or module:function",
)
REDACT: Final = Section(
    title="redact",
    keys=(
        Key(
            name="kinds",
            kind=Listing(of=Choice(options=(*CLASSES, *dict.fromkeys(KINDS))), min_items=1, unique=True),
            default="[secrets]",
            doc="What is replaced: `secrets`, `personal`, or single kinds; see redaction.md.",
        ),
        Key(
            name="detectors",
            kind=Listing(of=_DETECTOR, max_items=10, unique=True),
            default="[]",
            doc="Besides: `kingfisher`, `datafog`, or a function of yours; see redaction.md.",
        ),
        Key(
            name="in",
            kind=Listing(of=Choice(options=("client", "arguments", "views", "webhooks")), unique=True),
            default="[client, views, webhooks]",
            doc="Where: before agents publish, also in arguments of tools, in what commands show, in escalations.",
        ),
    ),
)
_RULES: Final = Key(name="rules", kind=Listing(of=RULE, max_items=500), default="[]", doc="Policy rules, in order.")
_POLICY: Final = Key(name="policy", kind=POLICY, default="see below", doc="What no rule decides, and tests.")
GATE_KEYS: Final = (
    Key(
        name="tools",
        kind=Table(of=TOOL, what="tool", key=Name(), max_items=500),
        default="{}",
        doc="Tools by name, each with one source.",
    ),
    _RULES,
    _POLICY,
    Key(name="redact", kind=REDACT, default="see below", doc="Where secrets are replaced whatever the rules say."),
    Key(name="approvals", kind=APPROVALS, default="see below", doc="How calls are approved by people."),
    Key(
        name="prices",
        kind=Table(of=PRICE, what="model", key=_PARTNER_GLOB, max_items=500),
        default="{}",
        doc="Prices of models that go before the built-in ones; `*` as in rules.",
    ),
)
POLICY_FILE: Final = Section(title="policy file", keys=(_RULES, _POLICY))
