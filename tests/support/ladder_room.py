"""A run whose detector is a script: what agents say of their progress is found, goes on or is over as it says."""

from typing import Any

from crewkeeper_bus import messages as m
from crewkeeper_supervisor.core import ladder
from crewkeeper_supervisor.core.commands import Command, Escalate, TellAgent
from crewkeeper_supervisor.core.crew import Agent, Budget, Crew, Response, Responses, Watching, Webhook
from crewkeeper_supervisor.core.events import Recorded
from crewkeeper_supervisor.core.findings import Incident
from crewkeeper_supervisor.core.roster import AgentView
from crewkeeper_supervisor.core.supervisor import Supervisor
from crewkeeper_supervisor.gate.rules import make_fold
from support.gate_room import LOOK, PAY, Room


def scripted(run: str) -> Supervisor:
    """A core that takes words of progress for findings: `found loop k what`, `goes_on loop k`, `cleared loop k`."""
    core = make_fold(run)

    def heard(_event: Recorded, view: AgentView, message: m.Progress) -> None:
        what, kind, key, *rest = message.text.split(" ", 3)
        words = rest[0] if rest else ""
        state: Any = core._state
        if what == "found":
            agents = [view.name, *(name for name in words.split() if name in state.agents)]
            evidence = {"what": words, "times": "3"}
            ladder.found(state, kind, f"{view.name} repeats itself", agents, key=key, evidence=evidence)  # type: ignore[arg-type]
        elif what == "goes_on":
            ladder.goes_on(state, kind, key, words)  # type: ignore[arg-type]
        else:
            ladder.cleared(state, kind, key, "it got on")  # type: ignore[arg-type]

    core._intake._facts[m.Progress] = heard
    return core


def crew_with(*, webhook: bool = True, escalations: int = 10, **responses: Response) -> Crew:
    """Two agents with the tools of the gate's room, and these responses."""
    agents = (Agent(name="a", tools=("pay", "look")), Agent(name="b", tools=("pay", "look")))
    return Crew(
        name="room",
        agents=agents,
        budget=Budget(microusd=50_000_000),
        tools={"pay": PAY, "look": LOOK},
        responses=Responses(**responses),
        escalate=(Webhook(webhook="https://ops.example/x"),) if webhook else (),
        escalations_per_minute=escalations,
        watch=Watching(stall_s=0),
    )


class LadderRoom(Room):
    """A room whose findings are told by its agents."""

    def __init__(self, crew: Crew | None = None, **responses: Response) -> None:
        super().__init__(crew or crew_with(**responses), core=scripted)

    def hear(self, text: str, after_s: float = 0.0, agent: str = "a") -> list[Command]:
        """An agent says something that the script understands, so much later."""
        given = self.tick(after_s) if after_s else []
        return given + self.say(agent, m.Progress, task="t", text=text)

    def incident(self) -> Incident:
        """The newest."""
        return list(self.core.incidents.values())[-1]

    def steps(self) -> list[str]:
        """What was noted of the newest."""
        return [step.text for step in self.incident().steps]

    def nudges(self, agent: str = "a") -> list[m.Nudge]:
        """Nudges that an agent was sent."""
        told = [each for each in self.commands if isinstance(each, TellAgent) and each.agent == agent]
        return [each.message for each in told if isinstance(each.message, m.Nudge)]

    def nudged(self, agent: str = "a") -> list[str]:
        """The nudges themselves, each once."""
        return list(dict.fromkeys(each.nudge for each in self.nudges(agent)))

    def breaks(self, agent: str = "a") -> list[m.Break]:
        """Breaks that an agent was sent."""
        told = [each for each in self.commands if isinstance(each, TellAgent) and each.agent == agent]
        return [each.message for each in told if isinstance(each.message, m.Break)]

    def escalated(self) -> list[Escalate]:
        """What people were told."""
        return [each for each in self.commands if isinstance(each, Escalate)]

    def digests(self) -> list[Escalate]:
        """Of that, the digests."""
        return [each for each in self.escalated() if each.kind == "digest"]

    def asks(self, action: str, agent: str = "") -> list[Command]:
        """An operator asks for something."""
        return self.op(m.OperatorAsked(action=action, agent=agent, by="kim"))

    def held(self) -> dict[str, list[str]]:
        """Whose calls are held, by which incidents."""
        return {agent: list(holds) for agent, holds in self.core.gate.holds.items()}
