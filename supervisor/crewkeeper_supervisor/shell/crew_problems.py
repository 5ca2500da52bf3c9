"""What can be wrong with a crew file: problems with a place and a remedy, their collection and their rendering.

Which rules a crew file must keep lives in the modules that check them; here is only how a broken one is told.
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Final, Literal

from msgspec import Struct

MAX_PROBLEMS: Final = 100
"""More are counted, not described: a file of garbage costs bounded work and a bounded screen."""
SOURCE_MAX_CHARS: Final = 160
_SHOWN_MAX_CHARS: Final = 60
_NEAREST_MAX_CANDIDATES: Final = 500
_SECRET: Final = re.compile(r"""(?<=secret)(["']?\s*:\s*["']?)(?!["']?\$\{)([^"',}\s]+)""")
_LINE_BREAK: Final = re.compile("\r\n|[\n\r\x85\u2028\u2029]")

CODES: Final[dict[str, str]] = {
    "CREW-101": "the file cannot be read",
    "CREW-102": "the file is too large",
    "CREW-103": "not UTF-8 text",
    "CREW-104": "a tab in the indentation",
    "CREW-105": "not YAML",
    "CREW-106": "a YAML feature that crew files do without",
    "CREW-107": "a key given twice",
    "CREW-108": "nested too deep",
    "CREW-109": "a key that is not a word",
    "CREW-110": "an unknown key",
    "CREW-111": "a missing key",
    "CREW-112": "the wrong shape",
    "CREW-113": "a value that YAML reads as something else",
    "CREW-114": "a value that cannot be understood",
    "CREW-115": "a value out of range",
    "CREW-116": "not one of the choices",
    "CREW-117": "not a valid name",
    "CREW-118": "a name that nothing bears",
    "CREW-119": "keys that contradict each other",
    "CREW-120": "two instances with one name, or too many",
    "CREW-121": "a malformed reference to an environment variable",
    "CREW-122": "not a web address",
    "CREW-123": "a condition that does not compile",
    "CREW-202": "without effect",
    "CREW-203": "a secret written into the file",
    "CREW-204": "shell syntax where no shell runs",
    "CREW-205": "secrets that cross the network in the open",
    "CREW-210": "calls that can wait for each other in a ring",
    "CREW-211": "agents that may call anybody",
    "CREW-212": "an agent without callers and calls",
    "CREW-213": "an escalation without a receiver",
    "CREW-214": "no agent may be the victim",
    "CREW-215": "what counts only where a crew is spread over hosts",
}
"""Every code and what it stands for: 1xx refuses the file, 2xx warns."""

Severity = Literal["error", "warning", "note"]
Path = tuple[str | int, ...]
"""Keys and list positions from the root of the file to a value."""


class Problem(Struct, frozen=True, kw_only=True):
    """One thing wrong at one place.

    `line` and `column` count from 1; 0 is the file as a whole. `source` is the line cut to what surrounds the
    place, `caret` the offset of the place in it.
    """

    code: str
    file: str
    message: str
    remedy: str
    line: int = 0
    column: int = 0
    path: str = ""
    source: str = ""
    caret: int = 0
    severity: Severity = "error"


class CrewFileError(Exception):
    """A crew file is refused. Its author must act; `problems` says where and how, all at once.

    Attributes:
        problems: Every problem found, in the order of the file; at least one.
        omitted: How many more there are beyond `MAX_PROBLEMS`.
    """

    def __init__(self, problems: Sequence[Problem], omitted: int = 0) -> None:
        """Hold the problems; the text of the error is their rendering."""
        super().__init__(render(problems, omitted))
        self.problems = list(problems)
        self.omitted = omitted


class Collector:
    """Gathers problems and warnings of one file and knows its source lines.

    Args:
        file: The name to show.
        text: The whole text of the file; empty when it could not be read.
    """

    def __init__(self, file: str, text: str = "") -> None:
        """Begin with nothing found."""
        self.file = file
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self.omitted = 0
        self._lines = _LINE_BREAK.split(text)

    @property
    def full(self) -> bool:
        """Whether further errors are only counted."""
        return len(self.problems) >= MAX_PROBLEMS

    def add(
        self,
        code: str,
        message: str,
        remedy: str,
        *,
        line: int = 0,
        column: int = 0,
        path: Path = (),
        severity: Severity = "error",
    ) -> None:
        """Note one problem; `line` and `column` count from 1, 0 is the file as a whole."""
        assert code in CODES, code
        target = self.problems if severity == "error" else self.warnings
        if len(target) >= MAX_PROBLEMS:
            self.omitted += severity == "error"
            return
        source, caret = self._excerpt(line, column)
        target.append(
            Problem(
                code=code,
                file=self.file,
                message=message,
                remedy=remedy,
                line=line,
                column=column,
                path=path_text(path),
                source=source,
                caret=caret,
                severity=severity,
            )
        )

    def suggest(self, word: str, candidates: Iterable[str]) -> str:
        """` (did you mean 'x'?)` for the nearest candidate, or nothing."""
        near = None if self.full else nearest(word, candidates)
        return f" (did you mean {near!r}?)" if near else ""

    def raise_if_any(self) -> None:
        """Raise what was found.

        Raises:
            CrewFileError: At least one error was noted.
        """
        if self.problems:
            ordered = sorted(self.problems, key=lambda problem: (problem.line, problem.column))
            raise CrewFileError(ordered, self.omitted)

    def _excerpt(self, line: int, column: int) -> tuple[str, int]:
        if not 1 <= line <= len(self._lines):
            return "", 0
        whole = self._lines[line - 1]
        at = min(max(column - 1, 0), len(whole))
        whole = _SECRET.sub(lambda match: match[1] + "*" * len(match[2]), whole)
        start = 0 if len(whole) <= SOURCE_MAX_CHARS else max(0, at - SOURCE_MAX_CHARS // 2)
        cut = whole[start : start + SOURCE_MAX_CHARS]
        return "".join(char if char.isprintable() else " " for char in cut).rstrip(), at - start


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate most like `word`, or None when none is alike. Work is bounded."""
    if len(word) > 64:
        return None
    known = [candidate for _, candidate in zip(range(_NEAREST_MAX_CANDIDATES), candidates, strict=False)]
    folded = word.lower().replace("-", "_")
    for candidate in known:
        if candidate.lower().replace("-", "_") == folded:
            return candidate
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return found[0] if found else None


def shown(value: str) -> str:
    """`value` quoted for a message: cut to length, control and bidirectional characters escaped."""
    cut = value if len(value) <= _SHOWN_MAX_CHARS else value[: _SHOWN_MAX_CHARS - 1] + "…"
    return "'" + "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in cut) + "'"


def path_text(path: Path) -> str:
    """A path as people write it: `agents.planner.may_call[1]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            word = part if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", part) else shown(part)
            text += f".{word}" if text else word
    return text


def render(problems: Sequence[Problem], omitted: int = 0) -> str:
    """Problems as compilers print them: place and message, the source line, a caret, the fix.

    Args:
        problems: What to print, in this order.
        omitted: How many more to mention at the end.

    Returns:
        Text without a final newline; empty when there is nothing to print.
    """
    blocks = [_render_one(problem) for problem in problems]
    if omitted:
        blocks.append(f"… and {omitted} more problems; fix these first")
    return "\n".join(blocks)


def _render_one(problem: Problem) -> str:
    place = f"{problem.file}:{problem.line}:{problem.column}" if problem.line else problem.file
    where = f"{problem.path}: " if problem.path else ""
    rows = [f"{place}: {problem.severity}: {where}{problem.message} [{problem.code}]"]
    if problem.source:
        rows += [f"    {problem.source}", f"    {' ' * problem.caret}^"]
    rows.append(f"    fix: {problem.remedy}")
    return "\n".join(rows)
