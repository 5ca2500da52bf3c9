"""`supervisor schema`: the JSON Schema of what is written for this program, and of what it prints."""

import json
from collections.abc import Callable
from typing import Any, Final

import click

from crewkeeper_supervisor.cli.output import write

_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"


def _crew() -> dict[str, Any]:
    from crewkeeper_supervisor.shell.crew_schema import schema as made

    return made()


def _policy() -> dict[str, Any]:
    from crewkeeper_supervisor.shell.crew_gate_format import POLICY_FILE
    from crewkeeper_supervisor.shell.crew_schema import schema_of

    return {"$schema": _DRAFT, **schema_of(POLICY_FILE)}


def _scenario() -> dict[str, Any]:
    from crewkeeper_supervisor.chaos.plan.schema import schema as made

    return made()


def _message() -> dict[str, Any]:
    from crewkeeper_bus.codec import schemas

    return schemas()


def _event() -> dict[str, Any]:
    from crewkeeper_supervisor.views.entry import entry_schema

    return {"$schema": _DRAFT, **entry_schema()}


def _shown(name: str) -> Callable[[], dict[str, Any]]:
    def made() -> dict[str, Any]:
        import msgspec

        from crewkeeper_supervisor.views import snapshot

        return {"$schema": _DRAFT, **msgspec.json.schema(getattr(snapshot, name))}

    return made


SCHEMAS: Final[dict[str, tuple[str, Callable[[], dict[str, Any]]]]] = {
    "crew": ("crew files", _crew),
    "policy": ("policy files", _policy),
    "scenario": ("chaos scenarios", _scenario),
    "message": ("messages on the bus", _message),
    "event": ("lines of supervisor events -o jsonl", _event),
    "run": ("items of supervisor ps -o json", _shown("RunView")),
    "agent": ("items of supervisor agent ls -o json", _shown("AgentRow")),
    "incident": ("items of supervisor incidents ls -o json", _shown("IncidentRow")),
    "approval": ("items of supervisor approvals ls -o json", _shown("ApprovalRow")),
    "question": ("items of supervisor questions ls -o json", _shown("QuestionRow")),
}
"""By name: what it describes, and who makes it."""


@click.command()
@click.argument("of", required=False, type=click.Choice(tuple(SCHEMAS)), metavar="[NAME]")
def schema(of: str | None) -> None:
    """Print a JSON Schema: of a file that you write, or of what commands print.

    NAME is crew, policy, scenario, message, event, run, agent, incident, approval or question; without one they are
    listed.
    """
    if of is None:
        for name, (what, _) in SCHEMAS.items():
            write(f"{name:<9} {what}")
        return
    write(json.dumps(SCHEMAS[of][1](), indent=2))
