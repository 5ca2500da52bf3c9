"""The largest bill that a request can cause, kind by kind, against what is reserved for it before it is sent."""

import base64
import json
from typing import Any

import pytest

from crewkeeper_supervisor.gate.prices import TOKENS_MAX
from crewkeeper_supervisor.model_proxy.input_bound import DOCUMENT_TOKENS, IMAGE_TOKENS, REASONING_TOKENS
from crewkeeper_supervisor.model_proxy.problem import Problem
from crewkeeper_supervisor.model_proxy.request import Limits, ModelRequest, read

SEEN = {"resp_1": 9_000, "rs_1": 4_000, "msg_1": 700}
PAGE_TOKENS = 5_000
"""What a page of a PDF has counted at most, as text and as a picture."""
DENSE = bytes(range(33, 127)) * 7_000
"""Such can be made that no two bytes of it are one token."""
CYRILLIC = ("\u044f\u0436\u0448" * 200_000).encode("cp1251")
PDF = b"%PDF-1.7\n" + DENSE


def _asked(call: Any, **fields: Any) -> ModelRequest:
    return read(
        call, json.dumps({"model": "m", "max_tokens": 1} | fields).encode(), Limits(max_output_tokens=100), SEEN.get
    )


def _chat(*parts: Any, **turn: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)} | turn]}


def _input(*items: Any) -> dict[str, Any]:
    return {"input": list(items)}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _file(data: bytes, media: str, name: str = "a.txt") -> dict[str, Any]:
    return {"filename": name, "file_data": f"data:{media};base64,{_text(data)}"}


