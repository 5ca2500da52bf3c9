"""Runs with a loop in them, one function for each kind, of at least four occurrences: a late alarm is still one."""

from collections.abc import Callable
from typing import Final

from crewkeeper_supervisor.chaos.runs.pen import Pen


def _refused(pen: Pen) -> None:
    args = {"order": pen.identifier(), "items": [pen.identifier(), pen.identifier()], "reason": pen.prose(2, 4)}
    answer = f"{pen.tongue.refused}: {args['order']}"
    for _ in range(pen.chance.randint(4, 6)):
        pen.occurs(lambda: pen.call(pen.worker, "update_order", args, answer))
        if pen.chance.random() < 0.5:
            pen.call(pen.worker, "look_up", {"what": pen.word()}, pen.prose(8, 30))


def _same_page(pen: Pen) -> None:
    page, target = pen.prose(60, 150), pen.prose(2, 4)
    for _ in range(4):
        pen.say(pen.planner, pen.worker, pen.prose(12, 25))
        pen.occurs(lambda: pen.call(pen.worker, "click", {"target": target}, page))


def _noisy_page(pen: Pen) -> None:
    page, target = f"{pen.prose(3, 6)} {pen.identifier()} {pen.prose(80, 200)}", pen.prose(2, 4)
    for _ in range(5):
        pen.say(pen.planner, pen.worker, pen.prose(12, 25))
        pen.occurs(lambda: pen.call(pen.worker, "click", {"target": target}, pen.garble(page, 0.08)))


def _volatile(pen: Pen) -> None:
    query, answer = pen.prose(3, 6), pen.prose(15, 40)
    for number in range(5):
        args = {"q": query, "request_id": pen.identifier(), "attempt": number, "timestamp": pen.stamp()}
        result = f"{answer} (took {pen.chance.randint(3, 900)} ms, {pen.stamp()})"
        pen.occurs(lambda args=args, result=result: pen.call(pen.worker, "fetch", args, result))  # type: ignore[misc]


def _paraphrased(pen: Pen) -> None:
    core = [pen.word() for _ in range(pen.chance.randint(8, 12))]
    for _ in range(5):
        words = [*core, pen.word(), pen.word()]
        pen.chance.shuffle(words)
        query = pen.tongue.gap.join(words)
        pen.occurs(lambda query=query: pen.call(pen.worker, "search", {"q": query}, pen.tongue.missing))  # type: ignore[misc]


def _unanswered(pen: Pen) -> None:
    core = pen.prose(10, 16)
    for _ in range(5):
        pen.occurs(lambda: pen.say(pen.planner, pen.worker, f"{core} {pen.word()} {pen.word()}"))
        pen.think(pen.planner)


def _ping_pong(pen: Pen) -> None:
    ask, answer = pen.prose(15, 30), pen.prose(15, 30)

    def act() -> None:
        pen.say(pen.planner, pen.reviewer, f"{pen.stamp()} {ask} (msg {pen.chance.randint(1, 9999)})")
        pen.say(pen.reviewer, pen.planner, f"{pen.stamp()} {answer} (ref {pen.chance.randint(1, 9999)})")

    for _ in range(5):
        pen.occurs(act)


def _ring(pen: Pen) -> None:
    names = (pen.planner, pen.writer, pen.reviewer, "editor")[: pen.chance.randint(3, 4)]
    said = [pen.prose(25, 45) for _ in names]

    def act() -> None:
        for index, name in enumerate(names):
            pen.say(name, names[(index + 1) % len(names)], pen.garble(said[index], 0.05))

    for _ in range(5):
        pen.occurs(act)


def _edit_test(pen: Pen) -> None:
    patch, failure = pen.prose(10, 25), f"2 failed, 31 passed: {pen.prose(10, 30)}"

    def act() -> None:
        pen.call(pen.worker, "edit", {"path": "src/parser.py", "patch": patch}, "ok")
        pen.call(pen.worker, "run_tests", {}, failure)

    for _ in range(5):
        pen.occurs(act)


def _toggle(pen: Pen) -> None:
    up, down = (f"{pen.identifier()} {pen.prose(30, 60)}" for _ in range(2))

    def act() -> None:
        for page in (up, down):
            pen.call(pen.worker, "sort", {"by": "price"}, page)

    for _ in range(5):
        pen.occurs(act)


def _courtesies(pen: Pen) -> None:
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
            pen.say(pen.planner, pen.writer, first)
            pen.say(pen.writer, pen.planner, second)

        pen.occurs(act)


def _dead_poll(pen: Pen) -> None:
    job = pen.identifier()

    def act() -> None:
        pen.think(pen.worker, 250)
        pen.call(pen.worker, "job_status", {"job": job}, '{"state": "queued"}')

    for _ in range(40):
        pen.occurs(act)


def _handoffs(pen: Pen) -> None:
    left, right = pen.worker, pen.reviewer

    def act() -> None:
        for agent, to in ((left, right), (right, left)):
            pen.call(agent, f"transfer_to_{to}", {}, f"Transferred to {to}. Take over the conversation immediately.")

    for _ in range(5):
        pen.occurs(act)


def _wider_and_wider(pen: Pen) -> None:
    words = [pen.word() for _ in range(pen.chance.randint(4, 7))]
    for number in range(5):
        args = {"q": pen.tongue.gap.join(words), "limit": 10 * (number + 1), "timeout": 5 * (number + 1)}
        pen.occurs(lambda args=args: pen.call(pen.worker, "find", args, pen.tongue.missing))  # type: ignore[misc]


