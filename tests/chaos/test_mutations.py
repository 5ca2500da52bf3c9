"""Every mutation of the core is noticed: by the simulation, or by the written wait cases."""

import json
from pathlib import Path

import pytest

from crewkeeper_supervisor.chaos.mutations import MUTATIONS, Mutation
from crewkeeper_supervisor.chaos.options import Options
from crewkeeper_supervisor.chaos.simulation import simulate
from crewkeeper_supervisor.core.wait_case import WaitCase

SEEDS = range(40)
CASES = json.loads((Path(__file__).parents[1] / "data" / "wait_cases.json").read_bytes())["cases"]


def a_case_differs() -> bool:
    for case in CASES:
        replay = WaitCase(case["agents"], case["resources"])
        for event in case["events"]:
            replay.apply(event)
        if replay.result() != case["expect"]:
            return True
    return False


def a_run_fails(mutation: Mutation) -> bool:
    options = mutation.options(Options(events=900))
    return any(simulate(seed, options).violations for seed in SEEDS)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.name for mutation in MUTATIONS])
def test_a_mutation_is_noticed(mutation: Mutation) -> None:
    with mutation.applied():
        assert a_case_differs() or a_run_fails(mutation)


def test_there_are_many_mutations_with_names_of_their_own_and_none_stays() -> None:
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) >= 20
    assert not a_case_differs()
    assert all(not simulate(seed, Options(events=1000)).violations for seed in range(5))
