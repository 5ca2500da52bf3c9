"""Script: the strict format of a scripted agent, parsed into steps; playing them is `scripted`'s.

A script is a JSON object: `{"main": [step, …], "handlers": {"verb": [step, …]}}`. A step is an object with exactly one
key, its kind: `{"ask": {"to": "bob", "body": 1}}`. Nothing is guessed: an unknown kind, key or value is an error, and
all errors of a script are reported at once, each with the place where it stands.
"""

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct, field

from crewkeeper_bus import codec
from crewkeeper_bus.errors import CodecError, ConfigError
from crewkeeper_bus.messages import Count, Name, Text

SCRIPT_MAX_BYTES: Final = 1024 * 1024
STEPS_MAX: Final = 10_000
"""Most steps in one script, nested ones included."""
TIMES_MAX: Final = 1_000_000

Duration = Annotated[float, Meta(ge=0, le=24 * 3600)]
Limit = Annotated[float, Meta(gt=0, le=24 * 3600)]
Steps = tuple[Any, ...]
"""Parsed steps; msgspec would need a tag in every step to type them."""


class Sleep(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`{"sleep": s}`: wait for time to pass, and say so."""

    for_s: Duration


class Work(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`{"work": s}`: be busy; no wait that the supervisor hears of."""

    for_s: Duration


class Ask(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`{"ask": {…}}`: call and wait for the answer."""

    to: Name
    verb: Name = "ask"
    body: Any = None
    timeout_s: Limit | None = field(default=None, name="timeout")


class One(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One call of an `ask_all`, `ask_any` or `gather`."""

    to: Name
    body: Any = None
    verb: Name = "ask"


Ones = Annotated[tuple[One, ...], Meta(min_length=1, max_length=256)]


class AskAll(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`{"ask_all": [{…}, …]}`: wait for every answer. Also `{"of": […], "timeout": s}`."""

    of: Ones
    timeout_s: Limit | None = field(default=None, name="timeout")


class AskAny(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`{"ask_any": [{…}, …]}`: wait for the first answer. Also `{"of": […], "timeout": s}`."""

    of: Ones
    timeout_s: Limit | None = field(default=None, name="timeout")


class Gather(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`{"gather": {"k": 2, "of": [{…}, …]}}`: wait for `k` answers."""

    k: Annotated[int, Meta(ge=1, le=256)]
    of: Ones
    timeout_s: Limit | None = field(default=None, name="timeout")


class Tell(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`{"tell": {…}}`: send a one-way message."""

    to: Name
    body: Any = None


class Receive(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`{"receive": {"from": […]}}`: wait for a one-way message of one of these, of anybody without `from`."""

    from_: tuple[Name, ...] | Name | None = field(default=None, name="from")
    timeout_s: Limit | None = field(default=None, name="timeout")


class Lock(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`{"lock": {"name": …, "do": […]}}`: do the steps while holding the lock."""

    name: Name
    mode: Literal["x", "s"] = "x"
    do: Steps = ()


class Semaphore(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`{"semaphore": {"name": …, "capacity": 4, "units": 1, "do": […]}}`: do the steps while holding the units."""

    name: Name
    capacity: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    units: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    do: Steps = ()


class AskHuman(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`{"ask_human": {"text": …, "who": "ops"}}`: wait for a person's answer."""

    text: Text
    who: Name = "ops"
    timeout_s: Limit | None = field(default=None, name="timeout")


class Tool(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`{"tool": {"name": …, "args": {…}}}`: have a tool run through the gate, and wait for its result.

    A refusal is `refused` to `catch`.
    """

    name: Text
    args: Any = field(default_factory=dict)
    call_id: Name | None = None
    timeout_s: Limit | None = field(default=None, name="timeout")


class Call(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`{"call": {"to": …, "as": "c1"}}`: call without waiting; `await` waits for it."""

    to: Name
    as_: Name = field(name="as")
    verb: Name = "ask"
    body: Any = None


class Await(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`{"await": ["c1", …]}`: wait for these calls, one after the other."""

    calls: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=256)]


class Task(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`{"task": {"name": …, "do": […]}}`: start an activity with a slot of its own, beside this one.

    The script ends when its activities have ended.
    """

    name: Text = "task"
    do: Steps = ()


class Log(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`{"log": "text"}`: one line in the agent's log."""

    text: Text


class Progress(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`{"progress": "text"}`: report progress to the supervisor."""

    text: Text


class Usage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`{"usage": {"model": …, "input_tokens": n, "output_tokens": n, "cost_microusd": n}}`: report what was spent."""

    model: Text = ""
    input_tokens: Count = 0
    output_tokens: Count = 0
    cost_microusd: Count = 0


class Checkpoint(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`{"checkpoint": true}`: hold here while paused."""

    hold: Literal[True]


class Repeat(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`{"repeat": {"times": n, "do": […]}}`."""

    times: Annotated[int, Meta(ge=0, le=TIMES_MAX)]
    do: Steps = ()


class Answer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`{"reply": value}`: answer the call now and go on; only in handlers.

    A handler without it answers null at its end.
    """

    value: Any


class Fail(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`{"fail": "text"}`: raise an error."""

    text: Text


class Exit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`{"exit": code}`: end the process at once, without a word to anybody: a crash."""

    code: Annotated[int, Meta(ge=0, le=255)]


class Catch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`{"catch": {"do": […], "error": "would_deadlock", "then": […]}}`: do `then` if `do` ends in that error."""

    do: Steps
    error: Literal["would_deadlock", "peer_gone", "cancelled", "timeout", "refused", "any"] = "any"
    then: Steps = ()


class Flood(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`{"flood": {"to": …, "count": n}}`: send so many one-way messages as fast as they go."""

    to: Name
    count: Annotated[int, Meta(ge=0, le=TIMES_MAX)]
    body: Any = None


class PublishRaw(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`{"publish_raw": {"subject": …, "bytes_base64": …}}`: publish bytes past every check of the client."""

    subject: Annotated[str, Meta(min_length=1, max_length=400)]
    payload: bytes = field(name="bytes_base64")


class Barrier(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`{"barrier": {"file": path, "timeout": s}}`: be busy until the file exists, so that a driver can order events."""

    file: Annotated[str, Meta(min_length=1, max_length=4096)]
    timeout_s: Limit = field(default=60.0, name="timeout")


class _Form(NamedTuple):
    """How a kind of step is written: its struct, and the field that a value stands for if it is not an object."""

    type: Any
    short: str = ""


FORMS: Final[dict[str, _Form]] = {
    "sleep": _Form(Sleep, "for_s"),
    "work": _Form(Work, "for_s"),
    "ask": _Form(Ask),
    "ask_all": _Form(AskAll, "of"),
    "ask_any": _Form(AskAny, "of"),
    "gather": _Form(Gather),
    "tell": _Form(Tell),
    "receive": _Form(Receive),
    "lock": _Form(Lock),
    "semaphore": _Form(Semaphore),
    "ask_human": _Form(AskHuman),
    "tool": _Form(Tool),
    "call": _Form(Call),
    "await": _Form(Await, "calls"),
    "task": _Form(Task),
    "log": _Form(Log, "text"),
    "progress": _Form(Progress, "text"),
    "usage": _Form(Usage),
    "checkpoint": _Form(Checkpoint, "hold"),
    "repeat": _Form(Repeat),
    "reply": _Form(Answer, "value"),
    "fail": _Form(Fail, "text"),
    "exit": _Form(Exit, "code"),
    "catch": _Form(Catch),
    "flood": _Form(Flood),
    "publish_raw": _Form(PublishRaw),
    "barrier": _Form(Barrier),
}
"""Every kind of step, by its key."""

_OBJECT_TOO: Final = {"of"}
"""Short fields whose step may also be written as an object."""


class Script(Struct, frozen=True, kw_only=True):
    """A whole script, checked."""

    name: str = ""
    """Name where the environment gives none."""
    main: Steps = ()
    handlers: Mapping[str, Steps] = {}
    on_error: Literal["continue", "fail"] = "continue"
    """What an uncaught `WouldDeadlock` in main does: log it and go on with the next step, or fail."""
    leave_when_done: bool = False
    """Leave when main is over, even with handlers."""


def walk(steps: Steps) -> Iterator[Any]:
    """All steps in the order they are written, nested ones after the step that holds them."""
    for step in steps:
        yield step
        for inner in ("do", "then"):
            yield from walk(getattr(step, inner, ()))


def read_argument(argument: str) -> Script:
    """Parse a command-line argument: JSON text, or `@` and the path of a JSON file.

    Raises:
        ConfigError: The file cannot be read, or the script has errors (all are listed).
    """
    if not argument.startswith("@"):
        return parse(argument.encode())
    path = Path(argument[1:])
    try:
        with path.open("rb") as file:
            text = file.read(SCRIPT_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"script {path}: {error.strerror or error}") from None
    return parse(text)


def parse(text: bytes) -> Script:
    """Parse a script.

    Args:
        text: JSON, at most `SCRIPT_MAX_BYTES` bytes and `STEPS_MAX` steps.

    Raises:
        ConfigError: It is not a script; the message lists every error with its place.
    """
    try:
        codec.check(text, SCRIPT_MAX_BYTES)
        data = msgspec.json.decode(text)
    except (CodecError, msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise ConfigError(f"script: {error}") from None
    return _Parser().script(data)


class _Parser:
    """Parses one script and collects its errors."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.steps_seen = 0

    def script(self, data: Any) -> Script:
        """The whole script, or one error that lists all."""
        if not isinstance(data, dict):
            raise ConfigError(f"script: expected an object with 'main' and 'handlers', got {type(data).__name__}")
        known = Script.__struct_fields__
        for key in sorted(set(data) - set(known)):
            self.errors.append(f"{key}: unknown key{_meant(key, known)}")
        main = self.steps(data.get("main", []), "main", in_handler=False)
        handlers = data.get("handlers", {})
        if not isinstance(handlers, dict):
            self.errors.append("handlers: expected an object of verb: [steps]")
            handlers = {}
        parsed = {verb: self.handler(verb, steps) for verb, steps in handlers.items()}
        for roots, place in [(main, "main"), *((steps, f"handlers.{verb}") for verb, steps in parsed.items())]:
            self.check_awaits(roots, place)
        plain = {key: data[key] for key in ("name", "on_error", "leave_when_done") if key in data}
        try:
            options = msgspec.convert(plain, Script)
        except msgspec.ValidationError as error:
            self.errors.append(str(error))
            options = Script()
        if not self.errors and not main and not handlers:
            self.errors.append("neither main nor handlers: nothing to do; give at least one step or handler")
        if self.errors:
            lines = "".join(f"\n  {error}" for error in self.errors)
            raise ConfigError(f"script has {len(self.errors)} error{'s' * (len(self.errors) > 1)}:{lines}")
        return msgspec.structs.replace(options, main=main, handlers=parsed)

    def handler(self, verb: str, steps: Any) -> Steps:
        """The steps of one handler."""
        if verb != "*":
            try:
                msgspec.convert(verb, Name)
            except msgspec.ValidationError:
                self.errors.append(
                    f"handlers.{verb}: not a valid verb: use 1 to 32 characters of A-Z a-z 0-9 _ - or '*'"
                )
        return self.steps(steps, f"handlers.{verb}", in_handler=True)

    def steps(self, data: Any, place: str, *, in_handler: bool) -> Steps:
        """A list of steps; the bad ones are left out and reported."""
        if not isinstance(data, list | tuple):
            self.errors.append(f"{place}: expected a list of steps, got {type(data).__name__}")
            return ()
        parsed = (self.step(item, f"{place}[{index}]", in_handler=in_handler) for index, item in enumerate(data))
        return tuple(step for step in parsed if step is not None)

    def step(self, data: Any, place: str, *, in_handler: bool) -> Any:
        """One step, or None if it is wrong."""
        self.steps_seen += 1
        if self.steps_seen == STEPS_MAX + 1:
            self.errors.append(f"{place}: more than {STEPS_MAX} steps; use 'repeat'")
        if not isinstance(data, dict) or len(data) != 1:
            self.errors.append(f"{place}: a step is an object with exactly one key, its kind")
            return None
        ((kind, value),) = data.items()
        form = FORMS.get(kind)
        if form is None:
            self.errors.append(f"{place}: unknown step {kind!r}{_meant(kind, FORMS)}")
            return None
        if kind == "reply" and not in_handler:
            self.errors.append(f"{place}.reply: only a handler has a call to answer; remove it or move it to a handler")
            return None
        if form.short and not (form.short in _OBJECT_TOO and isinstance(value, dict)):
            value = {form.short: value}
        try:
            step = msgspec.convert(value, form.type)
        except msgspec.ValidationError as error:
            self.errors.append(f"{place}.{kind}: {error}")
            return None
        inner = {
            name: self.steps(getattr(step, name), f"{place}.{kind}.{name}", in_handler=in_handler)
            for name in ("do", "then")
            if hasattr(step, name)
        }
        return msgspec.structs.replace(step, **inner) if inner else step

    def check_awaits(self, steps: Steps, place: str) -> None:
        """Every awaited call must have been made before, in the order the steps are written."""
        made: list[str] = []
        for step in walk(steps):
            if isinstance(step, Call):
                made.append(step.as_)
            elif isinstance(step, Await):
                for name in step.calls:
                    if name not in made:
                        self.errors.append(f"{place}: await {name!r}: no earlier call is named so{_meant(name, made)}")


def _meant(word: str, known: Any) -> str:
    """A suggestion, or the list of what there is."""
    close = difflib.get_close_matches(word, list(known), n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(known)}" if known else ""
