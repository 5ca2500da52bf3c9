"""Audit keys: what the ledgers of a state directory are authenticated and signed with, made once, shown to nobody.

Two keys in `<state>/keys/audit.json`: one authenticates every record (whoever checks that needs the key itself), the
other signs heads (whoever checks those needs the public name alone).
"""

import base64
import hmac
import secrets
from pathlib import Path
from typing import Final

from msgspec import Struct

from crewkeeper_bus import keys
from crewkeeper_bus.claims import ClaimsError, Key
from crewkeeper_bus.errors import ServerError
from crewkeeper_supervisor.shell import chain
from crewkeeper_supervisor.shell.chain import Record
from crewkeeper_supervisor.shell.logbook import logger

AUDIT_FILE: Final = "audit.json"


class _Stored(Struct, frozen=True, kw_only=True):
    mac_key: str
    """32 random bytes, base64."""
    seed: str
    """Of the signing key, an nkey of a server: `SN…`."""

    def __repr__(self) -> str:
        return "AuditKey(***)"


class AuditKey:
    """The keys of one state directory. Its representation shows none.

    Attributes:
        public: Name of the signing key, `N…`; it may be given to everybody.
    """

    def __init__(self, mac_key: bytes, signer: Key) -> None:
        self.public = signer.public
        self._mac_key = mac_key
        self._signer = signer

    def __repr__(self) -> str:
        return f"AuditKey({self.public})"

    def code(self, hash_: str) -> str:
        """The authentication code of a record's hash."""
        return chain.code(self._mac_key, hash_)

    def is_right(self, record: Record) -> bool:
        """Whether a record's code is this key's."""
        return hmac.compare_digest(record.mac, self.code(record.hash))

    def sign(self, claims: dict[str, object]) -> str:
        """A JWT of these claims."""
        return self._signer.sign(claims)


def make(state: Path) -> AuditKey:
    """The keys of a state directory, made now if it has none.

    Raises:
        ServerError: They are readable by others, damaged, or cannot be written.
    """
    found = load(state)
    if found is None:
        made = _Stored(mac_key=base64.b64encode(secrets.token_bytes(32)).decode(), seed=Key.make("server").seed)
        keys.write_once(state / keys.FOLDER / AUDIT_FILE, made)
        found = load(state) or _read(made)
    return found


def make_or_warn(state: Path) -> AuditKey | None:
    """As `make`; None, and a line in the log, where that cannot be done: a ledger without a key is better than none."""
    try:
        return make(state)
    except ServerError as error:
        logger().error("audit.no_key", cause=str(error)[:300])
        return None


def load(state: Path) -> AuditKey | None:
    """The keys of a state directory; None if it has none.

    Raises:
        ServerError: They are readable by others, or damaged.
    """
    found = keys.read_private(state / keys.FOLDER / AUDIT_FILE, _Stored)
    return None if found is None else _read(found)


def _read(stored: _Stored) -> AuditKey:
    try:
        return AuditKey(base64.b64decode(stored.mac_key, validate=True), Key(stored.seed))
    except (ClaimsError, ValueError):
        raise ServerError(
            f"{AUDIT_FILE} is damaged: restore it from a backup, or remove it to have it made anew; records that were "
            "written under the old keys can then only be checked in part"
        ) from None
