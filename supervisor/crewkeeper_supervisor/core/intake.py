"""Intake: what agents say, placed in their streams and written into the state.

A message is first placed: is its sender in the crew, is it that incarnation's next word. Then its fact is written.
What does not fit is a finding about its sender; nothing an agent sends raises.
"""

from collections.abc import Callable
from typing import Any, Final

from msgspec import UNSET, Raw

from crewkeeper_bus import messages as m
from crewkeeper_bus import tool_messages as t
from crewkeeper_supervisor.core import (
    allowance,
    delegation,
    enforcement,
    flood,
    gate,
    gate_facts,
    holding,
    hops,
    lifecycle,
    locks,
    nudges,
    quotas,
    reach,
    upkeep,
    withdrawal,
)
from crewkeeper_supervisor.core.detection import Detector
from crewkeeper_supervisor.core.events import Recorded, Rejected, Throttled
from crewkeeper_supervisor.core.heartbeat import claims_of_others, reconcile
from crewkeeper_supervisor.core.lifecycle import report
from crewkeeper_supervisor.core.live_steps import EMPTY_MAX_BYTES
from crewkeeper_supervisor.core.nodes import Call
from crewkeeper_supervisor.core.quotas import Quota
from crewkeeper_supervisor.core.response import note
from crewkeeper_supervisor.core.roster import AgentView
from crewkeeper_supervisor.core.state import Question, RunState
from crewkeeper_supervisor.core.watch import Watch

TEXT_SHOWN_CHARS: Final = 200
UPKEEP_FREE: Final = 16
"""Items that a wait may name without counting: those are limited by how many messages an agent may send."""


