"""The stories of `stories/`: what happens to crews, and what the core does about it, line by line."""

import subprocess
import sys
from pathlib import Path

import pytest

from support.stories import Story, run_story

STORIES = sorted((Path(__file__).parent / "stories").glob("*.txt"))


@pytest.mark.parametrize("path", STORIES, ids=[path.stem for path in STORIES])
def test_a_story_goes_as_it_is_written(path: Path, request: pytest.FixtureRequest) -> None:
    run_story(path, rewrite=request.config.getoption("--rewrite-stories"))


def test_a_story_that_is_told_wrongly_is_noticed() -> None:
    text = "agent a\nstart\n    -> a: stop (never)\n"
    assert "-> a: begin" in Story(text).told()
    assert Story(text).told() != text


def test_the_core_is_pure_at_run_time_too() -> None:
    code = (
        "import sys, crewkeeper_supervisor.core.supervisor;"
        "print(sorted({'anyio', 'nats', 'structlog'} & {name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
