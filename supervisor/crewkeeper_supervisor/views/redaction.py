"""What views replace in the texts they show: the secrets that the crews of the runs they fold want out.

A process shows runs of one operator, so this is kept for the process: it begins with the first crew that is folded,
and what one crew wants replaced is replaced wherever this process shows it. Commands that hand out secrets fold no run.
"""

from typing import Any

from crewkeeper_bus.detectors import DetectorMissing
from crewkeeper_bus.redaction import Redactor
from crewkeeper_supervisor.core.crew import Redact
from crewkeeper_supervisor.shell.logbook import logger

PLACE = "views"


class _Shown:
    """What is replaced now."""

    def __init__(self) -> None:
        self.kinds: dict[str, None] = {}
        self.keys: dict[str, None] = {}
        self.redactor: Redactor | None = None

    def clear(self) -> None:
        self.kinds, self.keys, self.redactor = {}, {}, None


_shown = _Shown()


def begin(redact: Redact) -> None:
    """A crew wants this replaced from now on. Of several crews together, placeholders have no hashes."""
    if PLACE not in redact.places:
        return
    _shown.kinds |= dict.fromkeys(redact.kinds)
    _shown.keys[redact.key] = None
    key = redact.key if len(_shown.keys) == 1 else ""
    try:
        _shown.redactor = Redactor(bytes.fromhex(key), tuple(_shown.kinds))
    except DetectorMissing as error:
        # Who cannot look must still be able to act: so all that can be found here is replaced, and it is said.
        logger().warning("views.detector_missing", why=str(error))
        _shown.redactor = Redactor(bytes.fromhex(key))


def end() -> None:
    """Replace nothing any more."""
    _shown.clear()


def clean_text(text: str) -> str:
    """A text as it may be shown."""
    return text if _shown.redactor is None else _shown.redactor.text(text)[0]


def clean_value(value: Any) -> Any:
    """Plain data as it may be shown."""
    return value if _shown.redactor is None else _shown.redactor.value(value)[0]


def clean_json(document: bytes) -> bytes:
    """A JSON document as it may be shown."""
    return document if _shown.redactor is None else _shown.redactor.json(document)[0]
