"""Checks: what the keys of a scenario mean together: names that exist, anchors, targets, modes."""

import re
from typing import Any, Final

from crewkeeper_supervisor.chaos.faults.registry import KINDS
from crewkeeper_supervisor.chaos.faults.servers import SMALL_DISK
from crewkeeper_supervisor.chaos.plan.format import TIMEOUT_S
from crewkeeper_supervisor.chaos.plan.groups import copies
from crewkeeper_supervisor.chaos.plan.reading import ScenarioReading
from crewkeeper_supervisor.chaos.trial.events import EVENTS, METRICS, Word
from crewkeeper_supervisor.shell.crew_problems import Path, shown
from crewkeeper_supervisor.shell.crew_reading import INVALID
from crewkeeper_supervisor.shell.fail_points import MEANING

ACTION_KEYS: Final = {
    "agent": ("pause", "resume", "kill"),
    "grace": ("pause", "kill"),
    "text": ("answer",),
    "add_microusd": ("budget",),
    "rules": ("policy",),
    "default": ("policy",),
}
"""Keys of an action that only some of them heed."""
FAULT_KEYS: Final = ("direction", "percent", "by")
ANYBODY: Final = ("any", "all")
OWNERS: Final = ("owner", "standby", "all")
_NAME_MAX_CHARS: Final = 32
_LISTS: Final = ("agents",)
_FLAGS: Final = ("signed", "again", "ok", "timed", "restart", "done", "forwarded")
"""Fields of events that are true or false."""
_FAULT: Final = re.compile(r"fault\.([A-Za-z0-9_-]+)(\.end)?")
_ACTION: Final = re.compile(r"action\.([0-9]+)")
_TRUTH: Final = ("truth.deadlock", "truth.freed")


