"""Doing: what a simulated agent keeps of its tasks, the waits they rest in and the calls they made."""

from collections.abc import Callable, Generator

from crewkeeper_bus import messages as m

Body = Generator["float | Wait", None, None]
"""A program: yields how long it works, seconds, or the wait it rests in."""


class Failed(Exception):  # noqa: N818 - what it is to the program: a wait that failed
    """A wait failed; `code` as in a `Fault`."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class ToolRefused(Failed):
    """The gate, or the tool, answered with an error; `code` as in the `Fault`."""


class GivenUp(Exception):  # noqa: N818 - never caught by programs
    """The caller has cancelled the handler."""


class Call:
    """A call this actor made."""

    __slots__ = ("callee", "error", "good", "id", "is_open", "look", "task", "to")

    def __init__(self, id_: str, to: str, task: "Task") -> None:
        self.id = id_
        self.to = to
        self.callee = to
        self.task = task
        self.is_open = True
        self.good = False
        self.error = ""
        self.look: Callable[[], None] | None = None


class Wait:
    """An open wait. `deadline_s` is virtual time, or None."""

    __slots__ = ("began_s", "condition", "deadline_s", "epoch", "found", "over", "task")

    def __init__(
        self, task: "Task", epoch: int, condition: m.Condition, began_s: float, deadline_s: float | None
    ) -> None:
        self.task = task
        self.epoch = epoch
        self.condition = condition
        self.began_s = began_s
        self.deadline_s = deadline_s
        self.over = False
        self.found: tuple[str, str] | None = None


class Task:
    """One thing the actor does."""

    __slots__ = (
        "answered",
        "body",
        "call",
        "caller",
        "chain",
        "ended",
        "has_slot",
        "id",
        "key",
        "name",
        "slot",
        "turn",
        "wait",
    )

    def __init__(self, agent: str, id_: str, *, slot: bool, call: str = "", caller: str = "", name: str = "") -> None:
        self.id = id_
        self.name = name
        """Of an activity of its own."""
        self.key = f"{agent}/{id_}"
        self.slot = slot
        self.has_slot = False
        self.call = call
        self.caller = caller
        self.chain: tuple[str, ...] = ()
        self.wait: Wait | None = None
        self.body: Body | None = None
        self.turn = 0
        """Which of its steps is to come: a step planned for another turn is void."""
        self.answered = False
        self.ended = False


class Work:
    """Something that needs a slot before it starts: a request, or an activity of the actor's own."""

    __slots__ = ("chain", "id", "sender", "verb")

    def __init__(self, id_: str, sender: str = "", chain: tuple[str, ...] = (), verb: str = "ask") -> None:
        self.id = id_
        self.sender = sender
        self.chain = chain
        self.verb = verb
