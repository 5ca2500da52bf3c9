"""The reduction against a reference that plays on what could still happen, on thousands of random small states."""

import random
from collections.abc import Callable

import networkx as nx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from crewkeeper_bus.messages import OnAll, OnCall, OnResource, OnSome
from crewkeeper_supervisor.core.anatomy import anatomy
from crewkeeper_supervisor.core.reduction import Reduction, Verdict, blockers_of, surely_live
from crewkeeper_supervisor.core.wait_graph import WaitGraph
from support.random_graphs import RandomCrew
from support.reference_waits import Playing, verdicts

ROUNDS = 20
"""Random crews to an example: hypothesis chooses the seeds, so what fails comes with its seed."""
SEEDS = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def crews(seed: int, rounds: int = ROUNDS) -> list[RandomCrew]:
    found = []
    for number in range(rounds):
        crew = RandomCrew(random.Random(f"{seed}-{number}"))
        for _ in crew.steps(crew.rnd.randint(5, 40)):
            pass
        found.append(crew)
    return found


@SEEDS
@given(st.integers(0, 2**32))
@example(6591)  # a task that asks for many units, and then for few: the few can be had alone
def test_every_verdict_is_what_playing_on_finds(seed: int) -> None:
    for crew in crews(seed):
        graph = crew.graph
        for timers in (True, False):
            found = Reduction(graph, timers=timers).of(graph.waiting.values())
            assert found == verdicts(graph, timers=timers), "\n".join(crew.said)


@SEEDS
@given(st.integers(0, 2**32))
def test_the_reference_does_not_depend_on_the_order_of_steps(seed: int) -> None:
    for crew in crews(seed, 5):
        assert verdicts(crew.graph) == verdicts(crew.graph, order=random.Random(seed)), "\n".join(crew.said)


@SEEDS
@given(st.integers(0, 2**32))
def test_verdicts_asked_one_by_one_are_those_asked_together(seed: int) -> None:
    for crew in crews(seed, 5):
        graph = crew.graph
        together = Reduction(graph).of(graph.waiting.values())
        for key, task in graph.waiting.items():
            assert Reduction(graph).of([task])[key] == together[key], "\n".join(crew.said)


@SEEDS
@given(st.integers(0, 2**32))
def test_the_quick_walk_never_passes_what_needs_an_intervention(seed: int) -> None:
    for crew in crews(seed):
        graph = crew.graph
        found = verdicts(graph, timers=False)
        for key, task in graph.waiting.items():
            if surely_live(task, graph):
                assert found[key] < Verdict.DEAD, "\n".join([*crew.said, key])


@SEEDS
@given(st.integers(0, 2**32))
def test_every_stuck_task_is_explained_and_cores_are_closed(seed: int) -> None:
    for crew in crews(seed):
        graph = crew.graph
        strict = Reduction(graph).of(graph.waiting.values())
        stuck = {key: graph.waiting[key] for key, verdict in strict.items() if verdict is Verdict.STUCK}
        groups = anatomy(stuck, graph)
        for core, tail in groups:
            said = "\n".join([*crew.said, str(groups)])
            others = [task.key for task in Playing(graph, Verdict.DEAD).all if task.key not in core]
            assert not Playing(graph, Verdict.DEAD, freed=others).play() & set(core), said
            assert set(tail).isdisjoint(core), said
            assert set(core) | set(tail) <= set(stuck), said
        cores = [set(core) for core, _ in groups]
        assert sum(len(core) for core in cores) == len(set().union(*cores)), "two cores share a task"


@SEEDS
@given(st.integers(0, 2**32))
def test_whatever_gets_stuck_was_marked_by_the_fact_that_did_it(seed: int) -> None:
    for number in range(ROUNDS):
        crew = RandomCrew(random.Random(f"{seed}-{number}"))
        graph = crew.graph
        before: set[str] = set()
        for _ in crew.steps(40):
            found = verdicts(graph, timers=False)
            after = {key for key, verdict in found.items() if verdict is Verdict.STUCK}
            if after - before:
                assert after & set(graph.dirty), "\n".join([*crew.said, str(sorted(after - before))])
            graph.dirty.clear()
            before = after


