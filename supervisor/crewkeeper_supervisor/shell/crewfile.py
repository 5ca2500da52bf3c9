"""Loads a crew file: from YAML on disk to the checked `Crew` of the core, or to every mistake in it at once.

The steps: `yaml_nodes` makes a tree with positions, `crew_reading` reads it by the table in `crew_format`, here the
keys are checked against each other and the `Crew` is built. Nothing is run, resolved or looked up but folders.
"""

from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from crewkeeper_supervisor.core.crew import (
    Agent,
    Budget,
    Crew,
    Rate,
    Repeat,
    Response,
    Responses,
    Restart,
    Retain,
    Watching,
    Webhook,
)
from crewkeeper_supervisor.core.lint import lint
from crewkeeper_supervisor.core.outcome import Outcome
from crewkeeper_supervisor.gate.trial import Trial
from crewkeeper_supervisor.shell.crew_format import CREW, MAX_INSTANCES
from crewkeeper_supervisor.shell.crew_gate import GateChecks, prices_of, redact_of, rules_of, tools_of, trials_of
from crewkeeper_supervisor.shell.crew_model_proxy import ProxyChecks, proxy_of
from crewkeeper_supervisor.shell.crew_problems import Collector, CrewFileError, Path, Problem, path_text, render, shown
from crewkeeper_supervisor.shell.crew_reading import INVALID, Reading, nearest_place
from crewkeeper_supervisor.shell.crew_response_format import LINKS
from crewkeeper_supervisor.shell.crew_variables import names_in
from crewkeeper_supervisor.shell.yaml_nodes import MAX_FILE_BYTES, compose, decode, root_of

__all__ = [
    "CrewFile",
    "CrewFileError",
    "Problem",
    "load",
    "parse",
    "read",
    "render",
]

_NAME_MAX_CHARS: Final = 32
_RESERVED_ENV: Final = "CREWKEEPER_"
_SHELL_WORDS: Final = {"|", "||", "&", "&&", ";", ">", ">>", "<", "2>&1"}
_APPROVAL_FIELDS: Final = {
    "expire": "approval_s",
    "who": "approval_who",
    "listen": "approval_listen",
    "url": "approval_url",
}
_PROCESS_KEYS: Final = ("cwd", "env", "host", "restart")
"""Keys that say how a process is started: without effect when it is started elsewhere."""


class CrewFile(Struct, frozen=True, kw_only=True):
    """A crew file that holds a crew. `warnings` are about the file itself; `lint()` adds those about the crew."""

    path: str
    crew: Crew
    warnings: tuple[Problem, ...] = ()
    places: dict[Path, tuple[int, int]] = {}
    text: str = ""
    trials: tuple[Trial, ...] = ()
    """Tests of the policy."""

    def lint(self) -> list[Problem]:
        """What the declared relations of the crew let expect, each with its place in the file."""
        found = Collector(self.path, self.text)
        for warning in lint(self.crew):
            line, column = nearest_place(self.places, warning.path)
            found.add(
                warning.code,
                warning.message,
                warning.remedy,
                line=line,
                column=column,
                path=warning.path,
                severity=warning.severity,
            )
        return found.warnings


def load(path: str | FilePath) -> Crew:
    """The crew declared by the file at `path`.

    Raises:
        CrewFileError: The file cannot be read or breaks a rule; `.problems` has everything wrong with it.
    """
    return read(path).crew


def read(path: str | FilePath) -> CrewFile:
    """The crew declared by the file at `path`, with warnings and positions.

    Raises:
        CrewFileError: The file cannot be read or breaks a rule; `.problems` has everything wrong with it.
    """
    return parse(read_bytes(path), str(path), FilePath(path).resolve().parent)


def read_bytes(path: str | FilePath) -> bytes:
    """The bytes of a file, at most one more than the largest crew file may have.

    Raises:
        CrewFileError: It cannot be read.
    """
    try:
        with FilePath(path).open("rb") as stream:
            return stream.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        found = Collector(str(path))
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        found.add("CREW-101", f"cannot be read: {reason}", "name an existing file; `supervisor init` writes one")
        raise CrewFileError(found.problems) from None


