"""Journal entries as plain data, and what types of them there are; sentences about them are `story`'s."""

from typing import Any, get_args

from msgspec import UNSET, Raw, json, to_builtins

from crewkeeper_bus.messages import AGENT_MESSAGES, SUPERVISOR_MESSAGES
from crewkeeper_supervisor.core.events import Event, Rejected, Throttled
from crewkeeper_supervisor.core.findings import FindingKind
from crewkeeper_supervisor.views.wording import moment


def entry_types() -> tuple[str, ...]:
    """What an entry can be called: types of messages, what could not be read, and kinds of findings."""
    return (*message_types(), "Rejected", "Throttled", *get_args(FindingKind))


def message_types() -> tuple[str, ...]:
    """Types of messages."""
    unions = (*AGENT_MESSAGES.values(), *SUPERVISOR_MESSAGES.values())
    return tuple(dict.fromkeys(each.__name__ for union in unions for each in get_args(union) or (union,)))


def entry_schema() -> dict[str, Any]:
    """The JSON Schema of what `event_document` returns; what stands in messages is the schema of messages."""
    text, number = {"type": "string"}, {"type": "integer"}
    head = {
        "schema_version": number,
        "run": text,
        "seq": {"type": "integer", "minimum": 1, "description": "Place in the journal."},
        "at": {"type": "string", "format": "date-time", "description": "When it was stored, by the server's clock."},
        "from": {"type": "string", "description": "Who published it, as the server's permissions make true."},
    }
    said = {"to": text, "id": text, "message": {"type": "object"}}
    unread = {"subject": text, "reason": text, "size_bytes": number, "sha256": text, "forged": {"type": "boolean"}}
    return {
        "title": "One entry of a run's journal",
        "oneOf": [
            _object({**head, "type": {"enum": list(message_types())}, **said}),
            _object({**head, "type": {"const": "Rejected"}, **unread}),
            _object({**head, "type": {"const": "Throttled"}, "size_bytes": number}),
        ],
    }


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def event_document(run: str, event: Event) -> dict[str, Any]:
    """One journal entry as plain data for `-o jsonl`: everything stored, message bodies included."""
    head: dict[str, Any] = {"schema_version": 1, "run": run, "seq": event.seq, "at": moment(event.at_s)}
    if isinstance(event, Rejected):
        return head | {
            "type": "Rejected",
            "from": event.sender,
            "subject": event.subject,
            "reason": event.reason,
            "size_bytes": event.size_bytes,
            "sha256": event.digest,
            "forged": event.forged,
        }
    if isinstance(event, Throttled):
        return head | {"type": "Throttled", "from": event.sender, "size_bytes": event.size_bytes}
    message = event.message
    fields = {}
    for name in message.__struct_fields__:
        value = getattr(message, name)
        if value is UNSET:
            continue
        fields[name] = json.decode(value) if isinstance(value, Raw) else to_builtins(value)
    return head | {
        "type": type(message).__name__,
        "from": event.sender,
        "to": event.to,
        "id": event.id,
        "message": fields,
    }
