"""Wait cases: a small crew and what happened to it, written down, put through the production wait graph.

The format is documented in `docs/wait-cases.md`. Here events in words become facts of the graph; in which order is
`case_order`'s, what is wrong with a case `case_problems`', what follows from the facts `reduction`'s.

Theory of operation. What only one agent can know is applied as it comes in causal order. Some things depend on events
of several agents and are therefore settled at the end, from where they stand in the file: which calls that were never
started and which messages got lost with their receiver, and who stands before whom in the queue of a lock.
"""

from collections.abc import Mapping
from typing import Any, Literal, cast

from crewkeeper_bus.messages import Condition, OnAll, OnCall, OnHuman, OnMessage, OnResource, OnSome, OnTimer
from crewkeeper_supervisor.core.anatomy import anatomy
from crewkeeper_supervisor.core.case_order import Event, Openings, causal_order
from crewkeeper_supervisor.core.conditions import AnyCondition, OnRoom, OnTopic
from crewkeeper_supervisor.core.nodes import Call, Task
from crewkeeper_supervisor.core.reduction import Reduction, Verdict
from crewkeeper_supervisor.core.tickets import Resource, Ticket
from crewkeeper_supervisor.core.wait_graph import WaitGraph

Fate = Literal["open", "started", "answered", "cancelled", "lost"]


class _Made:
    """A call as the case tells it: the graph forgets what it has no more use for."""

    def __init__(self, event: Event, caller: Task, position: int) -> None:
        self.event = event
        self.caller = caller
        self.position = position
        self.fate: Fate = "open"
        self.handler: Task | None = None


class _Request:
    """A lock or units that a wait asks for, with its place in the line."""

    def __init__(self, ticket: Ticket, number: float | None, position: int) -> None:
        self.ticket = ticket
        self.number = number
        self.position = position


class _Sent:
    """A one-way message, with who has not taken it."""

    def __init__(self, event: Event, sender: str, receivers: list[str], position: int) -> None:
        self.event = event
        self.sender = sender
        self.unread = dict.fromkeys(receivers, True)
        self.position = position


