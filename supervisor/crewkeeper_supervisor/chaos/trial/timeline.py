"""Timeline: when what is planned is due: anchors that have happened, what waits for them; the same for every mode."""

from collections.abc import Iterator
from typing import Final

from crewkeeper_supervisor.chaos.plan.scenario import Action, Fault, Scenario
from crewkeeper_supervisor.chaos.trial.events import Sighting

START: Final = "start"


class Timeline:
    """What is planned of one scenario.

    Attributes:
        anchors: When each anchor first happened, journal time.
    """

    def __init__(self, scenario: Scenario) -> None:
        self._waiting: list[Fault | Action] = [*scenario.faults, *scenario.actions]
        self._names = {fault.index: fault.name for fault in scenario.faults}
        self.anchors: dict[str, float] = {}

    @property
    def waiting(self) -> int:
        """How many planned things still wait for their anchor."""
        return len(self._waiting)

    def saw(self, sighting: Sighting) -> list[tuple[float, Fault | Action]]:
        """Something was seen; returns what is now due, and when."""
        due: list[tuple[float, Fault | Action]] = []
        for anchor in self._anchors_of(sighting):
            if anchor not in self.anchors:
                self.anchors[anchor] = sighting.at_s
                due += self._released(anchor, sighting.at_s)
        return due

    def _anchors_of(self, sighting: Sighting) -> Iterator[str]:
        yield f"event.{sighting.event}"
        match sighting.event:
            case "began":
                yield START
            case "truth.deadlock" | "truth.freed":
                yield sighting.event
            case "fault" | "fault.end":
                end = ".end" if sighting.event == "fault.end" else ""
                yield f"fault.{sighting.fields['fault']}{end}"
                yield f"fault.{self._names[sighting.fields['fault']]}{end}"
            case "action":
                yield f"action.{sighting.fields['action']}"

    def _released(self, anchor: str, at_s: float) -> list[tuple[float, Fault | Action]]:
        due: list[tuple[float, Fault | Action]] = []
        for planned in [each for each in self._waiting if each.after == anchor]:
            self._waiting.remove(planned)
            times = range(planned.times) if isinstance(planned, Fault) else range(1)
            every_s = planned.every_s if isinstance(planned, Fault) else 0.0
            due += [(at_s + planned.at_s + number * every_s, planned) for number in times]
        return due
