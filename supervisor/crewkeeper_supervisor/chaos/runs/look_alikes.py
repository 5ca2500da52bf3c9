"""Healthy runs that look like loops, one function for each kind: polling, paging, retrying, iterating, lists."""

from collections.abc import Callable
from typing import Any, Final

from crewkeeper_supervisor.chaos.runs.pen import Pen


def _poll_progress(pen: Pen) -> None:
    job = pen.identifier()
    for number in range(pen.chance.randint(10, 40)):
        pen.call(
            pen.worker, "get_report", {"job": job}, f'{{"job": "{job}", "state": "running", "percent": {number * 2}}}'
        )


def _poll_then_done(pen: Pen) -> None:
    job, tool = pen.identifier(), pen.chance.choice(("job_status", "check_build"))
    for _ in range(pen.chance.randint(4, 12)):
        pen.call(pen.worker, tool, {"job": job}, '{"state": "running"}', poll=tool == "check_build")
    pen.call(pen.worker, tool, {"job": job}, '{"state": "done"}', poll=tool == "check_build")


def _paging(pen: Pen) -> None:
    query, style = pen.prose(2, 4), pen.chance.choice(("page", "cursor", "next"))
    for number in range(pen.chance.randint(6, 20)):
        args: dict[str, Any] = {"q": query}
        if style != "next":
            args[style] = number if style == "page" else pen.identifier().lower()
        pen.call(pen.worker, "list_items", args, " ".join(f"{pen.identifier()} {pen.prose(2, 4)}" for _ in range(10)))


def _scrolling(pen: Pen) -> None:
    header = pen.prose(10, 20)
    for number in range(pen.chance.randint(5, 12)):
        pen.say(pen.planner, pen.worker, "Please scroll down and tell me what else stands there.")
        pen.call(pen.worker, "scroll_down", {"by": "one page"}, f"{header} {number * 7}% {pen.prose(40, 120)}")


def _retry_success(pen: Pen) -> None:
    for _ in range(pen.chance.randint(2, 5)):
        args, failure = {"url": pen.word()}, pen.tongue.busy
        for _ in range(2):
            pen.call(pen.worker, "download", args, failure)
        pen.call(pen.worker, "download", args, pen.prose(20, 60))
        pen.work(1)


def _varied_retries(pen: Pen) -> None:
    name = pen.word()
    for _ in range(pen.chance.randint(3, 6)):
        pen.call(
            pen.worker, "find_user", {"name": name, "zip": str(pen.chance.randint(10_000, 99_999))}, "Error: not found"
        )
    pen.call(pen.worker, "find_user", {"name": name, "zip": "12345"}, pen.identifier())


def _items_ok(pen: Pen) -> None:
    body = pen.prose(12, 25)
    for _ in range(pen.chance.randint(5, 15)):
        args = {"to": f"{pen.word()}@{pen.word()}.example", "body": f"Dear {pen.name()}, {body}"}
        pen.call(pen.worker, "send_mail", args, pen.tongue.done)


def _items_missing(pen: Pen) -> None:
    day = f"2031-05-1{pen.chance.randint(0, 9)}"
    for _ in range(pen.chance.randint(5, 12)):
        args = {"origin": pen.word(), "destination": pen.word(), "date": day, "cabin": "economy"}
        pen.call(pen.worker, "search_flights", args, "[]")


def _edit_test_progress(pen: Pen) -> None:
    for failures in range(pen.chance.randint(5, 14), -1, -1):
        pen.call(pen.worker, "edit", {"path": "src/parser.py", "patch": pen.prose(10, 30)}, pen.tongue.done)
        pen.call(pen.worker, "run_tests", {}, f"{failures} failed, {40 - failures} passed")


def _delegated_items(pen: Pen) -> None:
    template = pen.prose(10, 16)
    for who in pen.names(pen.chance.randint(5, 12), template):
        pen.say(pen.planner, pen.worker, f"Please {template} for {who.title()} now")
        if pen.chance.random() < 0.5:
            pen.call(pen.worker, "write", {"path": f"{pen.word()}.txt", "text": pen.prose(8, 20)}, pen.tongue.done)
        pen.say(pen.worker, pen.planner, "Done.")


def _review_rounds(pen: Pen) -> None:
    draft = pen.prose(60, 90)
    for number in range(pen.chance.randint(4, 8)):
        draft = f"{pen.garble(draft, 0.25)} {pen.prose(10, 20)}"
        pen.say(pen.writer, pen.reviewer, f"Draft {number}: {draft}")
        pen.say(pen.reviewer, pen.writer, f"Please revise: {pen.prose(12, 30)}")


