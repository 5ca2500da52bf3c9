"""Journals written by hand for the tests of views and commands: entries as the server would store them."""

import msgspec

from crewkeeper_bus import messages as m
from crewkeeper_bus import subjects
from crewkeeper_bus.codec import encode
from crewkeeper_bus.subjects import HOST, SUPERVISOR, Kind
from crewkeeper_supervisor.core.commands import AnswerCall, AskHost, CancelCall, Command, Escalate, SetAccess, TellAgent
from crewkeeper_supervisor.core.crew import Agent, Budget, Crew
from crewkeeper_supervisor.shell.journal import Entry
from crewkeeper_supervisor.views.fold import Fold

START_S = 1_790_000_000.0
RUN = "trip-000001"


def crew(**changes: object) -> Crew:
    agents = (
        Agent(name="planner", run=("python", "planner.py")),
        Agent(name="reviewer", run=("python", "reviewer.py")),
        Agent(name="executor", run=("python", "executor.py")),
    )
    fields = {"name": "trip", "agents": agents, "budget": Budget(microusd=5_000_000, tokens=400_000, wall_s=1800)}
    return Crew(**(fields | changes))


class Telling:
    """Writes a journal entry by entry, `step_s` apart; each agent's own sequence is kept."""

    def __init__(self, run: str = RUN, step_s: float = 0.01, power: str = "full") -> None:
        self.power = power
        self.run = run
        self.entries: list[Entry] = []
        self._at_s = START_S
        self._step_s = step_s
        self._seqs: dict[str, int] = {}
        self.fold = Fold(run)
        self.commands: list[Command] = []

    def put(self, kind: Kind, sender: str, to: str, id_: str, payload: bytes) -> Entry:
        self._at_s += self._step_s
        subject = subjects.build(self.run, kind, sender, to, id_)
        entry = Entry(len(self.entries) + 1, self._at_s, subject, payload)
        self.entries.append(entry)
        _, commands = self.fold.feed(entry)
        self.commands += commands
        return entry

    def op(self, message: object, sender: str = SUPERVISOR, id_: str = "") -> Entry:
        return self.put(Kind.OP, sender, SUPERVISOR, id_ or f"o{len(self.entries)}", encode(message))

    def wait_s(self, seconds: float) -> None:
        """Let time pass: the next entry is stored this much later."""
        self._at_s += seconds

    def agent(
        self, who: str, kind: Kind, message: type, fields: dict[str, object], to: str = SUPERVISOR, id_: str = ""
    ) -> Entry:
        self._seqs[who] = self._seqs.get(who, 0) + 1
        told = message(inc=f"inc-{who}", seq=self._seqs[who], **fields)
        return self.put(kind, who, to, id_ or f"n{len(self.entries)}", encode(told))

    def note(self, who: str, message: type, /, **fields: object) -> Entry:
        return self.agent(who, Kind.NOTE, message, fields)

    def declare(self, declared: Crew | None = None) -> None:
        self.op(m.RunDeclared(crew=msgspec.to_builtins(declared or crew()), host="here"), HOST)
        self.op(m.OwnerChanged(term=1, owner="controller-1"))

    def join(self, *names: str) -> None:
        for number, name in enumerate(names):
            self.op(m.ProcessStarted(agent=name, pid=4000 + number), HOST)
            self.note(name, m.Joined, role=name, pid=4000 + number)

    def ask(self, caller: str, callee: str, call: str, task: str, verb: str, epoch: int = 1) -> None:
        body = msgspec.Raw(b"{}")
        self.agent(caller, Kind.REQ, m.Request, {"task": task, "verb": verb, "body": body}, callee, call)
        self.note(caller, m.WaitBegan, task=task, epoch=epoch, condition=m.OnCall(call=call))

    def carry_out(self) -> None:
        """Store what the core has decided so far, as the controller would."""
        while self.commands:
            command = self.commands.pop(0)
            match command:
                case TellAgent(agent=agent, message=message):
                    self.put(Kind.CTL, SUPERVISOR, agent, command.id, encode(message))
                case AskHost(message=message):
                    self.put(Kind.CTL, SUPERVISOR, HOST, command.id, encode(message))
                case AnswerCall(agent=agent, call=call, error=error, body=body):
                    reply = m.SupervisorReply(id=command.id, error=error, body=body or msgspec.UNSET)
                    self.put(Kind.REP, SUPERVISOR, agent, call, encode(reply))
                case CancelCall(agent=agent, call=call, caller=caller, why=why):
                    cancel = m.SupervisorCancel(id=command.id, caller=caller, why=why)
                    self.put(Kind.CANCEL, SUPERVISOR, agent, call, encode(cancel))
                case SetAccess():
                    self.op(self._access_set(command), id_=command.id)
                case Escalate():
                    self.op(m.Outcome(command=command.id, ok=True, detail="204 from localhost in 3 ms"))

    def _access_set(self, command: SetAccess) -> m.AccessSet:
        """What comes of an order to the server: `full` power over it, or `none`."""
        able = self.power == "full"
        return m.AccessSet(
            command=command.id,
            agent=command.agent,
            peer=command.peer,
            state=command.state,
            ok=able,
            enforced=able,
            connections=int(able and command.state == "killed"),
        )

    def affirm(self, name: str, calls: tuple[m.OpenCall, ...], queued: tuple[str, ...], *tasks: m.TaskState) -> None:
        """Answer the newest probe of an agent with a heartbeat."""
        nonce = ""
        for entry in self.entries:
            parsed = subjects.parse(entry.subject)
            if parsed.kind == Kind.CTL and parsed.to == name:
                message = msgspec.json.decode(entry.payload, type=m.Ctl)
                nonce = message.nonce if isinstance(message, m.Probe) else nonce
        whole = {"nonce": nonce, "role": name, "tasks": tasks, "calls": calls, "queued": queued}
        self.agent(name, Kind.HB, m.Heartbeat, whole)


def deadlocked(declared: Crew | None = None) -> Telling:
    """A planner waits for the reviewer's approval, who waits for the planner's input; found, broken, told."""
    telling = Telling()
    telling.declare(declared)
    telling.join("planner", "reviewer", "executor")
    telling.carry_out()
    telling.note("planner", m.TaskBegan, task="main", name="main")
    telling.note("planner", m.Progress, task="main", text="three days in Lisbon")
    telling.ask("planner", "reviewer", "c1", "main", "approve")
    telling.note("reviewer", m.CallStarted, call="c1", caller="planner", task="h1")
    telling.ask("reviewer", "planner", "c2", "h1", "choose_hotel")
    telling.carry_out()
    asked = m.OpenCall(call="c1", to="reviewer", task="main")
    back = m.OpenCall(call="c2", to="planner", task="h1")
    for _ in range(20):
        telling.affirm("planner", (asked,), ("c2",), m.TaskState(task="main", wait=_open(m.OnCall(call="c1"))))
        handling = m.TaskState(task="h1", call="c1", caller="planner", wait=_open(m.OnCall(call="c2")))
        telling.affirm("reviewer", (back,), (), handling)
        telling.wait_s(0.3)
        telling.op(m.Tick())
        telling.carry_out()
        if any(incident.finding.kind == "deadlock" for incident in telling.fold.supervisor.incidents.values()):
            return telling
    raise AssertionError("the core did not name the deadlock of this journal")


def _open(condition: m.Condition) -> m.OpenWait:
    return m.OpenWait(epoch=1, condition=condition)
