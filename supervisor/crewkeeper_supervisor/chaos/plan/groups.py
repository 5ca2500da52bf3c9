"""Groups: agents that a scenario has several times over, written out one by one before it is built.

A copy's agents are called by their names in the group and the number of the copy. Inside a group those names mean the
agents of the same copy; locks, semaphores and tools are the same for all of them.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

_CREW_KEYS: Final = ("may_call", "may_tell")
_FREE_STEPS: Final = ("reply",)
"""Steps whose value is the author's own, whatever its keys are called."""


def copies(name: str, count: int) -> Iterator[str]:
    """What the copies of one agent of a group are called."""
    return (f"{name}-{number}" for number in range(1, count + 1))


def expanded(document: Mapping[str, Any]) -> dict[str, Any]:
    """A scenario as it was read, the copies of its groups among its agents; the document itself is not changed."""
    agents = dict(document.get("agents", {}))
    for group in document.get("groups", {}).values():
        for number in range(1, group["count"] + 1):
            names = {name: f"{name}-{number}" for name in group["agents"]}
            agents |= {names[name]: _agent(agent, names) for name, agent in group["agents"].items()}
    return {**document, "agents": agents} if agents else dict(document)


def origins(document: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Where the first copy of each agent of a group stands in the file, by its name."""
    return {
        f"{name}-1": ("groups", group, "agents", name)
        for group, value in document.get("groups", {}).items()
        for name in value["agents"]
    }


def _agent(agent: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    made = dict(agent)
    made |= {key: _listed(made[key], names) for key in _CREW_KEYS if key in made}
    if "main" in made:
        made["main"] = _steps(made["main"], names)
    if "handlers" in made:
        made["handlers"] = {verb: _steps(steps, names) for verb, steps in made["handlers"].items()}
    return made


def _listed(values: list[str], names: Mapping[str, str]) -> list[str]:
    return [names.get(each, each) for each in values]


def _steps(steps: list[dict[str, Any]], names: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{word: _value(word, value, names)} for step in steps for word, value in step.items()]


def _value(word: str, value: Any, names: Mapping[str, str]) -> Any:
    if word in _FREE_STEPS:
        return value
    if isinstance(value, list):
        return [_value(word, each, names) if isinstance(each, dict) else each for each in value]
    if not isinstance(value, dict):
        return value
    made = dict(value)
    if "to" in made:
        made["to"] = names.get(made["to"], made["to"])
    if "from" in made:
        made["from"] = _listed(made["from"], names)
    if "of" in made:
        made["of"] = [_value(word, each, names) for each in made["of"]]
    made |= {key: _steps(made[key], names) for key in ("do", "then") if key in made}
    return made
