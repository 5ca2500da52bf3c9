"""What an agent process runs: `Agent` with its runtime, and scripted agents; nothing of the supervisor.

Names are imported when first used, so that a submodule costs no more than it needs.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crewkeeper_agents.agent import Agent as Agent

__all__ = ["Agent"]


def __getattr__(name: str) -> Any:
    if name == "Agent":
        from crewkeeper_agents.agent import Agent

        return Agent
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
