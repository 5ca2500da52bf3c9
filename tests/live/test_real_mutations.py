"""Mutations of the controllers and of the host: each turns the scenario of real processes red that it names."""

import shutil
from pathlib import Path

import pytest

from crewkeeper_supervisor.chaos.plan.scenario import load
from crewkeeper_supervisor.chaos.product_mutations import PRODUCT_MUTATIONS
from crewkeeper_supervisor.chaos.real.runner import run_real
from support.verdicts import is_red

pytestmark = [pytest.mark.live, pytest.mark.slow]
SCENARIOS = Path(__file__).resolve().parents[2] / "scenarios"
PAIRS = [(each.mutation.name, id_) for each in PRODUCT_MUTATIONS if each.mode == "real" for id_ in each.scenarios]


@pytest.mark.parametrize(("mutation", "id_"), PAIRS)
def test_a_broken_product_turns_it_red(mutation: str, id_: str) -> None:
    result = run_real(load(SCENARIOS / f"{id_}.yaml"), mutation=mutation)
    if result.told is not None and result.told.folder:
        shutil.rmtree(result.told.folder, ignore_errors=True)
    assert is_red(result), result.runs
