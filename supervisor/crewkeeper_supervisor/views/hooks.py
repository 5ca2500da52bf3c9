"""Hooks for people: deliveries and endpoints as rows and tables; it looks and sends nothing.

An address may hold a secret, so only its host and port are shown, and the names of variables in it; several at one
host are told apart by an id, which follows from the address as the crew file has it.
"""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from crewkeeper_supervisor.core.crew import Webhook
from crewkeeper_supervisor.shell.crew_variables import names_in
from crewkeeper_supervisor.shell.deliveries import Delivery, State, endpoint_key
from crewkeeper_supervisor.shell.webhook import named
from crewkeeper_supervisor.views.tables import Table, build_table
from crewkeeper_supervisor.views.wording import ago, safe


class DeliveryRow(Struct, frozen=True, kw_only=True):
    """One escalation on its way to one receiver."""

    name: str
    """`<webhook-id>.<endpoint>`; what `redeliver` takes."""
    id: str
    """The `webhook-id`."""
    run: str
    incident: str
    type: str
    endpoint: str
    endpoint_id: str
    format: str
    state: State
    attempts: int
    last: str
    """How the last attempt went; empty: there was none."""
    last_at: datetime | None
    next_at: datetime | None


class EndpointRow(Struct, frozen=True, kw_only=True):
    """One endpoint, over all runs of thirty days."""

    id: str
    """As `identified` has it."""
    endpoint: str
    format: str
    state: Literal["ok", "failing", "gone", "unused"]
    """`gone`: it said so (410), and is not called until a test or a redelivery succeeds."""
    delivered: int
    waiting: int
    dead: int
    last: str
    last_at: datetime | None


class TestRow(Struct, frozen=True, kw_only=True):
    """What came of one test message."""

    __test__ = False  # no class of tests

    id: str
    endpoint: str
    format: str
    ok: bool
    text: str


def shown(receiver: Webhook) -> str:
    """What may be shown of a receiver's address: `hooks.slack.com`, `127.0.0.1:8080`, `${OPS_WEBHOOK}`."""
    host, variables = named(receiver.webhook), "".join(f"${{{each}}}" for each in names_in(receiver.webhook))
    if not variables:
        return safe(f"{host}{_port(receiver.webhook)}" or "(unreadable)", 120)
    return safe(f"{host} ({variables})" if host and not names_in(host) else variables, 120)


def identified(receiver: Webhook) -> str:
    """A short id of a receiver: the same on every machine, whatever its variables hold, and no way to the address."""
    return hashlib.sha256(f"crewkeeper endpoint {receiver.webhook}".encode()).hexdigest()[:8]


def _port(url: str) -> str:
    try:
        port = urlsplit(url).port
    except ValueError:
        return ""
    return "" if port is None else f":{port}"


def name(delivery: Delivery) -> str:
    """What one delivery is called."""
    return f"{delivery.entry.message_id}.{delivery.entry.endpoint}"


def delivery_rows(deliveries: Iterable[Delivery]) -> list[DeliveryRow]:
    """Each delivery as a row, in the order given."""
    return [_row(each) for each in deliveries]


def _row(delivery: Delivery) -> DeliveryRow:
    entry, last = delivery.entry, delivery.tries[-1] if delivery.tries else None
    return DeliveryRow(
        name=name(delivery),
        id=entry.message_id,
        run=entry.run,
        incident=entry.incident,
        type=_type(entry.body),
        endpoint=shown(entry.receiver),
        endpoint_id=identified(entry.receiver),
        format=entry.receiver.format,
        state=delivery.state,
        attempts=delivery.count,
        last=last.text if last else "",
        last_at=_moment(last.at_s) if last else None,
        next_at=_moment(delivery.next_s) if delivery.state == "waiting" and delivery.next_s else None,
    )


def endpoint_rows(deliveries: Sequence[Delivery], gone: frozenset[str]) -> list[EndpointRow]:
    """Each endpoint that anything was for, as a row.

    Args:
        deliveries: Oldest change first.
        gone: Keys of endpoints that said they are gone.
    """
    by_key: dict[str, list[Delivery]] = {}
    for each in deliveries:
        by_key.setdefault(endpoint_key(each.entry.receiver), []).append(each)
    rows: list[EndpointRow] = []
    for key, found in by_key.items():
        # What was needless was never sent: it says nothing of whether anybody answers there.
        tries = [(one.at_s, one.ok, one.text) for each in found if each.state != "needless" for one in each.tries]
        at_s, ok, text = max(tries, default=(0.0, False, ""))
        state: Literal["ok", "failing", "gone", "unused"] = "unused" if not tries else "ok" if ok else "failing"
        counted = [each.state for each in found]
        receiver = found[-1].entry.receiver
        rows.append(
            EndpointRow(
                id=identified(receiver),
                endpoint=shown(receiver),
                format=receiver.format,
                state="gone" if key in gone else state,
                delivered=counted.count("delivered"),
                waiting=counted.count("waiting"),
                dead=counted.count("dead"),
                last=text,
                last_at=_moment(at_s) if tries else None,
            )
        )
    return rows


def deliveries_table(rows: Sequence[DeliveryRow], now: datetime, *, wide: bool) -> Table:
    """Deliveries as a table."""
    heads = ("ID", "INCIDENT", "TYPE", "ENDPOINT", "ENDPOINT-ID", "STATE", "TRIES", "LAST", "NEXT", "FORMAT")
    cells = [
        (
            safe(row.name),
            safe(row.incident),
            safe(row.type.removeprefix("crewkeeper.")),
            row.endpoint,
            row.endpoint_id,
            row.state,
            str(row.attempts),
            safe(row.last, 200 if wide else 60),
            _until(row.next_at, now),
            row.format,
        )
        for row in rows
    ]
    only_wide = ("ENDPOINT-ID", "FORMAT")
    return build_table([(head, head in only_wide) for head in heads], cells, wide=wide, empty="nothing was to be sent")


def endpoints_table(rows: Sequence[EndpointRow], now: datetime, *, wide: bool) -> Table:
    """Endpoints as a table."""
    heads = ("ID", "ENDPOINT", "FORMAT", "STATE", "DELIVERED", "WAITING", "DEAD", "LAST", "SAID")
    cells = [
        (
            row.id,
            row.endpoint,
            row.format,
            row.state,
            str(row.delivered),
            str(row.waiting),
            str(row.dead),
            ago(row.last_at, now) if row.last_at else "",
            safe(row.last, 120),
        )
        for row in rows
    ]
    return build_table([(head, head == "SAID") for head in heads], cells, wide=wide, empty="nothing was to be sent")


def tests_table(rows: Sequence[TestRow], *, wide: bool) -> Table:
    """What came of test messages as a table."""
    cells = [(row.id, row.endpoint, row.format, "ok" if row.ok else "failed", safe(row.text, 300)) for row in rows]
    heads = [(head, False) for head in ("ID", "ENDPOINT", "FORMAT", "STATE", "SAID")]
    return build_table(heads, cells, wide=wide, empty="the crew file names no receiver")


def _type(body: bytes) -> str:
    try:
        document = msgspec.json.decode(body)
    except msgspec.MsgspecError:
        return "?"
    return str(document.get("type", "?"))[:120] if isinstance(document, dict) else "?"


def _moment(at_s: float) -> datetime:
    return datetime.fromtimestamp(at_s, UTC)


def _until(at: datetime | None, now: datetime) -> str:
    if at is None:
        return ""
    left_s = (at - now).total_seconds()
    return f"in {left_s:.0f} s" if left_s > 0 else "now"
