"""Rows of credentials: who may log in as which agent, never with what."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from msgspec import Struct

from crewkeeper_supervisor.core.scope import Record, Token
from crewkeeper_supervisor.views.tables import Table
from crewkeeper_supervisor.views.wording import duration, moment, safe


class TokenRow(Struct, frozen=True, kw_only=True):
    """One token, by its id."""

    id: str
    state: Literal["in_force", "expired", "revoked"]
    issued_at: datetime
    expires_at: datetime
    by: str


class CredentialRow(Struct, frozen=True, kw_only=True):
    """What one agent of one run may log in with, and as what."""

    run: str
    agent: str
    role: str
    state: Literal["running", "paused", "killed", "over"]
    why: str
    peers: tuple[str, ...] | None
    """Null: any."""
    tools: tuple[str, ...] | None
    parent: str
    task: str
    tokens: tuple[TokenRow, ...]


def credential_rows(records: Sequence[Record], now_s: float) -> list[CredentialRow]:
    """One row an agent.

    Args:
        records: The access records.
        now_s: Unix seconds.
    """
    return [
        CredentialRow(
            run=record.run,
            agent=record.agent,
            role=record.role,
            state="over" if record.over else record.state,
            why=record.why,
            peers=record.peers,
            tools=record.tools,
            parent=record.parent,
            task=record.task,
            tokens=tuple(_token(token, now_s) for token in record.tokens),
        )
        for record in records
    ]


def _token(token: Token, now_s: float) -> TokenRow:
    state: Literal["in_force", "expired", "revoked"] = "in_force"
    if not token.in_force(now_s):
        state = "revoked" if token.revoked_at else "expired"
    return TokenRow(
        id=token.id,
        state=state,
        issued_at=moment(token.issued_at),
        expires_at=moment(token.expires_at),
        by=token.by,
    )


def credentials_table(rows: Sequence[CredentialRow], now: datetime, *, wide: bool = False) -> Table:
    """One line an agent; wide: with the ids of its tokens in force."""
    lines = []
    for row in rows:
        live = [token for token in row.tokens if token.state == "in_force"]
        last = max((token.expires_at for token in live), default=None)
        line = (
            safe(row.run),
            safe(row.agent),
            safe(row.role),
            row.state,
            str(len(live)),
            "-" if last is None else duration((last - now).total_seconds()),
            _names(row.peers),
            _names(row.tools),
        )
        extra = (safe(" ".join(token.id for token in live)) or "-", safe(row.parent) or "-")
        lines.append(line + extra if wide else line)
    columns = ("RUN", "AGENT", "ROLE", "STATE", "TOKENS", "LAST FOR", "PEERS", "TOOLS")
    return Table(
        columns=(*columns, "IDS", "PARENT") if wide else columns,
        rows=tuple(lines),
        empty="no credentials have been issued",
    )


def _names(names: tuple[str, ...] | None) -> str:
    return "any" if names is None else safe(", ".join(names)) or "none"
