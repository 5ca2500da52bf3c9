"""Webhook: one signed request to one receiver (Standard Webhooks 1.0): its text, its signature, one attempt to send it.

When to try and when to give up is the outbox's business.
"""

import base64
import os
import re
import socket
import ssl
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
import httpx2
from msgspec import Struct
from standardwebhooks import Webhook as Signer

from crewkeeper_bus.webhooks import PREFIX
from crewkeeper_supervisor.core import acts
from crewkeeper_supervisor.core.commands import Escalate
from crewkeeper_supervisor.core.crew import Webhook
from crewkeeper_supervisor.shell.crew_variables import filled, names_in
from crewkeeper_supervisor.shell.destination import Destination, Forbidden, resolve
from crewkeeper_supervisor.shell.errors import SettingMissing
from crewkeeper_supervisor.shell.webhook_formats import encode, inert_value, render

BODY_MAX_BYTES: Final = 20_000
ATTEMPT_LIMIT_S: Final = 15.0
RETRY_AFTER_MAX_S: Final = 3600.0
_WORD: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


class Unusable(ValueError):  # noqa: N818
    """A setting that cannot work. The text never quotes it."""


class Attempt(Struct, frozen=True, kw_only=True):
    """How one attempt went. Holds neither the address's path nor the secret."""

    ok: bool
    final: bool = False
    """Trying again is pointless: the receiver is gone for good (410), or the settings are wrong."""
    host: str
    text: str
    """For people: `204 from ops.example in 12 ms`."""
    latency_ms: float = 0.0
    gone: bool = False
    """The receiver says that it will never take anything again."""
    retry_after_s: float = 0.0
    """What the receiver asked for, at most an hour."""


def client() -> httpx2.AsyncClient:
    """The HTTP client for all deliveries: no redirects, no proxy from the environment, every step limited."""
    return httpx2.AsyncClient(
        timeout=ATTEMPT_LIMIT_S,
        follow_redirects=False,
        trust_env=False,
        limits=httpx2.Limits(max_connections=32, max_keepalive_connections=8),
        headers={"user-agent": "crewkeeper"},
    )


def expand(text: str, env: Mapping[str, str] | None = None) -> str:
    """Replace every `${NAME}` by the environment variable of that name.

    Raises:
        SettingMissing: One is not set or empty.
    """
    values = os.environ if env is None else env
    for name in names_in(text):
        if not values.get(name):
            raise SettingMissing(f"the environment variable {name} is not set; the crew file names it", name=name)
    return filled(text, values)


def body(run: str, crew: str, command: Escalate) -> bytes:
    """The request's body in standard form: `{type, timestamp, data}`, below 20 kB, every text in it inert.

    What is too large is left out, largest first, and named in `data.left_out`.
    """
    plain = {**command.body, "run": run, "crew": crew, "incident": command.incident}
    if acts := actions(run, command):
        plain["act"] = acts
    data: dict[str, Any] = inert_value(plain)
    what = re.sub(r"[^a-z0-9_]", "_", str(command.body.get("kind", "incident")).lower())[:40]
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    left_out: list[str] = []
    while True:
        encoded = encode({"type": f"crewkeeper.{what}.{command.kind}", "timestamp": now, "data": data})
        if len(encoded) < BODY_MAX_BYTES:
            return encoded
        optional = [key for key in data if key not in ("run", "crew", "incident", "left_out")]
        if not optional:
            raise ValueError(f"run {run}: the names of an escalation alone have {len(encoded)} bytes")
        largest = max(optional, key=lambda key: len(encode(data[key])))
        del data[largest]
        left_out.append(largest[:100])
        data["left_out"] = left_out[:20]


def actions(run: str, command: Escalate) -> list[str]:
    """Commands with which a person can act upon an escalation, to copy; none for what is over.

    Only names that need no quoting get into them.
    """
    body = command.body
    if command.kind not in ("opened", "unresolved", "asked", "digest") or not _WORD.fullmatch(run):
        return []
    if body.get("kind") == "test" or (command.kind == "digest" and body.get("open") == 0):
        return []
    if body.get("kind") == "approval":
        asked = str(body.get("approval", ""))
        verbs = ("approve", "deny") if _WORD.fullmatch(asked) else ()
        return [f"supervisor approvals {verb} {run} {asked}" for verb in verbs]
    plain = [act for act in acts.read(body) if all(_WORD.fullmatch(name) for name in (act.agent, act.what) if name)]
    if command.incident and not _WORD.fullmatch(command.incident):
        plain = [act for act in plain if act.do != "acknowledge"]
    made = [_words(run, command, act) for act in plain]
    return [*made, f"supervisor down {run}"]


def _words(run: str, command: Escalate, act: acts.Act) -> str:
    """The command that does what an act names."""
    match act.do:
        case "acknowledge":
            return f"supervisor hooks ack {run} {command.incident or f'msg_{run}_{command.id}'}"
        case "extend":
            whose = f" --agent {act.agent}" if act.agent else ""
            return f"supervisor budget top-up {run} {_amount(act)}{whose}"
        case verb:
            return f"supervisor agent {verb} {run} {act.agent}"


def _amount(act: acts.Act) -> str:
    """How much more, as `supervisor budget` takes it: `usd=2.50`."""
    match act.what:
        case "microusd":
            return f"usd={act.amount.removeprefix('$')}"
        case "wall_s":
            return f"wall={act.add}s"
        case what:
            return f"{what}={act.add}"


