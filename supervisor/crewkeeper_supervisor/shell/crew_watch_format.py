"""The keys of a crew file about conduct: when it is a finding, and what the final answer must be like.

Part of the table in `crew_format`. What is done about such findings is said under `responses`.
"""

from typing import Final

from crewkeeper_supervisor.shell.crew_kinds import Count, Duration, Free, Key, Listing, Section, Text

STALL: Final = Key(
    name="stall",
    kind=Duration(),
    default="`watch.stall`",
    doc="How long it may go without progress that nothing excuses; 0s does not judge it.",
)
_PHRASES: Final = Listing(of=Text(max_chars=500), max_items=100, unique=True)
WATCH: Final = Key(
    name="watch",
    kind=Section(
        title="watch",
        keys=(
            Key(
                name="stall",
                kind=Duration(),
                default="10m",
                doc="How long an agent may go without progress that nothing excuses; 0s judges nobody.",
            ),
            Key(name="depth", kind=Count(low=2, high=64), default="32", doc="Calls in one chain that are too many."),
            Key(
                name="fan_out",
                kind=Count(low=2, high=10_000),
                default="500",
                doc="Calls open at once, of one task or below one root, that are too many.",
            ),
        ),
    ),
    default="see below",
    doc="When the conduct of agents is a finding.",
)
OUTCOME: Final = Key(
    name="outcome",
    kind=Section(
        title="outcome",
        keys=(
            Key(name="must_mention", kind=_PHRASES, default="[]", doc="Words or phrases that the answer must contain."),
            Key(name="never", kind=_PHRASES, default="[]", doc="Words or phrases that must not stand in it."),
            Key(name="schema", kind=Free(), default="none", doc="JSON Schema (2020-12) of the answer."),
        ),
    ),
    default="none",
    doc="Hard rules about the final answer of the crew.",
)
