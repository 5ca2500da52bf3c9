"""Event stream: the events of a response that comes bit by bit (server-sent events), cut where they end.

An event is passed on as it came, byte by byte; what is read out of it is its data alone.
"""

import re
from typing import Any, Final

import msgspec

EVENT_MAX_BYTES: Final = 8 * 1024 * 1024
_END: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_LINE: Final = re.compile(rb"\r\n|\n|\r")


_LAST_TYPES: Final = ("response.completed", "response.incomplete", "response.failed", "message_stop")
_DONE: Final = re.compile(rb"^data: ?\[DONE\]", re.MULTILINE)


class EventTooLarge(ValueError):  # noqa: N818 - what is the case
    """An event does not end; its sender is at fault."""


class Events:
    """Cuts a stream of bytes into events."""

    def __init__(self, limit_bytes: int = EVENT_MAX_BYTES) -> None:
        """Take events up to so many bytes."""
        self._rest = bytearray()
        self._looked = 0
        self._limit_bytes = limit_bytes

    def feed(self, chunk: bytes) -> list[bytes]:
        """The events that are complete now, each with the empty line that ends it.

        Raises:
            EventTooLarge: One is larger than the limit.
        """
        self._rest += chunk
        found: list[bytes] = []
        begin = 0
        while (end := _END.search(self._rest, max(begin, self._looked - 3))) is not None:
            found.append(bytes(self._rest[begin : end.end()]))
            begin = self._looked = end.end()
        del self._rest[:begin]
        self._looked = len(self._rest)
        if self._looked > self._limit_bytes or any(len(each) > self._limit_bytes for each in found):
            raise EventTooLarge(f"an event has more than {self._limit_bytes} bytes")
        return found

    @property
    def rest(self) -> bytes:
        """What came after the last complete event."""
        return bytes(self._rest)


def data_of(event: bytes) -> Any:
    """The data of an event, decoded; None where it is no JSON."""
    lines = [line for line in _LINE.split(event) if line.startswith(b"data:")]
    if not lines:
        return None
    data = b"\n".join(line[5:].removeprefix(b" ") for line in lines)
    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def is_last(event: bytes, data: Any) -> bool:
    """Whether nothing that costs comes after an event, in any of the protocols; not all providers say `[DONE]`."""
    if isinstance(data, dict):
        return data.get("type") in _LAST_TYPES or (data.get("choices") == [] and isinstance(data.get("usage"), dict))
    return _DONE.search(event) is not None
