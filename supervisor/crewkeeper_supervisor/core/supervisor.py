"""Supervisor: the pure fold. Events of one run in, commands out; the same journal gives the same commands.

Every event goes through four steps: it is placed (is it the sender's next, is the sender who the message says), its
fact is written into the state, detection examines what the fact touched, and the clock's dues are met. Nothing an agent
sends raises: bad messages are findings.
"""

from typing import Any, Final

from crewkeeper_bus import messages as m
from crewkeeper_bus.subjects import HOST, SUPERVISOR
from crewkeeper_supervisor.core import lifecycle, locks
from crewkeeper_supervisor.core.commands import Command
from crewkeeper_supervisor.core.crew import Crew
from crewkeeper_supervisor.core.detection import Detector
from crewkeeper_supervisor.core.events import Event, Recorded, Rejected
from crewkeeper_supervisor.core.evidence import edges_of
from crewkeeper_supervisor.core.findings import Edge, Incident
from crewkeeper_supervisor.core.heartbeat import reconcile
from crewkeeper_supervisor.core.lifecycle import report
from crewkeeper_supervisor.core.response import note
from crewkeeper_supervisor.core.roster import AgentView, Usage
from crewkeeper_supervisor.core.state import Question, RunState

TEXT_SHOWN_CHARS: Final = 200


