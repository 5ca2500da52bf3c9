"""Admission: a login tried until one is let in, so that no agent is started before somebody decides about logins.

What is tried is the whole way: a record of its own, the server's question, a controller's answer. Nothing else proves
that agents could come in.
"""

import secrets
from collections.abc import Callable
from typing import Final

import anyio

from crewkeeper_bus.credentials import Credentials
from crewkeeper_bus.wire import WireClient, quiet
from crewkeeper_supervisor.shell.access import Access
from crewkeeper_supervisor.shell.nats_link import LINK_ERRORS

TRIES_S: Final = (0.1, 0.2, 0.4, 0.8, 1.6, 3.0)
"""How long each attempt may take; the last value repeats. Short at first: a question that the server asked before
anybody listened is answered by nobody, and the server would wait for its limit."""
PAUSE_S: Final = 0.05
TOLD_AFTER_S: Final = 5.0
TOLD_EVERY_S: Final = 60.0
PROBE_TTL_S: Final = 3600.0
RUN: Final = "_probe"
"""No run: its name begins like none can."""

Tell = Callable[[str], None]


async def wait(access: Access, tell: Tell) -> None:
    """Return when a login has been let in; bounded by the caller's cancellation alone, and not silent.

    Args:
        access: The records.
        tell: Called with a line for people when it takes long.

    Raises:
        StoreUnavailable: The server did not store the record that the login is tried with.
    """
    name = f"h{secrets.token_hex(6)}"
    while True:
        issued = await access.issue(RUN, name, ttl_s=PROBE_TTL_S, by="a host that waits for admission", replaces=True)
        until_s = anyio.current_time() + PROBE_TTL_S / 2
        if await _admitted(issued.credentials, tell, until_s):
            break
    await access.end_run(RUN, name)  # unlike a revoked record, one that is over goes by itself


async def _admitted(credentials: Credentials, tell: Tell, until_s: float) -> bool:
    tried, tell_at_s = 0, anyio.current_time() + TOLD_AFTER_S
    while anyio.current_time() < until_s:
        with anyio.move_on_after(TRIES_S[min(tried, len(TRIES_S) - 1)]):
            if await _enters(credentials):
                return True
        tried += 1
        if anyio.current_time() >= tell_at_s:
            tell("no controller lets agents in yet; they are started as soon as one does: supervisor serve")
            tell_at_s = anyio.current_time() + TOLD_EVERY_S
        await anyio.sleep(PAUSE_S)
    return False


async def _enters(credentials: Credentials) -> bool:
    client = WireClient()
    try:
        await client.connect(
            credentials.url, name="probe", allow_reconnect=False, error_cb=quiet, **credentials.options()
        )
    except (*LINK_ERRORS, ValueError):
        return False
    else:
        return client.is_connected
    finally:
        client.abandon()
