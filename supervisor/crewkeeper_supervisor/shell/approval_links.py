"""Approval links: tokens that let whoever has one do one thing, once; what is done then is not decided here.

A token names the act, what it is about and its end, followed by an HMAC-SHA256 over that text: for a decision the
approval, the digest of the exact action and who is asked; for any other act the incident, the escalation that offered
it, whom it is done to and how much of what. Nothing is stored here. A decision counts once because an approval is
pending once; any other act because the journal takes one entry under the subject that follows from the token.
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
from crewkeeper_supervisor.core.acts import Act, Deed

KEYS_FILE: Final = "approvals.json"
TOKEN_MAX_CHARS: Final = 1024
PATH: Final = "/a/"
LIFE_S: Final = 24 * 3600.0
"""How long a link to act upon an incident can be used."""
_PURPOSE: Final = b"crewkeeper approval link 1\0"
_ID_CHARS: Final = 30
_KEY_BYTES: Final = 32

Choice = Literal["approve", "deny"]
"""What a link decides."""
CHOICES: Final[tuple[Choice, ...]] = ("approve", "deny")


class LinkRefused(ValueError):  # noqa: N818 - what is the case
    """A link that does nothing: changed, made with another key, or its time is over. Never quotes the token."""


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
    about: str
    """The approval; or the incident, or for a digest the command that sent it."""
    act: Choice | Deed
    expires_s: int
    """Seconds since the Unix epoch."""
    digest: str
    """Of the exact action: with another action behind the approval the link is worth nothing. Of any other act: the
    command of the escalation that offered it."""
    who: str = ""
    """Who is asked, of an approval."""
    agent: str = ""
    """Whom it is done to; `extend`: whose budget."""
    what: str = ""
    """`extend`: the dimension."""
    add: int = 0
    """`extend`: how much more of it."""

    @property
    def once(self) -> str:
        """Id of the journal's entry by which the act is done: the same for every link to the same act."""
        facts = [self.run, self.about, self.act, self.digest, self.agent, self.what, self.add]
        return f"L{hashlib.sha256(msgspec.json.encode(facts)).hexdigest()[:_ID_CHARS]}"

    @property
    def deed(self) -> Act | None:
        """The act as people are offered it; None: it is a decision on an approval."""
        if self.act == "approve" or self.act == "deny":
            return None
        return Act(do=self.act, agent=self.agent, what=self.what, add=self.add)


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
        raise LinkRefused("the time of this link is over; nothing was done by it")
    return grant


def _mac(keys: ApprovalKeys, text: str) -> str:
    return _text(hmac.new(bytes.fromhex(keys.links), _PURPOSE + text.encode(), hashlib.sha256).digest())


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
