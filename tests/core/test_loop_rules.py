"""Loops: one rule after the other, each with the run that it is for and the one that it must not disturb."""

from typing import Any

import pytest

from crewkeeper_supervisor.core.fingerprint import of_arguments, of_text, same_outcome, words_of
from crewkeeper_supervisor.core.loops import TRIES, Loop, LoopDetector
from crewkeeper_supervisor.core.steps import Step, tells_failure

PAGE = "the quick brown fox jumps over the lazy dog while seven wizards brew a potion of green glass"
LONG = " ".join(f"{first}{second}" for first in ("red", "old", "far", "low", "dim") for second in PAGE.split())


class Run:
    """Feeds steps and keeps what was found."""

    def __init__(self) -> None:
        self.loops = LoopDetector()
        self.at = -1
        self.found: list[Loop] = []

    def feed(self, **step: Any) -> None:
        self.at += 1
        found = self.loops.step(Step(at=self.at, began=self.at, **{"tokens": 50, **step}))
        self.found += [found] if found is not None else []

    def call(self, tool: str, answer: str, agent: str = "a", public: bool = False, tokens: int = 50, **args: Any):
        self.feed(
            agent=agent, kind="tool", name=tool, peer="tools", arguments=of_arguments(args), outcome=of_text(answer),
            failed=tells_failure(answer), public=public, tokens=tokens,
        )  # fmt: skip

    def say(self, sender: str, to: str, text: str) -> None:
        self.feed(agent=sender, kind="message", peer=to, said=of_text(text, names=True), text=text)


@pytest.fixture
def run() -> Run:
    return Run()


@pytest.mark.parametrize("deeds", [True, False])
def test_a_check_between_deeds_is_none_and_without_deeds_it_is_one(run, deeds):
    for number in range(6):
        if deeds:
            run.call("edit", "ok", path=f"{chr(97 + number)}.py", patch=f"step {number}")
        run.call("run_tests", "40 passed")
    assert bool(run.found) is not deeds


def test_a_check_that_fails_is_one_whatever_is_tried_in_between(run):
    for number in range(4):
        run.call("edit", "ok", path=f"{chr(97 + number)}.py", patch=f"step {number}")
        run.call("run_tests", "2 failed, 38 passed")
    assert [loop.what for loop in run.found] == ["run_tests"]


def test_a_busy_service_may_be_asked_five_times(run):
    for _ in range(TRIES):
        run.call("download", "HTTP 429 too many requests, retry later", url="x")
        run.call("sleep", "", tokens=0, seconds=1)
    assert run.found == []
    run.call("download", "HTTP 429 too many requests, retry later", url="x")
    assert [loop.failed for loop in run.found] == [True]


def test_another_refusal_may_not(run):
    for _ in range(3):
        run.call("download", "403 forbidden", url="x")
    assert len(run.found) == 1


@pytest.mark.parametrize("answer", ['{"state": "deploying"}', "still pending", '{"phase": "testing", "id": 7}'])
def test_what_is_not_over_may_be_asked_for_until_it_has_cost_too_much(run, answer):
    for _ in range(20):
        run.call("get_deployment", answer, id=7)
    assert run.found == []
    for _ in range(3):
        run.call("get_deployment", answer, id=7, tokens=1500)
    assert len(run.found) == 1


def test_what_is_over_is_not_pending(run):
    for _ in range(3):
        run.call("get_deployment", '{"state": "deployed"}', id=7)
    assert len(run.found) == 1


def test_names_of_temporary_files_change_by_themselves(run):
    for number in range(3):
        digest = f"{number}9bfcf920aa2fb80585b5d64b9f252{number}"
        run.call("run_code", f'File "/tmp/tmp_code_{digest}.py", line 2: KeyError', code="f(x)")
    assert len(run.found) == 1


def test_how_much_of_an_answer_is_wanted_does_not_matter_if_it_is_the_same(run):
    for number in range(3):
        run.call("find", "0 results", q="fox", limit=10 * number, timeout=number)
    assert len(run.found) == 1


def test_which_page_of_it_does(run):
    for number in range(6):
        run.call("find", "0 results", q="fox", page=number)
    assert run.found == []


def test_a_message_of_so_many_is_progress_and_an_attempt_is_not(run):
    for number in range(6):
        run.call("send_next", f"sent message {number} of 20")
    assert run.found == []
    for number in range(3):
        run.call("connect", f"could not connect, attempt {number} of 20")
    assert len(run.found) == 1


