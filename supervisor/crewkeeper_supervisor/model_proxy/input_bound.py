"""Input bound: how many tokens of a request go in at most, with pictures, documents and what only the provider knows.

Text is counted by its bytes. Everything else has a bound of its own, or is refused: what is only named has no size, and
sound has another price. What merely looks like a picture, as in arguments that a model has written, is text.
"""

import base64
import binascii
from collections.abc import Callable, Container, Iterator
from typing import Any, Final

from crewkeeper_supervisor.gate.prices import estimate_tokens
from crewkeeper_supervisor.model_proxy.problem import Problem

IMAGE_TOKENS: Final = 50_000
"""More than any provider counts for one picture."""
DOCUMENT_TOKENS: Final = 200_000
"""What one document with pages may count: its bytes say little about that."""
REASONING_TOKENS: Final = 128_000
"""What a model may have thought in a response that this proxy has not seen: as much as any writes in one."""
TOOLS_TOKENS: Final = 1000
"""What providers write for a model that has tools at all, or is to answer in a form."""
KNOWN_TOOL_TOKENS: Final = 2000
"""The same for each tool that the provider describes, as only its type is in the request."""

_PAGE_BYTES_PER_TOKEN: Final = 3
_PDF: Final = b"%PDF-"
_PLAIN_TOOLS: Final = (None, "function", "custom")
_FORMS: Final = ("tools", "functions", "output_format", "output_config")
_WRITTEN_BY_MODELS: Final = ("tool_use", "server_tool_use", "function_call", "custom_tool_call", "mcp_call")
"""Parts whose fields are read as text, whatever they look like."""
_SEEN_KEYS: Final = ("messages", "input", "system")
"""Where pictures and documents are looked at; anywhere else they are text."""
_SOUNDS: Final = ("input_audio", "audio_url", "video_url", "input_video")
_PICTURES: Final = ("image_url", "input_image", "image", "computer_screenshot", "image_generation_call")
_DOCUMENTS: Final = ("file", "input_file", "document", "document_url")
_NAMES: Final = ("file_id", "file_url", "url", "document_url")
"""Keys that say where a document is."""
_REMEMBERED_KEYS: Final = ("conversation", "prompt")
"""Of responses: input that the provider keeps."""

Seen = Callable[[str], int | None]
"""The tokens of an earlier response of this run, or of the one that an item was part of, by its id; None: unknown."""


def input_tokens(value: dict[str, Any], payload: bytes) -> int:
    """An upper bound of what goes in: the bytes of the text by three, more for pictures, documents and bare tokens.

    Raises:
        Problem: A document is only named.
    """
    tokens, left_out = _described(value), list[bytes]()
    for part in _parts(value):
        type_ = part.get("type")
        if type_ in _PICTURES:
            left_out.append(_picture(part))
            tokens += IMAGE_TOKENS
        elif type_ in _DOCUMENTS:
            data, bound = _document(part)
            left_out.append(data)
            tokens += DOCUMENT_TOKENS + bound
    tokens += _bare_tokens(value.get("input"))
    return tokens + estimate_tokens(payload, left_out)


def has_sound(value: dict[str, Any]) -> bool:
    """Whether sound or video goes in, or an answer that was sound is referred to."""
    turns = value.get("messages")
    spoken = any(isinstance(turn, dict) and turn.get("audio") for turn in turns) if isinstance(turns, list) else False
    return spoken or any(part.get("type") in _SOUNDS for part in _parts(value))


def remembered_tokens(value: dict[str, Any], seen: Seen) -> int:
    """What the provider adds to the input of `responses` out of what it keeps.

    Raises:
        Problem: It refers to something of unknown size.
    """
    for key in _REMEMBERED_KEYS:
        if value.get(key) is not None:
            text = f"{key} refers to input that only the provider knows: send the whole input"
            raise Problem(400, "unbounded_input", text)
    id_ = value.get("previous_response_id")
    tokens = 0 if id_ is None else _of_seen(id_, "previous_response_id", seen)
    items = value.get("input")
    for item in items if isinstance(items, list) else ():
        if not isinstance(item, dict):
            continue
        type_ = item.get("type")
        if type_ == "item_reference" or (type_ is None and "content" not in item):
            tokens += _of_seen(item.get("id"), "an item_reference", seen)
        elif type_ == "reasoning" and item.get("id") and not item.get("encrypted_content"):
            known = seen(item["id"]) if isinstance(item["id"], str) else None
            tokens += REASONING_TOKENS if known is None else known
    return tokens


