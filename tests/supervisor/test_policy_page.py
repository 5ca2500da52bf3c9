"""The page on policy tells the truth: its example holds, its table is that of the engine."""

import re
from pathlib import Path

import yaml

from crewkeeper_supervisor.gate.condition import VARIABLES
from crewkeeper_supervisor.gate.trial import try_out
from crewkeeper_supervisor.shell.policy_file import read_policy

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "policy.md").read_text("utf-8")


def test_the_example_passes_its_own_tests(tmp_path: Path):
    (example,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    file = tmp_path / "policy.yaml"
    file.write_text(example)
    loaded = read_policy(file)
    assert len(loaded.trials) == len(yaml.safe_load(example)["policy"]["tests"]) == 2
    assert [try_out(loaded.policy(), trial).problems for trial in loaded.trials] == [(), ()]


def test_the_table_names_every_variable():
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|$", PAGE, re.MULTILINE)
    assert {name: (kind, told) for name, kind, told in rows} == VARIABLES
