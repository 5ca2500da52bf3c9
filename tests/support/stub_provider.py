"""A provider of models as a plain HTTP server: what it answers depends on the model's name alone."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

TOOL_CALL = {"id": "t1", "type": "function", "function": {"name": "search", "arguments": '{"q": "x"}'}}


@dataclass
class Seen:
    """One request that arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    cut: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when its client is gone."""


class Provider:
    """Both protocols on one port."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.port = 0
        self.go = asyncio.Event()
        """What the models `hang` and `drip` wait for."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def posted(self, path: str = "") -> list[Seen]:
        return [each for each in self.seen if each.method == "POST" and each.path.startswith(path)]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            seen = await _read(reader)
            self.seen.append(seen)
            watch = asyncio.ensure_future(_watch(reader, seen))
            try:
                await self._answer(seen, writer)
                await writer.drain()
            finally:
                watch.cancel()
        writer.close()

    async def _answer(self, seen: Seen, writer: asyncio.StreamWriter) -> None:
        if seen.method == "GET":
            return _json(writer, 200, {"object": "list", "data": [{"id": "plain", "object": "model"}]})
        model = str(seen.body["model"])
        if model.startswith("error-"):
            said = json.dumps(seen.headers)
            return _json(writer, int(model[6:9]), {"error": {"message": f"no: {said}", "type": "x", "code": "c"}})
        if model == "garbage":
            return _raw(writer, 200, "text/html", b"<html>hello</html>")
        if model == "half-json":
            return _raw(writer, 200, "application/json", b'{"id": "x", "usage": {')
        if model == "redirect":
            writer.write(b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n")
            return None
        if model == "endless-event":
            return await self._endless(seen, writer)
        if model == "hang":
            await _either(self.go, seen.cut)
        if seen.path.endswith("/embeddings"):
            usage = {"prompt_tokens": 7, "total_tokens": 7}
            data = [{"object": "embedding", "index": 0, "embedding": [0.5]}]
            return _json(writer, 200, {"object": "list", "model": model, "data": data, "usage": usage})
        if seen.path.endswith("/count_tokens"):
            return _json(writer, 200, {"input_tokens": 42})
        made = {"/v1/messages": _messages, "/v1/responses": _responses}.get(seen.path, _chat)(seen)
        if not seen.body.get("stream"):
            return _json(writer, 200, made[0])
        return await self._stream(seen, writer, made[1])

    async def _stream(self, seen: Seen, writer: asyncio.StreamWriter, events: list[str]) -> None:
        _head(writer, 200, "text/event-stream")
        for number, event in enumerate(events):
            if number == 2 and seen.body["model"] == "drip":
                await writer.drain()
                await _either(self.go, seen.cut)
            if number == 2 and seen.body["model"] == "cut":
                return  # and the connection closes, in the middle of a chunked body
            if number == 2 and seen.body["model"] == "stops":
                break  # and the body ends as one that is complete
            _chunk(writer, event.encode())
        writer.write(b"0\r\n\r\n")

    async def _endless(self, seen: Seen, writer: asyncio.StreamWriter) -> None:
        _head(writer, 200, "text/event-stream")
        while not seen.cut.is_set():
            _chunk(writer, b"data: " + b"x" * 1_000_000)
            await writer.drain()


@asynccontextmanager
async def provider() -> AsyncIterator[Provider]:
    made = Provider()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, limit=2**26)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        made.go.set()
        server.close()


# --- what it says ---


def _chat(seen: Seen) -> tuple[dict[str, Any], list[str]]:
    body, model = seen.body, seen.body["model"]
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    text = seen.headers.get("authorization", "") if model == "echo" else "Hello"
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if body.get("tools"):
        message = {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]}
    head = {"id": "c1", "object": "chat.completion", "created": 1, "model": model}
    whole = {**head, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    if model != "no-usage":
        whole["usage"] = {"prompt_tokens": -5, "completion_tokens": "many"} if model == "absurd" else usage
    chunk = {**head, "object": "chat.completion.chunk"}
    deltas = [{"content": part} for part in ("Hel", "lo", text[5:])]
    events = [_data({**chunk, "choices": [{"index": 0, "delta": d, "finish_reason": None}]}) for d in deltas]
    if body.get("stream_options", {}).get("include_usage") and model != "no-usage":
        events.append(_data({**chunk, "choices": [], "usage": usage}))
    return whole, [*events, "data: [DONE]\n\n"]


def _responses(seen: Seen) -> tuple[dict[str, Any], list[str]]:
    usage = {
        "input_tokens": 20,
        "output_tokens": 6,
        "total_tokens": 26,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
    content = [{"type": "output_text", "text": "Hello", "annotations": []}]
    whole = {
        "id": f"resp_{len(seen.body['model'])}",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": seen.body["model"],
        "output": [{"id": "m", "type": "message", "role": "assistant", "status": "completed", "content": content}],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": usage,
    }
    begun = {**whole, "status": "in_progress", "usage": None, "output": []}
    delta = {
        "type": "response.output_text.delta",
        "delta": "Hello",
        "item_id": "m",
        "output_index": 0,
        "content_index": 0,
    }
    events = [
        {"type": "response.created", "response": begun, "sequence_number": 0},
        {**delta, "logprobs": [], "sequence_number": 1},
        {"type": "response.completed", "response": whole, "sequence_number": 2},
    ]
    return whole, [f"event: {each['type']}\n{_data(each)}" for each in events]


def _messages(seen: Seen) -> tuple[dict[str, Any], list[str]]:
    usage = {"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 2}
    head = {"id": "m1", "type": "message", "role": "assistant", "model": seen.body["model"], "stop_sequence": None}
    content: list[dict[str, Any]] = [{"type": "text", "text": "Hello"}]
    if seen.body.get("tools"):
        content = [{"type": "tool_use", "id": "t1", "name": "search", "input": {"q": "x"}}]
    whole = {**head, "content": content, "stop_reason": "end_turn", "usage": usage}
    begun = {**head, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    said: list[dict[str, Any]] = [
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": 5},
        },
        {"type": "message_stop"},
    ]
    return whole, [f"event: {each['type']}\n{_data(each)}" for each in said]


# --- HTTP ---


def _data(value: Any) -> str:
    return f"data: {json.dumps(value)}\n\n"


def _json(writer: asyncio.StreamWriter, status: int, value: Any) -> None:
    _raw(writer, status, "application/json", json.dumps(value).encode())


def _raw(writer: asyncio.StreamWriter, status: int, type_: str, body: bytes) -> None:
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {type_}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    writer.write(head.encode() + body)


def _head(writer: asyncio.StreamWriter, status: int, type_: str) -> None:
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {type_}\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    writer.write(head.encode())


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


async def _read(reader: asyncio.StreamReader) -> Seen:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, path, _ = head[0].split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Seen(method=method, path=path, headers=headers, body=json.loads(body) if body else None)


async def _watch(reader: asyncio.StreamReader, seen: Seen) -> None:
    with suppress(ConnectionError):
        while await reader.read(1000):
            pass
    seen.cut.set()


async def _either(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(each.wait()) for each in events]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED, timeout=300)
    for each in waits:
        each.cancel()
