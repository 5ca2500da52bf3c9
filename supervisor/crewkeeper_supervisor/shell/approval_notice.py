"""Approval notices: what an escalation about an approval gets on its way out: links, and arguments without secrets.

The core's record of it, in the ledger, has no links: one is as good as a decision, and is its receivers' alone.
"""

import math
from pathlib import Path
from typing import Any, Final

from crewkeeper_bus.errors import ServerError
from crewkeeper_bus.redaction import Redactor, TooDeep
from crewkeeper_supervisor.core.crew import Crew
from crewkeeper_supervisor.shell.approval_links import CHOICES, Grant, approval_keys, link
from crewkeeper_supervisor.shell.logbook import logger

KIND: Final = "approval"
"""`kind` in the body of such an escalation."""
_REDACTOR: Final = Redactor(kinds=("secrets",))


def completed(state: Path, run: str, crew: Crew, body: dict[str, Any]) -> dict[str, Any]:
    """The body to send for the body that the core made.

    Without an address in the crew file, or with keys that cannot be used, it has no links: people then decide with
    `supervisor approvals`.

    Args:
        state: The state directory, where the key of links is.
        run: The run.
        crew: The crew.
        body: As the core made it.
    """
    try:
        args, _ = _REDACTOR.value(body["args"])
    except TooDeep as error:
        args = f"not shown: {error}"
    sent = {**body, "args": args}
    address = crew.approval_url or (f"http://{crew.approval_listen}" if crew.approval_listen else "")
    if address:
        try:
            sent["links"] = _links(state, run, address, body)
        except ServerError as error:
            logger().error("approvals.keys", crew=run, error=str(error)[:300])
    return sent


def _links(state: Path, run: str, address: str, body: dict[str, Any]) -> dict[str, str]:
    keys = approval_keys(state)
    made: dict[str, str] = {}
    for decision in CHOICES:
        grant = Grant(
            run=run,
            approval=body["approval"],
            decision=decision,
            expires_s=math.ceil(body["expires_s"]),
            digest=body["digest"],
            who=body["who"],
        )
        made[decision] = link(keys, address, grant)
    return made
