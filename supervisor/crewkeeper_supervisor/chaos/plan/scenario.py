"""Scenario: one scenario file, read strictly and checked, as everything else uses it.

A scenario is data: who plays, what goes wrong and when, what must and must not be seen. Its agents and the keys of its
crew are compiled into a crew file, which is read by the loader of crew files.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from crewkeeper_supervisor.chaos.faults.registry import KINDS
from crewkeeper_supervisor.chaos.plan.checks import Checks
from crewkeeper_supervisor.chaos.plan.format import SCENARIO, TIMEOUT_S
from crewkeeper_supervisor.chaos.plan.groups import expanded, origins
from crewkeeper_supervisor.chaos.plan.reading import ScenarioReading, plain
from crewkeeper_supervisor.core.crew import Crew
from crewkeeper_supervisor.gate.policy import Policy
from crewkeeper_supervisor.shell import crewfile
from crewkeeper_supervisor.shell.crew_problems import Collector, CrewFileError, Path, Problem
from crewkeeper_supervisor.shell.crew_reading import INVALID
from crewkeeper_supervisor.shell.yaml_nodes import Mapping as MappingNode
from crewkeeper_supervisor.shell.yaml_nodes import compose, decode, root_of

SCRIPT_KEYS: Final = ("main", "handlers", "on_error", "leave_when_done")
"""Keys of an agent that are its script."""
TOOLS_MODULE: Final = "scenario_tools"
"""Module in which a scenario's tools are found by their host."""
MODEL_PROXY: Final = {"upstreams": {"openai": {"url": "${CHAOS_MODELS}", "key": "${CHAOS_SECRET}"}}}
"""The model proxy of a scenario whose agents ask models: behind it is a provider of the runner's."""
STEADY: Final = ("agents", "owner")


class ScenarioError(CrewFileError):
    """A scenario file is refused; `problems` has everything wrong with it."""


class Fault(Struct, frozen=True, kw_only=True):
    """One fault of the timeline, with every default filled in."""

    index: int
    name: str
    do: str
    target: str
    at_s: float = 0.0
    after: str = "start"
    for_s: float = 1.0
    direction: str = "both"
    percent: int = 100
    by_s: float = 0.2
    point: str = ""
    """Fail point, with its number of passages."""
    times: int = 1
    every_s: float = 1.0


class Action(Struct, frozen=True, kw_only=True):
    """Something that a person does."""

    index: int
    do: str
    agent: str = ""
    at_s: float = 0.0
    after: str = "start"
    grace_s: float | None = None
    text: str = "yes"
    add_microusd: int = 0
    rules: tuple[dict[str, Any], ...] = ()
    """Of a policy, as the core takes them."""
    default: str = "allow"
    version: str = ""
    """Of the policy that they make."""


class Expectation(Struct, frozen=True, kw_only=True):
    """Something that must be seen (or, under `never`, must not). `line` is where it stands in the file."""

    event: str = ""
    metric: str = ""
    where: dict[str, Any] = field(default_factory=dict)
    count: int | None = None
    least: int | None = None
    most: int | None = None
    within_s: float | None = None
    after: str = "start"
    line: int = 0


class Player(Struct, frozen=True, kw_only=True):
    """One scripted agent: its script as `crewkeeper_agents.scripted` reads it."""

    name: str
    script: dict[str, Any]
    obeys: bool = True
    model_calls: int = 0
    """How often it calls a model, instead of playing a script."""
    model_every_s: float = 0.5


class StubTool(Struct, frozen=True, kw_only=True):
    """A tool that answers as it is told."""

    name: str
    answer: Any = None
    takes_s: float = 0.0
    arguments: tuple[str, ...] = ()
    """Names of its arguments, by its schema."""


class Scenario(Struct, frozen=True, kw_only=True):
    """One scenario. `crew` is its crew as simulations declare it; None where it needs somebody's own crew."""

    id: str
    title: str
    story: str = ""
    tags: tuple[str, ...] = ()
    modes: tuple[str, ...]
    guarantees: tuple[str, ...]
    timeout_s: float = TIMEOUT_S
    supervisors: int = 1
    servers: int = 1
    weather: str = "calm"
    players: tuple[Player, ...] = ()
    crew_keys: dict[str, Any] = field(default_factory=dict)
    """Of the crew file, as written."""
    tools: tuple[StubTool, ...] = ()
    crew: Crew | None = None
    steady: tuple[str, ...] = STEADY
    faults: tuple[Fault, ...] = ()
    actions: tuple[Action, ...] = ()
    expect: tuple[Expectation, ...] = ()
    never: tuple[Expectation, ...] = ()
    path: str = ""
    digest: str = ""
    """SHA-256 of the file."""


