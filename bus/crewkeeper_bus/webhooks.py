"""Webhooks: how a receiver proves that a request is ours, recent and new (Standard Webhooks 1.0). Sends nothing.

A receiver needs only this module and its secret:

    from crewkeeper_bus.webhooks import SeenIds, WebhookRefused, WebhookRepeated, verify

    seen = SeenIds()
    try:
        event = verify(secret, headers, body, seen=seen)   # `body`: the bytes as they came
    except WebhookRepeated:
        status = 204                                       # it was handled; an error would bring it again
    except WebhookRefused:
        status = 401
"""

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

TOLERANCE_S: Final = 300.0
"""How far the time of a request may be from that of the receiver."""
SEEN_MAX: Final = 10_000
PREFIX: Final = "whsec_"
_SIGNATURES_MAX: Final = 16
_ID_MAX_CHARS: Final = 512


class WebhookRefused(ValueError):  # noqa: N818 - named for what is the case, like the bus errors
    """A request is not to be believed. The text says why and quotes nothing of the request or the secret."""


class WebhookRepeated(WebhookRefused):
    """A genuine request whose id came before: answer with success, and do nothing."""


class SeenIds:
    """The ids of requests that came, the newest ten thousand; for one process. Not durable.

    Args:
        most: How many ids are remembered; the oldest is forgotten first.
    """

    def __init__(self, most: int = SEEN_MAX) -> None:
        if most < 1:
            raise ValueError(f"{most} ids cannot be remembered; give at least 1")
        self._most = most
        self._ids: dict[str, None] = {}

    def add(self, id_: str) -> bool:
        """Remember an id; False if it was known."""
        if id_ in self._ids:
            return False
        self._ids[id_] = None
        if len(self._ids) > self._most:
            del self._ids[next(iter(self._ids))]
        return True

    def forget(self, id_: str) -> None:
        """Take an id back, because what came with it could not be handled: it will be sent again."""
        self._ids.pop(id_, None)


def verify(
    secrets: str | Sequence[str],
    headers: Mapping[str, str],
    payload: bytes,
    *,
    tolerance_s: float = TOLERANCE_S,
    now_s: float | None = None,
    seen: SeenIds | None = None,
) -> Any:
    """The decoded JSON of a genuine request.

    Args:
        secrets: The key that requests are signed with, as `whsec_` and base64; while it is rotated, the new and the
            old one.
        headers: Those of the request; upper and lower case are the same.
        payload: The body, byte for byte as it came.
        tolerance_s: How far its time may be from now.
        now_s: Now, in seconds since the epoch; default: the clock.
        seen: Where ids are remembered; without it, repeated requests are not noticed.

    Raises:
        WebhookRepeated: It is genuine, and its id came before.
        WebhookRefused: A header is missing or malformed, the time is too far away, no signature fits, or the body is
            not JSON. Nothing else escapes, whatever the request holds.
        ValueError: A secret is not base64, or there is none: a mistake of the receiver, not of the request.
    """
    keys = [_key(secret) for secret in ([secrets] if isinstance(secrets, str) else secrets)]
    if not keys:
        raise ValueError("no secret is given, so nothing can be verified")
    lower = {name.lower(): value for name, value in headers.items()}
    id_, stamp = lower.get("webhook-id", ""), lower.get("webhook-timestamp", "")
    given = lower.get("webhook-signature", "")
    if not id_ or not stamp or not given:
        raise WebhookRefused("webhook-id, webhook-timestamp or webhook-signature is missing")
    if len(id_) > _ID_MAX_CHARS or not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 12):
        raise WebhookRefused("webhook-id or webhook-timestamp is malformed")
    age_s = (time.time() if now_s is None else now_s) - int(stamp)
    if abs(age_s) > tolerance_s:
        which = "old" if age_s > 0 else "far in the future"
        raise WebhookRefused(f"the request is too {which}: {abs(age_s):.0f} s; at most {tolerance_s:g} s are allowed")
    signed = b".".join((id_.encode("utf-8", "replace"), stamp.encode(), payload))
    expected = [base64.b64encode(hmac.digest(key, signed, hashlib.sha256)) for key in keys]
    fits = False
    for one in given.split(" ")[:_SIGNATURES_MAX]:
        version, _, value = one.partition(",")
        got = value.encode("utf-8", "replace")
        # All of them, without a way out: how long it takes tells nothing.
        for right in expected:
            fits |= hmac.compare_digest(right, got) and version == "v1"
    if not fits:
        raise WebhookRefused("no signature fits")
    try:
        document = msgspec.json.decode(payload)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        raise WebhookRefused("the body is not JSON") from None
    if seen is not None and not seen.add(id_):
        raise WebhookRepeated("this id came before")
    return document


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise ValueError(f"the secret is not {PREFIX} and base64; make one with `supervisor hooks rotate`") from None
    return key