def _pdf(data: bytes) -> dict[str, Any]:
    return {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": _text(data)}}


LINK = {"type": "image_url", "image_url": {"url": "https://x.example/a.png", "detail": "high"}}
SHOWN = {"type": "image", "source": {"type": "url", "url": "https://x.example/a.png"}}
SHOT = {"type": "computer_screenshot", "image_url": "https://x.example/a.png"}
NESTED = {"type": "document", "source": {"type": "content", "content": [SHOWN] * 50}}
RESULT = {"type": "tool_result", "tool_use_id": "t", "content": [SHOWN, SHOWN]}
HIDDEN = {"type": "tool_use", "role": "user", "content": [LINK]}
BASH = {"type": "bash_20250124", "name": "bash"}
SCREEN = {"type": "computer_20250124", "name": "computer", "display_width_px": 9, "display_height_px": 9}
FUNCTION = {"type": "function", "function": {"name": "f"}}

BILLS: dict[str, tuple[str, dict[str, Any], int]] = {
    # what is asked for, and the most tokens that a provider has counted for what goes in
    "a text file": ("chat", _chat({"type": "file", "file": _file(DENSE, "text/plain")}), len(DENSE)),
    "a text file by responses": (
        "responses",
        _input({"role": "user", "content": [{"type": "input_file", **_file(DENSE, "text/csv")}]}),
        len(DENSE),
    ),
    "a text file that says it is a PDF": (
        "chat",
        _chat({"type": "file", "file": _file(DENSE, "application/pdf", "a.pdf")}),
        len(DENSE),
    ),
    "a text file that begins like a PDF": ("chat", _chat({"type": "file", "file": _file(PDF, "text/plain")}), len(PDF)),
    "a text file by name": ("chat", _chat({"type": "file", "file": _file(PDF, "application/pdf", "a.md")}), len(PDF)),
    "a text file with two bytes for each of its own": (
        "chat",
        _chat({"type": "file", "file": _file(CYRILLIC, "text/plain")}),
        2 * len(CYRILLIC),
    ),
    "a text file that is not encoded": (
        "chat",
        _chat({"type": "file", "file": {"file_data": f"data:text/plain,{DENSE.hex()}"}}),
        2 * len(DENSE),
    ),
    "a PDF of forty pages": ("messages", _chat(_pdf(PDF)), 40 * PAGE_TOKENS),
    "two PDFs": ("messages", _chat(_pdf(PDF), _pdf(PDF)), 2 * DOCUMENT_TOKENS),
    "a picture that is named": ("chat", _chat(LINK), 48_169),
    "pictures in the result of a tool": ("messages", _chat(RESULT), 2 * 48_169),
    "pictures in a document": ("messages", _chat(NESTED), 50 * 4_800),
    "a picture in a turn that calls itself a tool's": ("chat", {"messages": [HIDDEN]}, 48_169),
    "a picture that is no list": ("chat", {"messages": [{"role": "user", "content": LINK}]}, 48_169),
    "a picture kept by the provider": ("responses", _input({"type": "input_image", "file_id": "file_1"}), 48_169),
    "a screenshot": ("responses", _input({"type": "computer_call_output", "output": SHOT}), 48_169),
    "a picture the provider has made": ("responses", _input({"type": "image_generation_call", "id": "ig_1"}), 48_169),
    "an earlier response": ("responses", {"input": "hi", "previous_response_id": "resp_1"}, SEEN["resp_1"]),
    "a part of an earlier response": ("responses", _input({"type": "item_reference", "id": "msg_1"}), SEEN["msg_1"]),
    "the same without its type": ("responses", _input({"id": "msg_1"}), SEEN["msg_1"]),
    "thoughts of an earlier response": (
        "responses",
        _input({"type": "reasoning", "id": "rs_1", "summary": []}),
        SEEN["rs_1"],
    ),
    "thoughts of nobody knows when": ("responses", _input({"type": "reasoning", "id": "rs_2"}), REASONING_TOKENS),
    "thoughts that are sent": (
        "responses",
        _input({"type": "reasoning", "id": "rs_1", "encrypted_content": "A" * 30_000}),
        10_000,
    ),
    "a tool that the provider describes": (
        "messages",
        _chat({"type": "text", "text": "hi"}) | {"tools": [BASH]},
        804 + 245,
    ),
    "a screen": ("messages", _chat({"type": "text", "text": "hi"}) | {"tools": [SCREEN]}, 804 + 735 + 499),
    "tools of the client": ("messages", _chat({"type": "text", "text": "hi"}) | {"tools": [{"name": "f"}]}, 804 + 20),
    "functions": ("chat", _chat({"type": "text", "text": "hi"}) | {"tools": [FUNCTION]}, 60),
    "tokens by number": ("embeddings", {"input": [[1] * 5_000] * 2}, 10_000),
}


@pytest.mark.parametrize("what", BILLS)
def test_what_goes_in_is_reserved(what: str) -> None:
    call, fields, tokens = BILLS[what]
    assert tokens <= _asked(call, **fields).input_tokens < 12 * tokens + 2 * DOCUMENT_TOKENS


@pytest.mark.parametrize(
    ("call", "fields", "tokens"),
    [
        ("chat", {"max_tokens": 7}, 7),
        ("chat", {"max_tokens": 7, "max_completion_tokens": 9}, 9),
        ("chat", {"max_tokens": 7, "n": 3}, 21),
        ("chat", {"max_tokens": 7, "n": 2, "best_of": 5}, 35),
        ("chat", {"max_tokens": 7, "prediction": {"type": "content", "content": DENSE.decode()}}, len(DENSE) // 2),
        ("chat", {"max_tokens": TOKENS_MAX, "n": 128}, TOKENS_MAX),
        ("chat", {"max_tokens": 7, "stream": True}, 7),
        ("chat", {"max_tokens": None, "max_output_tokens": 3}, 100),
        ("responses", {"max_output_tokens": 7, "max_tokens": 3}, 7),
        ("responses", {"input": "hi", "reasoning": {"effort": "high"}}, 100),
        ("messages", {"max_tokens": 7, "thinking": {"type": "enabled", "budget_tokens": 5}}, 7),
    ],
)
def test_what_comes_out_is_reserved(call: str, fields: dict[str, Any], tokens: int) -> None:
    asked = _asked(call, **({"messages": []} | fields))
    assert asked.output_tokens >= tokens
    sent = json.loads(asked.payload)
    assert any(sent.get(key) for key in ("max_tokens", "max_completion_tokens", "max_output_tokens"))


@pytest.mark.parametrize(
    ("call", "fields"),
    [
        ("responses", _input({"type": "item_reference", "id": "msg_2"})),
        ("responses", _input({"type": "item_reference", "id": ["msg_1"]})),
        ("responses", _input({"id": "msg_2"})),
        ("responses", _input({"id": None})),
        ("chat", _chat({"type": "document_url", "document_url": "https://x.example/a.pdf"})),
        ("chat", _chat({"type": "audio_url", "audio_url": {"url": "https://x.example/a.wav"}})),
        ("chat", {"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}),
        ("messages", _chat({"type": "document", "source": {"type": "url", "url": "https://x.example/a.pdf"}})),
        ("messages", _chat({"type": "document", "source": {"type": "file", "file_id": "f", "data": "QQ=="}})),
        ("messages", {"context_management": {"edits": [{"type": "compact_20260112"}]}}),
        ("responses", {"context_management": [{"type": "compaction", "compact_threshold": 1}]}),
        ("chat", {"service_tier": "ultrafast"}),
        ("messages", {"service_tier": ["auto"]}),
        ("chat", {"search_parameters": {"mode": "on"}}),
        ("chat", {"preset": "dear"}),
        ("chat", {"best_of": 0}),
        ("chat", {"n": 129}),
        ("chat", {"max_tokens": -1}),
        ("chat", {"max_tokens": TOKENS_MAX + 1}),
    ],
)
def test_what_has_no_bound_is_not_sent(call: str, fields: dict[str, Any]) -> None:
    with pytest.raises(Problem) as raised:
        _asked(call, **fields)
    assert raised.value.status == 400


def test_tiers_that_cost_what_the_tokens_tell_pass() -> None:
    for tier in ("auto", "default", "flex", "standard_only", None):
        assert _asked("chat", service_tier=tier).input_tokens < 100
    clear = {"edits": [{"type": "clear_tool_uses_20250919"}]}
    assert _asked("messages", context_management=clear).input_tokens < 200


def test_a_picture_is_not_counted_as_text_besides() -> None:
    data = {"type": "image_generation_call", "id": "ig_1", "result": "A" * 900_000}
    assert _asked("responses", **_input(data)).input_tokens < IMAGE_TOKENS + 100


def test_what_redaction_blows_up_is_not_sent() -> None:
    cards = " ".join(["a@b.co"] * 200)
    asked = _asked("chat", messages=[{"role": "user", "content": cards}])
    with pytest.raises(Problem, match="twice as large"):
        asked.redacted(["personal"])
    few = _asked("chat", messages=[{"role": "user", "content": "write to a@b.co and c@d.co"}])
    assert b"a@b.co" not in few.redacted(["personal"])
