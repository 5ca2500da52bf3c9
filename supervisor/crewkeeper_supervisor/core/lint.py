"""What a declared crew lets expect before it runs: rings of blocking calls, agents nobody reaches, unheard escalations.

Pure: a `Crew` in, warnings out; positions in the file are added by the shell. What really happens is found at run
time by the wait graph.

Theory of operation. An agent that works on a call holds a slot while it waits for the agents it calls, so
`may_call` gives a graph over slots: an arrow from the slot held to the slot asked for. Only a cycle in it can become a
ring of calls that wait for each other (Coffman, Elphick and Shoshani 1971: hold and wait, circular wait); cycles
live inside strongly connected sets. What matters on a cycle are its *limited* agents, those whose calls need a slot
(`reentrant` is not `full`):

- none limited: no call ever waits for a slot, no ring.
- one limited, and it is `chain`: whoever comes round to it is its own descendant and is let in, no ring.
- a limited one with one slot and no reentrancy: a single request that goes round suffices.
- otherwise: requests must meet, as many as there are slots, or from two sides. A note, not a warning.
"""

from collections import deque
from typing import Final, Literal

import networkx as nx
from msgspec import Struct

from crewkeeper_supervisor.core.crew import Agent, Budget, Crew, Responses

SPREAD_ONLY: Final = "CREW-215"
"""Code of what has no effect unless the crew is spread over hosts."""
_NAMES_SHOWN: Final = 8
_STARTS_MAX: Final = 64
"""Agents of one strongly connected set from which a shortest cycle is searched: exact up to there, bounded beyond."""


class LintWarning(Struct, frozen=True, kw_only=True):
    """One expectation about a crew. `path` names where it is declared; a `note` is less likely than a `warning`."""

    code: str
    path: tuple[str | int, ...]
    message: str
    remedy: str
    severity: Literal["warning", "note"] = "warning"


def lint(crew: Crew) -> list[LintWarning]:
    """What `crew` lets expect, in a fixed order. Work is bounded by the declared relations times a constant."""
    return [
        *_rings(crew),
        *_may_call_anybody(crew),
        *_isolated(crew),
        *_unheard(crew),
        *_no_victim(crew),
        *_spread_only(crew),
    ]


def _rings(crew: Crew) -> list[LintWarning]:
    agents = {agent.name: agent for agent in crew.agents}
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(agents)
    for agent in crew.agents:
        graph.add_edges_from((agent.name, callee) for callee in agent.may_call or () if callee in agents)
    order = {name: index for index, name in enumerate(agents)}
    found: list[tuple[int, LintWarning]] = []
    for component in nx.strongly_connected_components(graph):
        members = sorted(component, key=order.__getitem__)
        if len(members) == 1 and not graph.has_edge(members[0], members[0]):
            continue
        limited = [name for name in members if agents[name].reentrant != "full"]
        if not limited or (len(limited) == 1 and agents[limited[0]].reentrant == "chain"):
            continue
        hard = [name for name in limited if _is_hard(agents[name])]
        cycle = _shortest_cycle(graph.subgraph(members), hard or limited)
        found.append((order[members[0]], _ring_warning(agents, members, cycle)))
    return [warning for _, warning in sorted(found, key=lambda pair: pair[0])]


def _is_hard(agent: Agent) -> bool:
    """Whether one request that comes back to the agent waits for ever: one slot, and nobody let in beyond it."""
    return agent.reentrant == "none" and agent.concurrency == 1


def _shortest_cycle(graph: "nx.DiGraph[str]", starts: list[str]) -> list[str]:
    """The names on a shortest cycle through one of `starts`, beginning there; all lie on one."""
    for start in starts:
        if graph.has_edge(start, start):
            return [start]
    best: list[str] = []
    for start in starts[:_STARTS_MAX]:
        came_from: dict[str, str] = {}
        queue = deque([start])
        closing = None
        while queue and closing is None:
            name = queue.popleft()
            for callee in graph.successors(name):
                if callee == start:
                    closing = name
                    break
                if callee not in came_from:
                    came_from[callee] = name
                    queue.append(callee)
        assert closing is not None, f"{start} lies on no cycle"
        cycle = [closing]
        while cycle[-1] != start:
            cycle.append(came_from[cycle[-1]])
        if not best or len(cycle) < len(best):
            best = cycle[::-1]
        if len(best) == 2:
            break
    return best


