"""What is wrong with a wait case: every problem with its place and a remedy.

Keys that nobody knows are no problem: who wrote the case may need them. What a sound case means is `wait_case`'s.
"""

from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from itertools import islice
from typing import Any, Final

from msgspec import Struct

from crewkeeper_supervisor.core.case_order import Openings

SHOWN_MAX_CHARS: Final = 60
DEPTH_MAX: Final = 32
"""How deep conditions may be nested."""

_KEYS: Final[dict[str, tuple[str, ...]]] = {
    "task": ("task", "agent"),
    "call": ("call", "task", "to"),
    "start": ("call", "task"),
    "reply": ("call",),
    "end": ("task",),
    "wait": ("task", "for"),
    "wake": ("task",),
    "acquire": ("task", "res"),
    "release": ("task", "res"),
    "send": ("task", "msg"),
    "recv": ("msg", "task"),
    "cancel": ("call",),
    "crash": ("agent",),
    "exit": ("agent",),
    "restart": ("agent",),
    "config": ("agent", "concurrency"),
}
"""What an event of each kind cannot do without."""
_FORMS: Final = ("call", "res", "msg_from", "topic", "space", "human", "timer", "all", "any", "k")


class CaseProblem(Struct, frozen=True, kw_only=True):
    """One thing wrong at one place.

    Attributes:
        case: Id of the case; its number in the file where it has none.
        event: Position of the event in the case, from 0; None for what is not about one event.
        key: The key, with the way to it.
        value: What stands there, as JSON-like text, cut.
        message: What is wrong.
        remedy: What to do about it.
    """

    case: str
    event: int | None
    key: str
    value: str
    message: str
    remedy: str

    def __str__(self) -> str:
        """One line: place, value, problem, remedy."""
        place = f"case {self.case!r}" + (f", event {self.event}" if self.event is not None else "")
        return f"{place}: {self.key}: {self.value}: {self.message}; {self.remedy}"


class _Check:
    """The problems of one case."""

    def __init__(self, case: Mapping[str, Any], name: str) -> None:
        self.case = case
        self.name = name
        self.problems: list[CaseProblem] = []
        self.event: int | None = None

    def say(self, key: str, value: Any, message: str, remedy: str) -> None:
        shown = "missing" if value is _MISSING else repr(value)
        shown = shown if len(shown) <= SHOWN_MAX_CHARS else shown[: SHOWN_MAX_CHARS - 1] + "…"
        self.problems.append(
            CaseProblem(case=self.name, event=self.event, key=key, value=shown, message=message, remedy=remedy)
        )

    def known(self, key: str, value: Any, names: Collection[str], what: str, remedy: str) -> None:
        """A name must be one of these."""
        if not isinstance(value, str) or not value:
            self.say(key, value, "is no name", "write a string")
        elif value not in names:
            near = get_close_matches(value, islice(names, 500), n=1)
            self.say(key, value, f"there is no such {what}", f"did you mean {near[0]!r}?" if near else remedy)

    def number(self, key: str, value: Any, least: int) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            self.say(key, value, f"is no whole number of at least {least}", "correct it")

    def choice(self, key: str, value: Any, choices: tuple[Any, ...]) -> None:
        if not any(value is each or (isinstance(value, str) and value == each) for each in choices):
            self.say(key, value, "is no such choice", f"write one of {', '.join(map(repr, choices))}")


_MISSING: Final = object()


def problems_of(case: Any, name: str) -> list[CaseProblem]:
    """Everything that is wrong with a case; empty if it can be replayed.

    Args:
        case: What stands in the file.
        name: What to call the case if it has no id.
    """
    if not isinstance(case, dict):
        check = _Check({}, name)
        check.say("case", case, "is no object", "write an object with id, agents, resources and events")
        return check.problems
    if not isinstance(case.get("id", _MISSING), str) or not case["id"]:
        check = _Check(case, name)
        check.say("id", case.get("id", _MISSING), "is no id", "give the case a string of its own")
    else:
        check = _Check(case, case["id"])
    sound = _shapes(check)
    if sound:
        sound = _crew(check)
        complete = [_event(check, number, event) for number, event in enumerate(case["events"])]
        if sound and all(complete):
            _names(check)
    return sorted(check.problems, key=lambda problem: -1 if problem.event is None else problem.event)


