"""Agents that are paused or killed while they call models, calls that wait for people, and a gate that is away."""

import asyncio
from pathlib import Path
from typing import Any

import anyio
import httpx2
import msgspec
import openai
import pytest
from proxy_stage import RUN, Stage, grant, refuse, stage

from crewkeeper_bus.tool_messages import SpendAsked
from crewkeeper_supervisor.model_proxy import outlet, spending
from crewkeeper_supervisor.model_proxy.doorkeeper import Standing
from crewkeeper_supervisor.shell import http_server
from support.bus import until

pytestmark = pytest.mark.live
HI: Any = [{"role": "user", "content": "hi"}]


def client(stage: Stage, agent: str = "ann", **options: Any) -> openai.AsyncOpenAI:
    given = {
        "base_url": f"{stage.address}/v1",
        "api_key": stage.key(agent),
        "max_retries": 0,
        "timeout": 120.0,
    } | options
    return openai.AsyncOpenAI(**given)


IMPATIENT = {"x-stainless-read-timeout": "0.5"}
"""What the library says of a client that waits half a second for a sign of life; the one of a test waits for longer."""


@pytest.fixture
def signs(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Signs of life of answers that are withheld: after how long the first one was due, for each that was sent."""
    sent: list[float] = []
    write = outlet.Outlet.write

    async def written(self: outlet.Outlet, data: bytes) -> None:
        await write(self, data)
        if data in (b" ", b": held\n\n"):
            sent.append(self._patience_s)

    monkeypatch.setattr(outlet, "KEEP_ALIVE_S", 0.1)
    monkeypatch.setattr(outlet.Outlet, "write", written)
    return sent


async def test_a_kill_ends_a_stream_and_lets_nobody_in_again(tmp_path: Path):
    async with stage(tmp_path) as on, client(on) as ann, client(on, "bob") as bob:
        other = asyncio.ensure_future(bob.chat.completions.create(model="hang", messages=HI))
        stream = await ann.chat.completions.create(model="drip", messages=HI, stream=True)
        with pytest.raises(openai.APIError, match="was killed: it ran away"):  # noqa: PT012 - the kill comes in mid-stream
            async for _ in stream:
                await on.access.set_state(RUN, "ann", "killed", "it ran away")
        cut = next(each for each in on.provider.posted() if each.body["model"] == "drip")
        await until(cut.cut.is_set, "the provider is cut off")
        assert (await on.gate.settled())[0].estimated
        with pytest.raises(openai.PermissionDeniedError, match="killed"):
            await ann.chat.completions.create(model="plain", messages=HI)
        on.provider.go.set()
        assert (await other).choices[0].message.content == "Hello"


async def test_a_pause_withholds_a_whole_answer_that_is_paid_and_loses_nothing(tmp_path: Path, signs: list[float]):
    async with stage(tmp_path) as on, client(on) as ann:
        answer = asyncio.ensure_future(ann.chat.completions.create(model="hang", messages=HI, extra_headers=IMPATIENT))
        await until(on.provider.posted, "it is sent")
        await on.access.set_state(RUN, "ann", "paused")
        on.provider.go.set()
        [spent] = await on.gate.settled()
        assert (spent.ok, spent.output_tokens) == (True, 5)
        await until(lambda: signs, "it is kept alive")
        assert signs[0] == 0.25, "half of what the client waits"
        assert not answer.done()
        await on.access.set_state(RUN, "ann", "running")
        assert (await answer).choices[0].message.content == "Hello"


async def test_a_pause_withholds_the_rest_of_a_stream(tmp_path: Path, monkeypatch: Any):
    known: list[str] = []
    told = Standing.told
    monkeypatch.setattr(Standing, "told", lambda self, record: (known.append(record.state), told(self, record)))
    async with stage(tmp_path) as on, client(on) as ann:
        got: list[str] = []

        async def read() -> None:
            async for each in await ann.chat.completions.create(model="drip", messages=HI, stream=True):
                got.append(each.choices[0].delta.content or "")

        reading = asyncio.ensure_future(read())
        await until(lambda: len(got) == 2, "it has begun")
        await on.access.set_state(RUN, "ann", "paused")
        await until(lambda: "paused" in known, "the proxy has heard of it")
        on.provider.go.set()
        await on.gate.settled()
        assert got == ["Hel", "lo"]
        await on.access.set_state(RUN, "ann", "running")
        await reading
        assert len(got) == 3


async def test_who_is_paused_asks_for_nothing_until_resumed(tmp_path: Path):
    async with stage(tmp_path) as on, client(on) as ann, client(on, "bob") as bob:
        await on.access.set_state(RUN, "ann", "paused")
        held = asyncio.ensure_future(ann.chat.completions.create(model="plain", messages=HI))
        await bob.chat.completions.create(model="plain", messages=HI)
        assert [each.agent for each in on.gate.asked.values()] == ["bob"]
        assert not held.done()
        await on.access.set_state(RUN, "ann", "running")
        assert (await held).choices[0].message.content == "Hello"


async def test_a_call_that_waits_for_people_is_kept_alive_and_granted(tmp_path: Path, signs: list[float]):
    async with stage(tmp_path) as on, client(on) as ann:
        waiting: list[SpendAsked] = []
        on.gate.rule = None
        for stream in (False, True):
            signs.clear()
            asked: Any = {"model": "plain", "messages": HI, "stream": stream, "extra_headers": IMPATIENT}
            answer: Any = asyncio.ensure_future(ann.chat.completions.create(**asked))
            await until(lambda: len(on.gate.asked) > len(waiting), "it is asked")
            waiting.append(list(on.gate.asked.values())[-1])
            await on.gate.withhold(waiting[-1])
            await until(lambda: signs, "it is kept alive")
            assert on.provider.posted("/v1/chat")[len(waiting) - 1 :] == []
            await on.gate.say(grant(waiting[-1]))
            said = await answer
            text = (
                [each.choices[0].delta.content or "" async for each in said]
                if stream
                else [said.choices[0].message.content]
            )
            assert "".join(text) == "Hello"


async def test_a_silent_gate_lets_nothing_through_and_gets_a_late_grant_back(tmp_path: Path, monkeypatch: Any):
    monkeypatch.setattr(spending, "ANSWER_LIMIT_S", 0.3)
    async with stage(tmp_path) as on, client(on) as ann:
        on.gate.rule, on.gate.books = None, False
        with pytest.raises(openai.InternalServerError, match="has not answered"):
            await ann.chat.completions.create(model="plain", messages=HI)
        assert on.provider.posted() == []
        [spent] = await on.gate.settled()
        [asked] = on.gate.asked.values()
        assert not spent.forwarded
        on.gate.books = True
        before = on.gate.told
        await on.gate.say(grant(asked))
        await until(lambda: on.gate.told > before, "the late grant is given back")


async def test_a_cost_is_said_again_until_it_is_booked(tmp_path: Path, monkeypatch: Any):
    monkeypatch.setattr(spending, "REPEAT_S", 0.1)
    async with stage(tmp_path) as on, client(on) as ann:
        on.gate.books = False
        await ann.chat.completions.create(model="plain", messages=HI)
        await until(lambda: on.gate.told >= 3, "it is said three times")
        on.gate.books, told = True, on.gate.told
        await until(lambda: on.gate.told > told, "it is said once more")
        [first] = on.gate.spent
        said = []
        for calls in (2, 3):  # what comes of them comes after whatever was on its way when it was booked
            await ann.chat.completions.create(model="plain", messages=HI)
            await on.gate.settled(calls)
            said.append(on.gate.costs.count(first))
        assert said[0] == said[1], "it is said after it was booked"


async def test_identical_requests_have_one_digest(tmp_path: Path):
    async with stage(tmp_path) as on, client(on) as ann:
        for stream in (False, True):
            await ann.chat.completions.create(model="plain", messages=HI, stream=stream, user=f"u{stream}")
        await ann.chat.completions.create(model="plain", messages=[*HI, *HI])
        digests = [each.digest for each in on.gate.asked.values()]
        assert digests[0] == digests[1] != digests[2]


async def test_a_provider_that_takes_longer_than_was_granted_is_cut(tmp_path: Path):
    async with stage(tmp_path) as on, client(on) as ann:
        on.gate.rule = lambda asked: grant(asked).__class__(
            id="x", call=asked.call, agent=asked.agent, max_output_tokens=asked.max_output_tokens, limit_s=1.0
        )
        with pytest.raises(openai.InternalServerError, match="it was cut"):
            await ann.chat.completions.create(model="hang", messages=HI, max_tokens=8)
        await until(on.provider.posted()[0].cut.is_set, "the provider is cut off")
        [spent] = await on.gate.settled()
        assert (spent.estimated, spent.output_tokens) == (True, 8)


async def test_a_connection_on_which_nothing_is_asked_is_given_up(tmp_path: Path, monkeypatch: Any):
    monkeypatch.setattr(http_server, "HEAD_LIMIT_S", 0.2)
    async with stage(tmp_path) as on, client(on) as ann:
        host, port = on.address.removeprefix("http://").split(":")
        for begun in (b"", b"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx: "):
            stream = await anyio.connect_tcp(host, int(port))
            async with stream:
                if begun:
                    await stream.send(begun)
                with anyio.fail_after(60), pytest.raises(anyio.EndOfStream):
                    await stream.receive()
        monkeypatch.undo()  # who asks has its time
        assert (await ann.chat.completions.create(model="plain", messages=HI)).choices


async def test_only_what_is_served_reaches_the_provider(tmp_path: Path):
    async with stage(tmp_path) as on, httpx2.AsyncClient(base_url=on.address, timeout=120) as http:
        bearer = {"authorization": f"Bearer {on.key()}"}
        for path in (
            "/v1/models/../files",
            "/v1/models/%2e%2e/files",
            "/v1/models/x%3fy=1",
            "/v1/responses/resp_1",
            "/",
        ):
            answer = await http.get(path, headers=bearer)
            assert answer.status_code == 404, path
        raw = "GET /v1/models/../files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer " + on.key() + "\r\n\r\n"
        host, port = on.address.removeprefix("http://").split(":")
        stream = await anyio.connect_tcp(host, int(port))
        await stream.send(raw.encode())
        assert b" 404 " in await stream.receive()
        await stream.aclose()
        assert on.provider.seen == []
        deep = b'{"model": "plain", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        for body in (b"", b"[]", b"\xff\xfe", deep, b'{"model": "a\\nb"}', b'{"model": 5}'):
            answer = await http.post("/v1/chat/completions", content=body, headers=bearer)
            assert answer.status_code == 400
            assert answer.json()["error"]["code"] == "bad_request"
        assert on.gate.asked == {}


async def test_fifty_at_once_against_a_limit_of_five(tmp_path: Path):
    async with stage(tmp_path) as on, client(on) as ann, client(on, "bob") as bob:
        granted = 0

        def five(asked: SpendAsked) -> Any:
            nonlocal granted
            granted += 1
            return grant(asked) if granted <= 5 else refuse("budget_spent")(asked)

        on.gate.rule = five

        async def one(agent: openai.AsyncOpenAI) -> int:
            try:
                await agent.chat.completions.create(model="plain", messages=HI)
            except openai.APIStatusError as error:
                return error.status_code
            return 200

        came = await asyncio.gather(*(one((ann, bob)[number % 2]) for number in range(50)))
        assert sorted(came) == [200] * 5 + [402] * 45
        assert len(on.provider.posted()) == 5
        assert len(await on.gate.settled(5)) == 5


async def test_what_policy_wants_out_does_not_reach_the_provider(tmp_path: Path):
    async with stage(tmp_path) as on, client(on) as ann:
        on.gate.rule = lambda asked: msgspec.structs.replace(grant(asked), redact=("secrets", "args.user"))
        said: Any = [{"role": "user", "content": "my key is AKIAIOSFODNN7EXAMPLE, thanks"}]
        await ann.chat.completions.create(model="plain", messages=said, user="Ann")
        [seen] = on.provider.posted()
        assert seen.body["model"] == "plain"
        assert "AKIA" not in str(seen.body)
        assert "[redacted:" in seen.body["messages"][0]["content"]
        assert "thanks" in seen.body["messages"][0]["content"]
        assert seen.body["user"] == "[redacted:argument]"
