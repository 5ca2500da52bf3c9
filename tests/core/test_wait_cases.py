"""Small crews written down with their verdicts: the production wait graph must say exactly the same."""

import json
from pathlib import Path
from typing import Any

import pytest

from crewkeeper_supervisor.core.wait_case import WaitCase

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "data" / "wait_cases.json").read_bytes())["cases"]


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_a_case_has_the_verdict_written_beside_it(case: dict[str, Any]) -> None:
    replay = WaitCase(case["agents"], case["resources"])
    for event in case["events"]:
        replay.apply(event)
    assert replay.result() == case["expect"], case["title"]


def test_the_cases_cover_every_verdict_and_have_unique_ids() -> None:
    assert {case["expect"]["verdict"] for case in CASES} == {"none", "stalled", "orphan", "deadlock"}
    assert len({case["id"] for case in CASES}) == len(CASES)
    assert any(case["expect"]["timed_deadlock"] for case in CASES)
