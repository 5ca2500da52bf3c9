"""Detection: from the wait graph to confirmed findings.

Theory of operation. An event marks the waits it took support from; only those are examined, most by a walk of a few
steps to somebody who runs. What fails the walk is reduced, and a stuck root makes a *suspicion* of each core. No
suspicion is acted on until every agent of the core has been asked, after the core had closed, and has affirmed the
very same wait epochs: each wait then existed before and after one common instant, so all existed at it, and a stuck set
is stuck for ever. Silent agents are asked again. A periodic sweep of all waits catches what an edge-triggered check
could miss (level-triggered, as Kubernetes controllers are).
"""

from typing import Final

from crewkeeper_bus.messages import Break, Probe
from crewkeeper_supervisor.core.commands import TellAgent
from crewkeeper_supervisor.core.evidence import arrow, edges_of, ring
from crewkeeper_supervisor.core.findings import Edge, Finding, Incident, Victim
from crewkeeper_supervisor.core.reduction import Reduction, Verdict, anatomy, blockers, closes_nothing, surely_live
from crewkeeper_supervisor.core.response import act_on, break_wait, breaks_orphans, note, open_incident, resolve
from crewkeeper_supervisor.core.state import RunState
from crewkeeper_supervisor.core.victim import choose, ends_wait, task_of
from crewkeeper_supervisor.core.wait_graph import Task

SWEEP_S: Final = 5.0
"""How long a patrol of all waiting tasks takes."""
PATROL_MAX: Final = 500
"""How many of them it looks at in one go."""
REPROBE_S: Final = 0.2
REPROBE_MAX_S: Final = 4.0
OBEY_S: Final = 5.0
"""How long a failed wait may stay open before another member is tried."""

Epochs = tuple[tuple[str, int], ...]
"""The identity of a core: its tasks and their wait epochs."""


class _Suspicion:
    """A core that looks stuck and has not been affirmed by all its agents yet."""

    def __init__(self, members: tuple[str, ...], tail: tuple[str, ...], agents: list[str], since_s: float) -> None:
        self.members = members
        self.tail = tail
        self.since_s = since_s
        self.timed = False
        self.silent = dict.fromkeys(agents, "")
        """Agents that have not affirmed, with the nonce each was last asked."""
        self.ask_again_s = since_s
        self.patience_s = REPROBE_S


class _Watch:
    """An open incident of waits: over when one of them ends."""

    def __init__(self, incident: Incident, epochs: Epochs) -> None:
        self.incident = incident
        self.epochs = epochs
        self.members = {key for key, _ in epochs}
        self.tried: list[str] = []
        self.act_s: float | None = None
        """When a timed deadlock has lasted long enough to act on."""
        self.obey_s: float | None = None


