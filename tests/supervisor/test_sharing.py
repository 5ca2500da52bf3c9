"""Sharing: loads become even, moving ends, and free runs go to those who have the least."""

import random
from collections import Counter

import pytest

from crewkeeper_supervisor.shell import sharing

MOST = 4


def settle(loads: dict[str, int], seen_late: bool, seed: int) -> int:
    """Let controllers look in turn, perhaps at loads of a round before; returns how many runs were moved."""
    chance = random.Random(seed)
    moved = 0
    for _ in range(200):
        seen = dict(loads)
        before = moved
        for me in chance.sample(sorted(loads), len(loads)):
            view = {**(seen if seen_late else loads), me: loads[me]}
            for _ in range(sharing.surplus(me, view, MOST)):
                others = [each for each in loads if each != me]
                taker = min(others, key=lambda each: (sharing.hold_back_s("r", each, loads), each))
                loads[me] -= 1
                loads[taker] += 1
                moved += 1
        if moved == before:
            return moved
    raise AssertionError(f"it does not settle: {loads}")


@pytest.mark.parametrize("seen_late", [False, True])
@pytest.mark.parametrize("seed", range(50))
def test_loads_become_even_and_moving_ends(seed, seen_late):
    chance = random.Random(seed)
    loads = {f"c{n}": chance.randint(0, 40) for n in range(chance.randint(2, 8))}
    total, fair = sum(loads.values()), sum(loads.values()) / len(loads)
    too_many = sum(max(0, count - int(fair)) for count in loads.values())
    moved = settle(loads, seen_late, seed)
    assert sum(loads.values()) == total
    assert max(loads.values()) - min(loads.values()) <= 1
    assert moved <= 2 * too_many


def test_nobody_hands_over_what_would_come_back():
    assert sharing.surplus("a", {"a": 3, "b": 2}, MOST) == 0
    assert sharing.surplus("a", {"a": 1, "b": 0}, MOST) == 0
    assert sharing.surplus("a", {"a": 9}, MOST) == 0
    assert sharing.surplus("a", {"b": 0, "c": 9}, MOST) == 0
    assert sharing.surplus("a", {"a": 9, "b": 0}, MOST) == MOST
    assert [sharing.surplus(each, {"a": 2, "b": 2, "c": 0}, MOST) for each in "abc"] == [0, 1, 0]


def test_the_least_loaded_takes_a_free_run_at_once_and_equals_are_drawn_for():
    assert sharing.hold_back_s("r", "b", {"a": 2, "b": 1, "c": 3}) == 0.0
    assert sharing.hold_back_s("r", "c", {"a": 2, "b": 1, "c": 3}) == 2 * sharing.RANK_S
    equal = {f"c{n}": 5 for n in range(4)}
    first = Counter(min(equal, key=lambda me: sharing.hold_back_s(f"r{n}", me, equal)) for n in range(400))
    assert set(first) == set(equal)
    assert min(first.values()) > 60
    crowd = {f"c{n}": n for n in range(50)}
    assert max(sharing.hold_back_s("r", me, crowd) for me in crowd) == sharing.RANK_MAX_S
    assert sharing.hold_back_s("r", "stranger", crowd) == 0.0
