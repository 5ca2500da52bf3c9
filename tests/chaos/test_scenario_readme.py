"""The page beside the scenarios names each of them, and each promise is proved by some and broken by a mutation.

`REWRITE_DOCS=1 pytest tests/chaos/test_scenario_readme.py` writes the tables.
"""

import os
import re
from pathlib import Path

import pytest

from crewkeeper_supervisor.chaos.plan.format import GUARANTEES
from crewkeeper_supervisor.chaos.plan.scenario import load
from crewkeeper_supervisor.chaos.product_mutations import PRODUCT_MUTATIONS

FOLDER = Path(__file__).resolve().parents[2] / "scenarios"
SCENARIOS = [load(path) for path in sorted(FOLDER.glob("*.yaml"))]
HEAD = "| scenario | where | proves | what happens |\n|---|---|---|---|\n"


PROVED = "| | scenarios | turned red by |\n|---|---|---|\n"


def table() -> str:
    rows = [
        f"| [{each.id}]({each.id}.yaml) | {', '.join(each.modes)} | {', '.join(each.guarantees)} | {each.title} |\n"
        for each in SCENARIOS
    ]
    return HEAD + "".join(rows)


def breaking(guarantee: str) -> dict[str, list[str]]:
    """The mutations that break a promise, each with the scenarios of that promise that it turns red."""
    proving = {each.id for each in SCENARIOS if guarantee in each.guarantees}
    return {
        each.mutation.name: [id_ for id_ in each.scenarios if id_ in proving]
        for each in PRODUCT_MUTATIONS
        if guarantee in each.breaks
    }


def proofs() -> str:
    rows = []
    for guarantee in GUARANTEES:
        proving = [each.id for each in SCENARIOS if guarantee in each.guarantees]
        broken = [f"{name} ({', '.join(red)})" for name, red in breaking(guarantee).items()]
        rows.append(f"| {guarantee} | {', '.join(proving)} | {', '.join(broken)} |\n")
    return PROVED + "".join(rows)


@pytest.mark.parametrize(("head", "written"), [(HEAD, table()), (PROVED, proofs())], ids=["scenarios", "promises"])
def test_the_page_has_every_scenario_and_promise(head: str, written: str) -> None:
    page = FOLDER / "README.md"
    text = page.read_text()
    begin = text.index(head)
    if os.environ.get("REWRITE_DOCS"):
        rest = re.sub(r"\A(\|.*\n)*", "", text[begin:])
        page.write_text(text[:begin] + written + rest)
        text = page.read_text()
    assert written in text


@pytest.mark.parametrize("guarantee", GUARANTEES)
def test_a_guarantee_has_a_sentence_and_a_scenario_that_turns_red_when_it_is_broken(guarantee: str) -> None:
    assert f"| {guarantee} |" in (FOLDER / "README.md").read_text()
    assert any(guarantee in each.guarantees for each in SCENARIOS)
    broken = breaking(guarantee)
    assert broken, f"no mutation breaks {guarantee}"
    assert all(broken.values()), f"{guarantee}: a mutation turns none of its scenarios red: {broken}"


def test_mutations_name_scenarios_that_can_be_played_where_they_are() -> None:
    by_id = {each.id: each for each in SCENARIOS}
    for each in PRODUCT_MUTATIONS:
        assert all(each.mode in by_id[id_].modes for id_ in each.scenarios), each.mutation.name
