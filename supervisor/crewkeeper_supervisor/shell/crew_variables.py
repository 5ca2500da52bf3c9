"""Crew variables: `${NAME}` in what a crew file says, found and filled in; which keys may hold one stands elsewhere."""

import re
from collections.abc import Mapping
from typing import Final

from crewkeeper_supervisor.core.crew import Crew
from crewkeeper_supervisor.core.model_proxy import ModelProxy
from crewkeeper_supervisor.shell.crew_problems import shown
from crewkeeper_supervisor.shell.errors import SettingMissing

VARIABLE: Final = re.compile(r"\$(\$\{)|\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
"""`${NAME}`, or `$${`, which stands for a plain `${`."""


def names_in(*texts: str) -> tuple[str, ...]:
    """The variables that texts name, each once, in their order."""
    return tuple(dict.fromkeys(match[2] for text in texts for match in VARIABLE.finditer(text) if match[2]))


def filled(text: str, environ: Mapping[str, str]) -> str:
    """The text with every `${NAME}` replaced by its value in `environ`, and `$${` by a plain `${`.

    Values are taken as they are, never expanded again.

    Raises:
        KeyError: A name is not in `environ`.
    """
    return VARIABLE.sub(lambda match: environ[match[2]] if match[2] else "${", text)


def resolve_env(text: str, environ: Mapping[str, str], key: str) -> str:
    """The same for a value whose variables have to be set.

    Args:
        text: The value as the crew file has it.
        environ: Where the variables are.
        key: Where it stands in the file, for the message.

    Raises:
        SettingMissing: At least one name is not in `environ`; all that are not are told at once.
    """
    if missing := [name for name in names_in(text) if name not in environ]:
        listed = ", ".join(missing)
        told = f"{shown(text)} refers to {listed}, not set in the environment; set {listed} and start again"
        raise SettingMissing(f"{key}: {told}", name=missing[0])
    return filled(text, environ)


def unset_variables(crew: Crew, environ: Mapping[str, str]) -> list[SettingMissing]:
    """What keeps the processes of a crew from starting: one for each value whose variables are not all in `environ`."""
    values = [(f"agents.{agent.name}.env.{name}", text) for agent in crew.agents for name, text in agent.env.items()]
    values += [(f"tools.{key}.env.{name}", text) for key, tool in crew.tools.items() for name, text in tool.env.items()]
    values += upstream_values(crew.model_proxy) if crew.model_proxy is not None else []
    found: list[SettingMissing] = []
    for key, text in values:
        try:
            resolve_env(text, environ, key)
        except SettingMissing as error:
            found.append(error)
    return found


def upstream_values(declared: ModelProxy) -> list[tuple[str, str]]:
    """What the upstreams of a model proxy are made of: where each text stands in the crew file, and the text."""
    named = (("openai", declared.openai), ("anthropic", declared.anthropic))
    return [
        (f"model_proxy.upstreams.{name}", text)
        for name, each in named
        if each is not None
        for text in (each.url, each.key)
    ]
