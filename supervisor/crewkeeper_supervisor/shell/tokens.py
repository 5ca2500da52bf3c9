"""Tokens: the secrets that agents log in with: made, taken apart and digested; who may have one is `access`.

A password is `<id>-<secret>`, and whoever connects may add `~<nonce>`. The id says which entry of the record it is, so
that it can be revoked; the secret has 256 random bits, so that a plain digest of it can be kept without a slow hash.
The nonce names the client process, not the agent: two processes with one token have two.
"""

import hashlib
import re
import secrets
from typing import Final, NamedTuple

from crewkeeper_bus.errors import ConfigError
from crewkeeper_supervisor.core.scope import Login

PASSWORD_MAX_CHARS: Final = 256
_ID = re.compile(r"[A-Za-z0-9_]{8,32}\Z")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_PASSWORD = re.compile(r"([A-Za-z0-9_]{8,32})-([A-Za-z0-9_-]{22,128})(?:~([A-Za-z0-9_-]{16,64}))?\Z")


class NewToken(NamedTuple):
    """A token as it is when made: the only moment at which the secret is known on this side."""

    id: str
    password: str
    digest: str

    def __repr__(self) -> str:
        return f"NewToken(id={self.id!r})"


def new_token() -> NewToken:
    """A token with a random id and a secret of 256 random bits."""
    id_, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    return NewToken(id_, f"{id_}-{secret}", digest(secret))


def digest(secret: str) -> str:
    """What is kept of a secret: SHA-256 in hex."""
    return hashlib.sha256(secret.encode()).hexdigest()


def issuer_of(place: str) -> str:
    """Who is said to have issued what a process logs in with that was started for this place (see `core.hosting`)."""
    return f"place {place}"


def parse(password: str) -> Login | None:
    """What a password presents; None if it is none of ours.

    `nonce` is a digest, too: it is compared and never shown.
    """
    found = _PASSWORD.match(password) if len(password) <= PASSWORD_MAX_CHARS else None
    if found is None:
        return None
    id_, secret, nonce = found.groups()
    return Login(token=id_, digest=digest(secret), nonce=digest(nonce)[:32] if nonce else "")


def check_id(value: str) -> str:
    """Return `value` if it can be the id of a token that was made elsewhere.

    Raises:
        ConfigError: It cannot: a hyphen in it would end it early.
    """
    if not _ID.match(value):
        raise ConfigError(f"{value[:40]!r} is not the id of a token: use 8 to 32 characters of A-Z a-z 0-9 _")
    return value


def check_digest(value: str) -> str:
    """Return `value` if it is a SHA-256 in lower-case hex.

    Raises:
        ConfigError: It is not.
    """
    if not _DIGEST.match(value):
        raise ConfigError("the digest of a token is the SHA-256 of its secret, 64 characters of 0-9 a-f")
    return value