def test_an_identifier_that_took_anothers_place_is_news_and_a_misread_one_is_none():
    one = of_text(f"{LONG} posted by smitch18")
    assert same_outcome(one, of_text(f"{LONG} posted by smtich18"))
    assert not same_outcome(one, of_text(f"{LONG} posted by kw7700"))


def test_the_same_words_set_in_another_way_are_news(run):
    for number in range(6):
        tasks = [f"[{'x' if done <= number else ' '}] task {chr(97 + done)}" for done in range(8)]
        run.call("read_list", "\n".join(tasks))
    assert run.found == []


def test_an_errand_for_one_after_another_is_none_though_their_names_have_no_capitals(run):
    for name in ("ann", "bob", "cid", "dan", "eve", "fay"):
        run.say("a", "b", f"please send the quick brown invoice with the lazy letter to {name}")
        run.say("b", "a", f"the quick brown invoice with the lazy letter has been sent to {name}")
    assert run.found == []


def test_a_word_that_the_other_side_says_each_time_is_no_echo(run):
    for word in ("carefully once more", "again", "closely this time", "thoroughly now"):
        run.say("a", "b", f"please check the final report against the old numbers and sources {word}")
        run.say("b", "a", "I checked it carefully again and closely and found nothing that is wrong with it at all")
    assert len(run.found) == 1


@pytest.mark.parametrize("public", [True, False])
def test_what_everybody_hears_nobody_needs_to_ask_for_again(run, public):
    for agent in ("a", "b", "c"):
        run.call("run_code", PAGE, agent=agent, public=public, code="print(1)")
    assert [loop.agents for loop in run.found] == ([("a", "b", "c")] if public else [])


def test_what_a_third_one_does_is_a_reason_to_ask_again(run):
    for number in range(4):
        run.say("a", "b", "good morning, is there anything that blocks you today?")
        run.say("b", "a", "no, nothing that I know of blocks me today")
        for step in range(4):
            run.call("query", f"{PAGE} w{number}x{step}", agent="c", what=f"{number} {step}")
    assert run.found == []


def test_german_capitals_are_no_names(run):
    for word in ("Abend", "nächsten Morgen", "Mittag", "kommenden Herbst"):
        run.say(
            "a", "b", f"Bitte prüfe die Rechnung für den Kunden und das Konto mit der Buchung am {word} noch einmal"
        )
    assert len(run.found) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the cat's a_b 12,5", ["the", "cat", "s", "a", "b", "12", "5"]),
        ("größe — “naïve” 12€", ["größe", "naïve", "12"]),
        ("查询订单 w42 abc中文", ["查", "询", "订", "单", "w42", "abc", "中", "文"]),
        ("テスト", ["テス", "スト", "ト"]),
    ],
)
def test_words_of_many_tongues(text, words):
    assert words_of(text) == words


def test_a_form_filled_in_for_the_next_is_none_and_a_rewording_is_one(run):
    for name in ("harbour", "cabin", "ferry", "lagoon", "canal"):
        run.say("a", "b", f"the file {name}.py is ready, please have a look at it when you can")
        run.say("b", "a", "looks good to me, please go on with the next one")
    assert run.found == []


def test_the_last_lines_of_a_log_are_news_and_a_page_read_poorly_is_none(run):
    lines = [
        f"2031-05-01T10:{n:02}:00Z {PAGE.split()[n % 18]} {PAGE.split()[(3 * n) % 18]} met {'abcdefgh'[n % 8]}"
        for n in range(40)
    ]
    for at in range(0, 20, 2):
        run.call("tail", "\n".join(lines[at : at + 20]), file="app.log")
    assert run.found == []
    words = f"{LONG} {PAGE}".split()
    for at in range(3):
        run.call("click", " ".join(word for number, word in enumerate(words) if number % 25 != at), target="x")
    assert len(run.found) == 1


@pytest.mark.parametrize(("answer", "found"), [(LONG, 1), ("ok", 0)])
def test_a_long_answer_that_is_equal_shows_that_the_wording_made_no_difference(run, answer, found):
    for words in ("about seven wizards brewing", "on the seven wizards who brew", "of brewing by seven old wizards"):
        run.call("look_for", answer, text=f"everything there is {words} a potion of green glass in the dark")
    assert len(run.found) == found
