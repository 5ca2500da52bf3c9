"""Sentences about how approvals end without anybody's word for it, and about decisions that came to nothing."""

from typing import Literal

from crewkeeper_bus.tool_messages import ApprovalAsked, ApprovalDecided
from crewkeeper_supervisor.core.events import Event, Recorded
from crewkeeper_supervisor.core.gate_state import Approval
from crewkeeper_supervisor.core.supervisor import Supervisor
from crewkeeper_supervisor.views.wording import safe


class ApprovalEnds:
    """Remembers which approvals of one run were pending before the next journal entry."""

    def __init__(self) -> None:
        self._pending: dict[str, Approval] = {}

    def tell(self, event: Event, core: Supervisor) -> list[tuple[str, Literal["normal", "bad"]]]:
        """What there is to tell after the core has taken the event."""
        told: list[tuple[str, Literal["normal", "bad"]]] = []
        message = event.message if isinstance(event, Recorded) else None
        counted = False
        for id_, approval in list(self._pending.items()):
            if approval.state == "pending":
                continue
            del self._pending[id_]
            counted = counted or (isinstance(message, ApprovalDecided) and message.approval == id_)
            if approval.state == "expired":
                told.append((f"{id_} has expired: nobody decided in time on {_call(approval)}", "bad"))
            elif approval.state == "cancelled":
                why = f": {safe(approval.reason)}" if approval.reason else ""
                told.append((f"{id_} is cancelled, and with it {_call(approval)}{why}", "normal"))
        if isinstance(message, ApprovalAsked) and (asked := core.gate.approvals.get(message.approval)) is not None:
            self._pending[asked.id] = asked
        if isinstance(message, ApprovalDecided) and not counted:
            told.append((f"that decides nothing: {_why(core.gate.approvals.get(message.approval), message)}", "normal"))
        return told


def _call(approval: Approval) -> str:
    return f"{safe(approval.agent)}'s call of {safe(approval.tool)!r}"


def _why(approval: Approval | None, message: ApprovalDecided) -> str:
    id_ = safe(message.approval)
    if approval is None:
        return f"there is no approval {id_}"
    if message.digest != approval.digest:
        return f"another action was asked about under {id_}"
    if approval.state == "pending":
        return f"the time of {id_} is over"
    by = f" by {safe(approval.by)}" if approval.by else ""
    return f"{id_} was {approval.state} before{by}"
