"""World: the simulated world of a scenario: its scripted agents, a host that obeys, a receiver, tools, and faults.

Nothing here happens by chance but delays on the way: faults come from the timeline. In rough weather messages are also
late, doubled and lost by the seed.
"""

from typing import Any, Final

import msgspec

from crewkeeper_bus import messages as m
from crewkeeper_bus.pattern import matches
from crewkeeper_bus.subjects import HOST, SUPERVISOR, TOOLS, agent_permissions
from crewkeeper_bus.tool_messages import RunTool
from crewkeeper_supervisor.chaos.actor import Actor
from crewkeeper_supervisor.chaos.bus import RUN, Envelope, Touched
from crewkeeper_supervisor.chaos.doing import Task
from crewkeeper_supervisor.chaos.options import RATES, Options
from crewkeeper_supervisor.chaos.owner import Owner
from crewkeeper_supervisor.chaos.plan.scenario import Fault, Scenario
from crewkeeper_supervisor.chaos.sim.player import MAIN, Scripts
from crewkeeper_supervisor.chaos.sim.post import Post
from crewkeeper_supervisor.chaos.sim.tool_host import ToolHost
from crewkeeper_supervisor.chaos.world import Member, World
from crewkeeper_supervisor.core.commands import Command, Escalate
from crewkeeper_supervisor.core.events import Event, Recorded
from crewkeeper_supervisor.core.restart import RestartBudget, asks_for_restart

STOPPED_AT_WORK: Final = 3
END_S: Final = 0.05
"""How long a process takes to end when it is told to."""
LOOKED_UP_S: Final = 0.2
"""How long it takes until a refusal of the server's is known."""
RESTART_S: Final = 0.3
"""How long a controller takes to come back."""
_UNTOUCHED: Final = Touched()
_WEATHER: Final = frozenset(
    {"lose_note", "lose_heartbeat", "lose_request", "lose_delivery", "lose_probe", "lose_break", "double_store"}
    | {"double_delivery", "late", "command_lost"}
)


class Tampering:
    """One fault of the network at work on one agent. `fired`: how many messages it has touched."""

    def __init__(self, world: "ScriptedWorld", fault: Fault, agent: str) -> None:
        self._world = world
        self.fault = fault
        self.agent = agent
        self.fired = 0

    def touches(self, direction: str) -> Touched | None:
        """What is done to the next message in this direction; None: nothing."""
        fault = self.fault
        if fault.direction not in ("both", direction):
            return None
        if fault.percent < 100 and not self._world.faults.strikes(f"plan{fault.index}", self.agent):
            return None
        match fault.do:
            case "delay":
                return Touched(later_s=fault.by_s)
            case "duplicate":
                return Touched(doubled=True)
            case "reorder":
                return Touched(overtaken=True, later_s=fault.by_s)
            case _:
                return Touched(lost=True)

    def end(self) -> None:
        """Let messages pass."""
        self._world.untamper(self)


class PostOwner(Owner):
    """An owner whose messages to people go through the post instead of arriving at once.

    Whoever watches the run reads and folds its journal with this core: also while nobody owns the run.
    """

    post: Post

    def stored(self, event: Event, envelope: Envelope) -> None:
        """Handle one journal entry; without an owner it is only folded, for whoever watches."""
        if self.present:
            super().stored(event, envelope)
        else:
            self.last = self.core.handle(event)

    def take_over(self) -> None:
        """As the other: a successor that reads the journal has the same room left for every sender."""
        buckets = self.core._state.buckets
        super().take_over()
        self.core._state.buckets = buckets

    def _publish(self, command: Command, term: int) -> None:
        if isinstance(command, Escalate):
            self.post.send(command)
        else:
            super()._publish(command, term)


def options_of(scenario: Scenario) -> Options:
    """What a simulation of a scenario is made with."""
    rough = scenario.weather == "rough"
    rates = {name: rate for name, rate in RATES.items() if rough and name in _WEATHER}
    rates |= {f"plan{fault.index}": fault.percent / 100 for fault in scenario.faults}
    return Options(agents=len(scenario.players), wire=True, rates=rates, patience_s=30.0 if rough else 5.0)


