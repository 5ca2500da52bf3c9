"""Records real runs for the tests: `make recordings`. Do it when decisions are meant to change, not to quiet a test.

Each crew is run as a user would run it, from a copy in a temporary folder, and exported with `supervisor audit export`.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "data" / "recordings"
SUPERVISOR = (sys.executable, "-m", "crewkeeper_supervisor.cli.main")
LIMIT_S = 120.0

RULES = """
rules:
  - {id: unicorns, tools: [prices], when: "args.item == 'unicorn'", do: deny, because: they are not for sale}
  - {id: bulk, tools: [pay], when: "args.count > 5", do: approve}
  - {id: receipts, tools: [receipt], do: redact, redact: [args.lines]}
  - {id: watched, tools: [pay], when: "args.count == 1", do: warn, shadow: true}
redact: {in: [client, arguments, views, webhooks]}
"""
"""What the crew `rules` has beside the crew `tools`."""


def supervisor(*words: object, state: Path | None = None) -> None:
    """Run one command to its end."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("CREWKEEPER_")}
    env |= {"CREWKEEPER_STATE": str(state)} if state is not None else {}
    line = [*SUPERVISOR, *map(str, words)]
    subprocess.run(line, env=env, timeout=LIMIT_S, check=True, stdout=subprocess.DEVNULL)


def keep(name: str, state: Path) -> None:
    """Keep what is recorded of the only run of a state directory."""
    supervisor("audit", "export", "--to", FOLDER / f"{name}.audit.gz", "--whole", "--force", state=state)


def main() -> None:
    """Record every run anew."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="recordings-") as made:
        folder = Path(made)
        for name, example in (("two-agents", "two-agents"), ("tools", "tools"), ("rules", "tools")):
            crew = folder / name / "crew.yaml"
            shutil.copytree(ROOT / "examples" / example, crew.parent, ignore=shutil.ignore_patterns("__pycache__"))
            if name == "rules":
                crew.write_text(crew.read_text() + RULES)
            supervisor("up", crew, state=folder / f"{name}-state")
            keep(name, folder / f"{name}-state")
        supervisor("demo", "--dir", folder / "demo")
        keep("deadlock", folder / "demo" / ".crewkeeper")


if __name__ == "__main__":
    main()
