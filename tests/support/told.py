"""Words written into a journal one by one and handed to the core: what agents say, in as few lines as possible."""

from typing import Any

from msgspec import to_builtins

from crewkeeper_bus import messages as m
from crewkeeper_supervisor.core.commands import Command
from crewkeeper_supervisor.core.crew import Agent, Crew
from crewkeeper_supervisor.core.events import Recorded
from crewkeeper_supervisor.core.supervisor import Supervisor


class Told:
    """A run of these agents, started elsewhere, who have all joined."""

    def __init__(self, *names: str) -> None:
        self.core, self.at_s, self._seqs = Supervisor("r"), 1000.0, dict.fromkeys(names, 0)
        crew = Crew(name="told", agents=tuple(Agent(name=name, external=True) for name in names))
        self.store("_", "_", "x", m.RunDeclared(crew=to_builtins(crew)))
        for name in names:
            self.say(name, m.Joined, role=name)

    def store(self, sender: str, to: str, id_: str, message: Any) -> list[Command]:
        event = Recorded(seq=self.core.seq + 1, at_s=self.at_s, sender=sender, to=to, id=id_, message=message)
        return self.core.handle(event)

    def say(self, agent: str, kind: type, *, to: str = "_", id_: str = "x", **fields: Any) -> list[Command]:
        self._seqs[agent] += 1
        return self.store(agent, to, id_, kind(inc=f"i{agent}", seq=self._seqs[agent], **fields))

    def later(self, seconds: float) -> list[Command]:
        self.at_s += seconds
        return self.store("_", "_", "x", m.Tick())
