"""The JSON Schema of scenario files for editors, derived from the tables of the format."""

from typing import Any, Final

from crewkeeper_supervisor.chaos.plan.format import SCENARIO
from crewkeeper_supervisor.chaos.plan.steps import FORMS
from crewkeeper_supervisor.shell.crew_kinds import Section
from crewkeeper_supervisor.shell.crew_schema import DIALECT, schema_of

TITLE: Final = "Crewkeeper scenario"


def schema() -> dict[str, Any]:
    """The schema of a scenario file (JSON Schema 2020-12), as plain data."""
    return {
        "$schema": DIALECT,
        "title": TITLE,
        **schema_of(SCENARIO),
        "$defs": {
            "any": {},
            "steps": {"type": "array", "items": {"$ref": "#/$defs/step"}},
            "step": {
                "type": "object",
                "minProperties": 1,
                "maxProperties": 1,
                "additionalProperties": False,
                "properties": {word: _step(word) for word in FORMS},
            },
        },
    }


def _step(word: str) -> dict[str, Any]:
    form = FORMS[word]
    made = schema_of(form.kind)
    if form.listed and isinstance(form.kind, Section):
        key = form.kind.find(form.listed)
        assert key is not None
        made = {"anyOf": [schema_of(key.kind), made]}
    return {"description": form.doc, **made}
