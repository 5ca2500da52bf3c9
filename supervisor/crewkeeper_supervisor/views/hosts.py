"""Hosts as stable data and as a table: who takes agents on a server, and which they have."""

from collections.abc import Iterable
from datetime import UTC, datetime

from msgspec import Struct

from crewkeeper_supervisor.shell.host_registry import HostInfo
from crewkeeper_supervisor.views.tables import Table
from crewkeeper_supervisor.views.wording import ago, safe

_SHOWN = 4


class HostAgent(Struct, frozen=True, kw_only=True):
    """One agent that a host has."""

    run: str
    agent: str


class HostRow(Struct, frozen=True, kw_only=True):
    """One host: the shape of `-o json`."""

    host: str
    state: str
    """`up`, or `stopping`: it takes no more agents and ends those it has."""
    labels: dict[str, str]
    slots: int
    taken: int
    since: datetime
    machine: str
    pid: int
    incarnation: str
    agents: list[HostAgent]
    """The first 500."""


def rows(infos: Iterable[HostInfo]) -> list[HostRow]:
    """Rows of registered hosts."""
    return [
        HostRow(
            host=info.name,
            state="stopping" if info.leaving else "up",
            labels=info.labels,
            slots=info.slots,
            taken=info.taken,
            since=datetime.fromtimestamp(info.since_s, UTC),
            machine=info.machine,
            pid=info.pid,
            incarnation=info.inc,
            agents=[HostAgent(run=run, agent=agent) for run, agent in info.agents],
        )
        for info in infos
    ]


def table(hosts: list[HostRow], now: datetime, *, wide: bool) -> Table:
    """The table for people."""
    columns = ("HOST", "STATE", "TAKEN", "LABELS", "SINCE", "AGENTS")
    more = ("MACHINE", "PROCESS") if wide else ()
    return Table(
        columns=columns + more,
        rows=tuple(_cells(host, now, wide=wide) for host in hosts),
        empty="no host takes agents here; start one: supervisor host",
    )


def _cells(host: HostRow, now: datetime, *, wide: bool) -> tuple[str, ...]:
    labels = ", ".join(f"{safe(key)}={safe(value)}" for key, value in host.labels.items())
    shown = host.agents if wide else host.agents[:_SHOWN]
    names = ", ".join(f"{safe(each.run)}/{safe(each.agent)}" for each in shown)
    left = host.taken - len(shown)
    agents = names + (f" and {left} more" if left > 0 else "")
    cells = (
        safe(host.host),
        host.state,
        f"{host.taken}/{host.slots}",
        labels or "-",
        ago(host.since, now),
        agents or "-",
    )
    return (*cells, safe(host.machine), str(host.pid)) if wide else cells
