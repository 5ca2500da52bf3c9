"""Library: the scenarios that come with this version, files and folders of scenarios, and a new one to start from."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from crewkeeper_supervisor.chaos.plan.scenario import Scenario, ScenarioError, load

SUFFIX: Final = ".yaml"
FIRST: Final = """\
# yaml-language-server: $schema=./scenario.schema.json
v: 1
id: {id}
title: a and b wait for each other, and one wait is broken
story: |
  Two agents ask each other at the same time. Neither will ever answer. The supervisor says so, fails one of the two
  waits, and both come to their end.
modes: [sim, real]
guarantees: [G3]
timeout: 30s
crew:
  responses: {{deadlock: {{confirm: 100ms, do: [break]}}}}
agents:
  a:
    main: [{{work: 500ms}}, {{ask: {{to: b}}}}]
    handlers: {{ask: [{{reply: ok}}]}}
  b:
    main: [{{work: 500ms}}, {{ask: {{to: a}}}}]
    handlers: {{ask: [{{reply: ok}}]}}
faults:
  - {{do: kill_supervisor, after: truth.deadlock, for: 1s}}
expect:
  - {{event: deadlock, where: {{agents: [a, b]}}, count: 1, within: 8s, after: truth.deadlock}}
  - {{event: wait_broken, count: 1, within: 9s, after: truth.deadlock}}
never:
  - {{event: false_deadlock}}
"""
"""What `supervisor chaos init` writes."""


def shipped() -> Path | None:
    """The folder of the scenarios that come along: in an installed wheel, else in the repository; None: neither."""
    package = Path(__file__).resolve().parents[2]
    folders = (package / "scenarios", package.parents[1] / "scenarios")
    return next((folder for folder in folders if any(folder.glob(f"*{SUFFIX}"))), None)


def files(places: Iterable[Path]) -> list[Path]:
    """Scenario files: those named, and all directly in the folders named, by name, each once.

    Raises:
        FileNotFoundError: A place is not there, or a folder without a scenario.
    """
    found: dict[Path, Path] = {}
    for place in places:
        inside = sorted(place.glob(f"*{SUFFIX}")) if place.is_dir() else [place]
        if not inside or not inside[0].exists():
            what = f"no file in this folder ends in {SUFFIX}" if place.is_dir() else "there is no such file or folder"
            raise FileNotFoundError(2, what, str(place))
        for each in inside:
            found.setdefault(each.resolve(), each)
    return list(found.values())


def loaded(paths: Iterable[Path]) -> tuple[list[Scenario], list[ScenarioError]]:
    """The scenarios of these files, and what is wrong with those that are refused."""
    scenarios: list[Scenario] = []
    refused: list[ScenarioError] = []
    for path in paths:
        try:
            scenarios.append(load(path))
        except ScenarioError as error:
            refused.append(error)
    return scenarios, refused