def _status_checks(pen: Pen) -> None:
    for _ in range(2):
        for service in ("database", "queue", "cache", "mail", "search", "billing"):
            pen.call(pen.worker, "probe", {"service": service}, '{"ok": true}')
        pen.work(3)


def _heartbeats(pen: Pen) -> None:
    for _ in range(pen.chance.randint(10, 40)):
        pen.say(pen.worker, pen.planner, "alive", tokens=0)


def _debate(pen: Pen) -> None:
    for _ in range(pen.chance.randint(5, 10)):
        pen.say("left", "right", f"I disagree, because {pen.prose(20, 50)}")
        pen.say("right", "left", f"I disagree, because {pen.prose(20, 50)}")


def _read_again(pen: Pen) -> None:
    text = pen.prose(40, 90)
    for _ in range(4):
        pen.call(pen.worker, "read_file", {"path": "notes.md"}, text)
        pen.work(pen.chance.randint(5, 8))


def _skipping(pen: Pen) -> None:
    for _ in range(pen.chance.randint(5, 10)):
        pen.call(pen.worker, "next_song", {}, f'{{"playing": "{pen.word()} {pen.word()}"}}')


def _growing_log(pen: Pen) -> None:
    log = "\n".join(pen.prose(6, 12) for _ in range(8))
    for _ in range(pen.chance.randint(5, 10)):
        log += "\n" + pen.prose(6, 12)
        pen.call(pen.worker, "read_log", {"path": "build.log"}, log)


def _farewell(pen: Pen) -> None:
    pen.say(pen.writer, pen.planner, f"Here it is: {pen.prose(30, 60)}")
    pen.say(pen.planner, pen.writer, "Thank you so much, great work!")
    pen.say(pen.writer, pen.planner, "You're welcome, anytime!")
    pen.say(pen.planner, pen.writer, "Have a nice day!")
    pen.say(pen.writer, pen.planner, "You too, bye!")


def _green_tests(pen: Pen) -> None:
    passed = f"{pen.chance.randint(20, 90)} passed"
    for _ in range(pen.chance.randint(4, 9)):
        pen.call(pen.worker, "edit", {"path": f"{pen.word()}.py", "patch": pen.prose(10, 30)}, pen.tongue.done)
        pen.call(pen.worker, "run_tests", {}, passed)


def _back_off(pen: Pen) -> None:
    args = {"url": f"https://{pen.word()}.example/{pen.identifier()}"}
    for number in range(pen.chance.randint(3, 4)):
        pen.call(pen.worker, "download", args, pen.tongue.busy)
        pen.call(pen.worker, "sleep", {"seconds": 2**number}, "")
    pen.call(pen.worker, "download", args, pen.prose(20, 60))


def _long_test_log(pen: Pen) -> None:
    passing, failing = [f"{pen.word()} PASSED" for _ in range(60)], [pen.word() for _ in range(9)]
    while failing:
        failing.pop()
        names = [f"test_{name} FAILED" for name in failing]
        log = "\n".join([*passing, *names, f"{len(failing)} failed, {69 - len(failing)} passed in 2.41s"])
        pen.call(pen.worker, "edit", {"path": "src/parser.py", "patch": pen.prose(10, 30)}, pen.tongue.done)
        pen.call(pen.worker, "run_tests", {"verbose": True}, log)


def _pending(pen: Pen) -> None:
    job = pen.identifier()
    for state in ("queued", "building", "testing", "deploying"):
        for _ in range(pen.chance.randint(2, 4)):
            pen.call(pen.worker, "get_deployment", {"id": job}, f'{{"id": "{job}", "state": "{state}"}}')
    pen.call(pen.worker, "get_deployment", {"id": job}, f'{{"id": "{job}", "state": "live"}}')


def _bulk_import(pen: Pen) -> None:
    style = pen.chance.choice(("row", "file"))
    for number in range(pen.chance.randint(10, 25)):
        args: dict[str, Any] = {"file": f"part-{number:03}.csv"}
        if style == "row":
            args = {"table": "customers", "row": {"name": pen.word(), "town": pen.word(), "note": pen.prose(2, 6)}}
        pen.call(pen.worker, "insert", args, "1 row inserted" if style == "row" else "1000 rows imported")


def _errands(pen: Pen) -> None:
    """The same errand for one after another, whose names have no capitals."""
    errand = pen.prose(6, 10)
    for who in pen.names(pen.chance.randint(5, 10), errand):
        pen.say(pen.planner, pen.worker, f"please {errand} for {who.lower()} and report")
        pen.say(pen.worker, pen.planner, f"the {errand} is done for {who.lower()}, waiting for the next one")


