"""Codec: bytes to messages and back, with a size and a nesting limit that hold before anything is built.

A payload that breaks a limit or its schema is a `CodecError`, whatever the bytes are; nothing else escapes.
"""

from typing import Any, Final, TypeVar

import msgspec

from crewkeeper_bus.errors import CodecError, PayloadTooLarge
from crewkeeper_bus.messages import AGENT_MESSAGES, SUPERVISOR_MESSAGES
from crewkeeper_bus.subjects import Kind

PAYLOAD_MAX_BYTES: Final = 256 * 1024
"""Default limit of one payload; a crew file can lower or raise it."""
NESTING_MAX: Final = 64
"""Deepest nesting of arrays and objects in a payload."""

_OPENING: Final = b"[{"
_QUOTE: Final = ord('"')
_NOT_STRUCTURE: Final = bytes(set(range(256)) - set(b'[]{}"'))

_ENCODER: Final = msgspec.json.Encoder()
_AGENT_DECODERS: Final = {kind: msgspec.json.Decoder(type_) for kind, type_ in AGENT_MESSAGES.items()}
_SUPERVISOR_DECODERS: Final = {kind: msgspec.json.Decoder(type_) for kind, type_ in SUPERVISOR_MESSAGES.items()}

_T = TypeVar("_T")


def nesting(payload: bytes, limit: int = NESTING_MAX) -> int:
    """How deep arrays and objects nest in a JSON text, counted no further than one beyond `limit`.

    The text need not be valid JSON. Cost: linear, at the speed of `bytes.translate` for ordinary payloads.
    """
    opened = payload.count(b"[") + payload.count(b"{")
    if opened <= limit:  # nearly always; those in texts count as well
        return opened
    if b"\\" in payload:  # first escaped backslashes, then quotes that are still escaped: what is left ends a string
        payload = payload.replace(b"\\\\", b"").replace(b'\\"', b"")
    structure = payload.translate(None, _NOT_STRUCTURE)
    depth = deepest = 0
    in_string = False
    for byte in structure:
        if byte == _QUOTE:
            in_string = not in_string
        elif in_string:
            continue
        elif byte in _OPENING:
            depth += 1
            if depth > deepest:
                deepest = depth
                if deepest > limit:
                    return deepest
        else:
            depth -= 1
    return deepest


def check(payload: bytes, limit_bytes: int = PAYLOAD_MAX_BYTES) -> None:
    """Check size and nesting.

    Raises:
        CodecError: The payload is over a limit.
    """
    if len(payload) > limit_bytes:
        raise PayloadTooLarge(
            f"payload has {len(payload)} bytes; the limit is {limit_bytes}: send less, or a reference"
        )
    if nesting(payload) > NESTING_MAX:
        raise CodecError(f"payload nests deeper than {NESTING_MAX} levels: flatten it")


def _decode(decoder: "msgspec.json.Decoder[_T]", payload: bytes, what: str, limit_bytes: int) -> _T:
    if len(payload) > limit_bytes or payload.count(b"[") + payload.count(b"{") > NESTING_MAX:
        check(payload, limit_bytes)  # it is over a limit, or has brackets in its texts
    try:
        return decoder.decode(payload)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        raise CodecError(f"{what}: {str(error)[:300]}") from None


def decode_agent(kind: Kind, payload: bytes, limit_bytes: int = PAYLOAD_MAX_BYTES) -> Any:
    """Decode what an agent sent on a subject of this kind.

    Raises:
        CodecError: Over a limit, not JSON, not the schema, or a kind that no agent sends.
    """
    decoder = _AGENT_DECODERS.get(kind)
    if decoder is None:
        raise CodecError(f"{kind}: no agent sends this kind")
    return _decode(decoder, payload, kind, limit_bytes)


def decode_supervisor(kind: Kind, payload: bytes, limit_bytes: int = 16 * PAYLOAD_MAX_BYTES) -> Any:
    """Decode what the supervisor side sent (`ctl`, `op`, and `rep` and `cancel` from `_`).

    Raises:
        CodecError: As `decode_agent`.
    """
    decoder = _SUPERVISOR_DECODERS.get(kind)
    if decoder is None:
        raise CodecError(f"{kind}: the supervisor does not send this kind")
    return _decode(decoder, payload, kind, limit_bytes)


def encode(message: Any) -> bytes:
    """Encode a message struct."""
    return _ENCODER.encode(message)


def encode_body(value: Any, limit_bytes: int = PAYLOAD_MAX_BYTES) -> msgspec.Raw:
    """Encode an author's value as the body of a message.

    Raises:
        CodecError: It is not JSON-serialisable, or over a limit.
    """
    try:
        raw = _ENCODER.encode(value)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise CodecError(f"body cannot be sent as JSON: {str(error)[:300]}; send plain data") from None
    check(raw, limit_bytes)
    return msgspec.Raw(raw)


def decode_body(body: msgspec.Raw, type_: Any = Any) -> Any:
    """Decode a body into plain data, or into `type_`.

    Raises:
        CodecError: It is not JSON or not of the type.
    """
    try:
        return msgspec.json.decode(body, type=type_)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise CodecError(f"body: {str(error)[:300]}") from None


def schemas() -> dict[str, Any]:
    """JSON Schema of every message, with shared definitions, for other languages and for the documentation."""
    kinds = {f"agent:{kind}": type_ for kind, type_ in AGENT_MESSAGES.items()}
    kinds |= {f"supervisor:{kind}": type_ for kind, type_ in SUPERVISOR_MESSAGES.items()}
    roots, components = msgspec.json.schema_components(kinds.values(), ref_template="#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": components,
        "kinds": dict(zip(kinds, roots, strict=True)),
    }
