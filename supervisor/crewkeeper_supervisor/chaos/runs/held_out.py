"""Kinds of runs that were written after the detectors were chosen: what they do with what they were not tried on."""

from collections.abc import Callable
from typing import Final

from crewkeeper_supervisor.chaos.runs.pen import Pen


def _stuck_form(pen: Pen) -> None:
    field, note = pen.word(), pen.prose(10, 25)
    for _ in range(5):
        token = "".join(pen.chance.choice("0123456789abcdef") for _ in range(40))
        clock = f"{pen.chance.randint(10, 23)}:{pen.chance.randint(10, 59)}:{pen.chance.randint(10, 59)}"
        page = f"{note} The field {field} is required. csrf {token} served at {clock}"
        pen.occurs(lambda page=page: pen.call(pen.worker, "submit_form", {"field": field}, page))  # type: ignore[misc]


def _you_do_it(pen: Pen) -> None:
    task = pen.prose(14, 22)

    def act() -> None:
        pen.say(pen.planner, pen.writer, pen.garble(f"I think that you should do this: {task}", 0.1))
        pen.say(pen.writer, pen.planner, pen.garble(f"No, that is for you, I only write: {task}", 0.1))

    for _ in range(5):
        pen.occurs(act)


def _same_hits(pen: Pen) -> None:
    core, hits = [pen.word() for _ in range(9)], pen.prose(40, 70)
    for _ in range(5):
        words = [*core, pen.word()]
        pen.chance.shuffle(words)
        query = pen.tongue.gap.join(words)
        pen.occurs(lambda query=query: pen.call(pen.worker, "look_for", {"text": query}, hits))  # type: ignore[misc]


def _sent_on(pen: Pen) -> None:
    names, question = (pen.planner, pen.reviewer, pen.writer), pen.prose(6, 12)

    def act() -> None:
        for index, name in enumerate(names):
            other = names[(index + 1) % 3]
            pen.call(name, f"ask_{other}", {"question": question}, f"This is not mine to say, {other} may know.")

    for _ in range(5):
        pen.occurs(act)


def _written_again(pen: Pen) -> None:
    text = pen.code(6)

    def act() -> None:
        pen.call(pen.worker, "write_file", {"path": "main.py", "text": text}, pen.tongue.done)
        pen.call(pen.worker, "read_file", {"path": "main.py"}, text)

    for _ in range(5):
        pen.occurs(act)


def _apologies(pen: Pen) -> None:
    answer = pen.prose(30, 50)
    begins = ("I apologize for the confusion.", "Sorry about that!", "My mistake, let me correct it.", "You are right.")

    def act() -> None:
        pen.say(pen.worker, pen.planner, f"{pen.chance.choice(begins)} {pen.garble(answer, 0.06)}")
        pen.say(pen.planner, pen.worker, "That is not right. Please look at it again.")

    for _ in range(5):
        pen.occurs(act)


def _fail_then_pass(pen: Pen) -> None:
    for _ in range(pen.chance.randint(4, 8)):
        item = pen.identifier()
        pen.call(pen.worker, "charge", {"item": item}, pen.tongue.busy)
        pen.call(pen.worker, "charge", {"item": item}, f"charged {item}")


def _guessing(pen: Pen) -> None:
    low, high, secret = 0, 4096, pen.chance.randint(1, 4095)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle <= secret else (low, middle)
        pen.call(pen.worker, "guess", {"number": middle}, "higher" if middle <= secret else "lower")


def _log_tail(pen: Pen) -> None:
    lines = [f"{pen.stamp()} {pen.prose(5, 9)}" for _ in range(40)]
    for at in range(0, 20, 2):
        pen.call(pen.worker, "tail", {"file": "app.log", "lines": 20}, "\n".join(lines[at : at + 20]))


def _approvals(pen: Pen) -> None:
    for name in pen.names(pen.chance.randint(5, 9), ""):
        pen.say(pen.writer, pen.reviewer, f"{name.lower()}.py is ready, please have a look at it when you can")
        pen.say(pen.reviewer, pen.writer, "Looks good to me, please go on with the next one.")


def _training(pen: Pen) -> None:
    loss = 2.5
    for epoch in range(pen.chance.randint(8, 15)):
        loss *= pen.chance.uniform(0.85, 0.99)
        pen.call(pen.worker, "train_epoch", {}, f"epoch {epoch + 1}/20 loss {loss:.3f}, checkpoint written")


def _interview(pen: Pen) -> None:
    for _ in range(pen.chance.randint(6, 10)):
        pen.say(pen.worker, "user", f"{pen.prose(8, 16)}?")
        pen.say("user", pen.worker, pen.chance.choice(("yes", "yes", "no")))


def _cold_cache(pen: Pen) -> None:
    for name in pen.names(pen.chance.randint(8, 14), ""):
        pen.call(pen.worker, "cache_get", {"key": name}, "miss")
        pen.call(pen.worker, "cache_put", {"key": name, "value": pen.prose(5, 20)}, pen.tongue.done)


def _translation(pen: Pen) -> None:
    for _ in range(pen.chance.randint(6, 12)):
        pen.call(pen.worker, "translate", {"text": pen.prose(10, 25), "to": "fr"}, pen.prose(10, 25))
        pen.call(pen.worker, "check_grammar", {"lang": "fr"}, "no mistakes")


HELD_OUT: Final[dict[str, tuple[str | None, Callable[[Pen], None]]]] = {
    "stuck_form": ("near", _stuck_form),
    "you_do_it": ("cycle", _you_do_it),
    "same_hits": ("near", _same_hits),
    "sent_on": ("cycle", _sent_on),
    "written_again": ("cycle", _written_again),
    "apologies": ("cycle", _apologies),
    "fail_then_pass": (None, _fail_then_pass),
    "guessing": (None, _guessing),
    "log_tail": (None, _log_tail),
    "approvals": (None, _approvals),
    "training": (None, _training),
    "interview": (None, _interview),
    "cold_cache": (None, _cold_cache),
    "translation": (None, _translation),
}
"""Of what form the loop is, None in healthy runs, and who writes it."""
