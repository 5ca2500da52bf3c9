"""Nudging: what the supervisor wants a model to read, put at the end of a request to it.

At the end, where a model heeds it most and what a provider has cached of the request stays good; in the user's turn,
since not every interface takes another system message there.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from crewkeeper_bus.nudges import HEADING
from crewkeeper_supervisor.model_proxy.request import ModelRequest


def nudged(request: ModelRequest, texts: Sequence[str]) -> ModelRequest:
    """A request with these texts at its end; the same request where there are none, or no place for them.

    - chat: the last message, if it is the user's, ends with them; else another message of the user follows.
    - messages: the same. A last message of the assistant, which the model is to go on with, stays the last.
    - responses: a plain `input` ends with them; else another message of the user follows.
    """
    if not texts or request.call == "embeddings":
        return request
    value = msgspec.json.decode(request.payload)
    text = "\n\n".join(f"{HEADING} {each}" for each in texts)
    key = "input" if request.call == "responses" else "messages"
    given = value.get(key)
    if isinstance(given, str):
        value[key] = f"{given}\n\n{text}"
    elif isinstance(given, list) and given:
        value[key] = _turns(given, text) if key == "messages" else [*given, {"role": "user", "content": text}]
    else:
        return request
    return msgspec.structs.replace(request, payload=msgspec.json.encode(value))


def _turns(turns: list[Any], text: str) -> list[Any]:
    """The turns of a talk, with the text at the end of what is not the assistant's."""
    kept: list[Any] = []
    if isinstance(turns[-1], dict) and turns[-1].get("role") == "assistant":
        turns, kept = turns[:-1], turns[-1:]
    last = turns[-1] if turns and isinstance(turns[-1], dict) else {}
    content = last.get("content")
    if last.get("role") == "user" and isinstance(content, str):
        turns = [*turns[:-1], last | {"content": f"{content}\n\n{text}"}]
    elif last.get("role") == "user" and isinstance(content, list):
        turns = [*turns[:-1], last | {"content": [*content, {"type": "text", "text": text}]}]
    else:
        turns = [*turns, {"role": "user", "content": text}]
    return turns + kept