class Intake:
    """The ear of one run."""

    def __init__(self, state: RunState, detector: Detector) -> None:
        self._state = state
        self._detector = detector
        self._facts: dict[type, Callable[[Recorded, AgentView, Any], None]] = {
            m.Request: self._request,
            m.Reply: self._reply,
            m.Cancel: self._cancel,
            m.Message: self._message,
            m.CallProgress: self._call_progress,
            m.TaskBegan: self._task_began,
            m.TaskEnded: self._task_ended,
            m.CallStarted: self._call_started,
            m.WaitBegan: self._wait_began,
            m.WaitEnded: self._wait_ended,
            m.Taken: self._taken,
            m.Acquire: self._acquire,
            m.Release: self._release,
            m.Heartbeat: self._heartbeat,
            m.AskHuman: self._ask_human,
            m.Usage: self._usage,
            m.Progress: self._progress,
            m.Standing: self._standing,
            m.Delegate: self._delegate,
            m.NudgeTaken: self._nudge_taken,
            m.Left: self._left,
            t.ToolCall: self._tool_call,
            t.Survey: self._surveyed,
            t.ModelCall: self._model_call,
            t.Settled: self._settled,
            t.CallGivenUp: self._given_up,
            t.Proposed: self._proposed,
        }

    def heard(self, event: Recorded) -> None:
        """An agent said something well-formed."""
        state, message = self._state, event.message
        view = state.agents.get(event.sender)
        if view is None:
            self._forged(event, "is not in the crew")
            return
        if message.seq == view.last_seq + 1 and message.inc == view.inc and view.status == "up":
            view.last_seq = message.seq  # the ordinary case, told apart at once: this is the hottest line of all
        elif not self._placed(event, view):
            return
        view.last_seen_s = state.now_s
        fact = self._facts.get(type(message))
        if fact is not None:
            fact(event, view, message)

    def _placed(self, event: Recorded, view: AgentView) -> bool:
        """Whether a message that is not simply the next one counts."""
        message = event.message
        if view.ending is not None:
            enforcement.heard(self._state, view)
            if message.inc != view.inc:
                return False  # nobody comes back under this name
        elif isinstance(message, m.Joined | m.Heartbeat) and view.is_news(message.inc, message.seq):
            lifecycle.joined(self._state, view, message)
            return True
        place = view.admit(message.inc, message.seq)
        if place == "stranger":
            self._forged(event, "spoke as an incarnation that never joined")
        if place == "gap":
            view.node.unsure = True
        # Late words of an incarnation that is over bring nothing back.
        counts = place in ("next", "gap") and view.present
        if counts and view.hold is not None:
            holding.spoke(self._state, view, message)
        return counts

    def rejected(self, event: Rejected) -> None:
        """Somebody sent what is not a message."""
        sender = event.sender or "somebody"
        view = self._state.agents.get(event.sender)
        if view is not None and view.ending is not None:
            enforcement.heard(self._state, view)
        report(
            self._state,
            "forgery" if event.forged else "malformed",
            f"{sender} sent what is not a message: {event.reason[:TEXT_SHOWN_CHARS]}",
            [event.sender] if event.sender in self._state.agents else [],
            key=sender,
            evidence={"subject": event.subject, "bytes": str(event.size_bytes), "sha256": event.digest},
        )
        if view is not None and view.present and view.ending is None and event.call:
            gate_facts.too_large(self._state, view.name, event.call, event.reason)

    def throttled(self, event: Throttled) -> None:
        """Somebody sent more than it may, and was not read."""
        view = self._state.agents.get(event.sender)
        if view is None:
            what = "somebody who is not in the crew sends more than is read"
            report(self._state, "forgery", what, [], key="flood")
            return
        view.throttled += 1
        if view.ending is not None:
            enforcement.heard(self._state, view)
        flood.throttled(self._state, view, event.size_bytes)

    def _forged(self, event: Recorded, what: str) -> None:
        agents = [event.sender] if event.sender in self._state.agents else []
        report(self._state, "forgery", f"{event.sender} {what}", agents, key=event.sender)

    # --- calls and messages ---

    def _request(self, event: Recorded, view: AgentView, message: m.Request) -> None:
        state = self._state
        self._count(view)
        view.calls += 1
        state.usage.calls += 1
        node = view.node
        if node.calls_made >= quotas.CALLS_MAX and self._full(view, "calls", quotas.CALLS_MAX, lambda: node.calls_made):
            fault = m.Fault(code="refused", text=f"{view.name} has {quotas.CALLS_MAX} calls open: close some first")
            state.answer(view.name, event.id, error=fault)
            return
        callee = state.agents.get(event.to)
        call = state.graph.call_opened(
            node,
            message.task,
            event.id,
            event.to,
            state.now_s,
            message.verb,
            callee.node if callee is not None else None,
        )
        if call is None:
            self._forged(event, "reused the id of another agent's call")
            return
        if state.confines and reach.request_refused(state, view, call):
            return
        if state.gate.limits_calls and (excess := allowance.too_much(state, view, call)) is not None:
            allowance.refuse(state, view, call, excess)
            return
        if state.gate.judges_messages and hops.request_denied(state, view, call, message.verb, bytes(message.body)):
            return
        watch = state.watch
        if watch is not None and (
            len(message.body) > EMPTY_MAX_BYTES
            or node.calls_made >= watch.fan_out
            or (message.chain and len(message.chain) >= watch.depth)
        ):
            _watched(watch, view, call, message)
        call.timed = message.deadline_s is not None
        if state.withdrawals.fenced:
            withdrawal.asked_anew(state, event.id)
        if callee is not None and (callee.status == "up" or callee.present):
            return
        instances = [callee] if callee is not None else []
        instances += [a for a in state.agents.values() if a.role == event.to and a is not callee]
        if any(instance.present for instance in instances):
            return
        if not instances:
            why = f"there is no agent {event.to!r} in the crew; it has {', '.join(state.agents) or 'nobody'}"
        else:
            why = f"{event.to} is not there ({instances[0].status}); ask again when it is"
        lost = state.graph.call_lost(event.id)
        if lost is not None:
            lifecycle.orphaned(state, [lost], why)

    def _reply(self, event: Recorded, view: AgentView, message: m.Reply) -> None:
        self._count(view)
        graph = self._state.graph
        call = graph.calls.get(event.id)
        known = False
        if call is not None:
            if call.callee is not view.node and not _is_callee(call, view):
                self._forged(event, f"answered a call that was made to {call.to}")
                return
            known = call.handler is not None
            watch, body = self._state.watch, message.body
            if watch is not None and (
                watch.is_alert or (body is not UNSET and len(body) > EMPTY_MAX_BYTES) or message.error is not None
            ):
                self._hear_answer(watch, view, call, message)
            call.answered_s = self._state.now_s
            graph.answered(call, early=message.early, failed=message.error is not None)
        if not known and not message.early:
            graph.handler_replied(view.node, event.id)

    def _hear_answer(self, watch: Watch, view: AgentView, call: Call, message: m.Reply) -> None:
        """Detectors hear of an answer with words, or to a question with words."""
        body = message.body
        says = type(body) is Raw and len(body) > EMPTY_MAX_BYTES
        if says or message.error is not None or call.id in watch.asked:
            watch.replied(view, call, body if isinstance(body, Raw) else None, message.error)
        elif watch.storms.is_failing:
            watch.answered(view, call)
        if watch.answer is not None and message.error is None:
            caller = self._state.agents.get(call.caller)
            if caller is not None and caller.external and not view.external:
                watch.answer.replied(view.name, caller.name, body if isinstance(body, Raw) else Raw(b"null"))

    def _cancel(self, event: Recorded, view: AgentView, message: m.Cancel) -> None:
        self._count(view)
        call = self._state.graph.calls.get(event.id)
        if call is not None and call.caller != view.name:
            self._forged(event, f"cancelled a call of {call.caller}")
        else:
            if call is not None:
                withdrawal.fence(self._state, event.id)
                if self._state.watch is not None and event.id in self._state.watch.asked:
                    self._state.watch.maker.forget(view.name, event.id)
            self._state.graph.call_closed(event.id)

    def _message(self, event: Recorded, view: AgentView, message: m.Message) -> None:
        self._count(view)
        reach.message_looked_at(self._state, view, event.to)
        if self._state.gate.judges_messages:
            hops.message_judged(self._state, view, message.task, event.to, bytes(message.body))
        if self._state.watch is not None and len(message.body) > EMPTY_MAX_BYTES:
            self._state.watch.messaged(view, event.to, event.id, message)
        boxes = self._state.graph.agents
        if event.to in self._state.agents and not self._full(
            view,
            "messages not taken",
            quotas.UNREAD_MAX,
            lambda: sum(len(box.unread.get(view.name, ())) for box in boxes.values()),
        ):
            self._state.graph.message_sent(view.name, event.to, event.id, self._state.now_s)

    def _taken(self, event: Recorded, view: AgentView, message: m.Taken) -> None:
        watch = self._state.watch
        if watch is not None and watch.told:
            watch.maker.taken(view.tasks.get(message.task), message.message)
        self._state.graph.message_taken(view.node, message.sender, message.message, message.task)

    def _call_progress(self, event: Recorded, view: AgentView, message: m.CallProgress) -> None:
        self._count(view)
        self._got_on(view, message.text)
        call = self._state.graph.calls.get(event.id)
        if call is not None and call.state == "open" and call.to == view.role != view.name:
            self._state.graph.pin(call, view.node)  # this is how an instance acknowledges a call to its role

    def _full(self, view: AgentView, what: str, limit: int, count: Callable[[], int]) -> bool:
        """Whether an agent has as much open of a kind as is kept for one agent; then that is a finding."""
        if view.quotas is None:
            view.quotas = {}
        quota = view.quotas.get(what)
        if quota is None:
            quota = view.quotas[what] = Quota()
        if quota.take(limit, count):
            return False
        summary = f"{view.name} has {limit} {what} open, which is all that is kept for an agent: more are ignored"
        report(self._state, "malformed", summary, [view.name], key=f"{view.name} {what}")
        return True

    def _has_too_many_tasks(self, view: AgentView, task: str) -> bool:
        tasks = view.node.tasks
        if len(tasks) < quotas.TASKS_MAX or task in tasks:
            return False
        return self._full(view, "tasks", quotas.TASKS_MAX, lambda: len(tasks))

    def _count(self, view: AgentView) -> None:
        view.messages += 1
        self._state.usage.messages += 1
        if self._state.gate.counts_messages:
            allowance.counted(self._state, view)

    # --- tasks and waits ---

    def _task_began(self, event: Recorded, view: AgentView, message: m.TaskBegan) -> None:
        state = self._state
        if self._has_too_many_tasks(view, message.task):
            return
        state.graph.task_began(view.node, message.task, state.now_s, slot=message.slot, name=message.name)
        if message.name == "main":
            state.mains[view.name] = message.task
            state.mains_over.pop(view.name, None)

    def _task_ended(self, event: Recorded, view: AgentView, message: m.TaskEnded) -> None:
        state = self._state
        if isinstance(message.result, Raw) and state.mains.get(view.name) == message.task and state.watch is not None:
            state.watch.concluded(view, message.result)
        lost = state.graph.task_ended(view.node, message.task)
        if lost is not None:
            lifecycle.orphaned(state, [lost], f"{view.name} ended its handler without an answer")
        if state.mains.get(view.name) == message.task:
            state.main_over(view.name, done=True)

    def _call_started(self, event: Recorded, view: AgentView, message: m.CallStarted) -> None:
        graph = self._state.graph
        call = graph.calls.get(message.call)
        node = view.node
        if call is not None and call.callee is not node and not _is_callee(call, view):
            self._forged(event, f"started a call that was made to {call.to}")
            return
        if len(node.tasks) >= quotas.TASKS_MAX and self._has_too_many_tasks(view, message.task):
            return
        if call is None and withdrawal.started_late(self._state, node, message.call, message.task):
            return
        graph.call_started(node, message.call, message.caller, message.task, self._state.now_s)

    def _wait_began(self, event: Recorded, view: AgentView, message: m.WaitBegan) -> None:
        node = view.node
        if len(node.tasks) >= quotas.TASKS_MAX and self._has_too_many_tasks(view, message.task):
            return
        size = upkeep.size_of(message.condition)
        if size > UPKEEP_FREE and not upkeep.admits(self._state, view, size):
            return
        now_s = self._state.now_s
        deadline_s = None if message.deadline_s is None else now_s + message.deadline_s
        self._state.graph.wait_began(node, message.task, message.epoch, message.condition, now_s, deadline_s)

    def _wait_ended(self, event: Recorded, view: AgentView, message: m.WaitEnded) -> None:
        state = self._state
        if state.graph.watched and message.outcome != "met" and state.watch is not None:
            state.watch.lookout.ended_unmet(f"{view.name}/{message.task}")
        state.graph.wait_ended(view.node, message.task, message.epoch)

    def _acquire(self, event: Recorded, view: AgentView, message: m.Acquire) -> None:
        if self._has_too_many_tasks(view, message.task):
            return
        if view.node.tickets >= quotas.TICKETS_MAX and self._full(
            view, "tickets", quotas.TICKETS_MAX, lambda: sum(len(task.holds) for task in view.tasks.values())
        ):
            return
        if problem := locks.misfit(self._state, message):
            first = next(iter(self._state.graph.resources[message.resource].queue.values())).task.agent.name
            what = f"{view.name} asked for {message.units} of {message.resource!r} {problem} (first in line: {first})"
            report(self._state, "malformed", what, [view.name], key=f"capacity {message.resource}")
        elif not locks.acquire(self._state, view.node, message):
            self._forged(event, f"reused a ticket of {message.resource!r}, which is another agent's")

    def _release(self, event: Recorded, view: AgentView, message: m.Release) -> None:
        if not locks.release(self._state, view.name, message):
            self._forged(event, f"released {message.resource!r}, which another agent holds")

    def _heartbeat(self, event: Recorded, view: AgentView, message: m.Heartbeat) -> None:
        if not upkeep.admits(self._state, view, upkeep.size_of_account(view.node, message)):
            return
        for _, call in claims_of_others(self._state.graph, view.node, message)[:1]:  # what they say counts for nothing
            self._forged(event, f"claimed to work on a call that was made to {call.to}")
        for call in reconcile(self._state, view, message):
            lifecycle.orphaned(self._state, [call], f"{call.to} does not have the call")
        self._detector.affirmed(view.name, message.nonce)

    # --- what an agent tells of itself ---

    def _ask_human(self, event: Recorded, view: AgentView, message: m.AskHuman) -> None:
        known = self._state.questions.get(message.question)
        if known is not None and known.agent != view.name:
            self._forged(event, f"reused the id of a question of {known.agent}")
            return
        if known is None and self._full(
            view,
            "questions",
            quotas.QUESTIONS_MAX,
            lambda: sum(1 for question in self._state.questions.values() if question.agent == view.name),
        ):
            return
        self._state.questions[message.question] = Question(
            id=message.question,
            agent=view.name,
            task=message.task,
            who=message.who,
            text=message.text,
            asked_at_s=self._state.now_s,
        )

    def _progress(self, event: Recorded, view: AgentView, message: m.Progress) -> None:
        self._got_on(view, message.text)

    def _got_on(self, view: AgentView, text: str) -> None:
        """An agent says that it got on."""
        view.progress = text or view.progress
        if self._state.watch is not None:
            self._state.watch.progressed(view, text)

    def _standing(self, event: Recorded, view: AgentView, message: m.Standing) -> None:
        if view.status in ("up", "paused"):
            holding.stands(self._state, view, message.state)

    def _nudge_taken(self, event: Recorded, view: AgentView, message: m.NudgeTaken) -> None:
        incident = self._state.incidents.get(nudges.taken(self._state, view.name, message.nudge))
        if incident is not None:
            note(self._state, incident, f"{view.name}'s model was given the nudge")

    def _delegate(self, event: Recorded, view: AgentView, message: m.Delegate) -> None:
        delegation.asked(self._state, view, message, event.id)

    def _left(self, event: Recorded, view: AgentView, message: m.Left) -> None:
        lifecycle.left(self._state, view, message.why)

    def _usage(self, event: Recorded, view: AgentView, message: m.Usage) -> None:
        for usage in (view.usage, self._state.usage):
            usage.add(message.input_tokens, message.output_tokens, message.cost_microusd)
        task = view.tasks.get(message.task)
        if task is not None:
            task.tokens += message.input_tokens + message.output_tokens
        spent = {
            "microusd": message.cost_microusd,
            "input_tokens": message.input_tokens,
            "output_tokens": message.output_tokens,
            "tokens": message.input_tokens + message.output_tokens,
        }
        allowance.noted(self._state, view, message.task, spent)

    # --- the gate ---

    def _tool_call(self, event: Recorded, view: AgentView, message: t.ToolCall) -> None:
        gate.called(self._state, view, message, event.id)

    def _model_call(self, event: Recorded, view: AgentView, message: t.ModelCall) -> None:
        gate.modelled(self._state, view, message, event.id)

    def _settled(self, event: Recorded, view: AgentView, message: t.Settled) -> None:
        gate_facts.settled(self._state, view, message, event.id)

    def _given_up(self, event: Recorded, view: AgentView, message: t.CallGivenUp) -> None:
        gate_facts.given_up(self._state, view, message, event.id)

    def _surveyed(self, event: Recorded, view: AgentView, message: t.Survey) -> None:
        gate_facts.surveyed(self._state, view, message, event.id)

    def _proposed(self, event: Recorded, view: AgentView, message: t.Proposed) -> None:
        gate_facts.proposed(self._state, view, message)


def _watched(watch: Watch, view: AgentView, call: Call, message: m.Request) -> None:
    """Detectors hear of a call with words, and of one too many."""
    if len(message.body) > EMPTY_MAX_BYTES:
        watch.requested(view, call, message)
    if view.node.calls_made >= watch.fan_out:
        watch.lookout.spread(view, call)
    if len(message.chain) >= watch.depth:
        watch.lookout.deep(view, call, len(message.chain) + 1)


def _is_callee(call: Call, view: AgentView) -> bool:
    return call.to in (view.name, view.role)
