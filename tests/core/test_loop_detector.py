"""Loops: a repeat is one only if the same comes back, costs something, and nothing was learned in between."""

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from crewkeeper_supervisor.core.courtesy import PAIRS_MAX, SAID_MAX, CourtesyDetector
from crewkeeper_supervisor.core.fingerprint import of_arguments, of_text
from crewkeeper_supervisor.core.loop_memory import CLASSES_MAX, KEYS_MAX, MET_MAX, NAMES_MAX, OWN_WORDS_MAX, WORDS_MAX
from crewkeeper_supervisor.core.loops import POLL_TOKENS, Loop, LoopDetector
from crewkeeper_supervisor.core.steps import Step, tells_failure, tokens_of

PAGE = "the quick brown fox jumps over the lazy dog while seven wizards brew a potion of green glass"


def letters(number: int) -> str:
    """A word without digits."""
    return "".join(chr(97 + int(digit)) for digit in f"{number:04}")


COURTESIES = (
    "Thank you!",
    "You're welcome!",
    "Have a nice day!",
    "You too, take care!",
    "Many thanks again!",
    "Anytime, bye!",
)


class Run:
    """Feeds steps and keeps what was found."""

    def __init__(self, *, follow: bool = False) -> None:
        self.loops = LoopDetector(follow=follow)
        self.courtesy = CourtesyDetector(follow=follow)
        self.at = -1
        self.found: list[Loop] = []

    def feed(self, **step: Any) -> Loop | None:
        self.at += 1
        one = Step(at=self.at, began=self.at, **{"tokens": 50, **step})
        found = self.loops.step(one) or self.courtesy.step(one)
        if found is not None:
            self.found.append(found)
        return found

    def call(self, tool: str, answer: str, agent: str = "a", poll: bool = False, tokens: int = 50, **args: Any):
        return self.feed(
            agent=agent, kind="tool", name=tool, peer="tools", arguments=of_arguments(args),
            outcome=of_text(answer), failed=tells_failure(answer), poll=poll, tokens=tokens,
        )  # fmt: skip

    def say(self, sender: str, to: str, text: str) -> Loop | None:
        return self.feed(
            agent=sender, kind="message", peer=to, said=of_text(text, names=True), failed=tells_failure(text), text=text
        )


@pytest.fixture
def run() -> Run:
    return Run()


def test_the_third_same_call_with_the_same_answer_is_a_loop(run):
    assert run.call("search", PAGE, q="x") is None
    assert run.call("search", PAGE, q="x") is None
    loop = run.call("search", PAGE, q="x")
    assert loop is not None
    assert (loop.at, loop.onset, loop.agents, loop.period, loop.form, loop.count) == (2, 1, ("a",), 1, "exact", 3)
    assert loop.tokens == 100
    for _ in range(10):
        assert run.call("search", PAGE, q="x") is None, "told once"


def test_two_agents_that_do_the_same_are_no_loop(run):
    for agent in ("a", "b", "c", "d"):
        run.call("search", PAGE, agent=agent, q="x")
    assert run.found == []


@pytest.mark.parametrize(
    "answer",
    [
        lambda n: f'{{"state": "running", "percent": {n}}}',
        lambda n: f"{12 - n} failed, {30 + n} passed",
        lambda n: f"{PAGE} page {n} of 99 {PAGE} {' '.join(f'w{n}' for _ in range(40))}",
        lambda n: f"about {12 - n} minutes remaining",
        lambda n: "\n".join(f"line with words {chr(97 + k) * 5} and {chr(97 + k) * 7} in it" for k in range(n + 2)),
        lambda n: "+" * (n + 1),
    ],
    ids=["progress", "failures", "page", "remaining", "log", "signs"],
)
def test_the_same_call_with_changing_answers_is_no_loop(run, answer: Callable[[int], str]):
    for number in range(12):
        run.call("get", answer(number), q="x")
    assert run.found == []


@pytest.mark.parametrize(
    "answer",
    [
        lambda n: f"{PAGE} (took {n * 7 + 3} ms)",
        lambda n: f"{PAGE} at 2031-05-0{n % 9 + 1}T10:0{n % 10}:22Z, request 550e8400-e29b-41d4-a716-44665544{n:04d}",
        lambda n: f"{PAGE}. You were here {n + 2} seconds ago.",
    ],
    ids=["durations", "stamps", "ago"],
)
def test_what_changes_by_itself_is_no_change(run, answer: Callable[[int], str]):
    for number in range(4):
        run.call("get", answer(number), q="x")
    assert len(run.found) == 1


