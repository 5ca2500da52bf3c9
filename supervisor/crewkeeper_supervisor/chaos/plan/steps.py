"""Steps: what a scripted agent of a scenario may be told to do, as data with limits; how they are played is not known.

The words and their keys are those of scripted agents, so a step means the same in a simulation and in a process. Times
may be written with a unit.
"""

from typing import Final

from crewkeeper_supervisor.shell.crew_kinds import (
    Choice,
    Count,
    Duration,
    Flag,
    Key,
    Kind,
    Listing,
    Name,
    Ref,
    Section,
    Text,
    Whole,
)

DAY_S: Final = 24 * 3600.0
STEPS: Final = Ref(name="steps")
ANY: Final = Ref(name="any")
"""Any value that JSON can hold."""
_TIMEOUT: Final = Key(
    name="timeout", kind=Duration(positive=True, high_s=DAY_S), default="none", doc="When it is given up."
)
_BODY: Final = Key(name="body", kind=ANY, default="null", doc="What is said.")
_VERB: Final = Key(name="verb", kind=Name(), default="ask", doc="Which handler.")
_TO: Final = Key(name="to", kind=Name(), required=True, default="required", doc="An agent or role.")
_DO: Final = Key(name="do", kind=STEPS, default="[]", doc="Steps.")
_NAME: Final = Key(name="name", kind=Name(), required=True, default="required", doc="Its name.")
_WHO: Final = Name()
ONE: Final = Section(title="call", keys=(_TO, _BODY, _VERB))
_OF: Final = Key(
    name="of", kind=Listing(of=ONE, min_items=1, max_items=256), required=True, default="required", doc="The calls."
)
_MANY: Final = Section(title="calls", keys=(_OF, _TIMEOUT))


class Form:
    """How one kind of step is written.

    Args:
        kind: Of its value.
        doc: One line.
        listed: Key of `kind` that a plain list stands for; empty: none.
    """

    def __init__(self, kind: Kind, doc: str, listed: str = "") -> None:
        self.kind = kind
        self.doc = doc
        self.listed = listed


FORMS: Final[dict[str, Form]] = {
    "sleep": Form(Duration(high_s=DAY_S), "Wait for time to pass, and say so."),
    "work": Form(Duration(high_s=DAY_S), "Be busy; nobody is told."),
    "ask": Form(Section(title="ask", keys=(_TO, _VERB, _BODY, _TIMEOUT)), "Call, and wait for the answer."),
    "ask_all": Form(_MANY, "Wait for every answer.", "of"),
    "ask_any": Form(_MANY, "Wait for the first answer.", "of"),
    "gather": Form(
        Section(
            title="gather",
            keys=(
                Key(name="k", kind=Whole(low=1, high=256), required=True, default="required", doc="How many."),
                _OF,
                _TIMEOUT,
            ),
        ),
        "Wait for k answers.",
    ),
    "tell": Form(Section(title="tell", keys=(_TO, _BODY)), "Send a one-way message."),
    "receive": Form(
        Section(
            title="receive",
            keys=(Key(name="from", kind=Listing(of=_WHO), default="anybody", doc="Of whom."), _TIMEOUT),
        ),
        "Wait for a one-way message.",
    ),
    "lock": Form(
        Section(
            title="lock",
            keys=(
                _NAME,
                Key(name="mode", kind=Choice(options=("x", "s")), default="x", doc="Exclusive or shared."),
                _DO,
            ),
        ),
        "Do the steps while holding a lock.",
    ),
    "semaphore": Form(
        Section(
            title="semaphore",
            keys=(
                _NAME,
                Key(name="capacity", kind=Whole(low=1, high=1_000_000), default="1", doc="Units there are."),
                Key(name="units", kind=Whole(low=1, high=1_000_000), default="1", doc="Units it takes."),
                _DO,
            ),
        ),
        "Do the steps while holding units of a semaphore.",
    ),
    "ask_human": Form(
        Section(
            title="ask_human",
            keys=(
                Key(name="text", kind=Text(), required=True, default="required", doc="The question."),
                Key(name="who", kind=Name(), default="ops", doc="Whom."),
                _TIMEOUT,
            ),
        ),
        "Wait for a person's answer.",
    ),
    "tool": Form(
        Section(
            title="tool",
            keys=(
                Key(name="name", kind=Text(max_chars=200), required=True, default="required", doc="As it is called."),
                Key(name="args", kind=ANY, default="{}", doc="Arguments."),
                _TIMEOUT,
            ),
        ),
        "Have a tool run through the gate.",
    ),
    "call": Form(
        Section(
            title="call",
            keys=(
                _TO,
                _VERB,
                _BODY,
                Key(name="as", kind=Name(), required=True, default="required", doc="Name for `await`."),
            ),
        ),
        "Call without waiting.",
    ),
    "await": Form(Listing(of=_WHO, min_items=1, max_items=256), "Wait for calls made before, by name."),
    "task": Form(Section(title="task", keys=(_NAME, _DO)), "Begin an activity of its own beside this one."),
    "log": Form(Text(), "A line in the agent's log."),
    "progress": Form(Text(), "Report progress."),
    "usage": Form(
        Section(
            title="usage",
            keys=(
                Key(name="model", kind=Text(max_chars=200), default="none", doc="Which model."),
                Key(name="input_tokens", kind=Count(), default="0", doc="Tokens in."),
                Key(name="output_tokens", kind=Count(), default="0", doc="Tokens out."),
                Key(name="cost_microusd", kind=Count(), default="0", doc="Cost."),
            ),
        ),
        "Report what was spent.",
    ),
    "checkpoint": Form(Flag(), "Hold here while paused."),
    "repeat": Form(
        Section(
            title="repeat",
            keys=(
                Key(name="times", kind=Whole(low=0, high=100_000), required=True, default="required", doc="How often."),
                _DO,
            ),
        ),
        "Do the steps so often.",
    ),
    "reply": Form(ANY, "Answer the call now, and go on; only in handlers."),
    "fail": Form(Text(), "Fail."),
    "exit": Form(Whole(low=0, high=255), "End the process at once: a crash."),
    "catch": Form(
        Section(
            title="catch",
            keys=(
                _DO,
                Key(
                    name="error",
                    kind=Choice(options=("would_deadlock", "peer_gone", "cancelled", "timeout", "refused", "any")),
                    default="any",
                    doc="Which error.",
                ),
                Key(name="then", kind=STEPS, default="[]", doc="Steps if `do` ended in it."),
            ),
        ),
        "Do other steps if these end in an error.",
    ),
    "flood": Form(
        Section(
            title="flood",
            keys=(
                _TO,
                Key(name="count", kind=Count(high=1_000_000), required=True, default="required", doc="How many."),
                _BODY,
                Key(
                    name="repeated",
                    kind=Whole(low=1, high=100_000),
                    default="1",
                    doc="How often a text in `body` is repeated in each message.",
                ),
            ),
        ),
        "Send so many one-way messages as fast as they go.",
    ),
    "publish_raw": Form(
        Section(
            title="publish_raw",
            keys=(
                Key(
                    name="subject",
                    kind=Text(max_chars=400),
                    required=True,
                    default="required",
                    doc="Subject; `{run}` and `{self}` stand for the run and the agent.",
                ),
                Key(name="text", kind=Text(max_chars=2000, empty=True), default="empty", doc="The payload."),
                Key(name="repeated", kind=Count(low=1, high=1_000_000), default="1", doc="The text so often in a row."),
            ),
        ),
        "Publish past every check of the client.",
    ),
}
"""Every kind of step, by its key."""
