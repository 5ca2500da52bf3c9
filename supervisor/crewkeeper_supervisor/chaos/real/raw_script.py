"""Raw script: a scripted agent whose raw subjects hold the run and its own name; both are known when it is started.

`python -m crewkeeper_supervisor.chaos.real.raw_script FILE` becomes the scripted agent.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any


def filled(value: Any, run: str, agent: str) -> Any:
    """A script with `{run}` and `{self}` in its subjects replaced."""
    match value:
        case list():
            return [filled(each, run, agent) for each in value]
        case dict():
            made = {key: filled(each, run, agent) for key, each in value.items()}
            if "bytes_base64" in made:
                made["subject"] = made["subject"].replace("{run}", run).replace("{self}", agent)
            return made
        case _:
            return value


def main() -> None:
    """Become the agent; never returns."""
    script = json.loads(Path(sys.argv[1]).read_text())
    made = filled(script, os.environ["CREWKEEPER_RUN"], os.environ["CREWKEEPER_AGENT"])
    command = [sys.executable, "-m", "crewkeeper_agents.scripted", json.dumps(made)]
    os.execv(sys.executable, command)  # noqa: S606 - the same process becomes the agent


if __name__ == "__main__":
    main()
