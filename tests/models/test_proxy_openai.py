"""What an unmodified OpenAI client sees through the model proxy, and what the gate is told."""

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest
from proxy_stage import CANARY, Stage, refuse, stage

from crewkeeper_supervisor.core.model_proxy import Upstream
from crewkeeper_supervisor.model_proxy import gateway
from support.bus import until

pytestmark = pytest.mark.live
HI: Any = [{"role": "user", "content": "hi"}]


def client(stage: Stage, agent: str = "ann", **options: Any) -> openai.AsyncOpenAI:
    given = {
        "base_url": f"{stage.address}/v1",
        "api_key": stage.key(agent),
        "max_retries": 2,
        "timeout": 120.0,
    } | options
    return openai.AsyncOpenAI(**given)


async def test_a_plain_call_is_granted_sent_and_settled(tmp_path: Path):
    async with stage(tmp_path) as on, client(on) as ann:
        said = await ann.chat.completions.create(model="plain", messages=HI, max_tokens=100)
        assert said.choices[0].message.content == "Hello"
        [asked], [spent] = on.gate.asked.values(), await on.gate.settled()
        assert (asked.agent, asked.model, asked.max_output_tokens) == ("ann", "plain", 100)
        assert asked.input_tokens >= 10
        assert (spent.input_tokens, spent.output_tokens, spent.cached_tokens, spent.ok) == (10, 5, 4, True)
        [seen] = on.provider.posted()
        assert seen.headers["authorization"] == f"Bearer {CANARY}"
        assert "trip-1" not in str(seen.headers)
        assert seen.body["max_tokens"] == 100


async def test_a_stream_comes_as_it_is_and_hides_the_usage_nobody_asked_for(tmp_path: Path):
    async with stage(tmp_path) as on, client(on) as ann:
        chunks = [each async for each in await ann.chat.completions.create(model="plain", messages=HI, stream=True)]
        assert "".join(each.choices[0].delta.content or "" for each in chunks) == "Hello"
        assert all(each.usage is None for each in chunks)
        asked_for = await ann.chat.completions.create(
            model="plain", messages=HI, stream=True, stream_options={"include_usage": True}
        )
        *_, last = [each async for each in asked_for]
        assert last.usage is not None
        assert last.usage.total_tokens == 15
        assert [(each.input_tokens, each.output_tokens) for each in await on.gate.settled(2)] == [(10, 5)] * 2
        assert on.provider.posted()[0].body["max_completion_tokens"] == 4096


async def test_tools_responses_embeddings_and_models(tmp_path: Path):
    async with stage(tmp_path) as on, client(on) as ann:
        tools: Any = [{"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}]
        said = await ann.chat.completions.create(model="plain", messages=HI, tools=tools)
        assert said.choices[0].message.tool_calls
        answer = await ann.responses.create(model="plain", input="hi", max_output_tokens=50)
        assert answer.output_text == "Hello"
        follow = await ann.responses.create(model="plain", input="and?", previous_response_id=answer.id)
        assert follow.usage is not None
        async with client(on, api_key=on.key("bob")) as bob:
            with pytest.raises(openai.BadRequestError, match="no response that this proxy has seen"):
                await bob.responses.create(model="plain", input="and?", previous_response_id=answer.id)
        types = [each.type async for each in await ann.responses.create(model="plain", input="hi", stream=True)]
        assert types[-1] == "response.completed"
        made = await ann.embeddings.create(model="plain", input=["one", "two"], encoding_format="float")
        assert made.data[0].embedding == [0.5]
        assert [each.id async for each in ann.models.list()] == ["plain"]
        await on.gate.settled(5)
        asked = list(on.gate.asked.values())
        assert [each.max_output_tokens for each in asked] == [4096, 50, 4096, 4096, 0]
        assert asked[2].input_tokens >= 26  # with all of the response that it refers to
        assert [each.input_tokens for each in on.gate.spent.values()] == [10, 20, 20, 20, 7]


async def test_nobody_crowds_out_what_others_may_go_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gateway, "SEEN_MAX", 4)
    async with stage(tmp_path) as on, client(on) as ann, client(on, "bob") as bob:
        answer = await ann.responses.create(model="plain", input="hi")
        others = [await bob.responses.create(model=model, input="hi") for model in ("x", "xx", "xxx")]
        assert (await ann.responses.create(model="plain", input="and?", previous_response_id=answer.id)).usage
        assert (await bob.responses.create(model="plain", input="and?", previous_response_id=others[-1].id)).usage
        with pytest.raises(openai.BadRequestError, match="no response that this proxy has seen"):
            await bob.responses.create(model="x", input="and?", previous_response_id=others[0].id)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("budget_spent", openai.APIStatusError),
        ("denied", openai.PermissionDeniedError),
        ("unknown_price", openai.BadRequestError),
    ],
)
async def test_a_refusal_is_an_error_that_is_not_tried_again(
    tmp_path: Path, code: str, error: type[openai.APIStatusError]
):
    async with stage(tmp_path) as on, client(on) as ann:
        on.gate.rule = refuse(code, "there is no more of its $5.00; answer with what you have")
        for stream in (False, True):
            with pytest.raises(error, match="answer with what you have") as raised:
                await ann.chat.completions.create(model="plain", messages=HI, stream=stream)
            assert raised.value.code == code
        assert len(on.gate.asked) == 2
        assert on.provider.posted() == []
        assert on.gate.spent == {}


async def test_who_has_no_key_is_told_nothing(tmp_path: Path):
    async with stage(tmp_path) as on:
        wrong = on.key()[:-1] + ("A" if on.key()[-1] != "A" else "B")
        for key in (wrong, "trip-1.ann", "nonsense", on.key().replace("trip-1", "other"), f"trip-1._model:{'a' * 60}"):
            async with client(on, api_key=key) as stranger:
                with pytest.raises(openai.AuthenticationError):
                    await stranger.chat.completions.create(model="plain", messages=HI)
                with pytest.raises(openai.AuthenticationError):
                    await stranger.models.list()
        assert on.gate.asked == {}
        assert on.provider.seen == []


