"""Clocks: the wall clocks of a scenario's Python processes, each of which the runner can set wrong and right again."""

import os
import shutil
from pathlib import Path

from crewkeeper_supervisor.chaos.real import own_clock
from crewkeeper_supervisor.chaos.real.own_clock import OwnClock


class Clocks:
    """The clocks of one scenario, by name of the process.

    Args:
        folder: Where they are kept; made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._clocks: dict[str, OwnClock] = {}
        folder.mkdir(mode=0o700)
        shutil.copy(own_clock.__file__, folder / "sitecustomize.py")

    def env(self) -> dict[str, str]:
        """What processes must have in their environment to read these clocks."""
        path = os.pathsep.join(filter(None, (str(self._folder), os.environ.get("PYTHONPATH", ""))))
        return {"PYTHONPATH": path, own_clock.FOLDER: str(self._folder)}

    def of(self, process: str) -> OwnClock:
        """The clock of one process, an agent or a controller."""
        return self._clocks.setdefault(process, OwnClock(self._folder / f"{process}.clock"))
