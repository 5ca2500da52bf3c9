"""Steady state: what must hold before the first fault and again after the last one has healed, told by its outputs."""

from collections.abc import Iterable

from crewkeeper_supervisor.core.supervisor import Supervisor


def unsteady(probes: Iterable[str], core: Supervisor, *, owned: bool) -> list[str]:
    """What does not hold, in words.

    A run that has come to its end in order needs no agents any more.

    Args:
        probes: Which, by name.
        core: The fold of the journal.
        owned: Whether somebody owns the run.
    """
    found: list[str] = []
    over = core.state in ("done", "stopped")
    for probe in probes:
        match probe:
            case "agents" if not over:
                away = [name for name, view in core.agents.items() if view.status not in ("up", "paused", "gone")]
                if core.state == "failed":
                    found.append("the run has failed")
                elif away:
                    told = ", ".join(f"{name} is {core.agents[name].status}" for name in away[:5])
                    found.append(told)
            case "owner" if not owned and not over:
                found.append("nobody owns the run")
            case "incidents":
                left = [each for each in core.incidents.values() if each.state != "resolved"]
                if left and not over:
                    found.append(f"{len(left)} incidents are open, first {left[0].finding.kind}")
    return found