@pytest.mark.parametrize(
    "args",
    [{"page": 1}, {"city": "Lyon"}, {"user": "u-81234"}, {"when": "14:00:00"}, {"id": "9b2d7a10-0000-4000-8000-1"}],
)
def test_another_argument_is_another_request(run, args):
    (name,) = args
    for number in range(8):
        run.call("get", "[]", **{name: f"{args[name]}{number}" if name != "city" else "ABCDEFGH"[number] * 4})
    assert run.found == []


def test_volatile_arguments_do_not_count(run):
    for number in range(3):
        run.call("get", PAGE, q="x", request_id=f"r{number}", attempt=number, nested={"nonce": number, "k": "v"})
    assert len(run.found) == 1


def test_prose_may_be_reworded_only_where_it_failed(run):
    queries = [
        "opening hours of the old town library on sundays",
        "sundays old town library opening hours of the week",
        "the old town library opening hours on sundays please",
    ]
    for query in queries:
        run.call("search", "No results.", q=query)
    assert [loop.form for loop in run.found] == ["near"]
    other = Run()
    for query in queries:
        other.call("note", "stored", q=query)
    assert other.found == []


def test_rewritten_code_is_another_attempt(run):
    for body in ("x = a + b", "x = a * b", "x = a - b", "x = a / b"):
        run.call("python", "Error: NameError", code=f"def total(a, b):\n    {body}\n    print(x)\n    return int(x)")
    assert run.found == []


def test_looking_around_does_not_excuse_a_refusal(run):
    for number in range(3):
        run.call("update", "Error: not allowed", order="W1234")
        run.call("look", f"{PAGE} {number} " + "abc" * number, q=str(number))
    assert [loop.what for loop in run.found] == ["update"]
    assert run.found[0].failed


def test_work_in_between_excuses_reading_again(run):
    for number in range(4):
        run.call("read", PAGE, path="notes")
        for other in range(3):
            run.call("look", f"{'ghi' * (number + 1)} {'xyz' * (other + 1)} {number} {other}", q=f"{number}.{other}")
    assert run.found == []


def test_declared_progress_resets_that_agent(run):
    for _ in range(5):
        run.call("search", PAGE, q="x")
        run.call("search", PAGE, q="x")
        run.feed(agent="a", kind="progress")
    assert run.found == []
    run.call("search", PAGE, agent="b", q="x")
    run.call("search", PAGE, agent="b", q="x")
    run.feed(agent="a", kind="progress")
    assert run.call("search", PAGE, agent="b", q="x") is not None


@pytest.mark.parametrize(("tool", "poll"), [("job_status", False), ("anything", True)])
def test_polling_is_let_be_until_it_has_cost(run, tool, poll):
    tokens = 0
    while not run.found and tokens < 3 * POLL_TOKENS:
        run.call(tool, '{"state": "queued"}', poll=poll, job="j1")
        tokens += 50
    assert POLL_TOKENS <= tokens <= POLL_TOKENS + 200
    other = Run()
    for _ in range(500):
        other.call(tool, '{"state": "queued"}', poll=poll, tokens=0, job="j1")
    assert other.found == []


def test_what_costs_nothing_is_no_loop(run):
    for _ in range(50):
        run.feed(agent="a", kind="message", peer="b", said=of_text("alive"), tokens=0)
    assert run.found == []


def test_ping_pong_with_changing_ids_is_a_cycle_of_both(run):
    for number in range(4):
        run.say("a", "b", f"2031-01-01T10:00:0{number}Z please check the budget table again (msg {number})")
        run.say("b", "a", f"The budget table looks right to me, please check yours (msg {number})")
    assert run.found[0].form == "cycle"
    assert set(run.found[0].agents) == {"a", "b"}
    assert len(run.found) == 1


def test_answers_that_alternate_are_a_cycle(run):
    for _ in range(4):
        run.call("sort", f"{PAGE} ascending 1", by="price")
        run.call("sort", f"descending 2 {PAGE[::-1]}", by="price")
    assert [(loop.form, loop.period) for loop in run.found] == [("cycle", 2)]


