"""The pen that made-up runs are written with: events, prose, and where what is repeated came again."""

import random
import re
from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct, field

from crewkeeper_supervisor.chaos.runs.tongues import Tongue

_PARTS: Final = re.compile(r"[^\x00-\x7f]{1,2}|[\x00-\x7f]+")
"""Parts of a text without gaps: pairs of its signs, and whatever stands between them."""


class CorpusRun(Struct):
    """One run."""

    id: str
    kind: str
    """What it shows: `refused`, `paging`, …"""
    loop: str | None
    """`exact`, `near`, `cycle` or `courtesy`; None: it is healthy."""
    events: list[dict[str, Any]] = field(default_factory=list)
    onset: int = -1
    """Index of the event that begins the second occurrence."""
    ok_from: int = -1
    """Index of the event that begins the third occurrence: an alarm before it is a false one."""
    confirm: int = -1
    """Index of the event that ends the third occurrence."""


class Pen:
    """Writes the events of one run.

    Args:
        run: What it writes to.
        chance: Where its choices come from.
        tongue: What it is worded in.
    """

    def __init__(self, run: CorpusRun, chance: random.Random, tongue: Tongue) -> None:
        self.run = run
        self.chance = chance
        self.tongue = tongue
        self.planner, self.worker, self.reviewer, self.writer = tongue.agents
        self._occurrences = 0

    def word(self) -> str:
        """A word."""
        return self.chance.choice(self.tongue.words)

    def name(self) -> str:
        """A word that begins with a capital, where the tongue has any."""
        return self.word().title()

    def names(self, count: int, text: str) -> list[str]:
        """So many words, each another, none of them in the text."""
        return self.chance.sample([word for word in self.tongue.words if word not in text], count)

    def prose(self, low: int, high: int) -> str:
        """From `low` to `high` words, with a full stop here and there."""
        words = [self.word() for _ in range(self.chance.randint(low, high))]
        if self.tongue.small:
            words[1::3] = [self.chance.choice(self.tongue.small) for _ in words[1::3]]
        return self.tongue.gap.join(words) if self.tongue.gap else self._run_together(words)

    def _run_together(self, words: list[str]) -> str:
        return "".join(f"{word}. " if number % 7 == 6 else word for number, word in enumerate(words))

    def code(self, lines: int) -> str:
        """Lines of a program."""
        return "\n".join(
            f"value_{self.chance.randint(1, 99)} = load('{self.identifier()}')[{self.chance.randint(0, 9)}]"
            for _ in range(lines)
        )

    def identifier(self) -> str:
        """Three letters and five digits."""
        letters = "".join(self.chance.choice("ABCDEFGHKLMNPRSTUVWXYZ") for _ in range(3))
        return f"{letters}{self.chance.randint(10_000, 99_999)}"

    def stamp(self) -> str:
        """A time stamp."""
        return (
            f"2031-0{self.chance.randint(1, 9)}-1{self.chance.randint(0, 9)}"
            f"T{self.chance.randint(10, 23)}:{self.chance.randint(10, 59)}:{self.chance.randint(10, 59)}Z"
        )

    def garble(self, text: str, share: float) -> str:
        """The text with some of its words lost or misread, as a page scraped again."""
        gap = self.tongue.gap
        kept = [
            self.word() if self.chance.random() < share / 2 and (gap or not word.isascii()) else word
            for word in (text.split(gap) if gap else _PARTS.findall(text))
            if self.chance.random() >= share / 2 or not (gap or not word.isascii())
        ]
        return gap.join(kept)

    def add(self, sender: str, to: str, kind: str, text: str, **more: Any) -> None:
        """One event."""
        event = {"i": len(self.run.events), "from": sender, "to": to, "kind": kind, "text": text, "chars": len(text)}
        self.run.events.append(event | more)

    def say(self, sender: str, to: str, text: str, **more: Any) -> None:
        """A message."""
        self.add(sender, to, "message", text, **more)

    def think(self, agent: str, words: int = 25) -> None:
        """What a model gave its agent."""
        self.add(agent, agent, "llm", self.prose(words // 2, words))

    def call(self, agent: str, tool: str, args: dict[str, Any], result: str, **more: Any) -> None:
        """A tool call with its answer, mostly after some thought."""
        if self.chance.random() < 0.7:
            self.think(agent)
        self.add(agent, "tools", "tool_call", str(args), tool=tool, args=args, **more)
        self.add("tools", agent, "tool_result", result, tool=tool)

    def occurs(self, act: Callable[[], None]) -> None:
        """One occurrence of what is repeated."""
        began = len(self.run.events)
        act()
        self._occurrences += 1
        if self._occurrences == 2:
            self.run.onset = began
        if self._occurrences == 3:
            self.run.ok_from = began
            self.run.confirm = len(self.run.events) - 1

    def work(self, steps: int) -> None:
        """Ordinary work: different calls with different answers, and some talk."""
        for _ in range(steps):
            tool = self.chance.choice(self.tongue.tools)
            agent = self.chance.choice((self.planner, self.worker))
            self.call(agent, tool, {"what": self.prose(2, 6)}, self.prose(10, 80))
            if self.chance.random() < 0.3:
                self.say(self.planner, self.worker, self.prose(12, 30))
