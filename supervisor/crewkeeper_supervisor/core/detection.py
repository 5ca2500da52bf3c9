"""Detection: from the wait graph to confirmed findings.

Theory of operation. An event marks the waits it took support from; only those are examined, most by a walk of a few
steps to somebody who runs. What fails the walk is reduced, and a stuck root makes a *suspicion* of each core. No
suspicion is acted on until every agent of the core has been asked, after the core had closed, and has affirmed the
very same wait epochs: each wait then existed before and after one common instant, so all existed at it, and a stuck set
is stuck for ever. Silent agents are asked again. A periodic sweep of all waits catches what an edge-triggered check
could miss (level-triggered, as Kubernetes controllers are).
"""

from typing import Final

import msgspec

from crewkeeper_bus.messages import Break, Probe
from crewkeeper_supervisor.core.anatomy import anatomy, impossible
from crewkeeper_supervisor.core.commands import TellAgent
from crewkeeper_supervisor.core.crew import Repeat
from crewkeeper_supervisor.core.evidence import arrow, edges_of, ring
from crewkeeper_supervisor.core.findings import TAIL_MAX, Edge, Finding, Victim
from crewkeeper_supervisor.core.nodes import Task
from crewkeeper_supervisor.core.reduction import Reduction, Verdict, closes_nothing, surely_live
from crewkeeper_supervisor.core.repetition import Repetitions, design_fault, signature
from crewkeeper_supervisor.core.response import (
    act_on,
    break_wait,
    breaks_orphans,
    confirm_incident,
    give_up_on,
    note,
    open_incident,
    resolve,
    warn,
)
from crewkeeper_supervisor.core.state import Dues, RunState
from crewkeeper_supervisor.core.suspicion import (
    REPROBE_MAX_S,
    SILENCE_S,
    Behind,
    Breaking,
    Epochs,
    Suspicion,
)
from crewkeeper_supervisor.core.victim import choose, ends_wait, task_of

SWEEP_S: Final = 5.0
"""How long a patrol of all waiting tasks takes."""
PATROL_MAX: Final = 500
"""How many of them it looks at in one go."""
OBEY_S: Final = 5.0
"""How long a failed wait may stay open before another member is tried."""
ROUNDS: Final = 3
"""How often in all each member is told that its wait has failed."""