def test_what_was_echoed_by_the_answer_mattered(run):
    for name in ("apples", "cherries", "melons", "plums", "grapes"):
        run.say("a", "b", f"please summarise the long report about {name} and store the summary in the folder")
        run.say("b", "a", f"the report about {name} is summarised and the summary is stored in the folder now")
    assert run.found == []


def test_people_make_no_loops(run):
    for _ in range(6):
        run.feed(agent="user", kind="human", peer="a", said=of_text("where is my order?"))
    assert run.found == []


def test_courtesies_are_a_loop_and_a_question_ends_them(run):
    for number, line in enumerate(COURTESIES):
        run.say("ab"[number % 2], "ba"[number % 2], line)
    assert [loop.form for loop in run.found] == ["courtesy"]
    other = Run()
    for number, line in enumerate(COURTESIES * 2):
        if number % 4 == 3:
            other.say("a", "b", f"Which invoice numbers {number} differ between ledger and archive copies?")
        else:
            other.say("ab"[number % 2], "ba"[number % 2], line)
    assert other.found == []


def test_memory_is_bounded(run, monkeypatch):
    for number in range(NAMES_MAX + 9):
        run.call("search", PAGE, agent=f"a{number}", q="x")
    for number in range(KEYS_MAX * 2):
        run.call(f"tool{number}", PAGE, q="x")
    for number in range(CLASSES_MAX * 5):
        run.call("search", "abc" * number, q="ab" * number)
    kept = run.loops._classes
    known = kept.owners["a"].classes
    assert len(known) <= KEYS_MAX
    assert max(len(each) for each in known.values()) <= CLASSES_MAX
    assert len(run.loops._agents) <= NAMES_MAX
    for agent in "abcd":
        for number in range(200):
            words = [f"{agent}{number}w{each}" for each in range(400)]
            run.call(f"tool{number % 40}", " ".join(words), agent=agent, q=" ".join(words[:200]))
    assert max(owner.words for owner in kept.owners.values()) <= OWN_WORDS_MAX
    for owner in kept.owners.values():
        assert owner.words == sum(each.weight for known in owner.classes.values() for each in known)
    assert kept.words == sum(owner.words for owner in kept.owners.values()) <= WORDS_MAX
    monkeypatch.setattr("crewkeeper_supervisor.core.loop_memory.WORDS_MAX", 100_000)
    run.call("search", PAGE, agent="z", q="x")
    assert kept.words == sum(owner.words for owner in kept.owners.values()) <= 100_000
    assert "z" in kept.owners
    for agent in "bcd":
        run.feed(agent=agent, kind="progress")
    for owner in kept.owners.values():
        assert owner.words == sum(each.weight for known in owner.classes.values() for each in known)


def test_words_of_answers_that_come_and_go_are_bounded(run):
    stays = [letters(each) for each in range(200)]
    for number in range(100):
        comes = [letters(1000 + 60 * number + each) for each in range(60)]
        run.call("read", " ".join([*stays, *comes]), q="x")
    [classes] = run.loops._classes.owners["a"].classes.values()
    assert max(len(each.met) for each in classes) <= MET_MAX


@pytest.mark.parametrize("chain", [True, False])
def test_nobody_crowds_out_what_is_known_of_others(run, chain):
    for round_ in range(3):
        for number in range(300 if chain else 0):
            run.feed(
                agent="b", kind="tool", name=f"t{round_}-{number}", chain="b",
                arguments=of_arguments({"q": f"x{number}"}), outcome=of_text(f"new {round_}-{number}"),
            )  # fmt: skip
        for agent in (f"a{each}" for each in range(1 if chain else 300)):
            run.feed(
                agent=agent, kind="tool", name="look", chain=agent, arguments=of_arguments({"q": "x"}),
                outcome=of_text("error: no results"), failed=True,
            )  # fmt: skip
    assert len(run.found) == (1 if chain else 300)


@pytest.mark.parametrize(
    ("text", "failed"),
    [
        ("Error: no", True), ("[]", True), ("exitcode: 1 (execution failed)", True), ("No results.", True),
        ("exitcode: 0 (execution succeeded)\nNothing found", False), ("", False), ("ok", False), ('{"a": 1}', False),
    ],
)  # fmt: skip
def test_failures_are_told_from_the_beginning(text, failed):
    assert tells_failure(text) is failed


