"""Player: a simulated agent's tasks played from a script, step by step as `crewkeeper_agents.scripted` plays them."""

import base64
from collections.abc import Callable
from typing import Any, Final

import msgspec

from crewkeeper_bus import messages as m
from crewkeeper_supervisor.chaos.actor import Actor
from crewkeeper_supervisor.chaos.doing import Body, Call, Failed, Task, ToolRefused, Work

MAIN: Final = "main"
TINY_S: Final = 0.0002
"""How long it takes to say something, so that a loop of words cannot stop time."""
_NAMED: Final = ("would_deadlock", "peer_gone", "cancelled", "timeout")
_LEFT: Final = 3600.0 * 24


class Player:
    """Plays the steps of one task.

    Args:
        actor: Who plays.
        task: As what.
        run: The run's id, for raw subjects.
        exits: Ends the process with a status.
        goes_on: Whether a broken wait ends no more than its step.
    """

    def __init__(
        self, actor: Actor, task: Task, run: str, exits: Callable[[Actor, int], None], *, goes_on: bool = False
    ) -> None:
        self.actor, self.task = actor, task
        self._run = run
        self._exits = exits
        self._goes_on = goes_on
        self._calls: dict[str, Call] = {}

    def play(self, steps: list[dict[str, Any]]) -> Body:
        """Play a list of steps, one after the other."""
        for step in steps:
            ((word, value),) = step.items()
            try:
                yield from _PLAYS[word](self, value)
            except Failed as failed:
                if not (self._goes_on and failed.code == "would_deadlock"):
                    raise

    # --- time and talk ---

    def _sleep(self, value: float) -> Body:
        yield from self.actor.sleep(self.task, value)

    def _work(self, value: float) -> Body:
        yield value

    def _say_nothing(self, _value: Any) -> Body:
        yield TINY_S

    def _progress(self, value: str) -> Body:
        self.actor.say(m.Progress, task=self.task.id, text=value)
        yield TINY_S

    def _usage(self, value: dict[str, Any]) -> Body:
        self.actor.say(m.Usage, task=self.task.id, **value)
        yield TINY_S

    def _tell(self, value: dict[str, Any]) -> Body:
        self.actor.tell(self.task, value["to"], _raw(value.get("body")))
        yield TINY_S

    def _flood(self, value: dict[str, Any]) -> Body:
        body = _raw(flood_body(value))
        for _ in range(value["count"]):
            self.actor.tell(self.task, value["to"], body)
            yield TINY_S

    def _receive(self, value: dict[str, Any]) -> Body:
        yield from self.actor.receive(self.task, tuple(value.get("from", ())), value.get("timeout"))

    # --- calls ---

    def _ask(self, value: dict[str, Any]) -> Body:
        timeout_s = value.get("timeout")
        call = self._called(value, timeout_s)
        yield from self.actor.join(self.task, [call], 1, m.OnCall(call=call.id), timeout_s)

    def _called(self, value: dict[str, Any], timeout_s: float | None = None) -> Call:
        return self.actor.call(
            self.task, value["to"], timeout_s, verb=value.get("verb", "ask"), body=_raw(value.get("body"))
        )

    def _many(self, value: Any, k: int | None) -> Body:
        ones = value if isinstance(value, list) else value["of"]
        timeout_s = None if isinstance(value, list) else value.get("timeout")
        calls = [self._called(one, timeout_s) for one in ones]
        parts = tuple(m.OnCall(call=call.id) for call in calls)
        count = len(calls) if k is None else min(k, len(calls))
        condition = m.OnAll(of=parts) if count == len(calls) else m.OnSome(k=count, of=parts)
        yield from self.actor.join(self.task, calls, count, condition, timeout_s)

    def _ask_all(self, value: Any) -> Body:
        yield from self._many(value, None)

    def _ask_any(self, value: Any) -> Body:
        yield from self._many(value, 1)

    def _gather(self, value: Any) -> Body:
        yield from self._many(value, value["k"])

    def _call(self, value: dict[str, Any]) -> Body:
        self._calls[value["as"]] = self._called(value)
        yield TINY_S

    def _await(self, value: list[str]) -> Body:
        for name in value:
            call = self._calls[name]
            yield from self.actor.join(self.task, [call], 1, m.OnCall(call=call.id))

    def _reply(self, value: Any) -> Body:
        self.actor.reply_early(self.task, _raw(value))
        yield TINY_S

    # --- what is shared, people, tools ---

    def _lock(self, value: dict[str, Any]) -> Body:
        inside = self.play(value.get("do", []))
        yield from self.actor.holding(self.task, value["name"], inside, None, mode=value.get("mode", "x"))

    def _semaphore(self, value: dict[str, Any]) -> Body:
        units, capacity = value.get("units", 1), value.get("capacity", 1)
        inside = self.play(value.get("do", []))
        yield from self.actor.holding(self.task, value["name"], inside, None, units=units, capacity=capacity)

    def _ask_human(self, value: dict[str, Any]) -> Body:
        yield from self.actor.ask_person(self.task, value.get("timeout"))

    def _tool(self, value: dict[str, Any]) -> Body:
        yield from self.actor.use_tool(self.task, value["name"], _raw(value.get("args", {})), value.get("timeout"))

    # --- flow ---

    def _task(self, value: dict[str, Any]) -> Body:
        self.actor.begin_activity(value["name"])
        yield TINY_S

    def _repeat(self, value: dict[str, Any]) -> Body:
        for _ in range(value["times"]):
            yield from self.play(value.get("do", []))
            yield TINY_S

    def _catch(self, value: dict[str, Any]) -> Body:
        goes_on, self._goes_on = self._goes_on, False
        wanted = value.get("error", "any")
        try:
            yield from self.play(value.get("do", []))
        except Failed as failed:
            if not _is(failed, wanted):
                raise
            self._goes_on = goes_on
            yield from self.play(value.get("then", []))
        finally:
            self._goes_on = goes_on

    def _fail(self, _value: str) -> Body:
        yield TINY_S
        raise Failed("failed")

    def _exit(self, value: int) -> Body:
        yield TINY_S
        self._exits(self.actor, value)
        yield _LEFT

    def _publish_raw(self, value: dict[str, Any]) -> Body:
        subject = filled(value["subject"], self._run, self.actor.name)
        self.actor.publish_raw(subject, raw_payload(value))
        yield TINY_S


