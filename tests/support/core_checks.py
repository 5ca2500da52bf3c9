"""What must hold of the core's state after every event, whatever the event was."""

from crewkeeper_supervisor.core.supervisor import Supervisor


def check(core: Supervisor) -> None:
    """Assert the invariants of a core's state."""
    graph = core._state.graph
    waiting = {}
    for node in graph.agents.values():
        assert node.slot_tasks == sum(task.slot for task in node.tasks.values()), node.name
        for id_, task in node.tasks.items():
            assert (task.id, task.agent) == (id_, node)
            if task.wait is not None:
                waiting[task.key] = task
            if task.call is not None:
                assert task.call.handler is task, f"{task.key} handles {task.call.id}, which has another handler"
            for call in task.calls.values():
                assert graph.calls.get(call.id) is call, f"{task.key} made {call.id}, which is forgotten"
            for ticket in task.holds.values():
                assert ticket.resource.queue.get(ticket.id) is ticket
        assert node.calls_made == sum(len(task.calls) for task in node.tasks.values()), node.name
        assert node.tickets >= sum(len(task.holds) for task in node.tasks.values()), node.name
        for id_, call in node.inbound.items():
            assert call.callee is node, f"{id_} stands in the queue of {node.name}, and says otherwise"
            assert graph.calls.get(id_) is call, f"{id_} is addressed to {node.name} and forgotten"
            assert call.state in ("open", "started")
    assert graph.waiting == waiting
    assert set(graph.dirty) <= set(waiting)
    for call in graph.calls.values():
        if call.state == "started":
            assert call.handler is not None, call.id
            assert call.handler.call is call, call.id
            assert call.handler.agent.tasks.get(call.handler.id) is call.handler, f"{call.id}: its handler is over"
    assert core._state.stirred or not core._state.has_chores(), "there is something to do, and nobody would look"
    next_s = core.next_tick_at_s()
    assert next_s is None or next_s > core.now_s, (
        f"a tick is wanted at {next_s}, and it is {core.now_s}: {core._state.due_s}"
    )
    assert all(incident.id == id_ for id_, incident in core.incidents.items())