def parse(data: bytes, file: str, folder: FilePath) -> CrewFile:
    """The crew declared by the bytes of a crew file.

    Args:
        data: The whole file.
        file: Its name for messages.
        folder: What relative `cwd` are relative to, and the default of `cwd`; absolute.

    Raises:
        CrewFileError: It breaks a rule; `.problems` has everything wrong with it.
    """
    text, found = decode(data, file)
    document = compose(text, found)
    root = root_of(document, found, "`supervisor init` writes one to begin with")
    reading = Reading(found, complete=document.complete)
    surface = reading.read(root, CREW)
    if surface is not INVALID and document.complete:
        checks = _Checks(reading, surface, folder)
        checks.run()
        GateChecks(reading, surface, text, checks.replicas).run()
        ProxyChecks(reading, surface).run()
    found.raise_if_any()
    crew = _crew(surface, folder)
    trials = trials_of(surface, reading)
    return CrewFile(
        path=file, crew=crew, warnings=tuple(found.warnings), places=reading.places, text=text, trials=trials
    )


class _Checks:
    """What the keys of one file mean together. Values already refused are passed over."""

    def __init__(self, reading: Reading, surface: dict[str, Any], folder: FilePath) -> None:
        self.reading = reading
        self.surface = surface
        self.folder = folder
        agents: dict[str, Any] = surface.get("agents", {})
        self.names = list(agents)
        self.agents = {name: agent for name, agent in agents.items() if agent is not INVALID}
        self.tools: dict[str, Any] = surface.get("tools", {})
        self.replicas = {name: agent.get("replicas", 1) for name, agent in self.agents.items()}
        self.replicas |= {name: 1 for name in self.names if name not in self.replicas}

    def run(self) -> None:
        for name, agent in self.agents.items():
            path = ("agents", name)
            self._process(agent, path)
            self._may_call(agent, path)
            self._used_tools(agent.get("tools", ()), (*path, "tools"))
        self._instances()
        self._escalate()
        self._retain(self.surface.get("retain", {}))

    def _process(self, agent: dict[str, Any], path: Path) -> None:
        add = self.reading.add_at_key
        external = agent.get("external", False)
        has_run = (*path, "run") in self.reading.places
        if external and has_run:
            add("CREW-119", (*path, "run"), "an external agent is started elsewhere", "remove run or external")
        if not external and not has_run and (*path, "external") not in self.reading.keys:
            add("CREW-111", path, "nothing says how it is started", "add run: <command line>, or external: true")
        elif not external and not has_run and "external" in agent:
            add("CREW-119", path, "it is not external and has no run", "add run: <command line>")
        if external and agent.get("replicas", 1) > 1:
            add(
                "CREW-119",
                (*path, "replicas"),
                f"{agent['replicas']} replicas of an external agent, which nobody here starts",
                "declare each external agent by its own name",
            )
        for key in _PROCESS_KEYS:
            if external and key in agent:
                add(
                    "CREW-202",
                    (*path, key),
                    "an external agent is started elsewhere, so this has no effect",
                    f"remove {key}",
                    warning=True,
                )
        self._environment(agent.get("env", {}), (*path, "env"))
        self._folder(agent.get("cwd"), (*path, "cwd"))
        for word in agent.get("run", ()):
            if word in _SHELL_WORDS:
                self.reading.add(
                    "CREW-204",
                    (*path, "run"),
                    f"{shown(word)} is given to the program as a word: no shell runs",
                    "write [sh, -c, '…'] if a shell is meant",
                    warning=True,
                )
                break

    def _environment(self, env: Mapping[str, Any], path: Path) -> None:
        for name in env:
            if name.startswith(_RESERVED_ENV):
                self.reading.add_at_key(
                    "CREW-119",
                    (*path, name),
                    "variables CREWKEEPER_… are set by the supervisor",
                    "remove it, or give it another name",
                )

    def _folder(self, cwd: str | None, path: Path) -> None:
        if cwd is None:
            return
        try:
            good = (self.folder / cwd).is_dir()
        except (OSError, ValueError):
            good = False
        if not good:
            self.reading.add(
                "CREW-114",
                path,
                f"{shown(cwd)} is not a folder",
                f"create it, or name one relative to {self.folder}",
            )

    def _may_call(self, agent: dict[str, Any], path: Path) -> None:
        self._known_agents(agent.get("may_call", ()), (*path, "may_call"))
        self._known_agents(agent.get("may_tell", ()), (*path, "may_tell"))

    def _known_agents(self, listed: Any, path: Path) -> None:
        for index, callee in enumerate(listed):
            if callee is INVALID or callee in self.agents or callee in self.names:
                continue
            role = str(callee).rpartition("-")[0]
            if role in self.agents and self.agents[role].get("replicas", 1) > 1:
                message, remedy = f"{shown(callee)} is one instance of {role}", f"write {role}: any instance may answer"
            else:
                message = f"no agent is named {shown(callee)}{self.reading.found.suggest(callee, self.names)}"
                remedy = f"add {path_text(('agents', callee))}, or correct the name"
            self.reading.add("CREW-118", (*path, index), message, remedy)

    def _instances(self) -> None:
        total = sum(agent.get("replicas", 1) for agent in self.agents.values())
        if total > MAX_INSTANCES:
            self.reading.add(
                "CREW-120",
                ("agents",),
                f"{total} agents with replicas counted; the limit is {MAX_INSTANCES}",
                "lower replicas, or split the crew",
            )
            return
        owners = {name: name for name, agent in self.agents.items() if agent.get("replicas", 1) == 1}
        for role, agent in self.agents.items():
            replicas = agent.get("replicas", 1)
            path: Path = ("agents", role)
            if replicas == 1:
                continue
            longest = f"{role}-{replicas}"
            if len(longest) > _NAME_MAX_CHARS:
                self.reading.add_at_key(
                    "CREW-120",
                    path,
                    f"its last instance would be {shown(longest)}, {len(longest)} characters; the limit is "
                    f"{_NAME_MAX_CHARS}",
                    f"shorten the name to {_NAME_MAX_CHARS - len(longest) + len(role)} characters",
                )
            for number in range(1, replicas + 1):
                name = f"{role}-{number}"
                owner = owners.setdefault(name, role)
                if owner != role:
                    self.reading.add_at_key(
                        "CREW-120",
                        path,
                        f"its instance {shown(name)} has the name of an instance of {shown(owner)}",
                        f"rename {role} or {owner}",
                    )

    def _used_tools(self, listed: Any, path: Path) -> None:
        for index, tool in enumerate(listed):
            if tool is INVALID or tool.partition(".")[0] in self.tools:
                continue
            suggestion = self.reading.found.suggest(tool.partition(".")[0], self.tools)
            self.reading.add(
                "CREW-118",
                (*path, index),
                f"no tool is named {shown(tool)}{suggestion}",
                "declare it under tools, or correct the name",
            )

    def _escalate(self) -> None:
        for index, webhook in enumerate(self.surface.get("escalate", ())):
            if webhook is INVALID or "secret" not in webhook:
                continue
            if not names_in(webhook["secret"]):
                self.reading.add(
                    "CREW-203",
                    ("escalate", index, "secret"),
                    "the secret stands in the file, where everybody who reads it learns it",
                    "put it into the environment and write ${NAME}",
                    warning=True,
                )

    def _retain(self, retain: dict[str, Any]) -> None:
        kept_s, journal_s = retain.get("ledger"), retain.get("journal")
        if kept_s in (None, INVALID) or journal_s is INVALID or (journal_s is not None and journal_s <= kept_s):
            return
        self.reading.add(
            "CREW-119",
            ("retain", "ledger"),
            f"the ledger would go before the journal, which is kept {'longer' if journal_s else 'for ever'}",
            "give journal a time that is no longer, or leave ledger out",
        )