class Detector:
    """Suspicions and open incidents of one run."""

    def __init__(self, state: RunState) -> None:
        self._state = state
        self._suspicions: dict[Epochs, _Suspicion] = {}
        self._watches: dict[Epochs, _Watch] = {}
        self._round: list[str] = []
        """Waiting tasks that the patrol has still to look at in this round."""

    def affirmed(self, agent: str, nonce: str) -> None:
        """An agent answered a probe; its state has been taken over already."""
        for suspicion in self._suspicions.values():
            if nonce and suspicion.silent.get(agent) == nonce:
                del suspicion.silent[agent]

    def check(self) -> None:
        """Examine what the last event touched, and whatever the clock makes due."""
        state, graph = self._state, self._state.graph
        in_hand = bool(self._suspicions or self._watches)
        if in_hand:
            self._settle()
        elif graph.moved:
            graph.moved.clear()
        if not in_hand and not graph.dirty and not state.is_due("sweep"):
            return  # the ordinary case: nothing is in hand, and the event took support from nobody
        suspects = []
        if graph.dirty:
            dirty, graph.dirty = graph.dirty, {}
            suspects = [t for t in dirty.values() if not closes_nothing(t, graph) and not surely_live(t, graph)]
        if not suspects and not in_hand and not state.is_due("sweep"):
            if "sweep" not in state.due_s:
                self._schedule()
            return
        if suspects:
            self._examine(suspects)
        if state.is_due("sweep"):
            self._patrol()
        for epochs, suspicion in list(self._suspicions.items()):
            self._pursue(epochs, suspicion)
        for watch in list(self._watches.values()):
            self._press(watch)
        self._schedule()

    # --- finding suspicions ---

    def _patrol(self) -> None:
        """Look at every waiting task once a round, a part of them at a time, whatever may have been missed."""
        state, graph = self._state, self._state.graph
        if not self._round:
            self._round = list(graph.waiting)
        part, self._round = self._round[-PATROL_MAX:], self._round[:-PATROL_MAX]
        tasks = [task for task in (graph.waiting.get(key) for key in part) if task is not None]
        self._examine([task for task in tasks if not surely_live(task, graph)])
        state.due_s["sweep"] = state.now_s + SWEEP_S * PATROL_MAX / max(PATROL_MAX, len(graph.waiting))

    def _examine(self, tasks: list[Task]) -> None:
        """Look for cores in all that these waiting tasks depend on."""
        graph = self._state.graph
        strict = Reduction(graph)
        verdicts = strict.of(tasks)
        stuck, for_ever = strict.stuck(), {}
        timed = [task for task in tasks if verdicts[task.key] is Verdict.TIMER]
        if timed:
            timeless = Reduction(graph, timers=False)
            timeless.of(timed)
            for_ever = timeless.stuck()
        if stuck or for_ever:
            before = self._suspicions  # a core is found anew here: what has grown is another core
            self._suspicions = {e: s for e, s in before.items() if not any(k in stuck or k in for_ever for k, _ in e)}
            self._suspect(stuck, before)
            self._suspect(for_ever, before, but_for_timers=stuck)
        for task in tasks:
            if verdicts[task.key] is Verdict.DEAD:
                self._orphan(task)

    def _suspect(
        self,
        stuck: dict[str, Task],
        before: dict[Epochs, _Suspicion],
        but_for_timers: dict[str, Task] | None = None,
    ) -> None:
        """Suspect every core among stuck tasks; with `but_for_timers`, those a timer would free in the end."""
        for core, tail in self._groups(stuck):
            epochs = tuple((key, _epoch(stuck[key])) for key in core)
            if but_for_timers is not None and not but_for_timers.keys().isdisjoint(core):
                continue
            if epochs in self._watches or self._in_hand(core):
                continue
            known = before.get(epochs)
            if known is None:
                agents = list(dict.fromkeys(stuck[key].agent.name for key in core))
                known = _Suspicion(core, tail, agents, self._state.now_s)
            self._suspicions[epochs] = known
            known.tail = tail
            known.timed = but_for_timers is not None

    def _groups(self, stuck: dict[str, Task]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
        """Who is to blame among stuck tasks, and who hangs on them."""
        groups = anatomy(stuck, self._state.graph)
        explained = {key for core, tail in groups for key in core + tail}
        return groups + self._impossible({key: task for key, task in stuck.items() if key not in explained})

    def _impossible(self, stuck: dict[str, Task]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
        """Stuck tasks that no core explains: those that wait for what cannot exist, and those that hang on them."""
        graph = self._state.graph
        hanging = [
            key
            for key, task in stuck.items()
            if any(other.key in stuck and other is not task for _, _, tasks in blockers(task, graph) for other in tasks)
        ]
        sources = sorted(key for key in stuck if key not in hanging)
        return [((key,), tuple(sorted(hanging)) if len(sources) == 1 else ()) for key in sources]

    def _in_hand(self, core: tuple[str, ...]) -> bool:
        """Whether a break is under way that may open this core too: it is looked at again after that."""
        return any(w.obey_s is not None and not w.members.isdisjoint(core) for w in self._watches.values())

    def _orphan(self, task: Task) -> None:
        """A wait that only a dead agent could end, through no call of its own (those are answered at once)."""
        epochs = ((task.key, _epoch(task)),)
        graph = self._state.graph
        edges = edges_of(task, graph)
        calls = [graph.calls[edge.message] for edge in edges if edge.kind in ("call", "queued_call")]
        if epochs in self._watches:
            return
        if calls and (breaks_orphans(self._state) or not any(call.state == "lost" for call in calls)):
            return  # its call is answered in its stead, or it only hangs on somebody else's
        summary = f"{task.agent.name} waits for what only an agent that is gone could do"
        why = "nobody is left who could end this wait"
        victim = Victim(task=task.key, agent=task.agent.name, epoch=_epoch(task), why=why)
        finding = self._finding("orphan", summary, [task.agent.name], edges, victim=victim, core=(task.key,))
        self._watches[epochs] = _Watch(open_incident(self._state, finding), epochs)

    # --- from suspicion to finding ---

    def _pursue(self, epochs: Epochs, suspicion: _Suspicion) -> None:
        state = self._state
        if self._in_hand(suspicion.members):
            del self._suspicions[epochs]
            return
        if suspicion.silent and state.now_s >= suspicion.ask_again_s:
            for agent in suspicion.silent:
                suspicion.silent[agent] = f"n{state.next_id()}"
                state.tell(agent, Probe, nonce=suspicion.silent[agent])
            suspicion.ask_again_s = state.now_s + suspicion.patience_s
            suspicion.patience_s = min(2 * suspicion.patience_s, REPROBE_MAX_S)
        if suspicion.silent or state.now_s < suspicion.since_s + self._confirm_s():
            return
        tasks = [task for task in (task_of(state.graph, key) for key in suspicion.members) if task is not None]
        verdicts = Reduction(state.graph, timers=not suspicion.timed).of(tasks)
        if all(verdict is Verdict.STUCK for verdict in verdicts.values()):
            self._confirm(epochs, suspicion, {task.key: task for task in tasks})
        del self._suspicions[epochs]

    def _confirm(self, epochs: Epochs, suspicion: _Suspicion, tasks: dict[str, Task]) -> None:
        state = self._state
        edges = [edge for key in suspicion.members for edge in edges_of(tasks[key], state.graph)]
        tail = self._tail(suspicion)
        victim = choose(suspicion.members, tasks, edges, state)
        core_edges = ring(suspicion.members, edges, victim.task if victim is not None else suspicion.members[0])
        inside = [edge for edge in core_edges if set(edge.waits_for) & set(suspicion.members)]
        agents = list(dict.fromkeys(task.agent.name for task in tasks.values()))
        summary = f"deadlock: {arrow(inside)}" if inside else f"deadlock: {agents[0]} waits for what cannot exist"
        if suspicion.timed:
            summary += " (a timer would end it in the end)"
        finding = self._finding(
            "deadlock",
            summary,
            agents,
            core_edges + [edge for key in tail for edge in edges_of(state.graph.waiting[key], state.graph)],
            victim=victim,
            core=suspicion.members,
            tail=tail,
            timed=suspicion.timed,
        )
        incident = open_incident(state, finding, act=not suspicion.timed)
        watch = self._watches[epochs] = _Watch(incident, epochs)
        if suspicion.timed:
            watch.act_s = suspicion.since_s + self._lasting_s()
        elif incident.state == "acting":
            watch.obey_s = state.now_s + OBEY_S

    def _tail(self, suspicion: _Suspicion) -> tuple[str, ...]:
        """Who hangs on a core: found once, when it is reported, for it takes a look at everybody who waits."""
        graph = self._state.graph
        reduction = Reduction(graph, timers=not suspicion.timed)
        reduction.of(graph.waiting.values())
        for core, tail in self._groups(reduction.stuck()):
            if core == suspicion.members:
                return tail
        return suspicion.tail

    def _finding(
        self,
        kind: str,
        summary: str,
        agents: list[str],
        edges: list[Edge],
        *,
        victim: Victim | None,
        core: tuple[str, ...],
        tail: tuple[str, ...] = (),
        timed: bool = False,
    ) -> Finding:
        state = self._state
        return Finding(
            id=f"F{state.next_id()}",
            kind="deadlock" if kind == "deadlock" else "orphan",
            at_s=state.now_s,
            seq=state.seq,
            summary=summary,
            agents=tuple(agents),
            core=(core,),
            tail=tail,
            edges=tuple(edges),
            victim=victim,
            timed=timed,
        )

    # --- following up ---

    def _settle(self) -> None:
        """Drop suspicions whose core has opened; resolve incidents one of whose waits is over."""
        state = self._state
        moved, state.graph.moved = state.graph.moved, {}
        if not moved:
            return
        for epochs in [e for e in self._suspicions if self._opened(e, moved)]:
            del self._suspicions[epochs]
        for epochs in [e for e in self._watches if self._opened(e, moved)]:
            watch = self._watches.pop(epochs)
            over = next(key for key, epoch in epochs if ends_wait(task_of(state.graph, key), epoch))
            agent = over.partition("/")[0]
            resolve(state, watch.incident, f"{agent}'s wait is over; the others can move again")
            state.graph.dirty.update(state.graph.waiting)  # what it covered is looked at again

    def _opened(self, epochs: Epochs, moved: dict[str, bool]) -> bool:
        graph = self._state.graph
        return any(key in moved and ends_wait(task_of(graph, key), epoch) for key, epoch in epochs)

    def _press(self, watch: _Watch) -> None:
        """Act on a timed deadlock that lasts; try another member when a failed wait stays open."""
        state, incident = self._state, watch.incident
        if watch.act_s is not None and state.now_s >= watch.act_s:
            watch.act_s = None
            note(state, incident, "it has lasted; act as on one that no timer ends")
            act_on(state, incident)
            watch.obey_s = state.now_s + OBEY_S if incident.state == "acting" else None
        if watch.obey_s is None or state.now_s < watch.obey_s or incident.finding.victim is None:
            return
        if _is_untold(state, incident):  # nobody can obey what has not been said: an owner was missing
            watch.obey_s = state.now_s + OBEY_S
            return
        watch.tried.append(incident.finding.victim.task)
        note(state, incident, f"{incident.finding.victim.agent} did not give up its wait within {OBEY_S:g} s")
        core = incident.finding.core[0]
        tasks = {task.key: task for task in (task_of(state.graph, key) for key in core) if task is not None}
        edges = [edge for edge in incident.finding.edges if edge.task in tasks]
        victim = choose(core, tasks, edges, state, excluded=watch.tried)
        incident.finding = _with_victim(incident.finding, victim)
        break_wait(state, incident)
        watch.obey_s = state.now_s + OBEY_S if victim is not None else None

    def _schedule(self) -> None:
        state = self._state
        needs = [s.since_s + self._confirm_s() if not s.silent else s.ask_again_s for s in self._suspicions.values()]
        needs += [s for w in self._watches.values() for s in (w.act_s, w.obey_s) if s is not None]
        _set(state.due_s, "detection", min(needs) if needs else None)
        if not state.graph.waiting:
            state.due_s.pop("sweep", None)
        elif "sweep" not in state.due_s:
            state.due_s["sweep"] = state.now_s + SWEEP_S

    def _confirm_s(self) -> float:
        return self._state.crew.responses.deadlock.confirm_s if self._state.crew is not None else 0.25

    def _lasting_s(self) -> float:
        return self._state.crew.responses.deadlock.lasting_s if self._state.crew is not None else 10.0


def _epoch(task: Task) -> int:
    assert task.wait is not None  # only waiting tasks are suspected
    return task.wait.epoch


def _is_untold(state: RunState, incident: Incident) -> bool:
    """Whether a `Break` of this incident has left no trace yet."""
    told = (c.message for c in state.pending.values() if isinstance(c, TellAgent))
    return any(isinstance(message, Break) and message.finding == incident.id for message in told)


def _with_victim(finding: Finding, victim: Victim | None) -> Finding:
    fields = {name: getattr(finding, name) for name in finding.__struct_fields__}
    return Finding(**{**fields, "victim": victim})


def _set(due: dict[str, float], need: str, at_s: float | None) -> None:
    if at_s is None:
        due.pop(need, None)
    else:
        due[need] = at_s
