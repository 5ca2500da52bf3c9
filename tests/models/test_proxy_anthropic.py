"""What an unmodified Anthropic client sees through the model proxy, and what the gate is told."""

from pathlib import Path
from typing import Any

import anthropic
import pytest
from proxy_stage import CANARY, Stage, refuse, stage

from support.bus import until

pytestmark = pytest.mark.live
HI: Any = [{"role": "user", "content": "hi"}]


def client(stage: Stage, agent: str = "ann", **options: Any) -> anthropic.AsyncAnthropic:
    given = {"base_url": stage.address, "api_key": stage.key(agent), "max_retries": 2, "timeout": 120.0} | options
    return anthropic.AsyncAnthropic(**given)


async def test_a_plain_call_counts_caches_as_input(tmp_path: Path):
    async with stage(tmp_path) as on, client(on) as ann:
        said = await ann.messages.create(model="plain", messages=HI, max_tokens=100)
        assert said.content[0].type == "text"
        [spent] = await on.gate.settled()
        assert (spent.input_tokens, spent.output_tokens) == (15, 5)
        assert (spent.cached_tokens, spent.cache_write_tokens) == (3, 2)
        [seen] = on.provider.posted()
        assert seen.headers["x-api-key"] == f"{CANARY}-2"
        assert "authorization" not in seen.headers
        assert seen.headers["anthropic-version"]


async def test_streams_tools_and_counting(tmp_path: Path):
    async with stage(tmp_path) as on, client(on) as ann:
        async with ann.messages.stream(model="plain", messages=HI, max_tokens=100) as stream:
            assert await stream.get_final_text() == "Hello"
        tools: Any = [{"name": "search", "input_schema": {"type": "object"}}]
        said = await ann.messages.create(model="plain", messages=HI, max_tokens=100, tools=tools)
        assert said.content[0].type == "tool_use"
        assert (await ann.messages.count_tokens(model="plain", messages=HI)).input_tokens == 42
        assert [(each.input_tokens, each.output_tokens) for each in await on.gate.settled(2)] == [(15, 5)] * 2
        assert len(on.gate.asked) == 2  # counting is free


async def test_a_refusal_is_an_error_that_is_not_tried_again(tmp_path: Path):
    async with stage(tmp_path) as on, client(on) as ann:
        on.gate.rule = refuse("budget_spent", "there is no more; answer with what you have")
        with pytest.raises(anthropic.APIStatusError, match="answer with what you have") as raised:
            await ann.messages.create(model="plain", messages=HI, max_tokens=100)
        assert raised.value.status_code == 402
        with pytest.raises(anthropic.APIStatusError):
            async with ann.messages.stream(model="plain", messages=HI, max_tokens=100):
                pass
        assert len(on.gate.asked) == 2
        assert on.provider.posted() == []


async def test_wrong_keys_and_tools_of_the_provider_are_refused(tmp_path: Path):
    async with stage(tmp_path) as on:
        async with client(on, api_key="trip-1.ann:0123456789ab-" + "x" * 43) as stranger:
            with pytest.raises(anthropic.AuthenticationError):
                await stranger.messages.create(model="plain", messages=HI, max_tokens=100)
        async with client(on) as ann:
            hosted: Any = [{"type": "web_search_20250305", "name": "web_search"}]
            with pytest.raises(anthropic.BadRequestError, match="runs at the provider"):
                await ann.messages.create(model="plain", messages=HI, max_tokens=100, tools=hosted)
            with pytest.raises(anthropic.BadRequestError, match="mcp_servers"):
                await ann.messages.create(
                    model="plain", messages=HI, max_tokens=100, extra_body={"mcp_servers": [{"x": 1}]}
                )
        assert on.gate.asked == {}


async def test_a_stream_that_stops_without_its_last_event_is_charged_in_full(tmp_path: Path):
    async with stage(tmp_path) as on, client(on, max_retries=0) as ann:
        async with await ann.messages.create(model="stops", messages=HI, max_tokens=64, stream=True) as stream:
            assert [event.type async for event in stream][-1] != "message_stop"
        [spent] = await on.gate.settled()
        assert (spent.estimated, spent.output_tokens) == (True, 64)  # not the 1 that the first event counts


async def test_a_stream_that_is_left_early_is_charged_in_full(tmp_path: Path):
    async with stage(tmp_path) as on, client(on, max_retries=0) as ann:
        async with await ann.messages.create(model="drip", messages=HI, max_tokens=64, stream=True) as stream:
            async for event in stream:
                assert event.type == "message_start"
                break
        [seen] = on.provider.posted()
        await until(seen.cut.is_set, "the provider is cut off")
        [spent] = await on.gate.settled()
        assert (spent.estimated, spent.output_tokens) == (True, 64)  # not the 1 that the first event counts