def _of_seen(id_: Any, what: str, seen: Seen) -> int:
    tokens = seen(id_) if isinstance(id_, str) else None
    if tokens is None:
        text = f"{what} is of no response that this proxy has seen: send the whole input"
        raise Problem(400, "unknown_id", text)
    return tokens


def _described(value: dict[str, Any]) -> int:
    tools = value.get("tools")
    own = [tool for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    known = sum(1 for tool in own if tool.get("type") not in _PLAIN_TOOLS)
    return (TOOLS_TOKENS if any(value.get(key) for key in _FORMS) else 0) + known * KNOWN_TOOL_TOKENS


def _parts(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The pictures, sounds and documents of a request, each once."""
    for key in _SEEN_KEYS:
        yield from _media(value.get(key))


def _media(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, list):
        for each in value:
            yield from _media(each)
    elif isinstance(value, dict):
        if _is_medium(value):
            yield value
        if value.get("type") not in _WRITTEN_BY_MODELS or "role" in value:
            for each in value.values():
                if isinstance(each, dict | list):
                    yield from _media(each)


def _is_medium(part: dict[str, Any]) -> bool:
    """Whether it is a picture, a sound or a document, and not arguments that use the same words."""
    holders: Container[str] = part.keys()
    match part.get("type"):
        case "input_audio" | "audio_url" | "video_url" | "input_video" | "document_url":
            return part["type"] in holders
        case "image_url" | "input_image" | "computer_screenshot":
            return "image_url" in holders or "file_id" in holders
        case "image_generation_call":
            return "id" in holders or "result" in holders
        case "image" | "document":
            return isinstance(part.get("source"), dict)
        case "file":
            return isinstance(part.get("file"), dict)
        case "input_file":
            return True
    return False


def _picture(part: dict[str, Any]) -> bytes:
    """The one text of a part that is the picture itself."""
    places = ((part.get("image_url"), "url"), (part.get("source"), "data"), (part, "image_url"), (part, "result"))
    for holder, key in places:
        if isinstance(holder, dict) and isinstance(data := holder.get(key), str):
            return data.encode()
    return b""


def _document(part: dict[str, Any]) -> tuple[bytes, int]:
    """The one text of a part that is the document itself, unless it is plain text, and its tokens beyond its pages.

    Raises:
        Problem: It is only named.
    """
    source, file = part.get("source"), part.get("file")
    holder = next((each for each in (source, file) if isinstance(each, dict)), part)
    if any(holder.get(key) for key in _NAMES):
        text = "a document that is only named has no known size: send its content"
        raise Problem(400, "unbounded_input", text)
    if isinstance(source, dict):
        data = source.get("data") if source.get("type") == "base64" else None
        media = str(source.get("media_type", ""))
    else:
        data = holder.get("file_data")
        media = ""
    if not isinstance(data, str):
        return b"", 0
    head, comma, rest = data.partition(",")
    if comma and head.startswith("data:"):
        media = head.removeprefix("data:").partition(";")[0] or "text/plain"
        content = _undone(rest) if head.endswith(";base64") else rest.encode()
    else:
        content = _undone(data)
    name = holder.get("filename")
    is_pdf = media in ("", "application/pdf") and (not isinstance(name, str) or name.lower().endswith(".pdf"))
    if is_pdf and content.startswith(_PDF):
        return data.encode(), len(data) // _PAGE_BYTES_PER_TOKEN
    return data.encode(), _most_tokens(content)


def _undone(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except (binascii.Error, ValueError):
        return text.encode()


def _most_tokens(content: bytes) -> int:
    """No byte of a text is more than one token; what is in another encoding has up to two bytes for each of its own."""
    try:
        content.decode()
    except UnicodeDecodeError:
        return 2 * len(content)
    return len(content)


def _bare_tokens(value: Any) -> int:
    if isinstance(value, list):
        return sum(_bare_tokens(each) for each in value)
    return int(isinstance(value, int))