def _receiver(webhook: dict[str, Any]) -> Webhook:
    rest = {key: value for key, value in webhook.items() if key != "after"}
    return Webhook(**rest, after_s=webhook.get("after", 0.0))


def _crew(surface: dict[str, Any], folder: FilePath) -> Crew:
    limits = surface.get("limits", {})
    restart = surface.get("restart", {})
    timing = {"payload": "payload_bytes", "heartbeat": "heartbeat_s", "start_timeout": "start_timeout_s"}
    return Crew(
        name=surface["crew"],
        objective=surface.get("objective", "").strip(),
        agents=tuple(_agent(name, agent, restart, folder) for name, agent in surface["agents"].items()),
        budget=_budget(surface.get("budget", {})),
        responses=_responses(surface.get("responses", {})),
        escalate=tuple(_receiver(webhook) for webhook in surface.get("escalate", ())),
        escalations_per_minute=surface.get("escalation", {}).get("per_minute", 10),
        act_links=tuple(surface.get("escalation", {}).get("links", LINKS)),
        tools=tools_of(surface, str(folder)),
        rules=rules_of(surface),
        policy_default=surface.get("policy", {}).get("default", "allow"),
        prices=prices_of(surface),
        folder=str(folder),
        redact=redact_of(surface),
        model_proxy=proxy_of(surface),
        watch=_watching(surface.get("watch", {})),
        outcome=_outcome(surface.get("outcome")),
        **{_APPROVAL_FIELDS[key]: value for key, value in surface.get("approvals", {}).items()},
        retain=Retain(**{f"{key}_s": value for key, value in surface.get("retain", {}).items()}),
        rate=Rate(**{key: value for key, value in limits.items() if key not in timing}),
        **{timing[key]: value for key, value in limits.items() if key in timing},
    )


