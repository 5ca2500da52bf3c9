"""Settings: what a client needs to join a run, read from arguments and environment, all mistakes reported at once.

Connecting does not live here, nor do credentials files (`credentials`).
"""

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from crewkeeper_bus.codec import PAYLOAD_MAX_BYTES
from crewkeeper_bus.credentials import from_file
from crewkeeper_bus.errors import ConfigError, SubjectError
from crewkeeper_bus.outgoing_redaction import NONE, check_words
from crewkeeper_bus.subjects import check_agent, check_token

REENTRANT: Final = ("none", "chain", "full")
LIMIT_DEFAULT_S: Final = 3600.0
SECONDS_MAX: Final = 366 * 24 * 3600.0
HEARTBEAT_ENTRY_BYTES: Final = 112
"""What one queued call and one unread message may together take in a heartbeat, so that a full mailbox still fits."""


class Settings(Struct, frozen=True, kw_only=True):
    """Everything a client needs to know before it connects."""

    run: str
    agent: str
    role: str
    url: str = ""
    user: str = ""
    password: str = ""
    session_s: float | None = None
    credentials_file: Path | None = None
    concurrency: int = 1
    reentrant: str = "none"
    mailbox: int = 1000
    heartbeat_s: float = 2.0
    limit_s: float = LIMIT_DEFAULT_S
    payload_bytes: int = PAYLOAD_MAX_BYTES
    redact: tuple[str, ...] = ("secrets",)
    """What is replaced in what is published: classes and kinds, `arguments` of tools, or `none`."""
    redact_key: bytes = b""
    """Of the hashes in placeholders."""

    def __repr__(self) -> str:
        return f"Settings(run={self.run!r}, agent={self.agent!r}, role={self.role!r}, …)"  # no password, no url


class _Reader:
    """Takes settings from arguments first, then the environment, and collects what is wrong with them."""

    def __init__(self, arguments: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        self._arguments = arguments
        self._environ = environ
        self.mistakes: list[str] = []

    def _find(self, name: str) -> tuple[Any, str]:
        """The raw value, or None, and where it came from or could be given."""
        variable = f"CREWKEEPER_{'CREDENTIALS' if name == 'credentials_file' else name.upper()}"
        if self._arguments.get(name) is not None:
            return self._arguments[name], name
        return self._environ.get(variable) or None, variable

    def text(self, name: str, default: str = "") -> str:
        value, _ = self._find(name)
        return default if value is None else str(value)

    def token(self, name: str, check: Callable[[str], object], default: str = "") -> str:
        value, where = self._find(name)
        value = value if value is not None else default
        if not value:
            self.mistakes.append(f"{where} is missing: set it or pass {name}=")
            return ""
        try:
            check(value)
        except SubjectError as error:
            self.mistakes.append(f"{where}: {error}")
        return str(value)

    def number(self, name: str, kind: type, default: float | None, low: float, high: float) -> Any:
        value, where = self._find(name)
        if value is None:
            return default
        try:
            number = kind(value)
        except (TypeError, ValueError):
            what = "a whole number" if kind is int else "a number"
            self.mistakes.append(f"{where} is {str(value)[:40]!r}: give {what} from {low:g} to {high:g}")
            return default
        if not math.isfinite(number) or not low <= number <= high or number != float(value):
            self.mistakes.append(f"{where} is {value}: give a value from {low:g} to {high:g}")
            return default
        return number

    def choice(self, name: str, choices: tuple[str, ...], default: str) -> str:
        value, where = self._find(name)
        if value is None:
            return default
        if value not in choices:
            self.mistakes.append(f"{where} is {str(value)[:40]!r}: give one of {', '.join(choices)}")
            return default
        return str(value)


def _redaction(reader: _Reader) -> tuple[tuple[str, ...], bytes]:
    words = tuple(word.strip() for word in reader.text("redact", "secrets").split(",") if word.strip()) or ("secrets",)
    if wrong := check_words(words):
        reader.mistakes.append(f"CREWKEEPER_REDACT: {wrong}")
        words = (NONE,)
    try:
        return words, bytes.fromhex(reader.text("redact_key"))
    except ValueError:
        reader.mistakes.append("CREWKEEPER_REDACT_KEY is not hexadecimal: give it as the supervisor does")
        return words, b""


def resolve(
    arguments: Mapping[str, Any], environ: Mapping[str, str] | None = None, *, needs_url: bool = True
) -> Settings:
    """Make settings of arguments (a value of None means: not given) and the environment.

    Args:
        arguments: What `connect` was called with, by parameter name.
        environ: The environment, `os.environ` if absent.
        needs_url: Whether a server must be named; not where a ready transport is given.

    Raises:
        ConfigError: One or more are missing or out of range; the message lists them all.
    """
    reader = _Reader(arguments, os.environ if environ is None else environ)
    run = reader.token("run", lambda value: check_token(value, "run"))
    agent = reader.token("agent", check_agent)
    role = reader.token("role", check_agent, default=agent or "unknown")
    payload_bytes = reader.number("payload_bytes", int, PAYLOAD_MAX_BYTES, 1024, 64 * 1024 * 1024)
    path = reader.text("credentials_file")
    url, user, password = reader.text("url"), reader.text("user"), reader.text("password")
    session_s = reader.number("session_s", float, None, 0.1, SECONDS_MAX)
    if path:
        try:
            credentials = from_file(path)
            url, user, password = credentials.url or url, credentials.user or user, credentials.password or password
            session_s = credentials.session_s or session_s
        except ConfigError as error:
            reader.mistakes.append(str(error))
    elif needs_url and password and not user:
        reader.mistakes.append("CREWKEEPER_USER is missing, but there is a password: set it or pass user=")
    if needs_url and not url:
        reader.mistakes.append("CREWKEEPER_URL is missing: set it or pass url=, e.g. nats://127.0.0.1:4222")
    redact, redact_key = _redaction(reader)
    settings = Settings(
        redact=redact,
        redact_key=redact_key,
        run=run,
        agent=agent,
        role=role,
        url=url,
        user=user,
        password=password,
        session_s=session_s,
        credentials_file=Path(path) if path else None,
        concurrency=reader.number("concurrency", int, 1, 1, 10_000),
        reentrant=reader.choice("reentrant", REENTRANT, "none"),
        mailbox=reader.number("mailbox", int, min(1000, payload_bytes // HEARTBEAT_ENTRY_BYTES), 0, 1_000_000),
        heartbeat_s=reader.number("heartbeat_s", float, 2.0, 0.01, 3600),
        limit_s=reader.number("limit_s", float, LIMIT_DEFAULT_S, 0.001, SECONDS_MAX),
        payload_bytes=payload_bytes,
    )
    most = payload_bytes // HEARTBEAT_ENTRY_BYTES
    if settings.mailbox > most:
        reader.mistakes.append(
            f"mailbox is {settings.mailbox}: a heartbeat of {payload_bytes} bytes can list at most {most}; "
            f"lower CREWKEEPER_MAILBOX or raise CREWKEEPER_PAYLOAD_BYTES"
        )
    if reader.mistakes:
        raise ConfigError("cannot join a run:\n" + "\n".join(f"  - {mistake}" for mistake in reader.mistakes))
    return settings
