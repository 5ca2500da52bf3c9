"""Models: a provider of models behind the scenario's model proxy, which answers as it is told and can go wrong."""

import json
import random
from typing import Any, Final

import anyio.abc
from msgspec import Struct

from crewkeeper_supervisor.chaos.real.loopback import heeding, listening

LIMIT_S: Final = 120.0
"""How long one answer may take."""
PROMPT_TOKENS: Final = 100
ANSWER_TOKENS: Final = 20
RUNAWAY_FACTOR: Final = 50
"""How many times more than was asked for a runaway answer has."""
RETRY_AFTER_S: Final = 1
_STATUS: Final = {"model_limits": (429, "rate_limit_exceeded"), "model_fails": (500, "server_error")}


class Trouble(Struct):
    """One thing that goes wrong. `fired`: how many answers it has spoilt."""

    do: str
    share: float
    fired: int = 0


class Models:
    """One provider on a loopback port of its own.

    Args:
        seed: Of who is hit.
    """

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)  # noqa: S311 - reproducible on purpose
        self._troubles: list[Trouble] = []
        self._port = 0

    @property
    def url(self) -> str:
        """Where the model proxy sends requests."""
        return f"http://127.0.0.1:{self._port}/v1"

    def trouble(self, do: str, share: float) -> Trouble:
        """Let a share of the answers go wrong until `calm`."""
        made = Trouble(do=do, share=share)
        self._troubles.append(made)
        return made

    def calm(self, trouble: Trouble) -> None:
        """End it; harmless when repeated."""
        if trouble in self._troubles:
            self._troubles.remove(trouble)

    async def serve(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Listen until cancelled."""
        async with listening() as (listener, self._port):
            task_status.started()
            await listener.serve(heeding(self._answer, LIMIT_S))

    async def _answer(self, stream: anyio.abc.SocketStream, _headers: dict[str, str], body: bytes) -> None:
        asked = json.loads(body)
        struck = [each for each in self._troubles if self._chance.random() < each.share]
        do = struck[0].do if struck else ""
        for trouble in struck:
            trouble.fired += trouble.do == do
        if do in _STATUS:
            await _fail(stream, *_STATUS[do])
            return
        tokens = ANSWER_TOKENS
        if do == "model_runs_away":
            limit = asked.get("max_completion_tokens") or asked.get("max_tokens") or ANSWER_TOKENS
            tokens = RUNAWAY_FACTOR * int(limit)
        if asked.get("stream"):
            await _stream(stream, asked, tokens, cut=do == "model_cuts")
        elif do == "model_cuts":
            await stream.send(_head(200, "application/json", 1000) + b'{"id": "c", "choices": [')
        else:
            await _whole(stream, asked, tokens)


def _head(status: int, kind: str, length: int, more: str = "") -> bytes:
    lines = (f"HTTP/1.1 {status} X", f"Content-Type: {kind}", f"Content-Length: {length}", "Connection: close")
    return ("\r\n".join(lines) + f"\r\n{more}\r\n").encode()


async def _fail(stream: anyio.abc.SocketStream, status: int, code: str) -> None:
    body = json.dumps({"error": {"message": "told to fail", "type": code, "code": code}}).encode()
    more = f"Retry-After: {RETRY_AFTER_S}\r\n" if status == 429 else ""
    await stream.send(_head(status, "application/json", len(body), more) + body)


def _usage(tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": tokens,
        "total_tokens": PROMPT_TOKENS + tokens,
    }


async def _whole(stream: anyio.abc.SocketStream, asked: dict[str, Any], tokens: int) -> None:
    message = {"role": "assistant", "content": "word " * tokens}
    said = {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": asked["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": _usage(tokens),
    }
    body = json.dumps(said).encode()
    await stream.send(_head(200, "application/json", len(body)) + body)


async def _stream(stream: anyio.abc.SocketStream, asked: dict[str, Any], tokens: int, *, cut: bool) -> None:
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": asked["model"]}
    await stream.send(
        b"HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    )
    for number in range(tokens):
        if cut and number == tokens // 2:
            return  # and the connection ends in the middle of a chunked body
        choice = {"index": 0, "delta": {"content": "word "}, "finish_reason": None}
        await _event(stream, {**head, "choices": [choice]})
    await _event(stream, {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    if asked.get("stream_options", {}).get("include_usage"):
        await _event(stream, {**head, "choices": [], "usage": _usage(tokens)})
    await _chunk(stream, b"data: [DONE]\n\n")
    await stream.send(b"0\r\n\r\n")


async def _event(stream: anyio.abc.SocketStream, said: dict[str, Any]) -> None:
    await _chunk(stream, b"data: " + json.dumps(said).encode() + b"\n\n")


async def _chunk(stream: anyio.abc.SocketStream, data: bytes) -> None:
    await stream.send(f"{len(data):x}\r\n".encode() + data + b"\r\n")
