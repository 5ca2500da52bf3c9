"""Tool hosts: the processes in which a run's tools live: which a crew needs, and with what environment each starts.

What a tool logs in with is given to its own processes alone. No agent gets it, nor the variables it is made of.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from crewkeeper_bus.credentials import Credentials, write_private
from crewkeeper_bus.subjects import TOOLS
from crewkeeper_supervisor.core.crew import Crew, Restart
from crewkeeper_supervisor.core.tools import Tool
from crewkeeper_supervisor.shell.crew_variables import resolve_env
from crewkeeper_supervisor.shell.launcher import Launch, command_line, service_environment

RULE: Final = Restart(policy="permanent", intensity=30, period_s=60.0, shutdown_s=5.0)
"""A tool host is started again whatever happens; the growing delay keeps one that cannot start below this for long."""
PAYLOAD_BYTES: Final = 1024 * 1024
"""Results may be larger than what agents may send."""
_MODULES: Final = {TOOLS: "crewkeeper_agents.tool_host"}
_OWN_ENV: Final = "TOOL_ENV"


def needed(crew: Crew) -> tuple[str, ...]:
    """The tool hosts that a crew's tools need, by name."""
    hosts = {_host_of(tool) for tool in crew.tools.values()}
    return tuple(name for name in _MODULES if name in hosts)


def launches(
    crew: Crew, run: str, access: Credentials | Path, directory: Path, inherited: Mapping[str, str]
) -> list[tuple[Launch, Restart]]:
    """What to start for a crew's tools, and by which rule to start it again.

    Args:
        crew: The crew.
        run: The run.
        access: How tool hosts connect, or the file that says so from moment to moment.
        directory: Where the run's files are; the lists of tools are written there.
        inherited: The host's environment.

    Raises:
        SettingMissing: A tool's `env` names a variable that is not set.
        OSError: The list cannot be written.
    """
    made: list[tuple[Launch, Restart]] = []
    for name in needed(crew):
        tools = _tools(crew, name)
        env = environment(crew, name, run, access, inherited)
        listing = directory / f"{name}.json"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(
            listing, json.dumps({key: _listed(tool, directory) for key, tool in tools.items()}, indent=1).encode()
        )
        launch = Launch(
            name=name,
            argv=(sys.executable, "-m", _MODULES[name], str(listing)),
            env=env,
            cwd=next((tool.cwd for tool in tools.values() if tool.cwd), ""),
            log=directory / "logs" / f"{name}.log",
        )
        made.append((launch, RULE))
    return made


def environment(
    crew: Crew, name: str, run: str, access: Credentials | Path, inherited: Mapping[str, str]
) -> dict[str, str]:
    """The environment of one tool host; what its tools have for themselves stands in it as one variable.

    Raises:
        SettingMissing: A tool's `env` names a variable that is not set.
    """
    own: dict[str, dict[str, str]] = {}
    for key, tool in _tools(crew, name).items():
        for variable, value in tool.env.items():
            own.setdefault(key, {})[variable] = resolve_env(value, inherited, f"tools.{key}.env.{variable}")
    return service_environment(crew, run, access, inherited, {_OWN_ENV: json.dumps(own)})


def _tools(crew: Crew, host: str) -> dict[str, Tool]:
    return {key: tool for key, tool in crew.tools.items() if _host_of(tool) == host}


def _host_of(tool: Tool) -> str:
    return "" if tool.inside else TOOLS


def _listed(tool: Tool, directory: Path) -> dict[str, Any]:
    source: dict[str, Any] = {"function": tool.function} if tool.function else {}
    for key, argv in (("command", tool.command), ("mcp", tool.mcp)):
        if argv:
            source[key] = command_line(argv)
    if tool.mcp:
        # Definitions are pinned for all runs of the state directory, not for this one.
        source["state"] = str(directory.parent.parent)
    return {**source, "concurrency": tool.concurrency, "result_bytes": tool.result_bytes}
