"""Cast: the agents of a scenario as programs: scripted ones of its own, or somebody's crew file as it is."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from crewkeeper_supervisor.chaos.plan.reading import plain
from crewkeeper_supervisor.chaos.plan.scenario import Player, Scenario, crew_document
from crewkeeper_supervisor.chaos.sim.player import real_step
from crewkeeper_supervisor.core.crew import Crew
from crewkeeper_supervisor.shell import crewfile
from crewkeeper_supervisor.shell.yaml_nodes import Mapping, compose, decode


class Cast:
    """Who plays.

    Attributes:
        instances: Name of every agent on the bus, with its role.
        rogues: Agents that the host does not start: they obey nobody.
        folder: Working directory of the host; None: any.
    """

    instances: dict[str, str]
    rogues: tuple[str, ...] = ()
    folder: Path | None = None

    def write(self, folder: Path, ways: dict[str, str]) -> Path:
        """Write the crew file and what belongs to it; returns its path.

        Args:
            folder: Where.
            ways: Shell statements that lead the command of those to the server that are to go through a proxy.
        """
        raise NotImplementedError


def instances_of(crew: Crew) -> dict[str, str]:
    """Every instance of a crew with its role."""
    return {name: agent.name for agent in crew.agents for name in agent.instances}


class Scripted(Cast):
    """The scenario's own agents.

    Args:
        scenario: With agents.
    """

    def __init__(self, scenario: Scenario) -> None:
        assert scenario.crew is not None
        self._scenario = scenario
        self.instances = instances_of(scenario.crew)
        self.rogues = tuple(player.name for player in scenario.players if not player.obeys)

    def write(self, folder: Path, ways: dict[str, str]) -> Path:
        """As the class says."""
        self.folder = folder
        commands = {player.name: self._command(player, folder, ways) for player in self._scenario.players}
        document = crew_document(self._scenario, commands)
        for name in self.rogues:
            document["agents"][name] = {"external": True}
        for tool in document.get("tools", {}).values():
            tool.setdefault("schema", {"type": "object"})
        path = folder / "crew.yaml"
        path.write_text(json.dumps(document, indent=1))
        return path

    def _command(self, player: Player, folder: Path, ways: dict[str, str]) -> list[str]:
        text = json.dumps(_script(player))
        file = folder / f"{player.name}.script.json"
        file.write_text(text)
        command = [sys.executable, "-m", "crewkeeper_agents.scripted", f"@{file}"]
        if "publish_raw" in text:  # its subjects hold the run's id, which is known when the agent is started
            command = [sys.executable, "-m", "crewkeeper_supervisor.chaos.real.raw_script", str(file)]
        if player.model_calls:
            command = [sys.executable, "-m", "crewkeeper_supervisor.chaos.real.model_user"]
            command += [str(player.model_calls), str(player.model_every_s)]
        return _through(command, player.name, self.instances, ways)


class Own(Cast):
    """Somebody's own crew.

    Args:
        file: Its crew file.

    Raises:
        CrewFileError: It is refused.
    """

    def __init__(self, file: Path) -> None:
        self._file = file.resolve()
        self.instances = instances_of(crewfile.read(file).crew)
        self.folder = self._file.parent

    def write(self, folder: Path, ways: dict[str, str]) -> Path:
        """Its own file where nobody needs a proxy; else a copy of it in `folder` in which those go through theirs."""
        if not ways:
            return self._file
        text, found = decode(self._file.read_bytes(), str(self._file))
        root = compose(text, found).root
        assert isinstance(root, Mapping)
        document: dict[str, Any] = plain(root)
        for name, agent in document["agents"].items():
            agent["cwd"] = str((self._file.parent / agent.get("cwd", ".")).resolve())
            if "run" in agent:
                command = agent["run"] if isinstance(agent["run"], list) else shlex.split(agent["run"])
                command = [sys.executable, *command[1:]] if command[0] in ("python", "python3") else command
                agent["run"] = _through(command, name, self.instances, ways)
        path = folder / "crew.yaml"
        path.write_text(json.dumps(document, indent=1))
        return path


def _script(player: Player) -> dict[str, Any]:
    script = dict(player.script)
    script["main"] = [real_step(step) for step in script.get("main", [])]
    script["handlers"] = {
        verb: [real_step(step) for step in steps] for verb, steps in script.get("handlers", {}).items()
    }
    return script


def _through(command: list[str], role: str, instances: dict[str, str], ways: dict[str, str]) -> list[str]:
    """The command on each instance's own way to the server, which wins over what the host says."""
    own = {name: ways[name] for name, of in instances.items() if of == role and name in ways}
    if not own:
        return command
    cases = " ".join(f"{name}) {way};;" for name, way in own.items())
    return ["/bin/sh", "-c", f'case "$CREWKEEPER_AGENT" in {cases} esac; exec "$@"', "sh", *command]