def _shapes(check: _Check) -> bool:
    before = len(check.problems)
    for key, kind, word in (("agents", dict, "object"), ("resources", dict, "object"), ("events", list, "list")):
        value = check.case.get(key, {} if key == "resources" else _MISSING)
        if not isinstance(value, kind):
            check.say(key, value, f"is no {word}", f"write {'[…]' if kind is list else '{…}'}")
        elif isinstance(value, dict):
            for name, spec in value.items():
                if not isinstance(spec, dict):
                    check.say(f"{key}.{name}", spec, "is no object", "write {} for the defaults")
    return len(check.problems) == before


def _crew(check: _Check) -> bool:
    """Look at agents and resources. False: the names of the roles are not known."""
    sound = True
    for name, spec in check.case["agents"].items():
        at = f"agents.{name}"
        check.number(f"{at}.concurrency", spec.get("concurrency", 1), 0)
        check.choice(f"{at}.reentrant", spec.get("reentrant", "none"), ("none", "chain", "full"))
        if spec.get("mailbox") is not None:
            check.number(f"{at}.mailbox", spec["mailbox"], 0)
        if not isinstance(spec.get("role", name), str):
            check.say(f"{at}.role", spec["role"], "is no name", "write a string")
            sound = False
    for name, spec in check.case.get("resources", {}).items():
        at = f"resources.{name}"
        check.choice(f"{at}.kind", spec.get("kind", "lock"), ("lock", "sem"))
        check.choice(f"{at}.fifo", spec.get("fifo", True), (True, False))
        if spec.get("kind") == "sem":
            check.number(f"{at}.units", spec.get("units", 1), 0)
    return sound


def _event(check: _Check, number: int, event: Any) -> bool:
    """Look at one event alone. False: it has no kind or lacks a key, so that its names cannot be looked up."""
    check.event = number
    if not isinstance(event, dict):
        check.say("event", event, "is no object", 'write an object such as {"e": "task", …}')
        return False
    kind = event.get("e", _MISSING)
    if not isinstance(kind, str) or kind not in _KEYS:
        near = get_close_matches(kind, _KEYS, n=1) if isinstance(kind, str) else []
        remedy = f"did you mean {near[0]!r}?" if near else f"write one of {', '.join(_KEYS)}"
        check.say("e", kind, "is no kind of event", remedy)
        return False
    sound = True
    for key in _KEYS[kind]:
        value = event.get(key, _MISSING)
        if key == "concurrency":
            check.number(key, value, 0)
        elif key == "for":
            sound &= _condition(check, value, "for", 0)
        elif not isinstance(value, str) or not value:
            check.say(key, value, f"{kind} needs it", "write a string")
            sound = False
    if kind == "send" and not any(isinstance(event.get(key), str) for key in ("to", "topic")):
        check.say("to", event.get("to", _MISSING), "send needs `to` or `topic`", "name the receiver or the topic")
        sound = False
    for key in ("ticket", "req", "rev"):
        if event.get(key) is not None and (isinstance(event[key], bool) or not isinstance(event[key], int | float)):
            check.say(key, event[key], "is no number", "write the number of the lock manager")
    if kind == "acquire":
        _asked(check, event, "")
    return sound


def _asked(check: _Check, spec: Mapping[str, Any], at: str) -> None:
    check.choice(f"{at}mode", spec.get("mode") or "x", ("x", "s"))
    check.number(f"{at}n", 1 if spec.get("n") is None else spec["n"], 0)


