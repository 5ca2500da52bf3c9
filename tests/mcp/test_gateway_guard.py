"""What a gateway lets a client send: without network, with an application that reads all that comes."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest

from crewkeeper_supervisor.mcp import gateway


class _Doors:
    async def of(self, token: str) -> Any:
        return object() if token == "right" else None


async def _asked(chunks: Iterator[bytes] | AsyncIterator[bytes], **headers: str) -> tuple[list[int], list[int]]:
    """Statuses of the answers, and how much the application was given."""
    statuses, taken = list[int](), list[int]()

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        size = 0
        while (message := await receive())["type"] == "http.request":
            size += len(message["body"])
            if not message["more_body"]:
                await send({"type": "http.response.start", "status": 200, "headers": []})
                break
        taken.append(size)

    async def receive() -> Any:
        body = next(chunks, None) if isinstance(chunks, Iterator) else await anext(chunks)
        return {"type": "http.request", "body": body or b"", "more_body": body is not None}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    guarded = gateway.guarded(app, _Doors())  # type: ignore[arg-type]
    await guarded({"type": "http", "headers": given}, receive, send)
    return statuses, taken


async def test_who_has_no_credentials_is_told_nothing() -> None:
    assert await _asked(iter([b"x"]), authorization="Bearer wrong") == ([401], [])


async def test_a_request_is_taken_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "BODY_MAX_BYTES", 1000)
    right = {"authorization": "Bearer right"}
    assert await _asked(iter([b"x" * 400] * 2), **right) == ([200], [800])
    assert await _asked(iter([b"x" * 400] * 9), **right) == ([], [800])
    assert await _asked(iter([b"x"]), content_length="1001", **right) == ([413], [])


async def test_a_request_that_never_comes_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "BODY_LIMIT_S", 0.1)

    async def never() -> AsyncIterator[bytes]:
        yield b"x"
        await anyio.sleep_forever()

    with anyio.fail_after(60):
        assert await _asked(never(), authorization="Bearer right") == ([], [1])


async def test_one_agent_has_not_all_the_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "OF_AGENT_MAX", 2)
    doors, go, statuses = {"ann": object(), "bob": object()}, anyio.Event(), list[int]()

    class Doors:
        async def of(self, token: str) -> Any:
            return doors[token]

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    guarded = gateway.guarded(app, Doors())  # type: ignore[arg-type]

    async def ask(who: str) -> None:
        scope = {"type": "http", "headers": [(b"authorization", f"Bearer {who}".encode())]}
        await guarded(scope, anyio.sleep_forever, send)

    async with anyio.create_task_group() as group:
        for who in ("ann", "ann", "ann", "bob"):
            group.start_soon(ask, who)
        await anyio.wait_all_tasks_blocked()
        assert statuses == [429]
        go.set()
    await ask("ann")
    assert statuses == [429, 200, 200, 200, 200]