def _two_dead_ends(pen: Pen) -> None:
    path, listing = f"{pen.word()}/{pen.word()}.md", pen.prose(6, 14)

    def act() -> None:
        pen.call(pen.worker, "open_file", {"path": path}, f"{pen.tongue.refused}: {path}")
        pen.call(pen.worker, "list_folder", {"path": "."}, listing)

    for _ in range(5):
        pen.occurs(act)


def _plan_act_report(pen: Pen) -> None:
    order, report, page = pen.prose(16, 24), pen.prose(16, 24), pen.identifier()

    def act() -> None:
        pen.say(pen.planner, pen.worker, pen.garble(order, 0.15))
        pen.call(pen.worker, "submit", {"form": page}, f"{pen.tongue.refused}: {page}")
        pen.say(pen.worker, pen.planner, pen.garble(report, 0.15))

    for _ in range(5):
        pen.occurs(act)


def _reworded_ring(pen: Pen) -> None:
    names = pen.tongue.agents[: pen.chance.randint(2, 4)]
    said = [pen.prose(25, 45) for _ in names]

    def act() -> None:
        for index, name in enumerate(names):
            pen.say(name, names[(index + 1) % len(names)], pen.garble(said[index], 0.15))

    for _ in range(6):
        pen.occurs(act)


def _patchy_page(pen: Pen) -> None:
    """The same page, read well or poorly: blocks of it with numbers of their own are there or are not."""
    target, body = pen.prose(2, 4), f"{pen.prose(50, 90)} {pen.identifier()} {pen.prose(20, 40)}"
    blocks = [f"{pen.prose(3, 6)} {pen.chance.randint(10, 9999)} {pen.prose(1, 3)}" for _ in range(6)]
    for _ in range(5):
        seen = " ".join(block for block in blocks if pen.chance.random() < 0.7)
        pen.say(pen.planner, pen.worker, pen.prose(12, 25))
        page = f"{body} {seen}"
        pen.occurs(lambda page=page: pen.call(pen.worker, "click", {"target": target}, page))  # type: ignore[misc]


def _failing_code(pen: Pen) -> None:
    code = pen.code(pen.chance.randint(3, 9))
    for _ in range(4):
        digest = "".join(pen.chance.choice("0123456789abcdef") for _ in range(32))
        error = (
            f'exitcode: 1\nTraceback (most recent call last):\n  File "/tmp/code_{digest}.py", line 2, in <module>\n'
            f"KeyError: 'total'\nran for {pen.chance.randint(1, 9)}.{pen.chance.randint(10, 99)} s"
        )
        pen.occurs(lambda error=error: pen.call(pen.worker, "run_code", {"code": code}, error))  # type: ignore[misc]


def _nudged(pen: Pen) -> None:
    answer = f"{pen.prose(50, 90)} {pen.chance.randint(100, 999)} {pen.prose(5, 9)}"

    def act() -> None:
        pen.say(pen.worker, pen.planner, pen.garble(answer, 0.08))
        pen.say(pen.planner, pen.worker, "Continue. Please keep solving the problem until you need to query.")

    for _ in range(5):
        pen.occurs(act)


def _group_check(pen: Pen) -> None:
    """Everybody in a group runs what everybody in it has just seen."""
    code, output = pen.code(6), f"exitcode: 0\nCode output: {pen.identifier()} {pen.prose(2, 8)}"

    def act() -> None:
        agent = pen.chance.choice(pen.tongue.agents)
        pen.add(agent, "terminal", "tool_call", pen.prose(8, 20), tool="run_code", args={"code": code})
        pen.add("terminal", "*", "tool_result", output, tool="run_code")

    for _ in range(5):
        pen.occurs(act)


def _nested_noise(pen: Pen) -> None:
    what, state = pen.prose(2, 4), pen.prose(8, 20)

    def act() -> None:
        args = {"filter": {"what": what, "page": 1}, "meta": {"request_id": pen.identifier(), "ts": pen.stamp()}}
        answer = f'{{"items": "{state}", "generated_at": "{pen.stamp()}", "took": "{pen.chance.randint(2, 99)} ms"}}'
        pen.call(pen.worker, "list_orders", args, answer)

    for _ in range(5):
        pen.occurs(act)


def _looked_around(pen: Pen) -> None:
    item = pen.identifier()
    for _ in range(4):
        pen.occurs(lambda: pen.call(pen.worker, "approve", {"item": item}, f"{pen.tongue.refused} ({item})"))
        pen.call(pen.worker, "look_up", {"what": pen.word()}, pen.prose(20, 40))


def _undo_redo(pen: Pen) -> None:
    one, other = pen.prose(3, 6), pen.prose(3, 6)

    def act() -> None:
        for text, result in ((one, "saved 1"), (other, "saved 2")):
            pen.call(pen.worker, "set_title", {"text": text}, result)
            pen.call(pen.worker, "view", {}, f"{text} {pen.tongue.done}")

    for _ in range(5):
        pen.occurs(act)


LOOPS: Final[dict[str, tuple[str, Callable[[Pen], None]]]] = {
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
    "handoffs": ("cycle", _handoffs),
    "wider_and_wider": ("near", _wider_and_wider),
    "two_dead_ends": ("cycle", _two_dead_ends),
    "plan_act_report": ("cycle", _plan_act_report),
    "reworded_ring": ("cycle", _reworded_ring),
    "patchy_page": ("near", _patchy_page),
    "failing_code": ("near", _failing_code),
    "nudged": ("cycle", _nudged),
    "group_check": ("exact", _group_check),
    "nested_noise": ("near", _nested_noise),
    "looked_around": ("exact", _looked_around),
    "undo_redo": ("cycle", _undo_redo),
}
"""Kinds of loops: of what form, and who writes them."""
