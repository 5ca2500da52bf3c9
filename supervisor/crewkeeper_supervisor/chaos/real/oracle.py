"""Oracle: what the journal of a real run shows, in sightings as it comes, and who is stuck in truth."""

from collections.abc import Iterator

from crewkeeper_supervisor.chaos.trial.events import Sighting
from crewkeeper_supervisor.chaos.trial.journal_truth import JournalTruth
from crewkeeper_supervisor.chaos.trial.sightings import Sightings
from crewkeeper_supervisor.core.events import Event


class Oracle:
    """The journal of one run, from its first entry on.

    Args:
        run: The run's id.

    Attributes:
        sightings: Its fold.
    """

    def __init__(self, run: str) -> None:
        self.sightings = Sightings(run)
        self._truth = JournalTruth()
        self._stuck: frozenset[str] = frozenset()

    def feed(self, event: Event) -> Iterator[Sighting]:
        """Take the next entry; what it shows, and what is true from it on."""
        stuck = self._truth.feed(event)
        for sighting in self.sightings.feed(event):
            yield sighting
            if sighting.event == "deadlock":
                yield from self._refuted(sighting)
        if stuck - self._stuck:
            yield Sighting(at_s=event.at_s, event="truth.deadlock", fields={"agents": sorted(stuck)})
        elif self._stuck and not stuck:
            yield Sighting(at_s=event.at_s, event="truth.freed")
        self._stuck = stuck

    def _refuted(self, sighting: Sighting) -> Iterator[Sighting]:
        finding = self.sightings.core.incidents[sighting.fields["id"]].finding
        members = {edge.task: edge.epoch for edge in finding.edges if edge.task in finding.core[0]}
        if not finding.timed and not self._truth.was_stuck(members):
            fields = {"agents": sighting.fields["agents"], "id": finding.id}
            yield Sighting(at_s=sighting.at_s, event="false_deadlock", fields=fields)
