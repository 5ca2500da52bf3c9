"""Journal entries as plain data, and what types of them there are; sentences about them are `story`'s."""

from typing import Any, get_args

from msgspec import UNSET, Raw, json, to_builtins

from crewkeeper_bus.messages import AGENT_MESSAGES, SUPERVISOR_MESSAGES
from crewkeeper_supervisor.core.events import Event, Rejected, Throttled
from crewkeeper_supervisor.core.findings import FindingKind
from crewkeeper_supervisor.views.wording import moment


def entry_types() -> tuple[str, ...]:
    """What an entry can be called: types of messages, what could not be read, and kinds of findings."""
    unions = (*AGENT_MESSAGES.values(), *SUPERVISOR_MESSAGES.values())
    messages = [each.__name__ for union in unions for each in get_args(union) or (union,)]
    return tuple(dict.fromkeys((*messages, "Rejected", "Throttled", *get_args(FindingKind))))


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
