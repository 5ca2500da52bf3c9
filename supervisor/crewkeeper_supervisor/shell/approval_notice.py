"""Approval notices: what an escalation gets on its way out: links to decide and to act, arguments without secrets.

The core's record of it, in the ledger, has no links: one is as good as the act, and is its receivers' alone.
"""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from crewkeeper_bus.errors import ServerError
from crewkeeper_bus.redaction import Redactor, TooDeep
from crewkeeper_supervisor.core import acts
from crewkeeper_supervisor.core.commands import Escalate
from crewkeeper_supervisor.core.crew import Crew
from crewkeeper_supervisor.shell.approval_links import CHOICES, LIFE_S, Grant, approval_keys, link
from crewkeeper_supervisor.shell.logbook import logger

_REDACTOR: Final = Redactor(kinds=("secrets",))


def completed(state: Path, run: str, crew: Crew, command: Escalate, body: dict[str, Any]) -> dict[str, Any]:
    """The body to send.

    Without an address in the crew file, or with keys that cannot be used, it has no links: people then act by the
    commands that it names.

    Args:
        state: The state directory, where the key of links is.
        run: The run.
        crew: The crew.
        command: As the core wrote it.
        body: Its body as it may be sent: what is to be redacted is.
    """
    sent = dict(body)
    if "args" in sent:
        try:
            sent["args"], _ = _REDACTOR.value(sent["args"])
        except TooDeep as error:
            sent["args"] = f"not shown: {error}"
    address = crew.approval_url or (f"http://{crew.approval_listen}" if crew.approval_listen else "")
    grants = {label: grant for label, grant in _grants(run, command) if grant.act in crew.act_links}
    if address and grants:
        try:
            keys = approval_keys(state)
        except ServerError as error:
            logger().error("approvals.keys", crew=run, error=str(error)[:300])
        else:
            sent["links"] = {label: link(keys, address, grant) for label, grant in grants.items()}
    return sent


def _grants(run: str, command: Escalate) -> Iterator[tuple[str, Grant]]:
    """What links are made for, by what stands on them."""
    body = command.body
    if command.kind == "asked":
        for decision in CHOICES:
            yield (
                decision,
                Grant(
                    run=run,
                    about=body["approval"],
                    act=decision,
                    expires_s=math.ceil(body["expires_s"]),
                    digest=body["digest"],
                    who=body["who"],
                ),
            )
    expires_s = math.ceil(time.time() + LIFE_S)
    for act in acts.read(body):
        yield (
            act.label,
            Grant(
                run=run,
                about=command.incident or command.id,
                act=act.do,
                expires_s=expires_s,
                digest=command.id,
                agent=act.agent,
                what=act.what,
                add=act.add,
            ),
        )