def _agent(name: str, agent: dict[str, Any], restart: dict[str, Any], folder: FilePath) -> Agent:
    given: dict[str, Any] = {"stall_s" if key == "stall" else key: value for key, value in agent.items()}
    budgets: dict[str, Any] = {key: _budget(given.pop(key)) for key in ("budget", "task_budget") if key in given}
    tuples: dict[str, Any] = {
        key: tuple(given.pop(key)) for key in ("run", "may_call", "may_tell", "tools") if key in given
    }
    return Agent(
        name=name,
        cwd=str((folder / given.pop("cwd", ".")).resolve()),
        restart=_restart(restart | given.pop("restart", {})),
        **budgets,
        **tuples,
        **given,
    )


def _watching(given: dict[str, Any]) -> Watching:
    return Watching(**{"stall_s" if key == "stall" else key: value for key, value in given.items()})


def _outcome(given: dict[str, Any] | None) -> Outcome | None:
    if not given:
        return None
    lists = {key: tuple(value) for key, value in given.items() if isinstance(value, list)}
    return Outcome(**(given | lists))


def _restart(given: dict[str, Any]) -> Restart:
    units = {"period": "period_s", "shutdown": "shutdown_s"}
    return Restart(**{units.get(key, key): value for key, value in given.items()})


def _budget(given: dict[str, Any]) -> Budget:
    units = {"usd": "microusd", "wall": "wall_s", "ask": "ask_s"}
    return Budget(**{units.get(key, key): value for key, value in given.items()})


def _responses(given: dict[str, Any]) -> Responses:
    defaults = Responses()
    units = {key: f"{key}_s" for key in ("confirm", "lasting", "climb", "cool_down", "hold")}
    made: dict[str, Response] = {}
    for name, response in given.items():
        values = {units.get(key, key): value for key, value in response.items()}
        if "repeat" in values:
            again = {"within_s" if key == "within" else key: value for key, value in values["repeat"].items()}
            values["repeat"] = Repeat(**again)
        if "do" in values:
            values["do"] = tuple(values["do"])
        default: Response = getattr(defaults, name)
        made[name] = replace(default, **values)
    return Responses(**made)
