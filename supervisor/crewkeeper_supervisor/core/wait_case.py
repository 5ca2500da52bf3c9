"""Wait cases: a small crew and what happened to it, written down, put through the production wait graph.

The format is documented in `docs/wait-cases.md`. Here events in words become facts of the graph; what follows from
them is `reduction`'s.
"""

from typing import Any

from crewkeeper_bus.messages import Condition, OnAll, OnCall, OnHuman, OnMessage, OnResource, OnSome, OnTimer
from crewkeeper_supervisor.core.reduction import Reduction, Verdict, anatomy
from crewkeeper_supervisor.core.tickets import Resource, Ticket
from crewkeeper_supervisor.core.wait_graph import Task, WaitGraph

Event = dict[str, Any]


class WaitCase:
    """One case being replayed. Feed `apply`, then read `result`."""

    def __init__(self, agents: dict[str, Event], resources: dict[str, Event]) -> None:
        self._graph = WaitGraph()
        self._agent_of: dict[str, str] = {}
        self._order: dict[str, tuple[float, int]] = {}
        self._epoch = 0
        self._messages: dict[str, tuple[str, str]] = {}
        for name, spec in agents.items():
            self._graph.declare(name, spec.get("role", name), spec.get("concurrency", 1), spec.get("reentrant", "none"))
        for name, spec in resources.items():
            semaphore = spec.get("kind") == "sem"
            resource = self._graph.resources[name] = Resource(name, spec.get("units", 1) if semaphore else 1)
            resource.barging = not spec.get("fifo", True)

    def apply(self, event: Event) -> None:
        """Apply one event."""
        getattr(self, f"_on_{event['e']}")(event)

    def result(self) -> dict[str, Any]:
        """What follows: verdict, members, cores, and who else waits for what help."""
        graph, waiting = self._graph, dict(self._graph.waiting)
        strict = Reduction(graph).of(waiting.values())
        timeless = Reduction(graph, timers=False).of(waiting.values())
        stuck = {key: waiting[key] for key, verdict in strict.items() if verdict is Verdict.STUCK}
        orphan = sorted(waiting[key].id for key, verdict in strict.items() if verdict is Verdict.DEAD)
        names = {Verdict.TIMER: "timer", Verdict.EXTERNAL: "external"}
        stalled = {waiting[key].id: names[verdict] for key, verdict in strict.items() if verdict in names}
        timed = [
            waiting[key].id
            for key, verdict in timeless.items()
            if verdict is Verdict.STUCK and strict[key] is Verdict.TIMER
        ]
        core = [sorted(waiting[key].id for key in members) for members, _ in anatomy(stuck, graph)]
        return {
            "verdict": "deadlock" if stuck else "orphan" if orphan else "stalled" if stalled else "none",
            "deadlocked": sorted(task.id for task in stuck.values()),
            "core": sorted(core),
            "orphan": orphan,
            "stalled": dict(sorted(stalled.items())),
            "timed_deadlock": sorted(timed),
        }

    # --- tasks and calls ---

    def _on_task(self, event: Event) -> None:
        self._agent_of[event["task"]] = event["agent"]
        self._graph.task_began(event["agent"], event["task"], 0.0, slot=True)

    def _on_call(self, event: Event) -> None:
        agent = self._agent_of[event["task"]]
        call = self._graph.call_opened(agent, event["task"], event["call"], event["to"], 0.0)
        if call is not None:
            call.timed = event.get("deadline") is not None

    def _on_start(self, event: Event) -> None:
        call = self._graph.calls[event["call"]]
        agent = event.get("agent", call.to)
        self._agent_of[event["task"]] = agent
        self._graph.call_started(agent, event["call"], call.caller, event["task"], 0.0)

    def _on_reply(self, event: Event) -> None:
        self._graph.call_answered(event["call"], early=event.get("early", False))

    def _on_end(self, event: Event) -> None:
        self._graph.task_ended(self._agent_of[event["task"]], event["task"])

    def _on_cancel(self, event: Event) -> None:
        self._graph.call_closed(event["call"])

    # --- waits ---

    def _on_wait(self, event: Event) -> None:
        task = event["task"]
        self._epoch += 1
        deadline = 1.0 if event.get("deadline") is not None else None
        condition = self._condition(event["for"], task, event)
        self._graph.wait_began(self._agent_of[task], task, self._epoch, condition, 0.0, deadline)

    def _on_wake(self, event: Event) -> None:
        task = self._task(event["task"])
        if task is None:
            return
        self._graph.wait_ended(task.agent.name, task.id)
        for ticket in [ticket for ticket in task.holds.values() if not ticket.granted]:
            del ticket.resource.queue[ticket.id]
            del task.holds[ticket.id]

    def _condition(self, spec: Event, task: str, event: Event) -> Condition:
        match spec:
            case {"call": call}:
                return OnCall(call=call)
            case {"res": name}:
                ticket = self._ticket(task, name, spec, event.get("ticket"))
                return OnResource(resource=name, ticket=ticket.id)
            case {"msg_from": senders}:
                return OnMessage(senders=tuple(senders))
            case {"topic": _, "publishers": publishers}:
                return OnMessage(senders=tuple(publishers))
            case {"timer": seconds}:
                return OnTimer(after_s=float(seconds))
            case {"all": parts}:
                return OnAll(of=tuple(self._condition(part, task, event) for part in parts))
            case {"any": parts}:
                return OnSome(k=1, of=tuple(self._condition(part, task, event) for part in parts))
            case {"k": k, "of": parts}:
                return OnSome(k=k, of=tuple(self._condition(part, task, event) for part in parts))
            case _:
                return OnHuman(who=str(spec.get("human", "topic")))

    # --- locks and semaphores ---

    def _ticket(self, task: str, name: str, spec: Event, order: float | None) -> Ticket:
        resource = self._graph.resources.setdefault(name, Resource(name, 1))
        owner = self._task(task)
        assert owner is not None  # a task that waits or acquires has begun
        id_ = f"{task}:{name}:{len(self._order)}"
        ticket = Ticket(id_, owner, resource, spec.get("mode", "x"), spec.get("n", 1))
        arrival = len(self._order)
        self._order[id_] = (float(arrival) if order is None else float(order), arrival)
        resource.queue[id_] = owner.holds[id_] = ticket
        resource.queue = dict(sorted(resource.queue.items(), key=lambda item: self._order[item[0]]))
        return ticket

    def _on_acquire(self, event: Event) -> None:
        owner = self._task(event["task"])
        assert owner is not None  # a task that acquires has begun
        asked = (t for t in owner.holds.values() if t.resource.name == event["res"] and not t.granted)
        ticket = next(asked, None) or self._ticket(event["task"], event["res"], event, event.get("req"))
        ticket.granted = True
        ticket.leased = event.get("lease") is not None

    def _on_release(self, event: Event) -> None:
        resource = self._graph.resources[event["res"]]
        for ticket in list(resource.queue.values()):
            if ticket.task.id == event["task"] and ticket.granted:
                del resource.queue[ticket.id]
                ticket.task.holds.pop(ticket.id, None)

    # --- messages ---

    def _on_send(self, event: Event) -> None:
        sender = self._agent_of[event["task"]]
        receivers = [event["to"]] if "to" in event else list(self._graph.agents)
        for receiver in receivers:
            self._graph.message_sent(sender, receiver, event["msg"], 0.0)
        self._messages[event["msg"]] = (sender, event.get("to", ""))

    def _on_recv(self, event: Event) -> None:
        sender, _ = self._messages[event["msg"]]
        self._graph.message_taken(self._agent_of[event["task"]], sender, event["msg"])

    # --- agents ---

    def _on_crash(self, event: Event) -> None:
        self._graph.died(event["agent"])

    _on_exit = _on_crash

    def _on_restart(self, event: Event) -> None:
        self._graph.agent(event["agent"]).alive = True

    def _on_config(self, event: Event) -> None:
        self._graph.agent(event["agent"]).concurrency = event["concurrency"]

    def _task(self, task: str) -> Task | None:
        agent = self._agent_of.get(task)
        return self._graph.agents[agent].tasks.get(task) if agent is not None else None