@SEEDS
@given(st.integers(0, 2**32))
def test_whatever_is_not_granted_is_blocked_by_somebody(seed: int) -> None:
    """The lock manager and the reduction must agree, or a lock is withheld that nobody is known to hold."""
    for crew in crews(seed):
        for resource in crew.graph.resources.values():
            assert list(resource.grantable()) == [], "\n".join(crew.said)
            held = sum(ticket.units for ticket in resource.queue.values() if ticket.granted)
            for ticket in resource.queue.values():
                if not ticket.granted and ticket.units <= resource.capacity:
                    ahead, holders = blockers_of(ticket)
                    short = resource.capacity > 1 and ticket.units > resource.capacity - held
                    assert ahead or short or (resource.capacity == 1 and holders), "\n".join(crew.said)


def test_with_plain_calls_and_one_slot_stuck_means_reaching_a_cycle() -> None:
    seen = set()
    for seed in range(300):
        rnd = random.Random(seed)
        graph, web = WaitGraph(), nx.DiGraph()
        names = [f"a{n}" for n in range(rnd.randint(2, 7))]
        for name in names:
            graph.declare(name, name, 1, "none")
            graph.task_began(graph.agents[name], "main", 0.0, slot=True)
        for number, name in enumerate(names):
            if rnd.random() < 0.85:
                to = rnd.choice(names)
                graph.call_opened(graph.agents[name], "main", f"c{number}", to, 0.0)
                graph.wait_began(graph.agents[name], "main", 1, OnCall(call=f"c{number}"), 0.0, None)
                web.add_edge(f"{name}/main", f"{to}/main")
        cycles = {node for cycle in nx.simple_cycles(web) for node in cycle}
        reach = {node for node in web if node in cycles or nx.descendants(web, node) & cycles}
        found = Reduction(graph).of(graph.waiting.values())
        assert {key for key, verdict in found.items() if verdict is Verdict.STUCK} == reach
        seen.add(bool(reach))
    assert seen == {True, False}


def test_the_random_crews_reach_every_verdict_often() -> None:
    counts = dict.fromkeys(Verdict, 0)
    for seed in range(20):
        for crew in crews(seed):
            for verdict in verdicts(crew.graph).values():
                counts[verdict] += 1
    assert min(counts.values()) >= 20, counts


def test_units_the_task_itself_gets_before_make_a_request_impossible() -> None:
    graph = WaitGraph()
    a, b = graph.agent("a"), graph.agent("b")
    for agent in (a, b):
        graph.task_began(agent, "t", 0.0, slot=True)
    graph.requested(a, "t", "gpu", "k1", "x", 2, 2, 0.0)
    graph.requested(b, "t", "gpu", "k2", "x", 1, 2, 0.0)
    graph.requested(b, "t", "gpu", "k3", "x", 2, 2, 0.0)
    graph.wait_began(b, "t", 1, OnResource(resource="gpu", ticket="k3"), 0.0, None)
    assert Reduction(graph).of(graph.waiting.values()) == {"b/t": Verdict.STUCK}
    assert verdicts(graph) == {"b/t": Verdict.STUCK}


def either(parts: tuple[OnResource, ...]) -> OnSome:
    return OnSome(k=1, of=parts)


def both_of(parts: tuple[OnResource, ...]) -> OnAll:
    return OnAll(of=parts)


@pytest.mark.parametrize(("condition", "verdict"), [(either, Verdict.LIVE), (both_of, Verdict.STUCK)])
def test_a_larger_request_of_the_same_task_stands_in_the_way_only_if_both_are_needed(
    condition: Callable[[tuple[OnResource, ...]], OnAll | OnSome], verdict: Verdict
) -> None:
    graph = WaitGraph()
    a, b = graph.agent("a"), graph.agent("b")
    for agent in (a, b):
        graph.task_began(agent, "t", 0.0, slot=True)
    graph.requested(a, "t", "gpu", "k1", "x", 3, 3, 0.0)
    graph.requested(b, "t", "gpu", "k2", "x", 3, 3, 0.0)
    graph.requested(b, "t", "gpu", "k3", "x", 1, 3, 0.0)
    parts = tuple(OnResource(resource="gpu", ticket=ticket) for ticket in ("k2", "k3"))
    graph.wait_began(b, "t", 1, condition(parts), 0.0, None)
    assert Reduction(graph).of(graph.waiting.values()) == {"b/t": verdict}
    assert verdicts(graph) == {"b/t": verdict}