def load(path: str | FilePath) -> Scenario:
    """The scenario in a file.

    Raises:
        ScenarioError: It cannot be read or breaks a rule.
    """
    try:
        data = crewfile.read_bytes(path)
        return parse(data, str(path))
    except CrewFileError as error:
        raise _ours(error) from None


def parse(data: bytes, file: str) -> Scenario:
    """The scenario in the bytes of a file.

    Args:
        data: The whole file.
        file: Its name for messages; `id` must be its stem.

    Raises:
        ScenarioError: It breaks a rule; `problems` has everything wrong with it.
    """
    try:
        return _parse(data, file)
    except CrewFileError as error:
        raise _ours(error) from None


def _parse(data: bytes, file: str) -> Scenario:
    text, found = decode(data, file)
    document = compose(text, found)
    root = root_of(document, found, "`supervisor chaos init` writes one to begin with")
    reading = ScenarioReading(found, complete=document.complete)
    surface = reading.read(root, SCENARIO)
    if surface is not INVALID and document.complete:
        Checks(reading, surface, FilePath(file).stem).run()
    found.raise_if_any()
    assert isinstance(root, MappingNode)
    raw = plain(root)
    scenario = _build(expanded(surface), expanded(raw), reading, file)
    compiled = _Compiled(scenario, origins(surface), reading, found)
    actions = tuple(compiled.action(each, raw["actions"][each.index]) for each in scenario.actions)
    digest = hashlib.sha256(data).hexdigest()
    return msgspec.structs.replace(scenario, crew=compiled.crew(), actions=actions, digest=digest)


def _build(surface: dict[str, Any], raw: dict[str, Any], reading: ScenarioReading, file: str) -> Scenario:
    def lines(key: str, index: int) -> int:
        return reading.places.get((key, index), (0, 0))[0]

    agents: Mapping[str, Any] = surface.get("agents", {})
    steady = surface.get("steady")
    return Scenario(
        id=surface["id"],
        title=surface["title"],
        story=surface.get("story", "").strip(),
        tags=tuple(surface.get("tags", ())),
        modes=tuple(surface["modes"]),
        guarantees=tuple(surface["guarantees"]),
        timeout_s=surface.get("timeout", TIMEOUT_S),
        supervisors=surface.get("supervisors", 1),
        servers=surface.get("servers", 1),
        weather=surface.get("weather", "calm"),
        players=tuple(_player(name, agent) for name, agent in agents.items()),
        crew_keys=_crew_keys(surface, raw),
        tools=tuple(
            StubTool(
                name=name,
                answer=tool.get("answer"),
                takes_s=tool.get("takes", 0.0),
                arguments=tuple(tool.get("schema", {}).get("properties", {})),
            )
            for name, tool in surface.get("tools", {}).items()
        ),
        steady=STEADY if steady is None else tuple(steady),
        faults=tuple(_fault(index, each) for index, each in enumerate(surface.get("faults", ()))),
        actions=tuple(_action(index, each) for index, each in enumerate(surface.get("actions", ()))),
        expect=tuple(_expected(each, lines("expect", i)) for i, each in enumerate(surface.get("expect", ()))),
        never=tuple(
            _expected({"after": ""} | each, lines("never", i)) for i, each in enumerate(surface.get("never", ()))
        ),
        path=file,
    )


def _player(name: str, agent: dict[str, Any]) -> Player:
    asks = agent.get("asks_model", {})
    return Player(
        name=name,
        script={key: agent[key] for key in SCRIPT_KEYS if key in agent},
        obeys=agent.get("obeys", True),
        model_calls=asks.get("calls", 0),
        model_every_s=asks.get("every", 0.5),
    )


def _crew_keys(surface: dict[str, Any], raw: dict[str, Any]) -> dict[str, Any]:
    """The crew file's keys as they were written, for its own loader."""
    ours = {*SCRIPT_KEYS, "obeys", "asks_model"}
    agents = {
        name: {key: value for key, value in agent.items() if key not in ours}
        for name, agent in raw.get("agents", {}).items()
    }
    tools = {
        name: {key: value for key, value in tool.items() if key not in {"answer", "takes"}}
        | {"function": f"{TOOLS_MODULE}:{name.replace('-', '_')}"}
        for name, tool in raw.get("tools", {}).items()
    }
    return {**raw.get("crew", {}), "agents": agents} | ({"tools": tools} if tools else {})


