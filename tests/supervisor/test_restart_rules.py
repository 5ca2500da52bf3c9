"""Restart rules: which exits ask for a restart, and how many the budget grants in any window."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crewkeeper_supervisor.core.crew import Restart
from crewkeeper_supervisor.core.restart import DELAY_MAX_S, FIRST_DELAY_S, RestartBudget, asks_for_restart


@pytest.mark.parametrize(
    ("policy", "code", "expected"),
    [
        ("permanent", 0, True),
        ("permanent", 1, True),
        ("transient", 0, False),
        ("transient", 1, True),
        ("transient", -9, True),
        ("temporary", 0, False),
        ("temporary", -9, False),
    ],
)
def test_policy_decides_by_exit_status(policy: str, code: int, expected: bool) -> None:
    assert asks_for_restart(Restart(policy=policy), code) is expected  # type: ignore[arg-type]


def test_budget_refuses_one_more_than_intensity() -> None:
    budget = RestartBudget(intensity=3, period_s=60.0)
    assert [budget.spend(now_s) is not None for now_s in (0.0, 1.0, 2.0, 3.0)] == [True, True, True, False]
    assert budget.spent == 3


def test_budget_comes_back_when_the_window_moves_on() -> None:
    budget = RestartBudget(intensity=1, period_s=10.0)
    assert budget.spend(0.0) is not None
    assert budget.spend(10.0) is None
    assert budget.spend(10.1) is not None


def test_intensity_zero_never_restarts() -> None:
    assert RestartBudget(intensity=0, period_s=60.0).spend(0.0) is None


def test_delay_grows_with_the_restarts_that_are_remembered_and_starts_over() -> None:
    budget = RestartBudget(intensity=1000, period_s=60.0)
    delays = [budget.spend(0.0) for _ in range(20)]
    assert delays[:3] == [FIRST_DELAY_S, 2 * FIRST_DELAY_S, 4 * FIRST_DELAY_S]
    assert delays[-1] == DELAY_MAX_S
    assert budget.spend(100.0) == FIRST_DELAY_S


@given(
    st.integers(0, 5),
    st.floats(0.1, 100.0),
    st.lists(st.floats(0.0, 50.0), max_size=60),
)
def test_no_window_holds_more_than_intensity(intensity: int, period_s: float, gaps: list[float]) -> None:
    budget = RestartBudget(intensity, period_s)
    now_s, granted = 0.0, []
    for gap_s in gaps:
        now_s += gap_s
        in_window = sum(1 for at_s in granted if now_s - at_s <= period_s)
        delay_s = budget.spend(now_s)
        assert (delay_s is not None) == (in_window < intensity)
        if delay_s is not None:
            granted.append(now_s)
    assert budget.spent == len(granted)