class Detector:
    """Suspicions and open incidents of one run."""

    def __init__(self, state: RunState) -> None:
        self._state = state
        self._suspicions: dict[Epochs, Suspicion] = {}
        self._watches: dict[Epochs, Breaking] = {}
        self._repetitions = Repetitions()
        self._round: list[str] = []
        """Waiting tasks that the patrol has still to look at in this round."""
        self._stirred = False
        """Whether a suspicion or an incident may need something before its time."""
        self._unheard: dict[Epochs, Breaking] = {}
        """Incidents whose last victim's `Break` is not in the journal yet."""
        self._hand: dict[str, Breaking] | None = None
        """Members of cores one of whose waits is being failed; None: to be gathered anew."""
        self._tails: dict[bool, dict[tuple[str, ...], tuple[str, ...]]] = {}
        """Who hangs on each core, with and without timers: as long as one event is examined."""

    def affirmed(self, agent: str, nonce: str) -> None:
        """An agent answered a probe; its state has been taken over already."""
        if not nonce:
            return
        self._stirred = True
        for suspicion in self._suspicions.values():
            suspicion.affirm(agent, nonce, self._state.now_s, self._state.seq)

    def check(self) -> None:
        """Examine what the last event touched, and whatever the clock makes due."""
        state = self._state
        graph, in_hand = state.graph, bool(self._suspicions or self._watches)
        if not in_hand and not graph.dirty and state.due_s.soonest_s > state.now_s:
            return  # the ordinary case: nothing is in hand, and the event took support from nobody
        if in_hand:
            self._settle()
        suspects = []
        for task in graph.dirty.values():
            if not closes_nothing(task, graph) and not surely_live(task, graph):
                suspects.append(task)  # noqa: PERF401 - a comprehension costs a call, and mostly there is one task or none
        graph.dirty.clear()
        if not suspects and not in_hand and state.due_s.soonest_s > state.now_s:
            if not state.due_s.sweeps:
                self._schedule()
            return
        graph.watched = True
        if suspects:
            self._examine(suspects)
        if state.is_due("sweep"):
            self._patrol()
        if self._stirred or state.is_due("detection"):
            self._stirred = False
            for epochs, suspicion in list(self._suspicions.items()):
                self._pursue(epochs, suspicion)
            self._tails.clear()
            self._press(self._watches)
            self._schedule()
        else:  # however many are open, an event that has nothing to do with them costs what it would cost without
            self._press(self._unheard)
            if not state.due_s.sweeps:
                self._schedule()
        graph.watched = bool(self._suspicions or self._watches)
        if not graph.watched:
            graph.moved.clear()

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
        self._stirred = True
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
            found = self._suspect(stuck, before) + self._suspect(for_ever, before, but_for_timers=stuck)
            for epochs in [e for e in before if e not in self._suspicions]:
                for core in found:
                    core.behind.join(before[epochs].behind, graph.waiting)
                self._dismiss(before[epochs], "the set has changed; what it is now is examined anew")
        for task in tasks:
            if verdicts[task.key] is Verdict.DEAD:
                self._orphan(task)

    def _suspect(
        self,
        stuck: dict[str, Task],
        before: dict[Epochs, Suspicion],
        but_for_timers: dict[str, Task] | None = None,
    ) -> list[Suspicion | Breaking]:
        """Suspect every core among stuck tasks; with `but_for_timers`, those a timer would free in the end.

        Returns:
            What is known of these cores, and what is done about others for their sake.
        """
        found: list[Suspicion | Breaking] = []
        groups = self._groups(stuck)
        named = {key for core, tail in groups for key in core + tail}
        others = tuple(key for key in stuck if key not in named)  # they hang on several that no core explains
        for core, tail in groups:
            epochs = tuple((key, _epoch(stuck[key])) for key in core)
            if but_for_timers is not None and not but_for_timers.keys().isdisjoint(core):
                continue  # those that no timer frees come first; who is in both is looked at again behind them
            known: Suspicion | Breaking | None = self._watches.get(epochs) or self._in_hand(core)
            if known is not None:
                known.behind.add((core, tail, others), self._state.graph.waiting)
                found.append(known)
                continue
            known = before.get(epochs)
            if known is None:
                agents = list(dict.fromkeys(stuck[key].agent.name for key in core))
                known = Suspicion(core, tail, agents, self._state.now_s, self._state.seq)
            self._suspicions[epochs] = known
            known.behind.add((core, tail, others), self._state.graph.waiting)
            known.tail = tail
            known.timed = but_for_timers is not None
            found.append(known)
        return found

    def _groups(self, stuck: dict[str, Task]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
        """Who is to blame among stuck tasks, and who hangs on them."""
        groups = anatomy(stuck, self._state.graph)
        explained = {key for core, tail in groups for key in core + tail}
        crowds: dict[tuple[str, ...], tuple[str, ...]] = {}  # whoever hangs on the same cores is kept once
        groups = [(core, crowds.setdefault(tail, tail)) for core, tail in groups]
        return groups + impossible(
            {key: task for key, task in stuck.items() if key not in explained}, self._state.graph
        )

    def _in_hand(self, core: tuple[str, ...]) -> Breaking | None:
        """Where a break is under way that may open this core too: it is looked at again after that."""
        if self._hand is None:
            failing = [watch for watch in self._watches.values() if watch.obey_s is not None]
            self._hand = {key: watch for watch in failing for key, _ in watch.epochs}
        return next((self._hand[key] for key in core if key in self._hand), None) if self._hand else None

    def _look_behind(self, over: Suspicion | Breaking) -> None:
        """It is over: who was left alone because of it is examined at the next check."""
        waiting = self._state.graph.waiting
        self._state.graph.dirty.update({key: waiting[key] for key in over.behind if key in waiting})

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
        if not calls and Reduction(graph, helped=True).of([task])[task.key] is not Verdict.DEAD:
            return  # it hangs on somebody whose call nobody answers: that one is helped, or told of
        summary = f"{task.agent.name} waits for what only an agent that is gone could do"
        why = "nobody is left who could end this wait"
        victim = Victim(task=task.key, agent=task.agent.name, epoch=_epoch(task), why=why)
        finding = self._finding("orphan", summary, [task.agent.name], edges, victim=victim, core=(task.key,))
        self._watches[epochs] = Breaking(open_incident(self._state, finding), epochs, Behind((task.key,)))

    # --- from suspicion to finding ---

    def _pursue(self, epochs: Epochs, suspicion: Suspicion) -> None:
        state = self._state
        if (breaking := self._in_hand(suspicion.members)) is not None:
            breaking.behind.join(suspicion.behind, state.graph.waiting)
            self._dismiss(self._suspicions.pop(epochs), "another wait is being failed, which may free this set, too")
            return
        if suspicion.silent and state.now_s >= suspicion.ask_again_s:
            suspicion.asked_late(state.now_s)
            for agent in suspicion.silent:
                suspicion.silent[agent] = state.next_name("n")
                state.tell(agent, Probe, nonce=suspicion.silent[agent])
            suspicion.ask_again_s = state.now_s + suspicion.patience_s
            suspicion.patience_s = min(2 * suspicion.patience_s, REPROBE_MAX_S)
        if suspicion.silent and suspicion.incident is None and state.now_s >= self._silence_over_s(suspicion):
            self._tell_of(suspicion)
        if suspicion.silent or state.now_s < suspicion.since_s + self._confirm_s():
            return
        tasks = [task for task in (task_of(state.graph, key) for key in suspicion.members) if task is not None]
        verdicts = Reduction(state.graph, timers=not suspicion.timed).of(tasks)
        if all(verdict is Verdict.STUCK for verdict in verdicts.values()):
            self._confirm(epochs, suspicion, {task.key: task for task in tasks})
        else:
            self._dismiss(suspicion, "all have answered, and somebody can go on")
            self._look_behind(suspicion)
        del self._suspicions[epochs]

    def _silence_over_s(self, suspicion: Suspicion) -> float:
        """When a suspicion is told as one; what a timer would end has its time first."""
        patience_s = max(SILENCE_S, self._lasting_s() if suspicion.timed else 0.0)
        return suspicion.since_s + patience_s + suspicion.unwatched_s

    def _tell_of(self, suspicion: Suspicion) -> None:
        """Somebody does not answer: open an incident that says so. Nothing is failed on a suspicion."""
        state = self._state
        tasks = {
            task.key: task for task in (task_of(state.graph, key) for key in suspicion.members) if task is not None
        }
        finding = self._describe(suspicion, tasks, None)
        silent = ", ".join(list(suspicion.silent)[:20])
        does = "does" if len(suspicion.silent) == 1 else "do"
        summary = f"suspected {finding.summary}, but {silent} {does} not answer"
        finding = msgspec.structs.replace(finding, summary=summary, suspected=True)
        suspicion.incident = open_incident(state, finding, act=False, history=suspicion.take_history())
        warn(state, suspicion.incident)

    def _dismiss(self, suspicion: Suspicion, why: str) -> None:
        """A suspicion came to nothing; where it was told, that is told, too."""
        if suspicion.incident is not None:
            suspicion.incident.steps += suspicion.take_history()
            resolve(self._state, suspicion.incident, why)

    def _confirm(self, epochs: Epochs, suspicion: Suspicion, tasks: dict[str, Task]) -> None:
        state = self._state
        edges = [edge for key in suspicion.members for edge in edges_of(tasks[key], state.graph)]
        suspicion.tail = self._tail(suspicion)
        finding = self._describe(suspicion, tasks, choose(suspicion.members, tasks, edges, state))
        members = set(suspicion.members)
        inside = [edge for edge in edges if not members.isdisjoint(edge.waits_for)]
        rule = state.crew.responses.deadlock.repeat if state.crew is not None else Repeat()
        closed = self._repetitions.closed(signature(inside, state.graph), state.now_s, rule)
        if closed >= rule.times:
            finding = msgspec.structs.replace(
                finding, summary=f"{finding.summary}, {design_fault(inside, closed, rule)}"
            )
        history = suspicion.take_history()
        if suspicion.incident is None or suspicion.incident.state == "resolved":  # by a person
            incident = open_incident(state, finding, act=not suspicion.timed, history=history, closed=closed)
        else:
            incident = suspicion.incident
            confirm_incident(state, incident, finding, act=not suspicion.timed, history=history, closed=closed)
        if closed >= rule.times and state.watch is not None:
            ring_of = repr(signature(inside, state.graph))
            state.watch.lookout.ring_again(ring_of, closed, list(finding.agents), inside)
        watch = self._watches[epochs] = Breaking(incident, epochs, suspicion.behind)
        if suspicion.timed:
            watch.act_s = suspicion.since_s + self._lasting_s()
        elif incident.state == "acting":
            self._awaits(watch)

    def _describe(self, suspicion: Suspicion, tasks: dict[str, Task], victim: Victim | None) -> Finding:
        """A core as a finding: its ring from the victim on, and who hangs on it."""
        graph = self._state.graph
        edges = [edge for task in tasks.values() for edge in edges_of(task, graph)]
        core_edges = ring(suspicion.members, edges, victim.task if victim is not None else suspicion.members[0])
        members = set(suspicion.members)
        inside = [edge for edge in core_edges if not members.isdisjoint(edge.waits_for)]
        agents = list(dict.fromkeys(task.agent.name for task in tasks.values()))
        summary = f"deadlock: {arrow(inside)}" if inside else f"deadlock: {agents[0]} waits for what cannot exist"
        if suspicion.timed:
            summary += " (a timer would end it in the end)"
        named = suspicion.tail[:TAIL_MAX]
        if len(named) < len(suspicion.tail):
            summary += f", and {len(suspicion.tail) - len(named):,} more hang on it than are named"
        tail = [task for task in (graph.waiting.get(key) for key in named) if task is not None]
        return self._finding(
            "deadlock",
            summary,
            agents,
            core_edges + [edge for task in tail for edge in edges_of(task, graph)],
            victim=victim,
            core=suspicion.members,
            tail=named,
            timed=suspicion.timed,
        )

    def _tail(self, suspicion: Suspicion) -> tuple[str, ...]:
        """Who hangs on a core: found once for all that one event shows, for it takes a look at everybody who waits."""
        tails = self._tails.get(suspicion.timed)
        if tails is None:
            graph = self._state.graph
            reduction = Reduction(graph, timers=not suspicion.timed)
            reduction.of([task for task in graph.waiting.values() if not surely_live(task, graph)])
            tails = self._tails[suspicion.timed] = dict(self._groups(reduction.stuck()))
        return tails.get(suspicion.members, suspicion.tail)

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
            id=state.next_name("F"),
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
            if state.watch is not None:
                state.watch.lookout.ring_opened([key for key, _ in epochs])
            suspicion = self._suspicions.pop(epochs)
            self._dismiss(suspicion, f"{self._freed_by(epochs)}'s wait is over")
            self._look_behind(suspicion)
        for epochs in [e for e in self._watches if self._opened(e, moved)]:
            watch = self._watches.pop(epochs)
            self._unheard.pop(epochs, None)
            self._hand, self._stirred = None, True
            resolve(state, watch.incident, f"{self._freed_by(epochs)}'s wait is over; the others can move again")
            self._look_behind(watch)

    def _freed_by(self, epochs: Epochs) -> str:
        over = next(key for key, epoch in epochs if ends_wait(task_of(self._state.graph, key), epoch))
        return over.partition("/")[0]

    def _opened(self, epochs: Epochs, moved: dict[str, bool]) -> bool:
        graph = self._state.graph
        return any(key in moved and ends_wait(task_of(graph, key), epoch) for key, epoch in epochs)

    def _press(self, watches: dict[Epochs, Breaking]) -> None:
        """Act on timed deadlocks that last; try another member when a failed wait stays open."""
        state = self._state
        on_the_way = _breaks_on_the_way(state) if self._unheard else set()
        for watch in list(watches.values()):
            incident = watch.incident
            if watch.act_s is not None and state.now_s >= watch.act_s:
                watch.act_s = None
                note(state, incident, "it has lasted; act as on one that no timer ends")
                incident.finding = msgspec.structs.replace(incident.finding, victim=self._victim_now(watch))
                act_on(state, incident)
                on_the_way = _breaks_on_the_way(state)
                if incident.state == "acting":
                    self._awaits(watch)
            if watch.epochs in self._unheard:  # nobody can obey what has not been said
                watch.obey_s = state.now_s + OBEY_S
                if incident.id not in on_the_way:
                    del self._unheard[watch.epochs]
            if watch.obey_s is not None and state.now_s >= watch.obey_s and incident.finding.victim is not None:
                self._try_another(watch, incident.finding.victim)

    def _awaits(self, watch: Breaking) -> None:
        """A wait of this incident is being failed: its victim has its time to obey, from when it is told."""
        watch.obey_s = self._state.now_s + OBEY_S
        self._unheard[watch.epochs] = watch
        self._hand, self._stirred = None, True

    def _try_another(self, watch: Breaking, victim: Victim) -> None:
        state, incident = self._state, watch.incident
        watch.tried.append(victim.task)
        note(state, incident, f"{victim.agent} did not give up its wait within {OBEY_S:g} s")
        following = self._victim_now(watch)
        incident.finding = msgspec.structs.replace(incident.finding, victim=following)
        if following is None:
            break_wait(state, incident)
            if not watch.rounds:
                give_up_on(state, incident)
            watch.rounds += 1
            if watch.rounds < ROUNDS:  # people know; yet what the members were told may have been lost on its way
                watch.tried.clear()
                following = self._victim_now(watch)
                incident.finding = msgspec.structs.replace(incident.finding, victim=following)
        if following is not None:
            break_wait(state, incident)
            self._awaits(watch)
        else:
            watch.obey_s = self._hand = None

    def _victim_now(self, watch: Breaking) -> Victim | None:
        """Whose wait to fail: what was still queued when the incident opened may have begun in the meantime."""
        graph, core = self._state.graph, watch.incident.finding.core[0]
        tasks = {task.key: task for task in (task_of(graph, key) for key in core) if task is not None}
        edges = [edge for task in tasks.values() for edge in edges_of(task, graph)]
        return choose(core, tasks, edges, self._state, excluded=watch.tried)

    def _schedule(self) -> None:
        state = self._state
        needs = [s.since_s + self._confirm_s() if not s.silent else s.ask_again_s for s in self._suspicions.values()]
        told_s = (self._silence_over_s(s) for s in self._suspicions.values() if s.silent and s.incident is None)
        needs += told_s
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


def _breaks_on_the_way(state: RunState) -> set[str]:
    """Findings a `Break` of which is not in the journal yet."""
    told = (command.message for command in state.pending.values() if isinstance(command, TellAgent))
    return {message.finding for message in told if isinstance(message, Break)}


def _set(due: Dues, need: str, at_s: float | None) -> None:
    if at_s is None:
        due.pop(need, None)
    else:
        due[need] = at_s