def sign(secret: str, message_id: str, timestamp: datetime, payload: bytes, *, previous: str = "") -> dict[str, str]:
    """The three headers of Standard Webhooks; without a secret, two and no signature.

    Args:
        secret: `whsec_` and base64, or base64.
        message_id: The same over all attempts: the receiver's key against duplicates.
        timestamp: Of this attempt, in UTC.
        payload: The body.
        previous: The secret that was before, while receivers change over: a second signature is made with it.

    Raises:
        Unusable: A secret is not base64.
    """
    assert timestamp.tzinfo is UTC, "the library takes whatever it is given for UTC"
    headers = {"webhook-id": message_id, "webhook-timestamp": str(int(timestamp.timestamp()))}
    keys = [each for each in (secret, previous) if each]
    if keys:
        try:
            for each in keys:  # the library skips over what is not base64, and signs with a key that nobody else has
                base64.b64decode(each.removeprefix(PREFIX), validate=True)
            made = [Signer(each).sign(message_id, timestamp, payload.decode()) for each in keys]
        except Exception:  # noqa: BLE001 - the library's errors quote the secret
            raise Unusable("the secret is not base64; make one with `supervisor hooks rotate`") from None
        headers["webhook-signature"] = " ".join(made)
    return headers


async def deliver(http: httpx2.AsyncClient, receiver: Webhook, message_id: str, payload: bytes) -> Attempt:
    """Send once. Never raises for what the receiver, the network or the settings do."""
    try:
        url, secret = expand(receiver.webhook), expand(receiver.secret)
        previous, routing_key = expand(receiver.previous_secret), expand(receiver.routing_key)
        if receiver.format == "pagerduty" and not routing_key:
            raise Unusable("format: pagerduty needs the routing_key of a service")
        payload, content_type = render(receiver.format, payload, message_id, routing_key)
        headers = sign(secret, message_id, datetime.now(UTC), payload, previous=previous)
    except (SettingMissing, Unusable) as error:  # the environment of this process does not change
        return Attempt(ok=False, final=True, host="", text=str(error))
    headers["content-type"] = content_type
    began_s = time.monotonic()
    host = named(url)
    try:
        with anyio.fail_after(ATTEMPT_LIMIT_S):
            there = await resolve(url, allow_private=receiver.allow_private)
            status, retry_after = await _post(http, there, payload, headers)
    except Forbidden as error:
        return Attempt(ok=False, final=error.final, host=host, text=str(error))
    except TimeoutError:
        return Attempt(ok=False, host=host, text=f"no answer from {host} within {ATTEMPT_LIMIT_S:g} s")
    except (httpx2.HTTPError, httpx2.InvalidURL, ssl.SSLError, OSError, UnicodeError, ValueError) as error:
        return Attempt(ok=False, host=host, text=f"{host} cannot be reached: {_trouble(error)}")
    latency_ms = (time.monotonic() - began_s) * 1000
    return Attempt(
        ok=200 <= status < 300,
        final=status == 410,
        host=host,
        text=f"{status} from {host} in {latency_ms:.0f} ms",
        latency_ms=latency_ms,
        retry_after_s=retry_after,
        gone=status == 410,
    )


def _trouble(error: BaseException) -> str:
    """What went wrong, for people; never the text of the error, which may quote the address."""
    chain: list[BaseException] = []
    under: BaseException | None = error
    while under is not None and len(chain) < _CAUSES_MAX:
        chain.append(under)
        under = under.__cause__ or under.__context__
    for kind, text in _TROUBLES:
        if any(isinstance(each, kind) for each in chain):
            return text
    return type(error).__name__


_CAUSES_MAX: Final = 10
_TROUBLES: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (socket.gaierror, "nobody knows an address of that name"),
    (ssl.SSLCertVerificationError, "its certificate is not trusted here"),
    (ssl.SSLError, "it does not speak TLS as it should"),
    (ConnectionRefusedError, "nothing takes connections there"),
    (httpx2.RemoteProtocolError, "it closed the connection without an answer that can be read"),
    (httpx2.ReadError, "it closed the connection without an answer"),
)


def named(url: str) -> str:
    """The host of an address, for people; empty if it has none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


async def _post(
    http: httpx2.AsyncClient, there: Destination, payload: bytes, headers: dict[str, str]
) -> tuple[int, float]:
    """Status and Retry-After; the answer's body is not read. The addresses of a name are tried in turn."""
    sent = {**headers, "host": there.authority}
    for left, url in zip(reversed(range(len(there.urls))), there.urls, strict=True):
        try:
            # TLS is about the name, though the connection is to the address that was judged.
            extensions = {"sni_hostname": there.host}
            async with http.stream("POST", url, content=payload, headers=sent, extensions=extensions) as answer:
                asked = answer.headers.get("retry-after", "")
                return answer.status_code, min(RETRY_AFTER_MAX_S, _seconds(asked))
        except httpx2.ConnectError:
            if not left:
                raise
    raise OSError("no address")


def _seconds(asked: str) -> float:
    """What `retry-after` says: seconds, or a date; 0 if it says nothing of use."""
    if asked.isascii() and asked.isdigit() and len(asked) < 10:
        return float(asked)
    try:
        at = parsedate_to_datetime(asked)
    except (ValueError, TypeError):
        return 0.0
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