def _negotiation(pen: Pen) -> None:
    bid, ask = pen.chance.randint(300, 400), pen.chance.randint(700, 900)
    offer, counter = pen.prose(12, 20), pen.prose(12, 20)
    while ask - bid > 20:
        bid, ask = bid + (ask - bid) // 6, ask - (ask - bid) // 6
        pen.say(pen.planner, pen.reviewer, f"We offer {bid} per unit. {offer}")
        pen.say(pen.reviewer, pen.planner, f"Our price is {ask} per unit. {counter}")


def _stand_ups(pen: Pen) -> None:
    for _ in range(4):
        for agent in (pen.worker, pen.reviewer):
            pen.say(pen.planner, agent, "Good morning! Anything that blocks you today?")
            pen.say(agent, pen.planner, "Nothing blocks me.")
        pen.work(pen.chance.randint(3, 6))


def _grading(pen: Pen) -> None:
    for number in range(pen.chance.randint(8, 20)):
        args = {"answer": pen.prose(6, 14), "question": number}
        pen.call(pen.worker, "grade", args, pen.chance.choice(("correct", "correct", "wrong")))


def _next_batch(pen: Pen) -> None:
    """The same call without arguments gives the next rows, together with most of what the one before gave."""
    rows = [f"{pen.identifier()} {pen.prose(3, 5)}" for _ in range(30)]
    for at in range(0, 18, 3):
        pen.call(pen.worker, "next_batch", {}, "\n".join(rows[at : at + 12]))


def _on_request(pen: Pen) -> None:
    for _ in range(pen.chance.randint(5, 10)):
        pen.say("user", pen.worker, "next")
        pen.say(pen.worker, "user", pen.prose(15, 40))


def _of_so_many(pen: Pen) -> None:
    total = pen.chance.randint(12, 30)
    for number in range(1, total):
        pen.call(pen.worker, "send_next", {}, f"Sent message {number} of {total}.")


def _spec_at_hand(pen: Pen) -> None:
    spec = pen.prose(40, 90)
    for _ in range(pen.chance.randint(4, 7)):
        pen.call(pen.worker, "read_file", {"path": "spec.md"}, spec)
        pen.call(pen.worker, "write_file", {"path": f"{pen.word()}.py", "text": pen.code(5)}, pen.tongue.done)


def _shortened(pen: Pen) -> None:
    words = [pen.word() for _ in range(120)]
    while len(words) > 60:
        text = pen.tongue.gap.join(words)
        pen.say(pen.writer, pen.reviewer, f"Here is the text, {len(words)} words: {text}")
        pen.say(pen.reviewer, pen.writer, f"Still {len(words) - 60} words too many, shorten it.")
        words = [word for word in words if pen.chance.random() > 0.15]


def _game(pen: Pen) -> None:
    board = [["."] * 8 for _ in range(8)]
    for _ in range(pen.chance.randint(6, 14)):
        row, column = divmod(pen.chance.choice([at for at in range(64) if board[at // 8][at % 8] == "."]), 8)
        board[row][column] = pen.chance.choice("XO")
        pen.call(pen.worker, "look_at_board", {}, "\n".join("".join(row) for row in board))
        pen.call(pen.worker, "move", {"to": pen.chance.choice("abcdefgh") + str(pen.chance.randint(1, 8))}, "accepted")


def _rounds_of_probes(pen: Pen) -> None:
    for _ in range(3):
        pen.call(pen.worker, "deploy", {"version": pen.identifier()}, f"deployed {pen.identifier()}")
        for service in ("database", "queue", "cache", "mail"):
            pen.call(pen.worker, "probe", {"service": service}, '{"ok": true}')


HEALTHY: Final[dict[str, Callable[[Pen], None]]] = {
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
    "green_tests": _green_tests,
    "back_off": _back_off,
    "long_test_log": _long_test_log,
    "pending": _pending,
    "bulk_import": _bulk_import,
    "errands": _errands,
    "negotiation": _negotiation,
    "stand_ups": _stand_ups,
    "grading": _grading,
    "next_batch": _next_batch,
    "on_request": _on_request,
    "of_so_many": _of_so_many,
    "spec_at_hand": _spec_at_hand,
    "shortened": _shortened,
    "game": _game,
    "rounds_of_probes": _rounds_of_probes,
}
"""Kinds of healthy runs, and who writes them."""