class Supervisor:
    """The core of one run.

    Args:
        run: The run's id.
    """

    def __init__(self, run: str) -> None:
        self._state = RunState(run)
        self._detector = Detector(self._state)

    # --- the fold ---

    def handle(self, event: Event) -> list[Command]:
        """Take the journal's next entry; return what is to be done about it, in order.

        Deterministic, and never raises whatever the event holds. Entries already handled are ignored.
        """
        state = self._state
        if event.seq <= state.seq:
            return []
        state.open_event(event.seq, event.at_s)
        match event:
            case Rejected():
                self._rejected(event)
            case Recorded() if event.sender in (SUPERVISOR, HOST):
                self._supervisor_side(event)
            case Recorded():
                self._agent_side(event)
        lifecycle.watch_clock(state)
        self._detector.check()
        return state.take_commands()

    def next_tick_at_s(self) -> float | None:
        """Journal time, seconds since the epoch, at which the owner should publish one `Tick`; None: no need."""
        return min(self._state.due_s.values(), default=None)

    def digest(self) -> str:
        """SHA-256 over the state: equal for equal folds of the same journal."""
        return self._state.digest()

    # --- reading the state ---

    @property
    def run(self) -> str:
        """The run's id."""
        return self._state.run

    @property
    def crew(self) -> Crew | None:
        """The crew as declared; None before the first entry."""
        return self._state.crew

    @property
    def host(self) -> str:
        """Who hosts the run's processes, as declared."""
        return self._state.host

    @property
    def seq(self) -> int:
        """Journal sequence of the last event handled."""
        return self._state.seq

    @property
    def now_s(self) -> float:
        """Journal time, seconds since the epoch; never steps back."""
        return self._state.now_s

    @property
    def term(self) -> int:
        """Term of the supervisor that owns the run."""
        return self._state.term

    @property
    def state(self) -> str:
        """`starting`, `running`, `stopping`, `done`, `failed` or `stopped`."""
        return self._state.phase

    @property
    def agents(self) -> dict[str, AgentView]:
        """Every instance by name."""
        return self._state.agents

    @property
    def incidents(self) -> dict[str, Incident]:
        """Findings and what became of them, in order."""
        return self._state.incidents

    @property
    def questions(self) -> dict[str, Question]:
        """Open questions to people."""
        return self._state.questions

    @property
    def usage(self) -> Usage:
        """What the crew spent."""
        return self._state.usage

    @property
    def pending(self) -> dict[str, Command]:
        """Decided, and no trace of it in the journal yet."""
        return self._state.pending

    def waits(self) -> list[Edge]:
        """Every open wait: who, for whom, for what, since when."""
        graph = self._state.graph
        return [edge for task in graph.waiting.values() for edge in edges_of(task, graph)]

    # --- bad messages ---

    def _rejected(self, event: Rejected) -> None:
        kind: Any = "forgery" if event.forged else "malformed"
        sender = event.sender or "somebody"
        report(
            self._state,
            kind,
            f"{sender} sent what is not a message: {event.reason[:TEXT_SHOWN_CHARS]}",
            [event.sender] if event.sender in self._state.agents else [],
            key=sender,
            evidence={"subject": event.subject, "bytes": str(event.size_bytes), "sha256": event.digest},
        )

    def _forged(self, event: Recorded, what: str) -> None:
        agents = [event.sender] if event.sender in self._state.agents else []
        report(self._state, "forgery", f"{event.sender} {what}", agents, key=event.sender)

    # --- from agents ---

    def _agent_side(self, event: Recorded) -> None:
        state, message = self._state, event.message
        view = state.agents.get(event.sender)
        if view is None:
            self._forged(event, "is not in the crew")
            return
        if isinstance(message, m.Joined | m.Heartbeat) and view.is_news(message.inc, message.seq):
            lifecycle.joined(state, view, message)
        else:
            place = view.admit(message.inc, message.seq)
            if place == "stranger":
                self._forged(event, "spoke as an incarnation that never joined")
            if place in ("old", "stranger") or not view.present:
                return  # late words of an incarnation that is over bring nothing back
            view.node.unsure |= place == "gap"
        view.last_seen_s = state.now_s
        self._fact(event, view, message)

    def _fact(self, event: Recorded, view: AgentView, message: Any) -> None:
        match message:
            case m.Request() | m.Reply() | m.Cancel() | m.Message() | m.CallProgress():
                self._traffic(event, view, message)
            case m.TaskBegan() | m.TaskEnded() | m.CallStarted() | m.WaitBegan() | m.WaitEnded():
                self._task_note(event, view, message)
            case m.Acquire():
                if not locks.acquire(self._state, view.name, message):
                    self._forged(event, f"reused a ticket of {message.resource!r}, which is another agent's")
            case m.Release():
                if not locks.release(self._state, view.name, message):
                    self._forged(event, f"released {message.resource!r}, which another agent holds")
            case m.Heartbeat():
                for call in reconcile(self._state, view, message):
                    lifecycle.orphaned(self._state, [call], f"{call.to} does not have the call")
                self._detector.affirmed(view.name, message.nonce)
            case m.Taken():
                self._state.graph.message_taken(view.name, message.sender, message.message, message.task)
            case _:
                self._report(event, view, message)

    def _report(self, event: Recorded, view: AgentView, message: Any) -> None:
        match message:
            case m.AskHuman():
                self._question(event, view, message)
            case m.Usage():
                self._usage(view, message)
            case m.Progress():
                view.progress = message.text
            case m.Standing():
                if view.status in ("up", "paused"):
                    view.status = "paused" if message.state == "paused" else "up"
            case m.Left():
                lifecycle.left(self._state, view, message.why)
            case _:
                return

    def _question(self, event: Recorded, view: AgentView, message: m.AskHuman) -> None:
        known = self._state.questions.get(message.question)
        if known is not None and known.agent != view.name:
            self._forged(event, f"reused the id of a question of {known.agent}")
            return
        self._state.questions[message.question] = Question(
            id=message.question,
            agent=view.name,
            task=message.task,
            who=message.who,
            text=message.text,
            asked_at_s=self._state.now_s,
        )

    def _traffic(self, event: Recorded, view: AgentView, message: Any) -> None:
        state = self._state
        view.usage.messages += 1
        state.usage.messages += 1
        call = state.graph.calls.get(event.id)
        match message:
            case m.Request():
                view.usage.calls += 1
                state.usage.calls += 1
                self._request(event, view, message)
            case m.Reply():
                if call is not None and not _is_callee(call.to, view):
                    self._forged(event, f"answered a call that was made to {call.to}")
                elif call is not None:
                    state.graph.call_answered(call.id, early=message.early)
            case m.Cancel():
                if call is not None and call.caller != view.name:
                    self._forged(event, f"cancelled a call of {call.caller}")
                else:
                    state.graph.call_closed(event.id)
            case m.Message():
                if event.to in state.agents:
                    state.graph.message_sent(view.name, event.to, event.id, state.now_s)
            case _:
                view.progress = message.text or view.progress

    def _request(self, event: Recorded, view: AgentView, message: m.Request) -> None:
        state = self._state
        call = state.graph.call_opened(view.name, message.task, event.id, event.to, state.now_s, message.verb)
        if call is None:
            self._forged(event, "reused the id of another agent's call")
            return
        call.timed = message.deadline_s is not None
        instances = [a for a in state.agents.values() if event.to in (a.name, a.role)]
        if any(instance.present for instance in instances):
            return
        if not instances:
            why = f"there is no agent {event.to!r} in the crew; it has {', '.join(state.agents) or 'nobody'}"
        else:
            why = f"{event.to} is not there ({instances[0].status}); ask again when it is"
        lost = state.graph.call_lost(event.id)
        if lost is not None:
            lifecycle.orphaned(state, [lost], why)

    def _task_note(self, event: Recorded, view: AgentView, message: Any) -> None:
        state, graph = self._state, self._state.graph
        match message:
            case m.TaskBegan():
                graph.task_began(view.name, message.task, state.now_s, slot=message.slot, name=message.name)
                if message.name == "main":
                    state.mains[view.name] = message.task
                    state.mains_over.pop(view.name, None)
            case m.TaskEnded():
                lost = graph.task_ended(view.name, message.task)
                if lost is not None:
                    lifecycle.orphaned(state, [lost], f"{view.name} ended its handler without an answer")
                if state.mains.get(view.name) == message.task:
                    del state.mains[view.name]
                    state.mains_over[view.name] = True
            case m.CallStarted():
                call = graph.calls.get(message.call)
                if call is not None and not _is_callee(call.to, view):
                    self._forged(event, f"started a call that was made to {call.to}")
                    return
                graph.call_started(view.name, message.call, message.caller, message.task, state.now_s)
            case m.WaitBegan():
                deadline_s = None if message.deadline_s is None else state.now_s + message.deadline_s
                graph.wait_began(view.name, message.task, message.epoch, message.condition, state.now_s, deadline_s)
            case m.WaitEnded():
                graph.wait_ended(view.name, message.task, message.epoch)
            case _:
                return

    def _usage(self, view: AgentView, message: m.Usage) -> None:
        for usage in (view.usage, self._state.usage):
            usage.add(message.input_tokens, message.output_tokens, message.cost_microusd)
        task = view.tasks.get(message.task)
        if task is not None:
            task.tokens += message.input_tokens + message.output_tokens
        budgets = [(view.spec.budget, view.usage, view.name)]
        if self._state.crew is not None:
            budgets.append((self._state.crew.budget, self._state.usage, "the crew"))
        for budget, usage, who in budgets:
            if budget is None:
                continue
            spent = usage.input_tokens + usage.output_tokens
            if budget.microusd is not None and usage.cost_microusd > budget.microusd:
                report(self._state, "budget", f"{who} has spent more than its money", [view.name], key=f"{who}:usd")
            if budget.tokens is not None and spent > budget.tokens:
                report(self._state, "budget", f"{who} has spent more than its tokens", [view.name], key=f"{who}:tok")

    # --- from the supervisor side ---

    def _supervisor_side(self, event: Recorded) -> None:
        state, message = self._state, event.message
        match message:
            case m.SupervisorReply():
                state.traced(message.id)
                question, call = state.questions.get(event.id), state.graph.calls.get(event.id)
                if question is not None and question.agent == event.to:
                    del state.questions[event.id]
                if call is not None and call.caller == event.to:
                    state.graph.call_answered(event.id)
            case m.Control():
                state.traced(message.id)
            case m.RunDeclared():
                lifecycle.declare(state, message)
            case m.OwnerChanged():
                state.term = max(state.term, message.term)
            case m.ProcessStarted():
                lifecycle.process_started(state, message)
            case m.ProcessExited():
                lifecycle.process_exited(state, message)
            case m.RestartsExhausted():
                lifecycle.restarts_exhausted(state, message)
            case m.OperatorAsked():
                lifecycle.operator_asked(state, message)
            case m.Outcome():
                self._outcome(message)
            case m.RunEnded():
                lifecycle.run_ended(state, message)
            case _:
                return  # a tick: it only brings the time

    def _outcome(self, message: m.Outcome) -> None:
        command = self._state.pending.get(message.command)
        self._state.traced(message.command)
        incident = self._state.incidents.get(getattr(command, "incident", ""))
        if incident is not None:
            said = "people were told" if message.ok else "people could NOT be told"
            note(self._state, incident, f"{said}: {message.detail[:TEXT_SHOWN_CHARS]}")


def _is_callee(to: str, view: AgentView) -> bool:
    return to in (view.name, view.role)