class WaitCase:
    """One case being replayed. Feed `apply`, then read `result`; both as often as wanted.

    Args:
        agents: The crew by name, as the case has it.
        resources: Its locks and semaphores by name.
    """

    def __init__(self, agents: Mapping[str, Event], resources: Mapping[str, Event]) -> None:
        self._agents = agents
        self._resources = resources
        self._events: list[Event] = []
        self._clear()

    def apply(self, event: Event) -> None:
        """Take in the next event, in the order of arrival."""
        self._events.append(event)

    def result(self) -> dict[str, Any]:
        """What follows from all events so far: verdict, members, cores, and who else waits for what help."""
        self._clear()
        for position in causal_order(self._openings, self._events):
            self._position, event = position, self._events[position]
            getattr(self, f"_on_{event['e']}")(event)
        self._settle_calls()
        self._settle_messages()
        self._settle_queues()
        return self._verdicts()

    def _clear(self) -> None:
        self._openings = Openings(self._agents, self._events)
        self._position = 0
        self._graph = WaitGraph()
        self._made: dict[str, _Made] = {}
        self._handled: dict[str, _Made] = {}
        self._sent: dict[str, _Sent] = {}
        self._requests: dict[str, _Request] = {}
        for name, spec in self._agents.items():
            self._graph.declare(name, spec.get("role", name), spec.get("concurrency", 1), spec.get("reentrant", "none"))
            self._graph.agents[name].mailbox = spec.get("mailbox")
        for name, spec in self._resources.items():
            counting = spec.get("kind") == "sem"
            resource = self._graph.resources[name] = Resource(name, spec.get("units", 1) if counting else 1)
            resource.counting = counting
            resource.barging = not spec.get("fifo", True)

    def _verdicts(self) -> dict[str, Any]:
        graph, waiting = self._graph, dict(self._graph.waiting)
        strict = Reduction(graph).of(waiting.values())
        timeless = Reduction(graph, timers=False, sleeps=False).of(waiting.values())
        stuck = {key: waiting[key] for key, verdict in strict.items() if verdict is Verdict.STUCK}
        orphan = sorted(waiting[key].id for key, verdict in strict.items() if verdict is Verdict.DEAD)
        names = {Verdict.TIMER: "timer", Verdict.EXTERNAL: "external"}
        stalled = {waiting[key].id: names[verdict] for key, verdict in strict.items() if verdict in names}
        timed = (key for key, verdict in strict.items() if verdict is Verdict.TIMER and timeless[key] is Verdict.STUCK)
        core = [sorted(waiting[key].id for key in members) for members, _ in anatomy(stuck, graph)]
        return {
            "verdict": "deadlock" if stuck else "orphan" if orphan else "stalled" if stalled else "none",
            "deadlocked": sorted(task.id for task in stuck.values()),
            "core": sorted(core),
            "orphan": orphan,
            "stalled": dict(sorted(stalled.items())),
            "timed_deadlock": sorted(waiting[key].id for key in timed),
        }

    # --- tasks and calls ---

    def _on_task(self, event: Event) -> None:
        self._graph.task_began(self._graph.agents[event["agent"]], event["task"], 0.0, slot=True)

    def _on_call(self, event: Event) -> None:
        caller = self._task(event["task"])
        if caller is not None:
            self._made[event["call"]] = _Made(event, caller, self._position)
            self._open(self._made[event["call"]])

    def _on_start(self, event: Event) -> None:
        made, agent = self._made.get(event["call"]), self._graph.agents[self._openings.callee(event)]
        if made is not None and made.fate == "open":
            made.fate = "started"
            if self._is_active(made.caller):
                self._open(made)  # anew, if it looked lost: it reached the callee after its restart
                self._graph.call_started(agent, event["call"], made.caller.agent.name, event["task"], 0.0)
            else:
                self._queue(made.event["to"]).pop(event["call"], None)
        handler = self._graph.task_began(agent, event["task"], 0.0, slot=True)
        if made is not None:
            handler.parent, made.handler = made.caller, handler
            self._handled[handler.key] = made

    def _on_reply(self, event: Event) -> None:
        made = self._made.get(event["call"])
        if made is None:
            return
        if made.fate in ("open", "started"):
            made.fate = "answered"
            self._queue(made.event["to"]).pop(event["call"], None)
        self._graph.call_answered(event["call"], early=True)
        if made.handler is not None and not event.get("early", False):
            self._finish(made.handler)

    def _on_end(self, event: Event) -> None:
        task = self._task(event["task"])
        if task is not None:
            self._finish(task)

    def _on_cancel(self, event: Event) -> None:
        made = self._made.get(event["call"])
        if made is not None:
            made.fate = "cancelled"
            self._graph.call_closed(event["call"])
            self._queue(made.event["to"]).pop(event["call"], None)

    def _open(self, made: _Made) -> None:
        """The graph knows this call, as one that was not started."""
        event = made.event
        self._graph.call_closed(event["call"])
        call = self._graph.call_opened(made.caller.agent, made.caller.id, event["call"], event["to"], 0.0)
        if call is not None:
            call.timed = event.get("deadline") is not None

    def _finish(self, task: Task) -> None:
        """A task is over. What it has asked others for is still asked for, though nobody waits for it."""
        self._withdraw(task)
        left = [call for call in task.calls.values() if call.state == "open"]
        made = self._handled.get(task.key)
        if made is not None and made.fate == "started":
            made.fate = "lost"
        self._graph.task_ended(task.agent, task.id)
        self._leave(left)

    def _leave(self, calls: list[Call]) -> None:
        for call in calls:
            self._queue(call.to)[call.id] = call

    def _queue(self, to: str) -> dict[str, Call]:
        """Where calls to an agent stand that it has not started; calls to a role are in nobody's mailbox."""
        node = self._graph.agents.get(to)
        return node.inbound if node is not None else {}

    # --- waits ---

    def _on_wait(self, event: Event) -> None:
        task = self._task(event["task"])
        if task is None:
            return
        self._withdraw(task)
        deadline_s = 1.0 if event.get("deadline") is not None else None
        condition = cast("Condition", self._condition(event["for"], task, event.get("ticket")))
        self._graph.wait_began(task.agent, task.id, self._position, condition, 0.0, deadline_s)

    def _on_wake(self, event: Event) -> None:
        task = self._task(event["task"])
        if task is not None:
            self._withdraw(task)
            self._graph.wait_ended(task.agent, task.id)

    def _condition(self, spec: Event, task: Task, number: float | None) -> AnyCondition:
        match spec:
            case {"call": call}:
                return OnCall(call=call)
            case {"res": name}:
                return OnResource(resource=name, ticket=self._request(task, name, spec, number).id)
            case {"msg_from": senders}:
                return OnMessage(senders=self._named(senders))
            case {"topic": topic}:
                publishers = spec.get("publishers")
                return OnTopic(topic=topic, publishers=None if publishers is None else self._named(publishers))
            case {"space": agent}:
                return OnRoom(agent=agent)
            case {"timer": _}:
                return OnTimer(after_s=1.0)
            case {"all": parts}:
                return OnAll(of=self._parts(parts, task, number))
            case {"any": parts}:
                return OnSome(k=1, of=self._parts(parts, task, number))
            case {"k": k, "of": parts}:
                return OnSome(k=k, of=self._parts(parts, task, number))
            case _:
                return OnHuman(who=str(spec["human"]))

    def _parts(self, parts: list[Event], task: Task, number: float | None) -> tuple[Condition, ...]:
        return cast("tuple[Condition, ...]", tuple(self._condition(part, task, number) for part in parts))

    def _named(self, names: list[str]) -> tuple[str, ...]:
        return tuple(agent for name in names for agent in self._openings.instances(name))

    # --- locks and semaphores ---

    def _ticket(self, task: Task, spec: Event, name: str) -> Ticket:
        resource = self._graph.resources[name]
        units = spec.get("n") if resource.counting else 1
        return Ticket(
            f"{task.id}:{name}:{self._position}:{len(task.holds)}",
            task,
            resource,
            spec.get("mode") or "x",
            1 if units is None else units,
        )

    def _request(self, task: Task, name: str, spec: Event, number: float | None) -> Ticket:
        ticket = self._ticket(task, spec, name)
        task.hold(ticket)
        self._requests[ticket.id] = _Request(ticket, number, self._position)
        return ticket

    def _withdraw(self, task: Task) -> None:
        for ticket in [ticket for ticket in task.holds.values() if ticket.id in self._requests]:
            del self._requests[ticket.id]
            task.drop(ticket)

    def _on_acquire(self, event: Event) -> None:
        task = self._task(event["task"])
        if task is None:
            return
        asked = [t for t in task.holds.values() if t.id in self._requests and t.resource.name == event["res"]]
        new = self._ticket(task, event, event["res"])
        like = [t for t in asked if (t.mode, t.units) == (new.mode, new.units)]
        ticket = next(iter(like or asked), new)
        self._requests.pop(ticket.id, None)
        ticket.resource.queue[ticket.id] = ticket
        task.hold(ticket)
        ticket.granted = True
        ticket.leased = event.get("lease") is not None

    def _on_release(self, event: Event) -> None:
        for ticket in list(self._graph.resources[event["res"]].queue.values()):
            if ticket.task.id == event["task"]:
                del ticket.resource.queue[ticket.id]
                ticket.task.drop(ticket)

    # --- messages ---

    def _on_send(self, event: Event) -> None:
        receivers = self._openings.instances(event["to"]) if event.get("to") else list(self._agents)
        self._sent[event["msg"]] = _Sent(event, self._openings.stream(event), receivers, self._position)

    def _on_recv(self, event: Event) -> None:
        sent = self._sent.get(event["msg"])
        if sent is not None:
            sent.unread.pop(self._openings.stream(event), None)

    # --- agents ---

    def _on_crash(self, event: Event) -> None:
        node = self._graph.agents[event["agent"]]
        left = [call for task in node.tasks.values() for call in task.calls.values() if call.state == "open"]
        for task in node.tasks.values():
            self._withdraw(task)
            made = self._handled.get(task.key)
            if made is not None and made.fate == "started":
                made.fate = "lost"
        self._graph.died(node.name)
        self._leave([call for call in left if call.to != node.name])

    _on_exit = _on_crash

    def _on_restart(self, event: Event) -> None:
        if self._graph.agents[event["agent"]].alive:
            self._on_crash(event)
        self._graph.agents[event["agent"]].alive = True

    def _on_config(self, event: Event) -> None:
        self._graph.agents[event["agent"]].concurrency = event["concurrency"]

    # --- settling ---

    def _settle_calls(self) -> None:
        """Calls that nobody started are lost if their callee is gone, or came back while they were on their way."""
        comings = [(place, e) for place, e in enumerate(self._events) if e["e"] in ("crash", "exit", "restart")]
        back = {
            to: self._emptied(to, comings) for to in dict.fromkeys(made.event["to"] for made in self._made.values())
        }
        for id_, made in self._made.items():
            if not self._is_active(made.caller):
                continue
            if made.fate == "open" and made.position < back[made.event["to"]]:
                made.fate = "lost"
            known = self._graph.calls.get(id_)
            if made.fate in ("open", "lost") and (known is None or known.state != made.fate):
                self._open(made)
                if made.fate == "lost":
                    self._graph.call_lost(id_)
            elif made.fate in ("answered", "cancelled"):
                self._graph.call_closed(id_)
        for node in self._graph.agents.values():
            for id_ in [id_ for id_ in node.inbound if self._made[id_].position < back[self._made[id_].event["to"]]]:
                if self._made[id_].fate == "open":
                    del node.inbound[id_]

    def _emptied(self, to: str, comings: list[tuple[int, Event]]) -> int:
        """Before which place in the file every call was lost: where the first instance came back after all had gone."""
        alive = dict.fromkeys(self._openings.instances(to), True)
        last = -1
        for position, event in comings:
            if event["agent"] in alive:
                if event["e"] == "restart" and sum(alive.values()) == alive[event["agent"]]:
                    last = position
                alive[event["agent"]] = event["e"] == "restart"
        return last if any(alive.values()) else len(self._events)

    def _settle_messages(self) -> None:
        """What an agent had not taken when it came back is gone."""
        back = {e["agent"]: position for position, e in enumerate(self._events) if e["e"] == "restart"}
        for id_, sent in self._sent.items():
            for receiver in [name for name in sent.unread if sent.position > back.get(name, -1)]:
                if sent.event.get("to"):
                    self._graph.message_sent(sent.sender, receiver, id_, 0.0)
                else:
                    topics = self._graph.published.setdefault(receiver, {})
                    topics.setdefault(sent.event["topic"], {})[id_] = sent.sender

    def _settle_queues(self) -> None:
        """Requests stand in line in the order of their numbers; where one has none, in the order of arrival."""
        lines: dict[str, list[_Request]] = {}
        for request in self._requests.values():
            lines.setdefault(request.ticket.resource.name, []).append(request)
        for line in lines.values():
            numbered = all(request.number is not None for request in line)
            line.sort(key=lambda each: (each.number if numbered and each.number is not None else 0, each.position))
            for ticket in (request.ticket for request in line):
                if not _has_it(ticket):
                    ticket.resource.queue[ticket.id] = ticket

    # --- inside ---

    def _task(self, task: str) -> Task | None:
        node = self._graph.agents.get(self._openings.agent_of.get(task, ""))
        return node.tasks.get(task) if node is not None else None

    def _is_active(self, task: Task) -> bool:
        return task.agent.tasks.get(task.id) is task


def _has_it(ticket: Ticket) -> bool:
    """Whether its task holds the lock already, in a mode that is enough: a lock does not block its own holder."""
    held = (t for t in ticket.task.holds.values() if t.granted and t.resource is ticket.resource)
    return not ticket.resource.counting and any(t.mode in ("x", ticket.mode) for t in held)