def _condition(check: _Check, spec: Any, at: str, depth: int) -> bool:
    """Look at the shape of a condition. False: its names cannot be looked up."""
    form = next((key for key in _FORMS if key in spec), None) if isinstance(spec, dict) else None
    if form is None or depth > DEPTH_MAX:
        message = "is no condition" if depth <= DEPTH_MAX else "is nested too deep"
        check.say(at, spec, message, f"write an object with one of {', '.join(_FORMS)}")
        return False
    value, at = spec[form], f"{at}.{form}"
    if form in ("all", "any", "k"):
        parts = spec.get("of") if form == "k" else value
        if not isinstance(parts, list):
            check.say(at, parts, "has no list of conditions", "write them in […]")
            return False
        if form != "all" and not 1 <= (value if form == "k" and type(value) is int else form == "any") <= len(parts):
            check.say(at, value, f"cannot be met by {len(parts)} conditions", "correct the number or the list")
        sound_parts = [_condition(check, part, f"{at}[{number}]", depth + 1) for number, part in enumerate(parts)]
        return all(sound_parts)
    sound = True
    if form in ("msg_from", "topic"):
        names = value if form == "msg_from" else spec.get("publishers")
        if (form == "msg_from" or names is not None) and not (
            isinstance(names, list) and all(isinstance(name, str) for name in names)
        ):
            check.say(at, names, "is no list of agents", 'write ["name", …]')
            sound = False
    if form in ("call", "res", "topic", "space") and not (isinstance(value, str) and value):
        check.say(at, value, "is no name", "write a string")
        sound = False
    if form == "res":
        _asked(check, spec, f"{at}.")
    return sound


def _names(check: _Check) -> None:
    """Look up every name in a case whose events are complete."""
    agents, events = check.case["agents"], check.case["events"]
    openings = Openings(agents, events)
    roles = dict.fromkeys([*agents, *(spec.get("role", name) for name, spec in agents.items())])
    lookups: dict[str, Callable[[str, Any], None]] = {
        "agent": lambda key, value: check.known(key, value, agents, "agent", "add it to agents"),
        "to": lambda key, value: check.known(key, value, roles, "agent or role", "add it to agents"),
        "task": lambda key, value: check.known(key, value, openings.tasks, "task", "begin it with task or start"),
        "call": lambda key, value: check.known(key, value, openings.calls, "call", "make it with call"),
        "msg": lambda key, value: check.known(key, value, openings.sends, "message", "send it with send"),
        "res": lambda key, value: check.known(
            key, value, check.case.get("resources", {}), "resource", "add it to resources"
        ),
    }
    for check.event, event in enumerate(events):
        optional = [key for key in ("agent", "to") if event["e"] in ("start", "send") and event.get(key) is not None]
        for key in (key for key in (*_KEYS[event["e"]], *optional) if key in lookups):
            lookups[key](key, event[key])
        for key, kind, value in _named(event["for"], "for") if event["e"] == "wait" else ():
            lookups[kind](key, value)
        _unique(check, openings, event)
        if event["e"] == "start" and event["call"] in openings.calls and not openings.callee(event):
            to = events[openings.calls[event["call"]]]["to"]
            if openings.instances(to):
                check.say("agent", _MISSING, f"{to!r} has several instances", "say which one started the call")


def _unique(check: _Check, openings: Openings, event: Mapping[str, Any]) -> None:
    for kind, key, table in (("call", "call", openings.calls), ("start", "call", openings.starts)):
        if event["e"] == kind and table[event[key]] != check.event:
            check.say(key, event[key], f"there is a {kind} of it already, event {table[event[key]]}", "rename one")
    if event["e"] == "send" and openings.sends[event["msg"]] != check.event:
        check.say("msg", event["msg"], f"event {openings.sends[event['msg']]} sends it already", "rename one")
    if event["e"] in ("task", "start") and openings.stream(event) != openings.agent_of[event["task"]]:
        check.say("task", event["task"], "two agents have a task of this name", "rename one")


def _named(spec: Mapping[str, Any], at: str) -> list[tuple[str, str, Any]]:
    """The names in a condition: key with the way to it, what it names, and the name."""
    found: list[tuple[str, str, Any]] = []
    form = next(key for key in _FORMS if key in spec)
    for number, part in enumerate(spec["of"] if form == "k" else spec[form] if form in ("all", "any") else ()):
        found += _named(part, f"{at}.{'of' if form == 'k' else form}[{number}]")
    if form in ("call", "res", "space"):
        found.append((f"{at}.{form}", "to" if form == "space" else form, spec[form]))
    names = spec["msg_from"] if form == "msg_from" else (spec.get("publishers") or ()) if form == "topic" else ()
    at = f"{at}.msg_from" if form == "msg_from" else f"{at}.publishers"
    return found + [(f"{at}[{number}]", "to", name) for number, name in enumerate(names)]
