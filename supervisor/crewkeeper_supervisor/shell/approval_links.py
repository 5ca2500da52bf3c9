"""Approval links: tokens that let whoever has one decide on one call, once; what a decision does is not decided here.

A token names the call (run, approval, digest of the exact action, who is asked), the decision and its end, followed by
an HMAC-SHA256 over that text. Nothing is stored: that it counts once follows from the approval, which is pending once.
The key is in the state directory, so a link can be made by every controller of it and outlives all of them.
"""

import base64
import hashlib
import hmac
import secrets
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from crewkeeper_bus.errors import ServerError
from crewkeeper_bus.keys import FOLDER, read_private, write_once

KEYS_FILE: Final = "approvals.json"
TOKEN_MAX_CHARS: Final = 1024
PATH: Final = "/a/"
_PURPOSE: Final = b"crewkeeper approval link 1\0"
_KEY_BYTES: Final = 32

Choice = Literal["approve", "deny"]
"""What a link decides."""
CHOICES: Final[tuple[Choice, ...]] = ("approve", "deny")


class LinkRefused(ValueError):  # noqa: N818 - what is the case
    """A link that decides nothing: changed, made with another key, or its time is over. Never quotes the token."""


class ApprovalKeys(Struct, frozen=True, kw_only=True):
    """The secrets of approvals of one state directory. Its representation shows none."""

    links: str
    """Key of links, 32 bytes in hexadecimal."""
    callback: str
    """Bearer token of other systems."""

    def __repr__(self) -> str:
        return "ApprovalKeys(***)"

    def __rich_repr__(self) -> Any:
        yield "secrets", "***"


class Grant(Struct, frozen=True, kw_only=True, array_like=True):
    """What a link stands for."""

    run: str
    approval: str
    decision: Choice
    expires_s: int
    """Seconds since the Unix epoch."""
    digest: str
    """Of the exact action: with another action behind the approval the link is worth nothing."""
    who: str


_DECODER: Final = msgspec.json.Decoder(Grant)


def approval_keys(state: Path) -> ApprovalKeys:
    """The secrets of a state directory, made now if it has none.

    Raises:
        ServerError: They are readable by others, damaged, or cannot be written.
    """
    path = state / FOLDER / KEYS_FILE
    found = read_private(path, ApprovalKeys)
    if found is None:
        write_once(path, ApprovalKeys(links=secrets.token_hex(_KEY_BYTES), callback=secrets.token_urlsafe(32)))
        found = read_private(path, ApprovalKeys)  # somebody else's, if two made them at once
    if found is None or len(found.links) < 2 * _KEY_BYTES or len(found.callback) < _KEY_BYTES:
        raise ServerError(f"{path} is damaged: remove it to have it made anew; links sent so far are then void")
    return found


def token(keys: ApprovalKeys, grant: Grant) -> str:
    """The token of a link."""
    text = _text(msgspec.json.encode(grant))
    return f"{text}.{_mac(keys, text)}"


def link(keys: ApprovalKeys, url: str, grant: Grant) -> str:
    """The address to send: the token under `url`, the address people reach the approvals server at."""
    return f"{url.rstrip('/')}{PATH}{token(keys, grant)}"


def opened(keys: ApprovalKeys, given: str, now_s: float) -> Grant:
    """What a token stands for.

    Args:
        keys: The secrets.
        given: What somebody presents.
        now_s: Seconds since the Unix epoch.

    Raises:
        LinkRefused: It is not genuine, or its time is over.
    """
    text, dot, mac = given.partition(".")
    if not dot or len(given) > TOKEN_MAX_CHARS or not given.isascii():
        raise LinkRefused("this is not a link that was sent by this supervisor")
    if not hmac.compare_digest(_mac(keys, text), mac):  # before anything of it is read
        raise LinkRefused("this link was changed on the way, or was made with a key that is no longer used")
    grant = _DECODER.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    if now_s >= grant.expires_s:
        raise LinkRefused("the time of this link is over; nothing was decided by it")
    return grant


def _mac(keys: ApprovalKeys, text: str) -> str:
    return _text(hmac.new(bytes.fromhex(keys.links), _PURPOSE + text.encode(), hashlib.sha256).digest())


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
