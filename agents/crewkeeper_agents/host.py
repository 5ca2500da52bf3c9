"""Host: `python -m crewkeeper_agents.host module:agent` runs the agent of that name in that module."""

import argparse
import importlib
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from crewkeeper_agents.agent import Agent
from crewkeeper_bus.errors import ConfigError


def find(place: str) -> Agent:
    """Import the agent that `place` names.

    Args:
        place: `module:name`, e.g. `mycrew.planner:agent`; without `:name` it is `agent`.

    Raises:
        ConfigError: No such module, no such name in it, or no `Agent` there. Errors inside the module pass through.
    """
    module_name, _, name = place.partition(":")
    name = name or "agent"
    if module_name.endswith(".py"):
        raise ConfigError(f"{place!r} names a file; name its module: {module_name.removesuffix('.py')}:{name}")
    if not all(part.isidentifier() for part in module_name.split(".")) or not name.isidentifier():
        raise ConfigError(f"{place!r} does not name an agent: write module:name, e.g. mycrew.planner:agent")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # something that the module itself imports
        raise ConfigError(f"there is no module {error.name!r} on {sys.path}; run in its folder or install it") from None
    found = getattr(module, name, None)
    if isinstance(found, Agent):
        return found
    agents = sorted(key for key, value in vars(module).items() if isinstance(value, Agent))
    there = f"its agents: {', '.join(agents)}" if agents else "it has no agents; make one with Agent(name)"
    what = "has no" if found is None else f"has a {type(found).__name__}, not an Agent, as"
    raise ConfigError(f"module {module_name!r} {what} {name!r}; {there}")


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the agent that the command line names; never returns. Exit status as `Agent.run`."""
    parser = argparse.ArgumentParser(
        prog="python -m crewkeeper_agents.host",
        description="Run one agent of a crew. Where to connect and as whom comes from the environment (CREWKEEPER_*).",
    )
    parser.add_argument("agent", metavar="module:name", help="the Agent object to run; name defaults to 'agent'")
    parser.add_argument(
        "--until",
        choices=("stop", "main"),
        default="stop",
        help="when to leave: when told to (default; an agent without handlers leaves after main), or after main",
    )
    options = parser.parse_args(argv)
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        agent = find(options.agent)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - a usage error, before there is a log
        raise SystemExit(2) from None
    except Exception:  # noqa: BLE001 - whatever the author's module raises at import
        traceback.print_exc()
        raise SystemExit(2) from None
    agent.run(until=options.until)


if __name__ == "__main__":
    main()
