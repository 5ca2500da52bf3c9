"""Which run a name means."""

import re

import pytest

from crewkeeper_supervisor.cli.failure import NOT_FOUND, USAGE, Failure
from crewkeeper_supervisor.cli.runs import choose, choose_active
from crewkeeper_supervisor.shell.registry import RunInfo


def runs(*named):
    """`id crew state`, oldest first."""
    return [
        RunInfo(run=run, crew=crew, host="h", declared_at_s=float(number), state=state)
        for number, (run, crew, state) in enumerate(name.split() for name in named)
    ]


KNOWN = runs("trip-aa11 trip done", "trip-ab22 trip running", "trip-ab33 trip failed", "shop-cc44 shop done")


@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("trip-aa11", "trip-aa11"),
        ("trip-aa", "trip-aa11"),
        ("trip", "trip-ab22"),
        ("shop", "shop-cc44"),
        ("s", "shop-cc44"),
        (None, "trip-ab22"),
    ],
)
def test_what_a_name_means(name, run):
    assert choose(KNOWN, name).run == run


def test_a_crew_that_has_ended_means_its_newest_run():
    assert choose(runs("a-1 a done", "a-2 a failed"), "a").run == "a-2"
    assert choose(runs("a-1 a done", "a-2 a failed"), None).run == "a-2"


@pytest.mark.parametrize(
    ("known", "name", "code", "text"),
    [
        (KNOWN, "trpi", NOT_FOUND, "did you mean 'trip'"),
        (KNOWN, "trip-ab", USAGE, "trip-ab22, trip-ab33"),
        ([], None, NOT_FOUND, "there are no runs"),
        (runs("a-1 a running", "b-1 b running"), None, USAGE, "a-1, b-1"),
    ],
)
def test_what_no_name_means(known, name, code, text):
    with pytest.raises(Failure, match=re.escape(text)) as caught:
        choose(known, name)
    assert caught.value.code == code


def test_of_many_runs_some_are_named():
    known = runs(*(f"r-{number} crew{number} running" for number in range(30)))
    for chosen in (
        lambda: choose(known, None),
        lambda: choose(known, "r-"),
        lambda: choose_active(known, (), every=False),
    ):
        with pytest.raises(Failure, match=r"30 runs.*: r-0, .*, r-9 and 20 more") as caught:
            chosen()
        assert caught.value.code == USAGE
    assert choose_active(known, (), every=True) == (known, [])
    assert "--all" in caught.value.remedy
