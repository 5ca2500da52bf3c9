"""JSON-RPC as MCP uses it: lines to frames and back, answers in the words that models are shown; no I/O.

What is passed on is written anew from what was understood, never as the bytes that came: two programs may read a text
with repeated or oddly spelled keys in two ways, and the second reading could be another call than was allowed.
"""

import contextlib
from contextlib import AbstractContextManager
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from crewkeeper_bus.tracing import META, carrying, current

MODERN: Final = "2026-07-28"
"""First version without a handshake: every request says its version and what the client can do."""
LEGACY: Final = "2025-11-25"
"""Last version with a handshake."""
VERSION_KEY: Final = "io.modelcontextprotocol/protocolVersion"
CLIENT_KEY: Final = "io.modelcontextprotocol/clientInfo"
CAPABILITIES_KEY: Final = "io.modelcontextprotocol/clientCapabilities"
REFUSAL_KEY: Final = "crewkeeper/refusal"
"""In `_meta` of a result: why the call was refused, for programs."""

INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL: Final = -32603
DEPTH_MAX: Final = 100
_META: Final = f'"{META}"'.encode()
_ERRORS = (msgspec.MsgspecError, ValueError, RecursionError)

Kind = Literal["request", "notification", "answer"]


class BadFrame(ValueError):  # noqa: N818 - what it is
    """A line is no JSON-RPC message."""


class _Wire(Struct, omit_defaults=True):
    jsonrpc: str = ""
    id: int | str | UnsetType | None = UNSET
    method: str | UnsetType = UNSET
    params: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


class Frame(Struct, frozen=True, kw_only=True):
    """One message. `params`, `result` and `error` are JSON texts; None where there is none."""

    kind: Kind
    id: int | str | None = None
    method: str = ""
    params: Raw | None = None
    result: Raw | None = None
    error: Raw | None = None

    def encode(self) -> bytes:
        """As one line, with nothing in it but this."""
        told: dict[str, Any] = {"jsonrpc": "2.0"}
        if self.kind != "notification":
            told["id"] = self.id
        if self.method:
            told["method"] = self.method
        for key in ("params", "result", "error"):
            value = getattr(self, key)
            if value is not None:
                told[key] = value
        return msgspec.json.encode(told)

    def params_dict(self) -> dict[str, Any]:
        """The parameters as data.

        Raises:
            BadFrame: They are no mapping.
        """
        return {} if self.params is None else decode_dict(self.params)

    def result_dict(self) -> dict[str, Any]:
        """The result as data; empty where it is an error.

        Raises:
            BadFrame: It is no mapping.
        """
        return {} if self.result is None else decode_dict(self.result)


_DECODER: Final = msgspec.json.Decoder(_Wire)


def parse(line: bytes) -> Frame:
    """Read one line.

    Raises:
        BadFrame: It is no JSON-RPC message; lists of messages are none in any version that is spoken here.
    """
    try:
        wire = _DECODER.decode(line)
    except _ERRORS as error:
        raise BadFrame(f"no JSON-RPC message: {str(error)[:200]}") from None
    if wire.jsonrpc != "2.0":
        raise BadFrame("no JSON-RPC 2.0 message")
    if isinstance(wire.method, str):
        if not wire.method or wire.result is not UNSET or wire.error is not UNSET or wire.id is None:
            raise BadFrame("a request that is an answer, too, or has no usable id")
        params = None if wire.params is UNSET else wire.params
        if wire.id is UNSET:
            return Frame(kind="notification", method=wire.method, params=params)
        return Frame(kind="request", id=wire.id, method=wire.method, params=params)
    if wire.id is UNSET or (wire.result is UNSET) == (wire.error is UNSET):
        raise BadFrame("neither a request nor an answer")
    return Frame(
        kind="answer",
        id=wire.id,
        result=None if wire.result is UNSET else wire.result,
        error=None if wire.error is UNSET else wire.error,
    )


def decode_dict(text: Raw) -> dict[str, Any]:
    """A JSON text as a mapping.

    Raises:
        BadFrame: It is none, or nested too deep.
    """
    try:
        value = msgspec.json.decode(text)
    except _ERRORS as error:
        raise BadFrame(f"no JSON: {str(error)[:200]}") from None
    if not isinstance(value, dict):
        raise BadFrame("must be a mapping")
    return value


def traced(params: dict[str, Any]) -> dict[str, Any]:
    """Parameters of a request that say in `_meta` which span they are sent by, if there is one."""
    here = current()
    if not here:
        return params
    meta = params.get("_meta")
    return params | {"_meta": (meta if isinstance(meta, dict) else {}) | {META: here}}


def context_of(frame: Frame) -> AbstractContextManager[None]:
    """Be in the context that a request names in its `_meta`, around a block; what is none changes nothing."""
    meta: Any = None
    if frame.params is not None and _META in bytes(frame.params):
        with contextlib.suppress(BadFrame):
            meta = frame.params_dict().get("_meta")
    return carrying(meta.get(META) if isinstance(meta, dict) else None)


def request(id_: int | str, method: str, params: dict[str, Any] | None = None) -> Frame:
    """A request of our own."""
    return Frame(kind="request", id=id_, method=method, params=None if params is None else _raw(params))


def notification(method: str, params: dict[str, Any] | None = None) -> Frame:
    """A notification of our own."""
    return Frame(kind="notification", method=method, params=None if params is None else _raw(params))


def answer(id_: int | str | None, result: dict[str, Any]) -> Frame:
    """An answer of our own."""
    return Frame(kind="answer", id=id_, result=_raw(result))


def failure(id_: int | str | None, code: int, text: str, data: dict[str, Any] | None = None) -> Frame:
    """An error of our own: for programs; models are not shown it."""
    told = {"code": code, "message": text} | ({} if data is None else {"data": data})
    return Frame(kind="answer", id=id_, error=_raw(told))


def refusal(id_: int | str | None, code: str, text: str) -> Frame:
    """The result of a call that was refused or failed, which a model is shown and can act on."""
    told = {
        "content": [{"type": "text", "text": text}],
        "isError": True,
        "resultType": "complete",
        "_meta": {REFUSAL_KEY: code},
    }
    return answer(id_, told)


def error_text(frame: Frame) -> str:
    """What an answer says went wrong; empty if nothing did."""
    if frame.error is None:
        return ""
    try:
        told = decode_dict(frame.error)
    except BadFrame:
        return "an error"
    return f"{str(told.get('message', ''))[:500]} ({str(told.get('code', ''))[:20]})"


def _raw(value: dict[str, Any]) -> Raw:
    return Raw(msgspec.json.encode(value))
