"""Registry: every kind of fault by its word; a new family is a module that is listed here."""

from typing import Final

from crewkeeper_supervisor.chaos.faults import (
    clocks,
    credentials,
    limits,
    models,
    network,
    processes,
    receivers,
    servers,
    supervisors,
    tools,
)
from crewkeeper_supervisor.chaos.faults.kind import FaultKind

FAMILIES: Final = (processes, limits, clocks, credentials, network, supervisors, servers, receivers, tools, models)
"""A family is a module with a tuple `FAULTS`."""
KINDS: Final[dict[str, FaultKind]] = {kind.word: kind for family in FAMILIES for kind in family.FAULTS}
"""Every kind of fault, by the word that a scenario uses."""
