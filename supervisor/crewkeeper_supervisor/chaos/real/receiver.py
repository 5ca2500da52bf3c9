"""Receiver: takes the webhooks of a scenario, checks each signature, and can be told to refuse."""

import base64
import json
import secrets
import time
from typing import Final

import anyio.abc
from msgspec import Struct
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from crewkeeper_supervisor.chaos.real.loopback import heeding, listening

LIMIT_S: Final = 10.0


class Letter(Struct, frozen=True, kw_only=True):
    """One request that was taken. `at_s`: seconds since the epoch."""

    at_s: float
    id: str
    kind: str
    type: str
    signed: bool
    again: bool


class Receiver:
    """One receiver on a loopback port of its own.

    Attributes:
        down: By how many faults it is down now: while there is one it answers 503.
        refused: How many requests it answered so.
        letters: What it took, in order.
        secret: The key that requests must be signed with.
    """

    def __init__(self) -> None:
        self.down = 0
        self.refused = 0
        self.letters: list[Letter] = []
        self.secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
        self._port = 0
        self._seen: set[str] = set()

    @property
    def url(self) -> str:
        """Where to post."""
        return f"http://127.0.0.1:{self._port}/"

    async def serve(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Listen until cancelled."""
        async with listening() as (listener, self._port):
            task_status.started()
            await listener.serve(heeding(self._answer, LIMIT_S))

    async def _answer(self, stream: anyio.abc.SocketStream, headers: dict[str, str], body: bytes) -> None:
        status = b"503 Service Unavailable" if self.down else b"204 No Content"
        if self.down:
            self.refused += 1
        else:
            self._take(headers, body)
        await stream.send(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    def _take(self, headers: dict[str, str], body: bytes) -> None:
        try:
            Webhook(self.secret).verify(body, headers)
            signed = True
        except WebhookVerificationError:
            signed = False
        data = json.loads(body)
        words = (str(data.get("type", "")) if isinstance(data, dict) else "").split(".")
        kind, type_ = ".".join(words[1:-1]), words[-1]
        id_ = headers.get("webhook-id", "")
        letter = Letter(at_s=time.time(), id=id_, kind=kind, type=type_, signed=signed, again=id_ in self._seen)
        self._seen.add(id_)
        self.letters.append(letter)