def filled(subject: str, run: str, agent: str) -> str:
    """A raw subject with the run and the agent in it."""
    return subject.replace("{run}", run).replace("{self}", agent)


def raw_payload(value: dict[str, Any]) -> bytes:
    """The payload of a `publish_raw` step."""
    text: str = value.get("text", "")
    return text.encode() * int(value.get("repeated", 1))


def flood_body(value: dict[str, Any]) -> Any:
    """What each message of a `flood` step says."""
    body, repeated = value.get("body"), value.get("repeated", 1)
    return body * repeated if isinstance(body, str) else body


def real_step(step: dict[str, Any]) -> dict[str, Any]:
    """A step as scripted processes read it: the same but for repetitions, and raw payloads as base64."""
    ((word, value),) = step.items()
    if word == "publish_raw":
        payload = base64.b64encode(raw_payload(value)).decode()
        return {word: {"subject": value["subject"], "bytes_base64": payload}}
    if word == "flood":
        value = {key: inner for key, inner in value.items() if key != "repeated"} | {"body": flood_body(value)}
    if isinstance(value, dict):
        value = {
            key: [real_step(each) for each in inner] if key in ("do", "then") else inner for key, inner in value.items()
        }
    return {word: value}


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def _is(failed: Failed, wanted: str) -> bool:
    if isinstance(failed, ToolRefused):
        return wanted in ("refused", "any")
    return failed.code == wanted or (wanted == "any" and failed.code in _NAMED)


_PLAYS: Final[dict[str, Callable[[Player, Any], Body]]] = {
    "sleep": Player._sleep,
    "work": Player._work,
    "ask": Player._ask,
    "ask_all": Player._ask_all,
    "ask_any": Player._ask_any,
    "gather": Player._gather,
    "tell": Player._tell,
    "receive": Player._receive,
    "lock": Player._lock,
    "semaphore": Player._semaphore,
    "ask_human": Player._ask_human,
    "tool": Player._tool,
    "call": Player._call,
    "await": Player._await,
    "task": Player._task,
    "log": Player._say_nothing,
    "progress": Player._progress,
    "usage": Player._usage,
    "checkpoint": Player._say_nothing,
    "repeat": Player._repeat,
    "reply": Player._reply,
    "fail": Player._fail,
    "exit": Player._exit,
    "catch": Player._catch,
    "flood": Player._flood,
    "publish_raw": Player._publish_raw,
}


class Scripts:
    """Makes the bodies of all tasks of a scenario.

    Args:
        scripts: By role.
        run: The run's id.
        exits: Ends a process with a status.
    """

    def __init__(self, scripts: dict[str, dict[str, Any]], run: str, exits: Callable[[Actor, int], None]) -> None:
        self._scripts = scripts
        self._run = run
        self._exits = exits
        self._activities: dict[str, dict[str, list[dict[str, Any]]]] = {
            role: dict(_activities(script)) for role, script in scripts.items()
        }

    def has_main(self, role: str) -> bool:
        """Whether this role has work of its own."""
        return bool(self._scripts[role].get("main"))

    def leaves(self, role: str) -> bool:
        """Whether an agent of this role goes when its main activity is over."""
        script = self._scripts[role]
        return not script.get("handlers") or bool(script.get("leave_when_done"))

    def body(self, actor: Actor, task: Task, work: Work) -> Body:
        """The body of one task."""
        script = self._scripts[actor.spec.name]
        goes_on = script.get("on_error", "continue") == "continue"
        if work.sender:
            handlers = script.get("handlers", {})
            steps = handlers.get(work.verb, handlers.get("*"))
            if steps is None:
                raise Failed("no_handler")
            yield from Player(actor, task, self._run, self._exits).play(steps)
            return
        steps = script.get("main", []) if work.id == MAIN else self._activities[actor.spec.name][work.id]
        yield from Player(actor, task, self._run, self._exits, goes_on=goes_on).play(steps)


def _activities(script: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Every `task` step of a script, wherever it stands: its name and steps."""
    found: list[tuple[str, list[dict[str, Any]]]] = []
    ahead = [script.get("main", []), *script.get("handlers", {}).values()]
    while ahead:
        for step in ahead.pop():
            ((word, value),) = step.items()
            if isinstance(value, dict):
                if word == "task":
                    found.append((value["name"], value.get("do", [])))
                ahead += [value[key] for key in ("do", "then") if key in value]
    return found