class Checks:
    """The checks of one scenario. Values already refused are passed over.

    Args:
        reading: Knows where everything stands.
        surface: What was read.
        stem: The file's name without its end.
    """

    def __init__(self, reading: ScenarioReading, surface: dict[str, Any], stem: str) -> None:
        self.reading = reading
        self.surface = surface
        self.stem = stem
        self.modes = [mode for mode in surface.get("modes", ()) if mode is not INVALID]
        self.groups = {
            name: (group["count"], {who: agent for who, agent in group["agents"].items() if agent is not INVALID})
            for name, group in surface.get("groups", {}).items()
            if group is not INVALID and INVALID not in (group.get("count", INVALID), group.get("agents", INVALID))
        }
        self._own: tuple[str, ...] = ()
        """Names that mean an agent of the copy while a group is looked at."""
        self.agents = self._names()
        self.faults = [each for each in surface.get("faults", ()) if each is not INVALID]
        self.actions = surface.get("actions", ())

    def _names(self) -> dict[str, None]:
        """Agents by the names that they can be spoken of by: roles and instances."""
        found: dict[str, None] = {}
        for name, agent in self.surface.get("agents", {}).items():
            found[name] = None
            replicas = agent.get("replicas", 1) if agent is not INVALID else 1
            for number in range(1, replicas + 1 if replicas > 1 else 1):
                found[f"{name}-{number}"] = None
        for group, (count, agents) in self.groups.items():
            for name in agents:
                taken = found.keys() & set(copies(name, count))
                path: Path = ("groups", group, "agents", name)
                if taken:
                    self.reading.add_at_key("CREW-107", path, f"{min(taken)} is there already", "choose another name")
                elif len(f"{name}-{count}") > _NAME_MAX_CHARS:
                    self.reading.add_at_key(
                        "CREW-115", path, f"with its number it has more than {_NAME_MAX_CHARS} characters", "shorten it"
                    )
                found |= dict.fromkeys(copies(name, count))
        return found

    def run(self) -> None:
        """Note everything that is wrong."""
        id_ = self.surface.get("id")
        if id_ is not None and id_ != self.stem:
            self.reading.add(
                "CREW-119", ("id",), f"is {shown(id_)}, and the file is {shown(self.stem + '.yaml')}", "make them equal"
            )
        self._servers()
        for name, agent in self.surface.get("agents", {}).items():
            if agent is not INVALID:
                self._agent(name, agent, ("agents", name))
        for group, (_, agents) in self.groups.items():
            self._own = tuple(agents)
            for name, agent in agents.items():
                self._agent(name, agent, ("groups", group, "agents", name))
        self._own = ()
        self._fault_names()
        for index, fault in enumerate(self.surface.get("faults", ())):
            if fault is not INVALID:
                self._fault(fault, ("faults", index))
        for index, action in enumerate(self.actions):
            if action is not INVALID:
                self._anchor(action.get("after"), ("actions", index, "after"))
                self._agent_name(action.get("agent"), ("actions", index, "agent"))
                self._in_time(action, ("actions", index))
                self._action(action, ("actions", index))
        self._circles()
        for key in ("expect", "never"):
            for index, each in enumerate(self.surface.get(key, ())):
                if each is not INVALID:
                    self._expected(each, (key, index))
        if not self.surface.get("expect") and not self.surface.get("never"):
            self.reading.add(
                "CREW-111", (), "neither `expect` nor `never`: it could not fail", "say what must be seen, or must not"
            )

    def _servers(self) -> None:
        if "sim" in self.modes and self.surface.get("servers", 1) not in (1, INVALID):
            self.reading.add("CREW-119", ("servers",), "needs real processes", "leave `sim` out of `modes`")

    # --- agents ---

    def _agent(self, name: str, agent: dict[str, Any], path: Path) -> None:
        if self._own and agent.get("replicas", 1) != 1:
            self.reading.add("CREW-119", (*path, "replicas"), f"{name} is in a group", "raise the group's `count`")
        if not {"main", "handlers", "asks_model"} & agent.keys() and agent.get("obeys", True):
            self.reading.add_at_key("CREW-111", path, "has neither main nor handlers", "give it something to do")
        if not agent.get("obeys", True) and "sim" in self.modes:
            self.reading.add("CREW-119", (*path, "obeys"), "needs a real process", "leave `sim` out of `modes`")
        if "asks_model" in agent:
            self._model_user(agent, (*path, "asks_model"))
        self._steps(agent.get("main"), (*path, "main"), in_handler=False)
        handlers = agent.get("handlers", {})
        for verb, steps in handlers.items() if isinstance(handlers, dict) else ():
            self._steps(steps, (*path, "handlers", verb), in_handler=True)

    def _model_user(self, agent: dict[str, Any], path: Path) -> None:
        if "sim" in self.modes:
            self.reading.add("CREW-119", path, "needs a real process", "leave `sim` out of `modes`")
        if {"main", "handlers"} & agent.keys():
            self.reading.add("CREW-119", path, "stands for a script", "leave out main and handlers")

    def _steps(self, steps: Any, path: Path, *, in_handler: bool) -> None:
        if not isinstance(steps, list):
            return
        for index, step in enumerate(steps):
            if step is INVALID:
                continue
            ((word, value),) = step.items()
            at = (*path, index, word)
            if word == "reply" and not in_handler:
                self.reading.add_at_key("CREW-119", at, "only a handler has a call to answer", "move it to a handler")
            if isinstance(value, dict):
                if word in {"ask", "tell", "call", "flood"}:
                    self._agent_name(value.get("to"), (*at, "to"))
                for key in ("do", "then"):
                    self._steps(value.get(key), (*at, key), in_handler=in_handler)
                value = value.get("of")
            if word in {"ask_all", "ask_any", "gather"} and isinstance(value, list):
                for place, one in enumerate(value):
                    if one is not INVALID:
                        self._agent_name(one.get("to"), (*at, place, "to"))

    def _agent_name(self, name: Any, path: Path) -> None:
        if not isinstance(name, str) or not self.agents or name in self.agents or name in self._own:
            return
        hint = self.reading.found.suggest(name, [*self._own, *self.agents])
        self.reading.add("CREW-118", path, f"no agent is named {shown(name)}{hint}", "add it to agents, or correct it")

    def _action(self, action: dict[str, Any], path: Path) -> None:
        do = action.get("do", INVALID)
        if do is INVALID:
            return
        for key, heeded in ACTION_KEYS.items():
            if key in action and do not in heeded:
                told = " or ".join(f"`do: {each}`" for each in heeded)
                self.reading.add_at_key("CREW-119", (*path, key), f"belongs to {told}", "leave it out")
        if do == "policy" and "rules" not in action:
            self.reading.add("CREW-111", path, "has no rules", "say which hold from then on: `rules: […]`")
        if do == "budget":
            self._budget(action, path)

    def _budget(self, action: dict[str, Any], path: Path) -> None:
        if not action.get("add_microusd"):
            self.reading.add("CREW-111", path, "adds nothing", "say how much: `add_microusd: 50000` is five cents")
        crew = self.surface.get("crew", {})
        budget = crew.get("budget", {}) if crew is not INVALID else INVALID
        if self.agents and budget is not INVALID and "usd" not in budget:
            self.reading.add("CREW-119", path, "the crew has no budget in money", "write `crew: {budget: {usd: 1}}`")

    def _in_time(self, planned: dict[str, Any], path: Path) -> None:
        """What counts from the beginning must come before the end."""
        at_s, timeout_s = planned.get("at", 0.0), self.surface.get("timeout", TIMEOUT_S)
        if INVALID in (at_s, timeout_s) or planned.get("after", "start") != "start" or at_s < timeout_s:
            return
        self.reading.add(
            "CREW-119",
            (*path, "at"),
            f"the run is over after {timeout_s:g} s",
            "let it come earlier, or raise `timeout`",
        )

    # --- faults ---

    def _fault_names(self) -> None:
        """Anchors must mean one fault: names are there once, and are no numbers."""
        taken: set[str] = set()
        for index, fault in enumerate(self.surface.get("faults", ())):
            name = fault.get("name") if fault is not INVALID else None
            if not isinstance(name, str):
                continue
            path: Path = ("faults", index, "name")
            if name in taken:
                self.reading.add("CREW-107", path, f"{shown(name)} is there already", "choose another name")
            elif name.isdigit():
                self.reading.add("CREW-117", path, f"{shown(name)} is taken for the number of a fault", "use a word")
            taken.add(name)

    def _fault(self, fault: dict[str, Any], path: Path) -> None:
        kind = KINDS.get(fault.get("do", ""))
        if kind is None:
            return
        for mode in self.modes:
            if mode not in kind.modes:
                self.reading.add(
                    "CREW-119",
                    (*path, "do"),
                    f"{kind.word} cannot be injected in mode {mode}",
                    f"leave {mode} out of `modes`",
                )
        servers = self.surface.get("servers", 1)
        servers = 1 if servers is INVALID else servers
        if servers < kind.servers_min:
            remedy = f"write `servers: {kind.servers_min}`"
            self.reading.add("CREW-119", (*path, "do"), f"{kind.word} needs a cluster of servers", remedy)
        if kind.word == SMALL_DISK and servers > 1:
            self.reading.add("CREW-119", (*path, "do"), f"{kind.word} is for one server", "leave out `servers`")
        for key in FAULT_KEYS:
            if key in fault and key not in kind.heeds:
                heeded = [each.word for each in KINDS.values() if key in each.heeds]
                self.reading.add_at_key("CREW-119", (*path, key), f"belongs to {', '.join(heeded)}", "leave it out")
        self._in_time(fault, path)
        self._point(fault, kind.word, path)
        self._target(fault.get("target", kind.default_target), kind.targets, (*path, "target"))
        self._anchor(fault.get("after"), (*path, "after"))

    def _point(self, fault: dict[str, Any], word: str, path: Path) -> None:
        point = fault.get("point")
        if word != "kill_at":
            if point is not None:
                self.reading.add_at_key("CREW-119", (*path, "point"), "belongs to `do: kill_at`", "leave it out")
        elif (*path, "point") not in self.reading.places:
            self.reading.add("CREW-111", path, "has no point", f"say where: {', '.join(MEANING)}")
        elif isinstance(point, str) and (name := point.partition(":")[0]) not in MEANING:
            hint = self.reading.found.suggest(name, MEANING)
            remedy = f"use one of {', '.join(MEANING)}"
            self.reading.add("CREW-118", (*path, "point"), f"no fail point is named {shown(name)}{hint}", remedy)

    def _target(self, target: Any, allowed: tuple[str, ...], path: Path) -> None:
        if not isinstance(target, str):
            return
        what, colon, who = target.partition(":")
        remedy = (
            f"write {' or '.join(f'{each}:…' if each in {'agent', 'supervisor', 'tool'} else each for each in allowed)}"
        )
        if what not in allowed:
            self.reading.add("CREW-119", path, f"{shown(target)} is no target of this fault", remedy)
        elif what in {"nats", "webhook", "model"}:
            if colon:
                self.reading.add("CREW-119", path, f"{shown(target)}: there is one only", f"write {what}")
        elif what == "supervisor" and who not in OWNERS:
            self.reading.add("CREW-116", path, f"{shown(who)} is not a choice", f"use {', '.join(OWNERS)}")
        elif what == "tool" and who != "any" and who not in self.surface.get("tools", {}):
            self.reading.add("CREW-118", path, f"no tool is named {shown(who)}", "declare it under tools")
        elif what == "agent" and not who:
            self.reading.add(
                "CREW-116", path, f"{shown(target)} says nobody", "write agent:NAME, agent:any or agent:all"
            )
        elif what == "agent" and who not in ANYBODY:
            self._agent_name(who, path)

    # --- anchors and expectations ---

    def _anchor(self, anchor: Any, path: Path) -> None:
        if not isinstance(anchor, str) or anchor == "start" or anchor in _TRUTH:
            return
        found = _FAULT.fullmatch(anchor)
        names = {str(index) for index in range(len(self.faults))} | {each.get("name", "0") for each in self.faults}
        if found and found[1] in names:
            return
        action = _ACTION.fullmatch(anchor)
        if action and int(action[1]) < len(self.actions):
            return
        event = anchor.removeprefix("event.")
        if event != anchor and event in EVENTS:
            return
        hint = self.reading.found.suggest(event, EVENTS) if event != anchor else ""
        self.reading.add(
            "CREW-118",
            path,
            f"{shown(anchor)} names nothing that can happen here{hint}",
            "use start, truth.deadlock, fault.NUMBER or NAME, fault.0.end, action.0, or event. and an event",
        )

    def _circles(self) -> None:
        """Faults and actions that come after each other, or after themselves: none of them ever does."""
        planned = {f"fault.{index}": each for index, each in enumerate(self.surface.get("faults", ()))}
        planned |= {f"action.{index}": each for index, each in enumerate(self.actions)}
        planned = {word: each for word, each in planned.items() if each is not INVALID}
        words = {f"fault.{each['name']}": word for word, each in planned.items() if isinstance(each.get("name"), str)}
        after: dict[str, str] = {}
        for word, each in planned.items():
            if isinstance(anchor := each.get("after"), str):
                anchor = anchor.removesuffix(".end")
                after[word] = words.get(anchor, anchor)
        told: set[str] = set()
        for word in after:
            way = [word]
            while (following := after.get(way[-1], "")) and following not in way:
                way.append(following)
            if following != word or word in told:
                continue
            told.update(way)
            kind, _, number = word.partition(".")
            circle = " after ".join([*way, word])
            self.reading.add(
                "CREW-119",
                (f"{kind}s", int(number), "after"),
                f"never happens: {circle}",
                "let one of them come after something else",
            )

    def _bounds(self, each: dict[str, Any], path: Path) -> None:
        """Bounds that there must be, and that something could break."""
        if "metric" in each:
            if not {"count", "least", "most"} & each.keys():
                self.reading.add("CREW-111", (*path, "metric"), "has no bound", "add count, least or most")
            for key in ("within", "after"):
                if key in each:
                    self.reading.add_at_key(
                        "CREW-119", (*path, key), "a metric is counted at the end of the run", "leave it out"
                    )
        least, most = each.get("least"), each.get("most")
        if least == 0 and most is None:
            self.reading.add("CREW-119", (*path, "least"), "is met by anything", "raise it, or leave it out")
        elif isinstance(least, int) and isinstance(most, int) and least > most:
            self.reading.add("CREW-119", (*path, "least"), f"is {least}, and most is {most}", "let them meet")

    def _expected(self, each: dict[str, Any], path: Path) -> None:
        event, metric = each.get("event"), each.get("metric")
        if (event is None) == (metric is None):
            self.reading.add("CREW-119", path, "needs either event or metric", "say what must be seen, or counted")
            return
        if "count" in each and ("least" in each or "most" in each):
            self.reading.add("CREW-119", (*path, "count"), "contradicts least and most", "keep one of them")
        words: dict[str, Word] = EVENTS if metric is None else METRICS
        name, key = (event, "event") if metric is None else (metric, "metric")
        word = words.get(str(name))
        if word is None:
            hint = self.reading.found.suggest(str(name), words)
            self.reading.add(
                "CREW-118",
                (*path, key),
                f"no {key} is named {shown(str(name))}{hint}",
                f"use one of {', '.join(words)}",
            )
            return
        self._bounds(each, path)
        for field, value in each.get("where", {}).items():
            at = (*path, "where", field)
            if field not in word.fields:
                known = ", ".join(word.fields) or "none"
                hint = self.reading.found.suggest(field, word.fields)
                self.reading.add_at_key("CREW-110", at, f"{name} has no field {shown(field)}{hint}", f"fields: {known}")
            elif value is not INVALID and (remedy := _unfit(field, value)):
                self.reading.add("CREW-114", at, f"{shown(str(value))} can never be seen there", remedy)
            elif field in {"agent", "to"}:
                self._agent_name(value, at)
            elif field == "agents" and isinstance(value, list):
                for index, one in enumerate(value):
                    self._agent_name(one, (*at, index))
        self._anchor(each.get("after"), (*path, "after"))


def _unfit(field: str, value: Any) -> str:
    """What to write instead of a value that a field never has; empty where it may."""
    if field in _LISTS:
        return "" if isinstance(value, list) else "write a list: [a, b]"
    if field in _FLAGS:
        return "" if isinstance(value, bool) else "write true or false"
    return "write one value, no list" if isinstance(value, list | dict) else ""
