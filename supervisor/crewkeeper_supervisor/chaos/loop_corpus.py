"""Made-up runs with loops in them, and healthy ones that look alike, from a seed: what detectors are measured on.

Every run begins with some ordinary work. A run with a loop says where it was first repeated and where it came for
the third time; an alarm before that is as wrong as one in a healthy run.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any, Final

from msgspec import Struct, field

_LETTERS: Final = (
    "ba be bi bo bu ca ce co da de di do fa fe fi fo ga ge go ha he hi ho ja jo ka ke ko la le li lo ma me mi mo na ne "
    "ni no pa pe pi po ra re ri ro sa se si so ta te ti to va ve vi vo wa we wi za ze zo"
)
_SYLLABLES: Final = _LETTERS.split()


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


class _Pen:
    """Writes the events of one run."""

    def __init__(self, run: CorpusRun, chance: random.Random) -> None:
        self.run = run
        self.chance = chance
        self._occurrences = 0

    def word(self) -> str:
        return "".join(self.chance.choice(_SYLLABLES) for _ in range(self.chance.randint(2, 3)))

    def prose(self, low: int, high: int) -> str:
        return " ".join(self.word() for _ in range(self.chance.randint(low, high)))

    def identifier(self) -> str:
        return f"{self.word().upper()[:3]}{self.chance.randint(10_000, 99_999)}"

    def stamp(self) -> str:
        return (
            f"2031-0{self.chance.randint(1, 9)}-1{self.chance.randint(0, 9)}"
            f"T{self.chance.randint(10, 23)}:{self.chance.randint(10, 59)}:{self.chance.randint(10, 59)}Z"
        )

    def garble(self, text: str, share: float) -> str:
        """The text with some of its words lost or misread, as a page scraped again."""
        words = [
            self.word() if self.chance.random() < share / 2 else word
            for word in text.split(" ")
            if self.chance.random() >= share / 2
        ]
        return " ".join(words)

    def add(self, sender: str, to: str, kind: str, text: str, **more: Any) -> None:
        event = {"i": len(self.run.events), "from": sender, "to": to, "kind": kind, "text": text, "chars": len(text)}
        self.run.events.append(event | more)

    def think(self, agent: str, words: int = 25) -> None:
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
            tool = self.chance.choice(("search", "read_file", "query", "open_page", "run_code"))
            agent = self.chance.choice(("planner", "worker"))
            self.call(agent, tool, {"what": self.prose(2, 6)}, self.prose(10, 80))
            if self.chance.random() < 0.3:
                self.add("planner", "worker", "message", self.prose(12, 30))


# Loops. Each writes at least four occurrences, so that a late alarm is still one.


def _refused(pen: _Pen) -> None:
    args = {"order": pen.identifier(), "items": [pen.identifier(), pen.identifier()], "reason": pen.prose(2, 4)}
    answer = f"Error: order {args['order']} cannot be changed"
    for _ in range(pen.chance.randint(4, 6)):
        pen.occurs(lambda: pen.call("worker", "update_order", args, answer))
        if pen.chance.random() < 0.5:
            pen.call("worker", "look_up", {"what": pen.word()}, pen.prose(8, 30))


def _same_page(pen: _Pen) -> None:
    page, target = pen.prose(60, 150), pen.prose(2, 4)
    for _ in range(4):
        pen.add("planner", "worker", "message", pen.prose(12, 25))
        pen.occurs(lambda: pen.call("worker", "click", {"target": target}, page))


def _noisy_page(pen: _Pen) -> None:
    page, target = f"{pen.prose(3, 6)} {pen.identifier()} {pen.prose(80, 200)}", pen.prose(2, 4)
    for _ in range(5):
        pen.add("planner", "worker", "message", pen.prose(12, 25))
        pen.occurs(lambda: pen.call("worker", "click", {"target": target}, pen.garble(page, 0.08)))


def _volatile(pen: _Pen) -> None:
    query, answer = pen.prose(3, 6), pen.prose(15, 40)
    for number in range(5):
        args = {"q": query, "request_id": pen.identifier(), "attempt": number, "timestamp": pen.stamp()}
        result = f"{answer} (took {pen.chance.randint(3, 900)} ms, {pen.stamp()})"
        pen.occurs(lambda args=args, result=result: pen.call("worker", "fetch", args, result))  # type: ignore[misc]


def _paraphrased(pen: _Pen) -> None:
    core = pen.prose(8, 12).split(" ")
    for _ in range(5):
        words = [*core, pen.word(), pen.word()]
        pen.chance.shuffle(words)
        query = " ".join(words)
        pen.occurs(lambda query=query: pen.call("worker", "search", {"q": query}, "No results."))  # type: ignore[misc]


def _unanswered(pen: _Pen) -> None:
    core = pen.prose(10, 16)
    for _ in range(5):
        pen.occurs(lambda: pen.add("planner", "worker", "message", f"{core} {pen.word()} {pen.word()}"))
        pen.think("planner")


def _ping_pong(pen: _Pen) -> None:
    ask, answer = pen.prose(15, 30), pen.prose(15, 30)

    def act() -> None:
        pen.add("planner", "reviewer", "message", f"{pen.stamp()} {ask} (msg {pen.chance.randint(1, 9999)})")
        pen.add("reviewer", "planner", "message", f"{pen.stamp()} {answer} (ref {pen.chance.randint(1, 9999)})")

    for _ in range(5):
        pen.occurs(act)


def _ring(pen: _Pen) -> None:
    names = ("planner", "writer", "reviewer", "editor")[: pen.chance.randint(3, 4)]
    said = [pen.prose(25, 45) for _ in names]

    def act() -> None:
        for index, name in enumerate(names):
            pen.add(name, names[(index + 1) % len(names)], "message", pen.garble(said[index], 0.05))

    for _ in range(5):
        pen.occurs(act)


def _edit_test(pen: _Pen) -> None:
    patch, failure = pen.prose(10, 25), f"2 failed, 31 passed: {pen.prose(10, 30)}"

    def act() -> None:
        pen.call("worker", "edit", {"path": "src/parser.py", "patch": patch}, "ok")
        pen.call("worker", "run_tests", {}, failure)

    for _ in range(5):
        pen.occurs(act)


def _toggle(pen: _Pen) -> None:
    up, down = (f"{pen.identifier()} {pen.prose(30, 60)}" for _ in range(2))

    def act() -> None:
        for page in (up, down):
            pen.call("worker", "sort", {"by": "price"}, page)

    for _ in range(5):
        pen.occurs(act)


def _courtesies(pen: _Pen) -> None:
    thanks = (
        "Thank you so much for your help!", "You're most welcome, happy to help anytime.",
        "Great, I really appreciate it.", "Glad to hear that, have a wonderful day!",
        "Likewise, enjoy your evening and take care.", "Thanks again, it was a pleasure working with you.",
        "The pleasure was mine, looking forward to our next collaboration.", "Perfect, talk to you soon!",
        "Sounds good, goodbye and best wishes.", "Many thanks, and all the best to you too.",
    )  # fmt: skip
    lines = [*pen.chance.sample(thanks, len(thanks))]
    for first, second in zip(lines[::2], lines[1::2], strict=True):

        def act(first: str = first, second: str = second) -> None:
            pen.add("planner", "writer", "message", first)
            pen.add("writer", "planner", "message", second)

        pen.occurs(act)


def _dead_poll(pen: _Pen) -> None:
    job = pen.identifier()

    def act() -> None:
        pen.think("worker", 250)
        pen.call("worker", "job_status", {"job": job}, '{"state": "queued"}')

    for _ in range(40):
        pen.occurs(act)


# Healthy runs that look alike.


def _poll_progress(pen: _Pen) -> None:
    job = pen.identifier()
    for number in range(pen.chance.randint(10, 40)):
        pen.call(
            "worker", "get_report", {"job": job}, f'{{"job": "{job}", "state": "running", "percent": {number * 2}}}'
        )


def _poll_then_done(pen: _Pen) -> None:
    job, tool = pen.identifier(), pen.chance.choice(("job_status", "check_build"))
    for _ in range(pen.chance.randint(4, 12)):
        pen.call("worker", tool, {"job": job}, '{"state": "running"}', poll=tool == "check_build")
    pen.call("worker", tool, {"job": job}, '{"state": "done"}', poll=tool == "check_build")


def _paging(pen: _Pen) -> None:
    query, style = pen.prose(2, 4), pen.chance.choice(("page", "cursor", "next"))
    for number in range(pen.chance.randint(6, 20)):
        args: dict[str, Any] = {"q": query}
        if style != "next":
            args[style] = number if style == "page" else pen.identifier().lower()
        pen.call("worker", "list_items", args, " ".join(f"{pen.identifier()} {pen.prose(2, 4)}" for _ in range(10)))


def _scrolling(pen: _Pen) -> None:
    header = pen.prose(10, 20)
    for number in range(pen.chance.randint(5, 12)):
        pen.add("planner", "worker", "message", "Please scroll down and tell me what else stands there.")
        pen.call("worker", "scroll_down", {"by": "one page"}, f"{header} {number * 7}% {pen.prose(40, 120)}")


def _retry_success(pen: _Pen) -> None:
    for _ in range(pen.chance.randint(2, 5)):
        args, failure = {"url": pen.word()}, "Error: 503 service unavailable"
        for _ in range(2):
            pen.call("worker", "download", args, failure)
        pen.call("worker", "download", args, pen.prose(20, 60))
        pen.work(1)


def _varied_retries(pen: _Pen) -> None:
    name = pen.word()
    for _ in range(pen.chance.randint(3, 6)):
        pen.call(
            "worker", "find_user", {"name": name, "zip": str(pen.chance.randint(10_000, 99_999))}, "Error: not found"
        )
    pen.call("worker", "find_user", {"name": name, "zip": "12345"}, pen.identifier())


def _items_ok(pen: _Pen) -> None:
    body = pen.prose(12, 25)
    for _ in range(pen.chance.randint(5, 15)):
        args = {"to": f"{pen.word()}@{pen.word()}.example", "body": f"Dear {pen.word().title()}, {body}"}
        pen.call("worker", "send_mail", args, "ok")


def _items_missing(pen: _Pen) -> None:
    day = f"2031-05-1{pen.chance.randint(0, 9)}"
    for _ in range(pen.chance.randint(5, 12)):
        args = {"origin": pen.word(), "destination": pen.word(), "date": day, "cabin": "economy"}
        pen.call("worker", "search_flights", args, "[]")


def _edit_test_progress(pen: _Pen) -> None:
    for failures in range(pen.chance.randint(5, 14), -1, -1):
        pen.call("worker", "edit", {"path": "src/parser.py", "patch": pen.prose(10, 30)}, "ok")
        pen.call("worker", "run_tests", {}, f"{failures} failed, {40 - failures} passed")


def _delegated_items(pen: _Pen) -> None:
    template = pen.prose(10, 16)
    for _ in range(pen.chance.randint(5, 12)):
        pen.add("planner", "worker", "message", f"Please {template} for {pen.word().title()} now")
        if pen.chance.random() < 0.5:
            pen.call("worker", "write", {"path": f"{pen.word()}.txt", "text": pen.prose(8, 20)}, "ok")
        pen.add("worker", "planner", "message", "Done.")


def _review_rounds(pen: _Pen) -> None:
    draft = pen.prose(60, 90)
    for number in range(pen.chance.randint(4, 8)):
        draft = f"{pen.garble(draft, 0.25)} {pen.prose(10, 20)}"
        pen.add("writer", "reviewer", "message", f"Draft {number}: {draft}")
        pen.add("reviewer", "writer", "message", f"Please revise: {pen.prose(12, 30)}")


def _status_checks(pen: _Pen) -> None:
    for _ in range(2):
        for service in ("database", "queue", "cache", "mail", "search", "billing"):
            pen.call("worker", "probe", {"service": service}, '{"ok": true}')
        pen.work(3)


def _heartbeats(pen: _Pen) -> None:
    for _ in range(pen.chance.randint(10, 40)):
        pen.add("worker", "planner", "message", "alive", tokens=0)


def _debate(pen: _Pen) -> None:
    for _ in range(pen.chance.randint(5, 10)):
        pen.add("left", "right", "message", f"I disagree, because {pen.prose(20, 50)}")
        pen.add("right", "left", "message", f"I disagree, because {pen.prose(20, 50)}")


def _read_again(pen: _Pen) -> None:
    text = pen.prose(40, 90)
    for _ in range(4):
        pen.call("worker", "read_file", {"path": "notes.md"}, text)
        pen.work(pen.chance.randint(5, 8))


def _skipping(pen: _Pen) -> None:
    for _ in range(pen.chance.randint(5, 10)):
        pen.call("worker", "next_song", {}, f'{{"playing": "{pen.word()} {pen.word()}"}}')


def _growing_log(pen: _Pen) -> None:
    log = "\n".join(pen.prose(6, 12) for _ in range(8))
    for _ in range(pen.chance.randint(5, 10)):
        log += "\n" + pen.prose(6, 12)
        pen.call("worker", "read_log", {"path": "build.log"}, log)


def _farewell(pen: _Pen) -> None:
    pen.add("writer", "planner", "message", f"Here it is: {pen.prose(30, 60)}")
    pen.add("planner", "writer", "message", "Thank you so much, great work!")
    pen.add("writer", "planner", "message", "You're welcome, anytime!")
    pen.add("planner", "writer", "message", "Have a nice day!")
    pen.add("writer", "planner", "message", "You too, bye!")


LOOPS: Final[dict[str, tuple[str, Callable[[_Pen], None]]]] = {
    "refused": ("exact", _refused),
    "same_page": ("exact", _same_page),
    "noisy_page": ("near", _noisy_page),
    "volatile": ("near", _volatile),
    "paraphrased": ("near", _paraphrased),
    "unanswered": ("near", _unanswered),
    "ping_pong": ("cycle", _ping_pong),
    "ring": ("cycle", _ring),
    "edit_test": ("cycle", _edit_test),
    "toggle": ("cycle", _toggle),
    "courtesies": ("courtesy", _courtesies),
    "dead_poll": ("exact", _dead_poll),
}
HEALTHY: Final[dict[str, Callable[[_Pen], None]]] = {
    "poll_progress": _poll_progress,
    "poll_then_done": _poll_then_done,
    "paging": _paging,
    "scrolling": _scrolling,
    "retry_success": _retry_success,
    "varied_retries": _varied_retries,
    "items_ok": _items_ok,
    "items_missing": _items_missing,
    "edit_test_progress": _edit_test_progress,
    "delegated_items": _delegated_items,
    "review_rounds": _review_rounds,
    "status_checks": _status_checks,
    "heartbeats": _heartbeats,
    "debate": _debate,
    "read_again": _read_again,
    "skipping": _skipping,
    "growing_log": _growing_log,
    "farewell": _farewell,
}


def corpus(seed: int, each: int) -> Iterator[CorpusRun]:
    """Runs of every kind, the same for the same seed.

    Args:
        seed: Of all of them.
        each: Runs of each kind.
    """
    for kind, (form, write) in LOOPS.items():
        for number in range(each):
            yield _run(seed, kind, number, form, write)
    for kind, healthy in HEALTHY.items():
        for number in range(each):
            yield _run(seed, kind, number, None, healthy)


def _run(seed: int, kind: str, number: int, form: str | None, write: Callable[[_Pen], None]) -> CorpusRun:
    run = CorpusRun(id=f"{kind}-{seed}-{number}", kind=kind, loop=form)
    pen = _Pen(run, random.Random(run.id))  # noqa: S311 - made-up data, nothing secret
    pen.work(pen.chance.randint(3, 15))
    write(pen)
    if form is None:
        pen.work(pen.chance.randint(2, 8))
    return run