def test_tokens_are_counted_or_estimated():
    assert tokens_of(7, 400) == 7
    assert tokens_of(None, 400) == 100
    assert tokens_of({"in": 30, "out": 12}, 400) == 42
    assert tokens_of({"prompt": 30, "completion": 12, "total_tokens": 50}, 400) == 50


def test_further_repeats_of_a_told_loop_are_told_if_it_is_followed():
    run = Run(follow=True)
    for _ in range(5):
        run.call("search", PAGE, q="x")
    assert [(loop.key, loop.again, loop.count) for loop in run.found] == [(1, 0, 3), (1, 1, 4), (1, 2, 5)]
    run.call("search", "something else altogether", q="x")
    assert len(run.found) == 3
    for _ in range(3):
        run.call("search", PAGE, q="x")
    assert (run.found[-1].key, run.found[-1].again) == (2, 0), "it was broken, so this is another one"


def test_all_steps_of_a_followed_ring_are_one_loop():
    run = Run(follow=True)
    for number in range(5):
        run.say("a", "b", f"{PAGE} msg {number}")
        run.say("b", "a", f"nobody here knows a thing about wizards msg {number}")
    assert [loop.again for loop in run.found] == list(range(len(run.found)))
    assert {loop.key for loop in run.found} == {1}
    assert [loop.at for loop in run.found] == [5, 6, 7, 8, 9]


def test_a_followed_toggle_is_one_loop():
    run = Run(follow=True)
    for _ in range(5):
        run.call("sort", f"ascending {PAGE}", by="price")
        run.call("sort", "descending zebras, yaks, wolves and voles", by="price")
    assert [(loop.key, loop.again) for loop in run.found] == [(1, 0), (1, 1), (1, 2)]


def test_further_courtesies_of_a_told_row_are_told_if_it_is_followed():
    run = Run(follow=True)
    for number in range(8):
        run.say("ab"[number % 2], "ba"[number % 2], "Thank you so much, have a great day!" if number % 3 else "Thanks!")
    courtesies = [loop for loop in run.found if loop.form == "courtesy"]
    assert [(loop.key, loop.again, loop.count) for loop in courtesies][:2] == [(1, 0, 6), (1, 1, 7)]


def test_a_number_said_before_is_no_content_until_that_is_long_ago():
    courtesy, numbers = CourtesyDetector(), count(100_000)

    def says(text: str) -> bool:
        return courtesy.has_content("a", "b", of_text(text), text)

    def goes_on(words: int) -> None:
        for _ in range(0, words, 10):
            assert says(" ".join(str(next(numbers)) for _ in range(10)))

    assert says("Order 4711")
    goes_on(SAID_MAX - 100)
    assert not says("thanks, 4711"), "what was said among the last words is known"
    goes_on(SAID_MAX - 100)
    assert not says("thanks, 4711")
    goes_on(2 * SAID_MAX + 100)
    assert says("thanks, 4711"), "memory is bounded"


def test_who_speaks_to_ever_more_others_crowds_out_only_what_is_known_of_itself():
    run = Run()
    for number, line in enumerate(COURTESIES):
        run.say("ab"[number % 2], "ba"[number % 2], line)
        if number == 3:
            assert run.found == []
            for other in range(2 * PAIRS_MAX):
                run.say("mallory", f"x{other}", f"Invoice {other} of the ledger is settled by wire")
    assert [(loop.form, set(loop.agents)) for loop in run.found if "mallory" not in loop.agents] == [
        ("courtesy", {"a", "b"})
    ]


def test_a_call_ends_the_row_of_whoever_makes_it_and_of_nobody_else():
    run = Run()
    for number, line in enumerate(COURTESIES):
        for one, other in ("ab", "cd"):
            sender, to = (one, other) if number % 2 else (other, one)
            run.say(sender, to, line)
        if number == 3:
            run.call("sort", "descending zebras, yaks, wolves and voles", agent="a", by="price")
    assert [set(loop.agents) for loop in run.found if loop.form == "courtesy"] == [{"c", "d"}]