class ScriptedWorld(World):
    """Everything outside the core, as a scenario wants it.

    Args:
        scenario: With agents.
        seed: Of delays and of who is hit.
        kept: Names of the faults that may strike; None: all.
    """

    def __init__(self, scenario: Scenario, seed: int, kept: frozenset[str] | None = None) -> None:
        assert scenario.crew is not None
        super().__init__(options_of(scenario), seed, kept, scenario.crew)
        self.scripts = Scripts({each.name: each.script for each in scenario.players}, RUN, self.exit)
        self.body = self.scripts.body
        self.post = Post(self.clock, lambda command: self.owner.state_fact(m.Outcome(command=command, ok=True)))
        assert isinstance(self.owner, PostOwner)
        self.owner.post = self.post
        self.tool_host = ToolHost(
            self.clock, self.faults, scenario.crew, scenario.tools, lambda fact: self.owner.state_fact(fact, TOOLS)
        )
        self.ended = False
        self._tamperings: list[Tampering] = []
        self._cuts: list[Tampering] = []
        self._budgets = {
            name: RestartBudget(x.spec.restart.intensity, x.spec.restart.period_s) for name, x in self.members.items()
        }
        self._told_to_end: set[str] = set()
        self._over: dict[str, bool] = {}
        """Members that are not started again, and whether they failed."""
        self._order: m.StopRun | None = None
        self.bus.tampers = self._tampered
        self.bus.on_stored.remove(self._answer_people)
        self.bus.on_stored.append(self._obey)

    def _make_owner(self, seed: int) -> Owner:
        return PostOwner(self.clock, self.bus, seed, self.faults)

    # --- beginning ---

    def begin(self) -> None:
        """Declare the run and start everybody."""
        declared = m.RunDeclared(crew=msgspec.to_builtins(self.crew), host="here")
        self.owner.state_fact(declared)
        self.owner.state_fact(m.OwnerChanged(term=1, owner="owner-1"))
        self.clock.after(0.5, self.tool_host.begin)
        for member in self.members.values():
            self.clock.after(1.0 + 0.3 * self._agents.fraction(f"start {member.name}"), self._start, member)

    def _start(self, member: Member) -> None:
        if member.name in self._told_to_end:
            return
        super()._start(member)
        assert member.actor is not None
        member.actor.on_stop = self._stopped
        member.actor.on_end = self._task_over
        member.actor.on_raw = self._publish_raw

    def _live(self, member: Member, actor: Actor) -> None:
        """One main activity, as soon as the crew begins."""
        if not actor.alive:
            return
        if not actor.began:
            self.clock.after(0.005, self._live, member, actor)
        elif self.scripts.has_main(member.spec.name):
            actor.begin_activity(MAIN)

    def _publish_raw(self, agent: str, subject: str, payload: bytes) -> None:
        """As the server does it: what an agent may not publish is refused, and the run hears that it was tried."""
        spec = self.members[agent].spec
        allowed = agent_permissions(RUN, agent, spec.name, spec.may_call, tools=spec.tools, tells=spec.may_tell)
        if any(matches(pattern, subject) for pattern in allowed.publish):
            self.bus.publish_raw(agent, subject, payload)
        else:
            refused = m.Violation(agent=agent, what="denied", detail=f"publish to {subject[:200]}")
            self.clock.after(LOOKED_UP_S, self.owner.state_fact, refused)

    # --- ends of processes ---

    def _task_over(self, actor: Actor, task: Task, fault: str) -> None:
        """Main is over: the process fails with it, or goes if it has nothing to serve."""
        if task.call or task.caller or not actor.alive or task.name != MAIN:
            return
        if fault:
            self.clock.after(END_S, self._leave, actor, 1, fault)
        elif self.scripts.leaves(actor.spec.name):
            self.clock.after(END_S, self._leave, actor, 0, "")

    def _stopped(self, actor: Actor, why: str) -> None:
        at_work = any(task.name == MAIN for task in actor.tasks.values())
        self._told_to_end.add(actor.name)
        self.clock.after(END_S, self._leave, actor, STOPPED_AT_WORK if at_work else 0, why)

    def _leave(self, actor: Actor, code: int, why: str) -> None:
        if actor.alive:
            actor.say(m.Left, why=why, done=not code and not why)
            self.exit(actor, code)

    def exit(self, actor: Actor, code: int) -> None:
        """The process of an incarnation ends with this status; negative: the signal."""
        member = self.members[actor.name]
        if member.actor is not actor or not actor.alive:
            return
        actor.alive = False
        for envelope in member.kept:
            self.bus.flying.pop(id(envelope), None)
        member.kept = []
        self.counts["crashes"] += code != 0
        rule, delay_s, exhausted = member.spec.restart, None, False
        if actor.name not in self._told_to_end and asks_for_restart(rule, code):
            delay_s = self._budgets[actor.name].spend(self.clock.now_s)
            exhausted = delay_s is None
        if delay_s is not None:
            self._restarts[actor.name] = delay_s
        else:
            self._over[actor.name] = code != 0 and actor.name not in self._told_to_end
        pid = 100 * len(actor.name) + member.starts
        fact = m.ProcessExited(agent=actor.name, pid=pid, code=code, restart=delay_s is not None)
        self.clock.after(0.02, self.owner.state_fact, fact, HOST)
        if exhausted:
            given_up = m.RestartsExhausted(agent=actor.name, intensity=rule.intensity, period_s=rule.period_s)
            self.clock.after(0.021, self.owner.state_fact, given_up, HOST)
        self.clock.after(0.03, self._look_for_end)

    def _look_for_end(self) -> None:
        """The run is over when no process is left."""
        if self.ended or len(self._over) < len(self.members):
            return
        self.ended = True
        state = self._order.state if self._order is not None else "failed" if any(self._over.values()) else "done"
        self.clock.after(0.02, self.owner.state_fact, m.RunEnded(state=state), HOST)

    def _obey(self, event: Event, envelope: Envelope) -> None:
        """What the supervisor asks of the host and of the tool host."""
        if not isinstance(event, Recorded) or event.sender != SUPERVISOR or envelope.message is None:
            return
        match event.message:
            case m.StopRun() if self._order is None:
                self._order = event.message
                for member in self.members.values():
                    self._end_process(member, 0.0)
                self.clock.after(2 * END_S, self._look_for_end)
            case m.StopProcess():
                self._end_process(self.members[event.message.agent], event.message.grace_s)
            case RunTool():
                self.clock.after(0.002, self.tool_host.ordered, msgspec.structs.replace(event.message, id=event.id))

    def _end_process(self, member: Member, grace_s: float) -> None:
        self._told_to_end.add(member.name)
        self._restarts.pop(member.name, None)
        actor = member.actor
        if actor is None or not actor.alive:
            self._over.setdefault(member.name, False)
            return
        self.clock.after(grace_s, self._signalled, actor)

    def _signalled(self, actor: Actor) -> None:
        if actor.alive and actor.frozen:
            self.exit(actor, -9)
        elif actor.alive:
            self._stopped(actor, "SIGTERM")

    # --- faults ---

    def kill(self, agent: str, code: int = -9) -> int:
        """SIGKILL of an agent; 1 if there was somebody to kill."""
        actor = self.members[agent].actor
        if actor is None or not actor.alive:
            return 0
        self.exit(actor, code)
        return 1

    def freeze(self, agent: str) -> int:
        """SIGSTOP of an agent; 1 if there was somebody to stop."""
        member = self.members[agent]
        if member.actor is None or not member.actor.alive:
            return 0
        member.actor.frozen = True
        return 1

    def thaw(self, agent: str) -> None:
        """SIGCONT of an agent."""
        actor = self.members[agent].actor
        if actor is not None and actor.frozen:
            actor.thaw()

    def is_frozen(self, agent: str) -> bool:
        """Whether it is stopped at the moment."""
        actor = self.members[agent].actor
        return actor is not None and actor.frozen

    def slow(self, agent: str, factor: float) -> int:
        """Let everything take an agent so many times longer; 1 if there is one."""
        actor = self.members[agent].actor
        if actor is None or not actor.alive:
            return 0
        actor.pace = factor
        return 1

    def kill_owner(self, away_s: float, *, everybody: bool) -> int:
        """SIGKILL of the owner; another takes over when its lease has run out, or when one is back."""
        if not self.owner.present:
            return 0
        self.owner.die(max(RESTART_S, away_s if everybody else min(away_s, 2.0)))
        return 1

    def tamper(self, fault: Fault, agent: str) -> Tampering:
        """Let a fault of the network work on an agent until its `end`."""
        made = Tampering(self, fault, agent)
        if fault.do == "partition" and fault.direction == "both":
            member = self.members[agent]
            made.fired += member.alive
            member.connected = False
            self._cuts.append(made)
        else:
            self._tamperings.append(made)
        return made

    def untamper(self, tampering: Tampering) -> None:
        """End it; harmless when repeated."""
        if tampering in self._tamperings:
            self._tamperings.remove(tampering)
        elif tampering in self._cuts:
            self._cuts.remove(tampering)
            if all(each.agent != tampering.agent for each in self._cuts):
                member = self.members[tampering.agent]
                self.reconnect(member, member.actor)

    def note_troubles(self) -> None:
        """Remember who cannot talk at the moment: nothing can be demanded of them."""
        troubled = {tampering.agent for tampering in self._tamperings}
        for member in self.members.values():
            stopped = member.actor is not None and (member.actor.frozen or member.actor.paused)
            if not member.alive or not member.connected or stopped or member.name in troubled:
                member.troubled_s = self.clock.now_s

    def _tampered(self, agent: str, direction: str, _message: Any) -> Touched:
        at_work = [each for each in self._tamperings if each.agent == agent]
        if not at_work:
            return _UNTOUCHED
        struck = [(each, what) for each in at_work if (what := each.touches(direction)) is not None]
        losing = next((each.fault.do for each, what in struck if what.lost), "")
        for each, _ in struck:
            each.fired += each.fault.do == losing or not losing  # a message that is lost is not late as well
        touched = [what for _, what in struck]
        return Touched(
            lost=any(each.lost for each in touched),
            doubled=any(each.doubled for each in touched),
            overtaken=any(each.overtaken for each in touched),
            later_s=sum(each.later_s for each in touched),
        )

    def deliver(self, agent: str, envelope: Envelope) -> bool:
        """As the world does; what comes to a frozen process waits for it."""
        actor = self.members[agent].actor
        if actor is not None and actor.alive and actor.frozen and self.members[agent].connected:
            actor.put_off(self.deliver, agent, envelope)
            return True
        return super().deliver(agent, envelope)
