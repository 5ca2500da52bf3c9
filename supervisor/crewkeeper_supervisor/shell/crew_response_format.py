"""The keys of `responses` in crew files: what may be done about each kind of finding, and what is done by default.

Part of the table in `crew_format`. What the actions do is `core.response`'s and `core.ladder`'s.
"""

from typing import Final

from crewkeeper_supervisor.shell.crew_kinds import Choice, Duration, Flag, Key, Listing, Section, Whole

ACTIONS: Final = ("observe", "warn", "break", "pause", "kill", "stop", "escalate")
LADDER_ACTIONS: Final = ("observe", "warn", "nudge", "hold", "break", "pause", "kill", "stop", "escalate")
"""What may be done about conduct: these kinds climb."""
LINKS: Final = ("approve", "deny", "acknowledge", "resume", "extend", "kill")
DAY_S: Final = 24 * 3600


def _response(title: str, do: str, actions: tuple[str, ...], more: tuple[Key, ...] = ()) -> Section:
    return Section(
        title=title,
        keys=(
            Key(
                name="confirm",
                kind=Duration(high_s=3600),
                default="250ms",
                doc="How long a suspicion must stand before anything is done.",
            ),
            Key(
                name="lasting",
                kind=Duration(),
                default="10s",
                doc="How long a deadlock that a timer would end must last to count as one without.",
            ),
            Key(
                name="do",
                kind=Listing(of=Choice(options=actions), min_items=1, max_items=len(actions), unique=True),
                default=do,
                doc="What to do, in this order.",
            ),
            Key(name="shadow", kind=Flag(), default="false", doc="Report what would be done, and do not do it."),
            *more,
        ),
    )


def _climbing(climb: str, cool_down: str) -> tuple[Key, ...]:
    return (
        Key(
            name="climb",
            kind=Duration(high_s=DAY_S),
            default=climb,
            doc="How long each rung of `do` is given to help before the next; 0s carries out all of `do` at once.",
        ),
        Key(
            name="cool_down",
            kind=Duration(high_s=DAY_S),
            default=cool_down,
            doc="Within how long after it was over the same condition comes back at the rung it had reached.",
        ),
        Key(
            name="hold",
            kind=Duration(high_s=DAY_S, positive=True),
            default="5m",
            doc="How long `hold` keeps new calls waiting at most.",
        ),
    )


REPEAT: Final = Section(
    title="repeat",
    keys=(
        Key(name="times", kind=Whole(low=2, high=1000), default="3", doc="How often the same ring must have closed."),
        Key(name="within", kind=Duration(positive=True), default="10m", doc="Within how long."),
    ),
)
_ONLY_DEADLOCKS: Final = (
    Key(
        name="victim",
        kind=Choice(options=("least_work", "youngest", "priority")),
        default="least_work",
        doc="How the wait to break is chosen among those with no started work behind them.",
    ),
    Key(name="repeat", kind=REPEAT, default="see below", doc="When the same ring again is told as a fault of design."),
)
_AT_ONCE: Final = (
    ("deadlock", "[break, escalate]", "Agents that wait for each other and cannot go on."),
    ("orphan", "[break]", "An agent that waits for one that is gone."),
    ("crash", "[warn]", "A process that ended with an error."),
    ("restart_intensity", "[warn, escalate]", "An agent that crashed too often to be started again."),
    ("malformed", "[warn]", "A message that breaks the protocol."),
    ("forgery", "[warn, escalate]", "A message that claims, or tries, what its sender may not."),
    ("intrusion", "[warn, escalate]", "A login that was refused, or somebody else under an agent's name."),
    ("survivor", "[warn, escalate]", "An agent that was to be ended and is not known to be."),
    ("flood", "[pause, kill, escalate]", "An agent that sends more than `limits` allow."),
    ("unknown_tool", "[warn]", "A call of a tool that does not exist, or not for its caller."),
    ("bad_arguments", "[warn]", "Arguments that do not fit a tool."),
    ("policy_denied", "[warn]", "A call that a rule denies."),
    ("budget_soft", "[warn]", "A budget that is nearly spent: see `warn_percent`."),
    ("budget_spent", "[warn, escalate]", "A budget that is spent."),
)
_LADDERS: Final = (
    ("outcome", "[warn, escalate]", "0s", "0s", "An answer that breaks a hard rule about the outcome."),
    (
        "loop",
        "[warn, nudge, hold, escalate, pause]",
        "20s",
        "10m",
        "Steps that repeat while what comes back is the same.",
    ),
    ("drift", "[warn, nudge, escalate]", "1m", "10m", "Steps that have nothing to do with the objective any more."),
    ("misuse", "[warn, nudge, escalate]", "30s", "10m", "Tools refused, invented or given made-up values repeatedly."),
    ("stall", "[warn, nudge, escalate]", "1m", "10m", "An agent that is alive and makes no progress."),
    ("livelock", "[warn, nudge, break, escalate]", "20s", "10m", "Agents that keep giving way to each other."),
    ("starvation", "[warn, escalate]", "1m", "10m", "A wait that others overtake again and again."),
    (
        "retry_storm",
        "[warn, nudge, hold, escalate, pause]",
        "10s",
        "10m",
        "Failed calls that are repeated without pause.",
    ),
    ("fan_out", "[warn, nudge, hold, escalate]", "10s", "10m", "One task that asks for too much at once."),
    ("depth", "[warn, nudge, escalate]", "20s", "10m", "A chain of calls that has grown too long."),
)


def _responses() -> Section:
    keys = [
        Key(
            name=name,
            kind=_response(name, do, ACTIONS, _ONLY_DEADLOCKS if name == "deadlock" else ()),
            default=do,
            doc=doc,
        )
        for name, do, doc in _AT_ONCE
    ]
    keys += [
        Key(name=name, kind=_response(name, do, LADDER_ACTIONS, _climbing(climb, cool_down)), default=do, doc=doc)
        for name, do, climb, cool_down, doc in _LADDERS
    ]
    return Section(title="responses", keys=tuple(keys))


RESPONSES: Final = _responses()
ESCALATION: Final = Section(
    title="escalation",
    keys=(
        Key(
            name="per_minute",
            kind=Whole(low=1, high=1000),
            default="10",
            doc="Incidents that people are told of one by one in a minute, half of them warnings at most; those "
            "beyond that come in one digest.",
        ),
        Key(
            name="links",
            kind=Listing(of=Choice(options=LINKS), unique=True),
            default=f"[{', '.join(LINKS)}]",
            doc="What messages carry links for, where `approvals` has an address; the others are told as commands.",
        ),
    ),
)
LADDER_KINDS: Final = tuple(name for name, *_ in _LADDERS)
"""Kinds of findings that have the keys of the ladder."""
