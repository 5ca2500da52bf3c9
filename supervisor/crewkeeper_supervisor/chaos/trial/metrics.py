"""Metrics: what is counted at the end of a run, from its journal and from what was seen."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from crewkeeper_supervisor.chaos.trial.events import Sighting
from crewkeeper_supervisor.chaos.trial.sightings import Sightings

Metric = tuple[str, dict[str, Any], int]


def metrics_of(sightings: Sightings, seen: Sequence[Sighting], letters: Mapping[str, str]) -> list[Metric]:
    """Every metric of a run in parts that can be added up.

    Args:
        sightings: The fold of its journal.
        seen: Everything seen.
        letters: Kind of what the receiver took, by id.
    """
    made: list[Metric] = []
    for (kind, sender, to), count in Counter(sightings.talk).items():
        made.append(("messages", {"agent": sender, "to": to}, count))
        if kind == "calls":
            made.append(("calls", {"agent": sender, "to": to}, count))
    for event, metric in (("tool_run", "tool_runs"),):
        found = Counter((each.fields["agent"], each.fields["tool"]) for each in seen if each.event == event)
        made += [(metric, {"agent": agent, "tool": tool}, count) for (agent, tool), count in found.items()]
    asked = Counter((agent, tool) for (agent, _), tool in sightings.asked.items())
    made += [("tool_calls", {"agent": agent, "tool": tool}, count) for (agent, tool), count in asked.items()]
    restarts = Counter(each.fields["agent"] for each in seen if each.event == "started" and each.fields["restarts"])
    made += [("restarts", {"agent": agent}, count) for agent, count in restarts.items()]
    made += [("webhooks", {"kind": kind}, count) for kind, count in Counter(letters.values()).items()]
    incidents = sightings.core.incidents
    kinds = Counter(incident.finding.kind for incident in incidents.values())
    made += [("incidents", {"kind": kind}, count) for kind, count in kinds.items()]
    told = Counter(incidents[id_].finding.kind for id_ in sightings.told if id_ in incidents)
    made += [("incidents_told", {"kind": kind}, count) for kind, count in told.items()]
    made += [("entries", {"agent": agent}, count) for agent, count in sightings.entries.items()]
    made.append(("spent_microusd", {}, sightings.spent_microusd()))
    return made
