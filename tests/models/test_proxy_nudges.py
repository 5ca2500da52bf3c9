"""What the supervisor wants a model to read, where the model reads it: at the end of a request, whatever its shape."""

from pathlib import Path
from typing import Any

import anthropic
import msgspec
import openai
import pytest
from proxy_stage import grant, stage

from crewkeeper_supervisor.model_proxy.nudging import nudged
from crewkeeper_supervisor.model_proxy.request import Call, Limits, read

TEXT = "[supervisor] do it otherwise"
HI: Any = {"role": "user", "content": "hi"}
SAID: Any = {"role": "assistant", "content": "I am"}
CALLED: Any = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]}
TOOL: Any = {"role": "tool", "tool_call_id": "1", "content": "no results"}
RESULT: Any = {"type": "tool_result", "tool_use_id": "1", "content": "no results"}
USER: Any = {"role": "user", "content": TEXT}


def sent(call: Call, *texts: str, **body: Any) -> Any:
    """The request as it is sent on."""
    raw = msgspec.json.encode({"model": "m", "max_tokens": 9, **body})
    request = read(call, raw, Limits(max_output_tokens=9), lambda _: None)
    return msgspec.json.decode(nudged(request, texts).payload)


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([HI], [{"role": "user", "content": f"hi\n\n{TEXT}"}]),
        ([HI, CALLED, TOOL], [HI, CALLED, TOOL, USER]),
        ([HI, SAID], [{"role": "user", "content": f"hi\n\n{TEXT}"}, SAID]),
        (
            [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
            [{"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "text", "text": TEXT}]}],
        ),
        (
            [{"role": "user", "content": [RESULT]}],
            [{"role": "user", "content": [RESULT, {"type": "text", "text": TEXT}]}],
        ),
        ([{"role": "system", "content": "be good"}], [{"role": "system", "content": "be good"}, USER]),
    ],
)
def test_the_turns_of_a_talk_end_with_it(turns: Any, expected: Any) -> None:
    for call in ("chat", "messages"):
        assert sent(call, "do it otherwise", messages=turns)["messages"] == expected  # type: ignore[arg-type]


def test_the_input_of_a_response_ends_with_it() -> None:
    assert sent("responses", "do it otherwise", input="hi")["input"] == f"hi\n\n{TEXT}"
    called = {"type": "function_call_output", "call_id": "1", "output": "no results"}
    assert sent("responses", "do it otherwise", input=[called])["input"] == [called, USER]


def test_several_stand_one_below_the_other() -> None:
    (turn,) = sent("chat", "one", "two", messages=[HI])["messages"]
    assert turn["content"] == "hi\n\n[supervisor] one\n\n[supervisor] two"


def test_nothing_else_changes() -> None:
    body: Any = {
        "messages": [HI],
        "temperature": 0.5,
        "system": "be good",
        "tools": [{"name": "f", "input_schema": {}}],
    }
    without, with_ = sent("messages", **body), sent("messages", "do it otherwise", **body)
    assert {key for key in with_ if with_[key] != without[key]} == {"messages"}
    assert sent("embeddings", "do it otherwise", input="hi")["input"] == "hi"
    assert sent("chat", "do it otherwise", messages=[])["messages"] == []


@pytest.mark.live
async def test_both_clients_models_read_it_once(tmp_path: Path) -> None:
    async with stage(tmp_path) as on:
        on.gate.rule = lambda asked: msgspec.structs.replace(
            grant(asked), nudges=("do it otherwise",) if len(on.gate.asked) % 2 else ()
        )
        openai_client = openai.AsyncOpenAI(base_url=f"{on.address}/v1", api_key=on.key("ann"), timeout=120.0)
        async with openai_client as ann:
            for _ in range(2):
                await ann.chat.completions.create(model="plain", messages=[HI])
        async with anthropic.AsyncAnthropic(base_url=on.address, api_key=on.key("bob"), timeout=120.0) as bob:
            for _ in range(2):
                await bob.messages.create(model="plain", messages=[HI], max_tokens=100)
        contents = [each.body["messages"][-1]["content"] for each in on.provider.posted()]
        assert contents == [f"hi\n\n{TEXT}", "hi"] * 2
