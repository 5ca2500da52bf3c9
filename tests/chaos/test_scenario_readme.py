"""The page beside the scenarios names each of them, and each promise is proved by some.

`REWRITE_DOCS=1 pytest tests/chaos/test_scenario_readme.py` writes the table.
"""

import os
import re
from pathlib import Path

from crewkeeper_supervisor.chaos.plan.format import GUARANTEES
from crewkeeper_supervisor.chaos.plan.scenario import load

FOLDER = Path(__file__).resolve().parents[2] / "scenarios"
SCENARIOS = [load(path) for path in sorted(FOLDER.glob("*.yaml"))]
HEAD = "| scenario | where | proves | what happens |\n|---|---|---|---|\n"


def table() -> str:
    rows = [
        f"| [{each.id}]({each.id}.yaml) | {', '.join(each.modes)} | {', '.join(each.guarantees)} | {each.title} |\n"
        for each in SCENARIOS
    ]
    return HEAD + "".join(rows)


def test_the_page_has_every_scenario() -> None:
    page = FOLDER / "README.md"
    text = page.read_text()
    begin = text.index(HEAD)
    if os.environ.get("REWRITE_DOCS"):
        rest = re.sub(r"\A(\|.*\n)*", "", text[begin:])
        page.write_text(text[:begin] + table() + rest)
        text = page.read_text()
    assert table() in text


def test_every_guarantee_has_a_scenario_and_a_sentence() -> None:
    text = (FOLDER / "README.md").read_text()
    proved = {guarantee for each in SCENARIOS for guarantee in each.guarantees}
    assert proved == set(GUARANTEES)
    assert all(f"| {guarantee} |" in text for guarantee in GUARANTEES)
