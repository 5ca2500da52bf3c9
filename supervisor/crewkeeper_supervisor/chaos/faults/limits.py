"""Faults of limits that a system puts on a process: it may open no more files and connections."""

import contextlib
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Final

from crewkeeper_supervisor.chaos.faults.kind import FaultKind, Strike

if TYPE_CHECKING:
    from crewkeeper_supervisor.chaos.plan.scenario import Fault
    from crewkeeper_supervisor.chaos.real.stage import RealStage

NO_MORE: Final = 3
"""Below this number every descriptor is taken: what is open stays open, and nothing can be opened any more."""
_WORDS: Final = "Too many open files"
"""How a log says it."""


def _missing() -> str:
    return "" if hasattr(resource, "prlimit") else "limits of another process can be set on Linux only"


def _set(pid: int, soft: int) -> int:
    """Set the soft limit of open files of a process; returns the one before, 0 if there is no such process."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        before, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(soft, hard) if hard >= 0 else soft, hard))
        return before
    return 0


def _said(logs: list[Path]) -> int:
    texts = [log.read_text("utf-8", "replace") for log in logs if log.exists()]
    return sum(text.count(_WORDS) for text in texts)


async def _no_files(stage: "RealStage", _fault: "Fault", target: str) -> Strike:
    if target in stage.cast.instances:
        found = {stage.processes.pid(target): stage.agent_log(target)}
    else:
        names = stage.controllers.which(target)
        found = {stage.controllers.pid(name): stage.controllers.log(name) for name in names}
    logs = [log for pid, log in found.items() if pid]
    before = _said(logs)
    ends = {pid: stage.holds.take(f"files {pid}", _set(pid, NO_MORE)) for pid in found if pid}

    async def heal() -> None:
        for pid, end in ends.items():
            last = end()
            if last is not None and last.before:
                _set(pid, last.before)

    return Strike(heal, lambda: _said(logs) - before)


FAULTS: Final = (
    FaultKind(
        word="no_files",
        doc="A process can open no more files and connections; those that are open go on.",
        targets=("agent", "supervisor"),
        default_target="supervisor:owner",
        for_s=5.0,
        missing=_missing,
        real=_no_files,
    ),
)