def _fault(index: int, given: dict[str, Any]) -> Fault:
    kind = KINDS[given["do"]]
    return Fault(
        index=index,
        name=given.get("name", str(index)),
        do=given["do"],
        target=given.get("target", kind.default_target),
        at_s=given.get("at", 0.0),
        after=given.get("after", "start"),
        for_s=given.get("for", kind.for_s),
        direction=given.get("direction", "both"),
        percent=given.get("percent", 100),
        by_s=given.get("by", kind.by_s),
        point=given.get("point", ""),
        times=given.get("times", 1),
        every_s=given.get("every", 1.0),
    )


def _action(index: int, given: dict[str, Any]) -> Action:
    units = {"at": "at_s", "grace": "grace_s"}
    return Action(index=index, **{units.get(key, key): value for key, value in given.items() if key != "rules"})


def _expected(given: dict[str, Any], line: int) -> Expectation:
    return Expectation(line=line, **{("within_s" if key == "within" else key): value for key, value in given.items()})


def crew_document(scenario: Scenario, commands: Mapping[str, list[str]], **more: Any) -> dict[str, Any]:
    """The crew file of a scenario.

    Args:
        scenario: It.
        commands: Command line of every agent.
        more: Further keys of a crew file, over those of the scenario.
    """
    agents = {name: {**agent, "run": commands[name]} for name, agent in scenario.crew_keys["agents"].items()}
    models = {"model_proxy": MODEL_PROXY} if any(player.model_calls for player in scenario.players) else {}
    return {"crew": scenario.id[:20].strip("-_"), **scenario.crew_keys, **models, "agents": agents, **more}


class _Compiled:
    """Makes of a scenario what the loader of crew files makes of its crew, and says its problems where they stand.

    Args:
        scenario: As it was built.
        origins: Where agents of groups stand in the file.
        reading: Knows where everything stands.
        found: Where problems go.
    """

    def __init__(
        self, scenario: Scenario, origins: Mapping[str, Path], reading: ScenarioReading, found: Collector
    ) -> None:
        self._scenario = scenario
        self._origins = origins
        self._reading = reading
        self._found = found

    def crew(self) -> Crew | None:
        """Its crew; None where it has no agents of its own."""
        return self._parsed({}, ()) if self._scenario.players else None

    def action(self, action: Action, raw: Mapping[str, Any]) -> Action:
        """An action with the rules that it makes hold, if it does."""
        if action.do != "policy":
            return action
        policy = {"rules": raw["rules"], "policy": {"default": action.default}}
        crew = self._parsed(policy, ("actions", action.index)) if self._scenario.players else None
        if crew is None:
            self._reading.add(
                "CREW-119", ("actions", action.index), "rules need a crew of the scenario's own", "give it agents"
            )
            self._found.raise_if_any()
        assert crew is not None
        rules = tuple(msgspec.to_builtins(rule) for rule in crew.rules)
        version = Policy(crew.rules, default=crew.policy_default).version
        return msgspec.structs.replace(action, rules=rules, version=version)

    def _parsed(self, more: Mapping[str, Any], at: Path) -> Crew:
        commands = {player.name: ["scripted"] for player in self._scenario.players}
        document = crew_document(self._scenario, commands, **more)
        try:
            return crewfile.parse(json.dumps(document).encode(), self._scenario.path, FilePath("/")).crew
        except CrewFileError as error:
            for problem in error.problems:
                self._place(problem, at)
            self._found.raise_if_any()
            raise

    def _place(self, problem: Problem, at: Path) -> None:
        """Say a problem of the compiled crew where its key stands in the scenario."""
        top = problem.path.partition(".")[0].partition("[")[0]
        rest = problem.path.split(".")
        path: Path = (*at, top) if at else ("crew", top)
        if top in ("agents", "tools"):
            path = self._origins.get(rest[1], (top, rest[1])) if len(rest) > 1 else (top,)
        while path and path not in self._reading.places:
            path = path[:-1]
        said = f"{problem.path}: {problem.message}" if problem.path else problem.message
        self._reading.add(problem.code, path, said, problem.remedy)


def _ours(error: CrewFileError) -> ScenarioError:
    """The same problems in the words of scenarios."""

    def said(text: str) -> str:
        return (
            text.replace("crew files", "scenarios")
            .replace("a crew file", "a scenario")
            .replace("supervisor init", "supervisor chaos init")
        )

    problems = [
        msgspec.structs.replace(
            each, code=each.code.replace("CREW-", "SCN-"), message=said(each.message), remedy=said(each.remedy)
        )
        for each in error.problems
    ]
    return ScenarioError(problems, error.omitted)
