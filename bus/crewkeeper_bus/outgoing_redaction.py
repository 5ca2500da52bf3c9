"""Redaction of what a client is about to publish: which fields of which messages; how secrets are found is elsewhere.

What goes to other agents and to people is redacted: bodies, answers, free text, results. Arguments of tools are not,
unless it is asked for: a tool that needs a key would get a placeholder. What the gate makes of them is its policy's.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw

from crewkeeper_bus.detectors import is_detector
from crewkeeper_bus.errors import CodecError
from crewkeeper_bus.message_base import Fault, Sent
from crewkeeper_bus.redaction import CLASSES, KINDS, Redactor, TooDeep

ARGUMENTS: Final = "arguments"
"""Besides kinds: also arguments of tools."""
NONE: Final = "none"
"""Instead of kinds: nothing is redacted."""
_BODIES: Final = ("body", "result")
_TEXTS: Final = ("text", "why", "name")


def check_words(words: Sequence[str]) -> str:
    """What is wrong with what is to be redacted; empty: nothing."""
    if NONE in words and len(words) > 1:
        return f"{NONE} stands alone"
    for word in words:
        if word not in (*CLASSES, *KINDS, ARGUMENTS, NONE) and not is_detector(word):
            given = f"{NONE}, {', '.join(CLASSES)}, {ARGUMENTS}, a kind or a detector"
            return f"{word[:40]!r} is nothing to redact; give {given}"
    return ""


class OutgoingRedaction:
    """Cleans the fields of messages.

    Args:
        words: Kinds and classes, `arguments`, or `none`; checked before.
        key: Key of the hashes in placeholders: the same for all agents of a run.

    Attributes:
        replaced: How much has been replaced so far.
    """

    def __init__(self, words: Sequence[str], key: bytes = b"") -> None:
        """Choose what to look for."""
        kinds = [word for word in words if word not in (ARGUMENTS, NONE)]
        self._redactor = Redactor(key, kinds) if kinds else None
        self._bodies = (*_BODIES, "args") if ARGUMENTS in words else _BODIES
        self.replaced = 0

    def clean(self, type_: type[Sent], fields: dict[str, Any]) -> dict[str, Any]:
        """The fields of a message to publish; the same where there is nothing to replace.

        Raises:
            CodecError: A body is nested too deep to be looked at.
        """
        if self._redactor is None:
            return fields
        made: dict[str, Any] = {}
        clean: Raw | str | Fault | None
        for name, value in fields.items():
            if name in self._bodies and isinstance(value, Raw):
                clean = self._json(type_, bytes(value))
            elif name in _TEXTS and isinstance(value, str):
                clean = self._text(value)
            elif isinstance(value, Fault):
                clean = self._fault(value)
            else:
                continue
            if clean is not None:
                made[name] = clean
        return fields | made if made else fields

    def _json(self, type_: type[Sent], raw: bytes) -> Raw | None:
        assert self._redactor is not None
        try:
            clean, found = self._redactor.json(raw)
        except (TooDeep, RecursionError, ValueError) as error:
            raise CodecError(f"the body of a {type_.__name__} cannot be looked through for secrets: {error}") from None
        self.replaced += len(found)
        return Raw(clean) if found else None

    def _text(self, text: str) -> str | None:
        assert self._redactor is not None
        clean, found = self._redactor.text(text)
        self.replaced += len(found)
        # A placeholder may be longer than what it stands for, and the field has a limit.
        return clean[: max(len(text), 200)] if found else None

    def _fault(self, fault: Fault) -> Fault | None:
        text = self._text(fault.text)
        return None if text is None else msgspec.structs.replace(fault, text=text)