def _ring_warning(agents: dict[str, Agent], members: list[str], cycle: list[str]) -> LintWarning:
    hard = [name for name in cycle if _is_hard(agents[name])]
    chain = [name for name in cycle if agents[name].reentrant == "chain"]
    ring = _arrow([*cycle, cycle[0]])
    more = f" ({len(members)} agents lie on such rings)" if len(members) > len(cycle) else ""
    path = ("agents", cycle[0], "may_call")
    if hard:
        message = (
            f"{ring} can close a ring of calls that wait for each other{more}: {_names(hard)} "
            f"{'has' if len(hard) == 1 else 'have'} one slot and hold{'s' if len(hard) == 1 else ''} it while waiting"
        )
        remedy = (
            f"set reentrant: chain on {_names(hard)} to let calls come back, or concurrency above the requests under "
            "way at once; or remove a may_call of the ring, or use tell there, with may_tell"
        )
        return LintWarning(code="CREW-210", path=path, message=message, remedy=remedy)
    several = [name for name in cycle if name not in chain and agents[name].reentrant == "none"]
    if several:
        slots = min(agents[name].concurrency for name in several)
        why = f"at least {slots} requests under way at once fill {_names(several)}"
        remedy = f"keep fewer than {slots} requests under way, or set reentrant: chain on {_names(several)}"
    else:
        why = "two requests meet from different sides; calls that come back to their own caller are let in"
        remedy = "begin requests at one agent of the ring only, or set reentrant: full on all but one"
    return LintWarning(
        code="CREW-210",
        path=path,
        message=f"{ring} closes a ring of waiting calls only when {why}{more}",
        remedy=remedy,
        severity="note",
    )


def _may_call_anybody(crew: Crew) -> list[LintWarning]:
    anybody = [agent.name for agent in crew.agents if agent.may_call is None]
    if not anybody or len(crew.agents) == 1:
        return []
    count = f"{len(anybody)} of {len(crew.agents)} agents may"
    return [
        LintWarning(
            code="CREW-211",
            path=("agents", anybody[0]),
            message=f"{count} call anybody ({_names(anybody)}), so rings through them cannot be told in advance",
            remedy="list under may_call whom each calls and waits for; [] is nobody",
            severity="note",
        )
    ]


def _isolated(crew: Crew) -> list[LintWarning]:
    if len(crew.agents) == 1 or any(agent.may_call is None for agent in crew.agents):
        return []
    called = {callee for agent in crew.agents for callee in agent.may_call or () if callee != agent.name}
    return [
        LintWarning(
            code="CREW-212",
            path=("agents", agent.name),
            message=f"nobody may call {agent.name}, and it may call nobody",
            remedy=f"add {agent.name} to the may_call of who needs it, or remove it",
        )
        for agent in crew.agents
        if agent.name not in called and not set(agent.may_call or ()) - {agent.name}
    ]


def _has_budget(crew: Crew) -> bool:
    budgets = (crew.budget, *(budget for agent in crew.agents for budget in (agent.budget, agent.task_budget)))
    return any(budget is not None and budget != Budget() for budget in budgets)


def _unheard(crew: Crew) -> list[LintWarning]:
    responses, usual = crew.responses, Responses()
    kinds = [kind for kind in responses.__struct_fields__ if "escalate" in getattr(responses, kind).do]
    # The last rung of a ladder that the file does not speak of is missed by nobody.
    kinds = [
        kind for kind in kinds if not getattr(usual, kind).climb_s or getattr(responses, kind) != getattr(usual, kind)
    ]
    if crew.outcome is None:
        kinds = [kind for kind in kinds if kind != "outcome"]
    if not _has_budget(crew):
        kinds = [kind for kind in kinds if kind != "budget_spent"]
    if crew.escalate or not kinds:
        return []
    return [
        LintWarning(
            code="CREW-213",
            path=("escalate",),
            message=f"{_names(kinds)} escalate to a human, and no webhook is declared",
            remedy="add escalate: [{webhook: ...}], or take escalate out of responses",
            severity="note",
        )
    ]


def _no_victim(crew: Crew) -> list[LintWarning]:
    if not crew.agents or not all(agent.never_victim for agent in crew.agents):
        return []
    return [
        LintWarning(
            code="CREW-214",
            path=("agents",),
            message="every agent is never_victim, so no deadlock can be broken",
            remedy="leave never_victim to the few agents whose work must not fail",
        )
    ]


def _spread_only(crew: Crew) -> list[LintWarning]:
    placed = [agent for agent in crew.agents if agent.host]
    moving = [agent for agent in crew.agents if agent.restart.elsewhere]
    if not placed and not moving:
        return []
    keys = [key for key, agents in (("host", placed), ("restart.elsewhere", moving)) if agents]
    names = {agent.name for agent in (*placed, *moving)}
    return [
        LintWarning(
            code=SPREAD_ONLY,
            path=("agents", placed[0].name, "host") if placed else ("agents", moving[0].name, "restart", "elsewhere"),
            message=f"{' and '.join(keys)} of {_names([agent.name for agent in crew.agents if agent.name in names])} "
            f"{'has' if len(keys) == 1 else 'have'} no effect under supervisor up, which runs every agent here",
            remedy="start the crew with supervisor launch, on machines where supervisor host runs",
            severity="note",
        )
    ]


def _arrow(names: list[str]) -> str:
    """Names in the order of the calls; the middle of a long ring is left out."""
    if len(names) > _NAMES_SHOWN:
        names = [*names[: _NAMES_SHOWN - 2], f"… {len(names) - _NAMES_SHOWN + 1} more …", names[-1]]
    return " -> ".join(names)


def _names(names: list[str]) -> str:
    """Names in a sentence, cut to a few."""
    if len(names) > _NAMES_SHOWN:
        return f"{', '.join(names[:_NAMES_SHOWN])} and {len(names) - _NAMES_SHOWN} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
