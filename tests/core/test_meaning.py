"""Meaning: vectors that somebody else makes, judged by what is usual in the run."""

import pytest

from crewkeeper_supervisor.core.drift import DriftModel
from crewkeeper_supervisor.core.meaning import Meaning

TOPICS = {"sea": (1.0, 0.1, 0.0), "ship": (0.9, 0.2, 0.0), "law": (0.0, 0.1, 1.0)}


def embed(text: str) -> list[float]:
    vectors = [TOPICS[word] for word in text.split() if word in TOPICS]
    return [sum(part) for part in zip(*vectors, strict=True)] if vectors else [0.0, 0.0, 0.0]


def test_who_leaves_what_the_run_is_about_is_farther_than_usual():
    meaning = Meaning(embed, 3)
    meaning.told("sea")
    assert meaning.farther("a") == 0.0
    for word in ("sea", "ship") * 4:
        meaning.did("a", word)
    assert abs(meaning.farther("a")) < 0.05
    for _ in range(3):
        meaning.did("a", "law")
    assert meaning.farther("a") > 0.5


def test_what_a_person_says_is_what_the_run_is_about():
    left, led = Meaning(embed, 3), Meaning(embed, 3)
    for meaning in (left, led):
        for _ in range(8):
            meaning.did("a", "sea")
    for _ in range(20):
        led.told("law")
    for meaning in (left, led):
        for _ in range(3):
            meaning.did("a", "law")
    assert led.farther("a") < left.farther("a") / 2


def test_texts_without_meaning_and_unknown_agents_are_no_distance():
    meaning = Meaning(embed, 3)
    for _ in range(8):
        meaning.did("a", "nothing known")
    assert meaning.farther("a") == meaning.farther("b") == 0.0
    meaning.forget("a")
    meaning.forget("b")


def test_meaning_counts_beside_words():
    said = [f"word{number} other{number} third{number} sea" for number in range(9)]
    strange = [f"news{number} odd{number} queer{number} law" for number in range(3)]
    scores = []
    for model in (DriftModel("sea ship"), DriftModel("sea ship", embed)):
        for at, text in enumerate([*said, *strange]):
            model.did("a", text, at)
        scores.append(model.score("a"))
    assert scores[1] >= scores[0]
    near = DriftModel("sea ship", embed)
    for at, text in enumerate([*said, *(text.replace("law", "ship") for text in strange)]):
        near.did("a", text, at)
    assert near.score("a") <= scores[1]


def test_answers_to_what_has_nothing_to_do_with_the_task_vouch_for_nothing():
    scores = {}
    for asked in ("ship", "quark"):
        model = DriftModel("sea ship harbour")
        model.did("a", f"{asked} sea harbour" if asked == "ship" else "quark gluon lepton", 0)
        model.heard({"boson", "muon", "tauon"}, "a")
        for at in range(1, 4):
            model.did("a", "boson muon tauon", at)
        scores[asked] = model.score("a")
    assert scores["ship"] == pytest.approx(0.5)
    assert scores["quark"] == 1.0