async def test_what_the_provider_refuses_is_passed_on_and_costs_nothing(tmp_path: Path):
    async with stage(tmp_path) as on, client(on, max_retries=0) as ann:
        cases = {"error-400": 400, "error-429": 429, "error-503": 503}
        for model, status in cases.items():
            with pytest.raises(openai.APIStatusError) as raised:
                await ann.chat.completions.create(model=model, messages=HI)
            assert raised.value.status_code == status
            assert CANARY not in str(raised.value.body)
        assert [each.forwarded for each in await on.gate.settled(3)] == [False] * 3


async def test_what_may_have_been_done_is_charged_in_full(tmp_path: Path):
    async with stage(tmp_path) as on, client(on, max_retries=0) as ann:
        answered = {"error-500": 500, "garbage": 502, "half-json": 502, "no-usage": 200, "absurd": 200}
        for number, (model, status) in enumerate(answered.items(), 1):
            if status == 200:
                await ann.chat.completions.create(model=model, messages=HI, max_tokens=77)
            else:
                with pytest.raises(openai.InternalServerError) as raised:
                    await ann.chat.completions.create(model=model, messages=HI, max_tokens=77)
                assert raised.value.status_code == status
                assert CANARY not in str(raised.value.body)
            spent = (await on.gate.settled(number))[-1]
            asked = on.gate.asked[spent.call]
            assert (spent.forwarded, spent.estimated, spent.ok) == (True, True, False)
            assert (spent.input_tokens, spent.output_tokens) == (asked.input_tokens, 77)


async def test_a_redirect_or_a_refused_key_of_the_proxy_is_its_operators_matter(tmp_path: Path):
    async with stage(tmp_path) as on, client(on) as ann:
        for model in ("redirect", "error-401", "error-403"):
            with pytest.raises(openai.InternalServerError) as raised:
                await ann.chat.completions.create(model=model, messages=HI)
            assert raised.value.status_code == 502
        assert len(on.provider.posted()) == 3  # and tried once each
        assert [each.forwarded for each in await on.gate.settled(3)] == [False] * 3


async def test_an_unreachable_provider_costs_nothing(tmp_path: Path):
    nowhere = Upstream(url="http://127.0.0.1:1/v1")
    async with stage(tmp_path, openai=nowhere) as on, client(on, max_retries=0) as ann:
        with pytest.raises(openai.InternalServerError, match="cannot be reached"):
            await ann.chat.completions.create(model="plain", messages=HI)
        assert [each.forwarded for each in await on.gate.settled()] == [False]


async def test_a_stream_that_is_cut_by_the_provider_is_charged_in_full(tmp_path: Path):
    async with stage(tmp_path) as on, client(on, max_retries=0) as ann:
        with pytest.raises(openai.APIError, match="broke the connection"):
            async for _ in await ann.chat.completions.create(model="cut", messages=HI, stream=True):
                pass
        [spent] = await on.gate.settled()
        assert (spent.estimated, spent.output_tokens) == (True, 4096)


async def test_an_event_without_end_is_cut(tmp_path: Path):
    async with stage(tmp_path) as on, client(on, max_retries=0) as ann:
        with pytest.raises(openai.APIError, match="does not end"):
            async for _ in await ann.chat.completions.create(model="endless-event", messages=HI, stream=True):
                pass
        [seen] = on.provider.posted()
        await until(seen.cut.is_set, "the provider is cut off")
        assert (await on.gate.settled())[0].estimated


async def test_a_client_that_leaves_cuts_the_provider_and_is_charged(tmp_path: Path):
    async with stage(tmp_path) as on, client(on, max_retries=0) as ann:
        stream = await ann.chat.completions.create(model="drip", messages=HI, stream=True, max_tokens=9)
        async for _ in stream:
            break
        await stream.close()
        [seen] = on.provider.posted()
        await until(seen.cut.is_set, "the provider is cut off")
        [spent] = await on.gate.settled()
        assert (spent.estimated, spent.output_tokens) == (True, 9)
        waiting = asyncio.ensure_future(ann.chat.completions.create(model="hang", messages=HI))
        await until(lambda: len(on.provider.posted()) == 2, "it is sent")
        waiting.cancel()
        await until(on.provider.posted()[1].cut.is_set, "the provider is cut off")
        assert len(await on.gate.settled(2)) == 2


async def test_a_huge_or_odd_request_is_refused_before_anything_is_asked(tmp_path: Path):
    async with stage(tmp_path, body_bytes=4096) as on, client(on) as ann:
        with pytest.raises(openai.APIStatusError) as raised:
            await ann.chat.completions.create(model="plain", messages=[{"role": "user", "content": "x" * 5000}])
        assert raised.value.status_code == 413
        odd: list[dict[str, Any]] = [
            {"tools": [{"type": "web_search"}]},
            {"n": 0},
            {"max_tokens": -1},
            {"extra_body": {"web_search_options": {"x": 1}}},
            {"service_tier": "priority"},
            {"extra_body": {"stream": 1}},
        ]
        for options in odd:
            with pytest.raises(openai.BadRequestError):
                await ann.chat.completions.create(model="plain", messages=HI, **options)
        with pytest.raises(openai.BadRequestError, match="whole input"):
            await ann.responses.create(model="plain", input="x", previous_response_id="resp_of_somebody")
        with pytest.raises(openai.NotFoundError):
            await ann.files.list()
        assert on.gate.asked == {}
        assert on.provider.seen == []
