"""Agent logs: what the agents of a real run have printed, where their host keeps it."""

from pathlib import Path
from typing import Final

READ_CHARS: Final = 20_000
SHOWN_CHARS: Final = 300


def agent_log(state: Path, run: str, agent: str) -> Path:
    """The log of one agent; it need not be there."""
    return state / "runs" / run / "logs" / f"{agent}.log"


def last_words(log: Path) -> str:
    """The last error in a log, one line; without an error the last line that a program has printed itself."""
    if not log.is_file():
        return ""
    text = log.read_text("utf-8", "replace")[-READ_CHARS:]
    lines = text.replace("\\n", "\n").splitlines()
    errors = [line for line in lines if "Error" in line or "errors." in line or "xception" in line]
    printed = [line for line in text.splitlines() if line.strip() and not line.startswith("{")]
    return (errors or printed or [""])[-1].strip(' "}')[:SHOWN_CHARS]
