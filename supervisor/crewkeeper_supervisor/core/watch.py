"""Watch: the detectors of conduct over a running crew, and what they find; what is done about it is `ladder`'s.

Whoever writes a fact into the state says so here if it has words. From it a step is made (`live_steps`), and every
detector sees the steps in the journal's order, so that whoever folds the same journal finds the same. What the clock
alone shows is in `patience`. A condition that was told stands until its agents get on, do something else for a while,
or nothing is seen of it for long; then the ladder is told that it is over.

Cost: what has no words costs a comparison; a step costs what its detectors cost, see docs/detectors.md. Memory is
bounded in every part, whatever agents send.
"""

import zlib
from itertools import islice
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from crewkeeper_bus.messages import Fault, Message, Request
from crewkeeper_supervisor.core import ladder
from crewkeeper_supervisor.core.commands import AnswerCall
from crewkeeper_supervisor.core.courtesy import CourtesyDetector
from crewkeeper_supervisor.core.drift import CLEARED_AT, DriftModel
from crewkeeper_supervisor.core.final_answer import FinalAnswer
from crewkeeper_supervisor.core.findings import Edge, FindingKind
from crewkeeper_supervisor.core.gate_state import GateCall
from crewkeeper_supervisor.core.grounding import Grounding
from crewkeeper_supervisor.core.live_steps import SILENCE, Said, StepMaker, read
from crewkeeper_supervisor.core.loops import Loop, LoopDetector
from crewkeeper_supervisor.core.misuse import LOOKBACK, Misuse, MisuseDetector
from crewkeeper_supervisor.core.nodes import Call
from crewkeeper_supervisor.core.patience import Patience
from crewkeeper_supervisor.core.retry_storm import RetryStorms
from crewkeeper_supervisor.core.roster import AgentView
from crewkeeper_supervisor.core.starvation import Starvation, Starving
from crewkeeper_supervisor.core.state import RunState
from crewkeeper_supervisor.core.steps import Step
from crewkeeper_supervisor.core.trace_analysis import PATTERNS, loop_text

OTHERS_MAX: Final = 10
"""Steps of its agents, without a repeat, after which a loop is over."""
QUIET_S: Final = 600.0
"""After so long without a sign of it a condition is over."""
STANDING_MAX: Final = 256
"""Conditions that are followed at once; the oldest is then taken for over."""
PENDING_LOOKED_AT: Final = 50
AGAIN_S: Final = 5.0
"""How often a condition that lasts is told to go on."""
_STATES: Final = ("stall", "starvation", "fan_out")
"""Conditions that the clock looks for: they are over as soon as they are not found."""


class _Standing(Struct):
    """A condition that was told."""

    kind: FindingKind
    key: str
    agents: tuple[str, ...]
    last_s: float
    others: int = 0
    """Steps of its agents since it was last seen."""


class Watch:
    """The detectors of one run."""

    def __init__(self, state: RunState) -> None:
        crew = state.crew
        assert crew is not None  # it is made when the crew is known
        self._state = state
        self.fan_out = crew.watch.fan_out
        self.depth = crew.watch.depth
        self.maker = StepMaker()
        self.asked = self.maker.asked
        self.told = self.maker.told
        self.patience = Patience(state)
        self.starvation = Starvation()
        self.storms = RetryStorms()
        self._loops = LoopDetector(follow=True)
        self._courtesy = CourtesyDetector(follow=True)
        self._grounding = Grounding()
        self._misuse = MisuseDetector(self._grounding)
        self._drift = DriftModel(crew.objective) if crew.objective else None
        self._grounding.saw(crew.objective)
        self.answer = FinalAnswer(state, crew.outcome) if crew.outcome is not None else None
        self._standing: dict[tuple[str, str], _Standing] = {}
        self._steps = 0
        self._sum = 0
        """Checksum over all steps: folds that differ in one differ here."""
        self._models: dict[tuple[str, str], int] = {}
        state.due_s["watch"] = self.patience.next_s()

    # --- what agents say ---

    def requested(self, view: AgentView, call: Call, message: Request) -> None:
        """An agent asks another for something, in words."""
        said = self.maker.request(view, call, message.body, self._state.seq)
        self._words(view.name, said)
        self._polite(view.name, call.callee.name if call.callee is not None else call.to, said, "")

    def replied(self, view: AgentView, call: Call, body: Raw | None, error: Fault | None) -> None:
        """An agent answers a call; the step is its caller's."""
        state = self._state
        caller = state.agents.get(call.caller)
        if caller is None:
            return
        said = read(body) if body is not None else SILENCE
        self.maker.cut = self.maker.cut or bool(said.cut)
        step, _ = self.maker.reply(caller, call, said, error, state.seq, state.now_s)
        self.patience.moved[view.name] = state.now_s
        self._step(step, courtesy=False)
        self._words(view.name, said)
        self._polite(view.name, caller.name, said, step.chain)
        self._ended(view.role, caller.name, failed=error is not None)

    def answered(self, view: AgentView, call: Call) -> None:
        """A call without words was answered well."""
        self._ended(view.role, call.caller, failed=False)

    def unanswered(self, call: Call, error: Fault) -> None:
        """The supervisor answers a call with an error in its callee's stead."""
        caller = self._state.agents.get(call.caller)
        if caller is None:
            return
        if call.id in self.asked:
            step, _ = self.maker.reply(caller, call, SILENCE, error, self._state.seq, self._state.now_s)
            self._step(step, courtesy=False)
        self._ended(call.to, caller.name, failed=True)

    def messaged(self, view: AgentView, to: str, id_: str, message: Message) -> None:
        """An agent tells another something, in words."""
        state = self._state
        task = view.tasks.get(message.task)
        step = self.maker.message(view, task, to, id_, message.body, state.seq, state.now_s)
        self._step(step)
        self._drifts(view.name, step.text)
        self._grounding.saw(step.text)

    def progressed(self, view: AgentView, task: str, text: str, *, new: bool) -> None:
        """An agent says that it got on. The same words again say nothing."""
        if not new:
            return
        state = self._state
        self.patience.moved[view.name] = state.now_s
        for one in [one for one in self._standing.values() if one.kind == "loop" and view.name in one.agents]:
            self._over(one, f"{view.name} reports progress")
        self._feed(
            Step(at=state.seq, began=state.seq, at_s=state.now_s, agent=view.name, kind="progress"), courtesy=True
        )

    def people_said(self, text: str, to: str) -> None:
        """A person said something: it belongs to the task from now on."""
        state = self._state
        self._grounding.saw(text)
        if self._drift is not None:
            self._drift.told(text)
        said = Said(text, None, text, len(text))
        step = self.maker.said("human", to, said, "", state.seq, state.now_s, tokens=0, kind="human")
        self._feed(step, courtesy=True)
        self.patience.moved[to] = state.now_s

    def concluded(self, view: AgentView, result: Raw) -> None:
        """A main activity ended with a result: what its agent says in the end."""
        said = read(result)
        self.maker.cut = self.maker.cut or bool(said.cut)
        self._words(view.name, said)
        if self.answer is not None:
            self.answer.concluded(view.name, result)

    def goal_changed(self, text: str) -> None:
        """A person changed what the run is for: what was done so far is measured no more."""
        self._grounding.saw(text)
        self._drift = DriftModel(text) if text else None
        for one in [one for one in self._standing.values() if one.kind == "drift"]:
            self._over(one, "a person changed the goal")

    def rejoined(self, view: AgentView) -> None:
        """A new incarnation remembers nothing of what the last one had asked."""
        self.maker.gone(view.name)
        self.patience.forget(view.name)

    # --- the gate ---

    def opened(self, call: GateCall) -> None:
        """A call has come to the gate."""
        call.opened_seq = self._state.seq
        if call.content:
            key = (call.agent, call.content)
            beside = self._models.get(key, 0)
            call.beside = beside > 0
            self._models[key] = beside + 1

    def called(self, call: GateCall, error: Fault | None, body: Raw | None) -> None:
        """A call through the gate is over."""
        state = self._state
        if call.content:
            key = (call.agent, call.content)
            left = self._models.pop(key, 0) - 1
            if left > 0:
                self._models[key] = left
        view = state.agents.get(call.agent)
        if view is None:
            return
        step = self.maker.called(view, call, error, body, state.seq, state.now_s)
        if step is None:
            self.patience.moved[call.agent] = state.now_s
            return
        if step.refused and self._is_untold(call.agent):
            step = msgspec.structs.replace(step, refused="")  # nobody learns from what it has not been told yet
        self._step(step)
        if call.kind != "tool":
            return
        if self._drift is not None and not step.failed:
            self._drift.heard(step.outcome.words)
        self._drifts(call.agent, step.text)
        if body is not None:
            self._grounding.saw(read(body).text)
        if step.known is not False:
            self._ended(call.name, call.agent, failed=error is not None)

    def _is_untold(self, agent: str) -> bool:
        """Whether a refusal is on its way to this agent: what it asks meanwhile, it asks side by side."""
        newest = islice(reversed(self._state.pending.values()), PENDING_LOOKED_AT)
        return any(isinstance(c, AnswerCall) and c.agent == agent and c.error is not None for c in newest)

    # --- detectors ---

    def _step(self, step: Step, *, courtesy: bool = True) -> None:
        """A step of an agent: told to all, and what it shows."""
        agent = step.agent
        self.patience.steps[agent] = self.patience.steps.get(agent, 0) + 1
        for one in [one for one in self._standing.values() if agent in one.agents] if self._standing else ():
            self._other_step(one, step)
        if not self._feed(step, courtesy=courtesy):
            self.patience.moved[agent] = self._state.now_s

    def _feed(self, step: Step, *, courtesy: bool) -> bool:
        """Tell the detectors; returns whether the step repeats what was done before."""
        self._steps += 1
        self._sum = zlib.crc32(msgspec.json.encode((step.agent, step.kind, step.began, step.at)), self._sum)
        self._sum ^= step.arguments.digest ^ step.said.digest ^ step.outcome.digest
        loop = self._loops.step(step)
        if loop is not None:
            self._looped("", loop)
        polite = self._courtesy.step(step) if courtesy or step.kind != "message" else None
        if polite is not None:
            self._looped("courtesy ", polite)
        for misuse in self._misuse.step(step):
            self._misused(misuse)
        return loop is not None or polite is not None

    def _polite(self, agent: str, to: str, said: Said, chain: str) -> None:
        """What is said in a call may be a courtesy as well as what is said in a message."""
        if not said.words:
            return
        state = self._state
        step = self.maker.said(agent, to, said, chain, state.seq, state.now_s, tokens=said.size_bytes // 4)
        polite = self._courtesy.step(step)
        if polite is not None:
            self._looped("courtesy ", polite)

    def _words(self, agent: str, said: Said) -> None:
        self._grounding.saw(said.text)
        self._drifts(agent, said.words)

    def _drifts(self, agent: str, words: str) -> None:
        if self._drift is None or not words:
            return
        drift = self._drift.did(agent, words, self._state.seq)
        if drift is not None:
            strange = ", ".join(drift.strange)
            text = f"{drift.score:.0%} of what {agent} said lately has nothing to do with the task: {strange[:200]}"
            evidence = {"since": str(drift.onset), "score": f"{drift.score:.2f}", "words": strange[:300]}
            self._begins("drift", agent, text, (agent,), evidence)
        elif (one := self._standing.get(("drift", agent))) is not None:
            score = self._drift.score(agent)
            if score < CLEARED_AT:
                self._over(one, f"{agent} is back at the task")
            else:
                self._lasts(one, f"still {score:.0%} of what {agent} says")

    def _looped(self, prefix: str, loop: Loop) -> None:
        key = f"{prefix}{loop.key}"
        one = self._standing.get(("loop", key))
        if one is not None:
            self._lasts(one, f"{loop.what}: once more, {loop.count} times by now")
            return
        evidence = {
            "since": str(loop.onset),
            "what": loop.what[:200],
            "form": loop.form,
            "period": str(loop.period),
            "times": str(loop.count),
            "tokens": str(loop.tokens),
        }
        self._begins("loop", key, loop_text(loop), loop.agents, evidence)

    def _misused(self, misuse: Misuse) -> None:
        key = f"{misuse.agent} {misuse.pattern} {misuse.detail[:64] if misuse.pattern == 'refusals' else ''}".strip()
        text = f"{misuse.agent} {PATTERNS[misuse.pattern]} {misuse.count} times: {misuse.detail[:200]}"
        evidence = {"since": str(misuse.onset), "pattern": misuse.pattern, "tool": misuse.tool[:128]}
        self._begins("misuse", key, text, (misuse.agent,), evidence)

    def _other_step(self, one: _Standing, step: Step) -> None:
        """An agent of a standing condition has done something; a repeat of it will say so itself."""
        if one.kind == "loop":
            one.others += 1
            if one.others > OTHERS_MAX * len(one.agents):
                self._over(one, f"{step.agent} does other things now")
        elif one.kind == "misuse" and step.kind == "tool":
            pattern = one.key.split(" ")[1]
            same = {
                "refusals": bool(step.refused) and one.key.endswith(step.refused[:64]),
                "unknown_tool": step.known is False,
                "ungrounded": step.failed and bool(self._grounding.unknown(step.quotes)),
            }[pattern]
            one.others = 0 if same else one.others + 1
            if same:
                self._lasts(one, f"{step.agent}: {step.name[:64]}, once more")
            elif one.others > LOOKBACK:
                self._over(one, f"{step.agent} calls tools as they are now")

    def _ended(self, target: str, caller: str, *, failed: bool) -> None:
        """A call of a tool or an agent is over: many that fail, of several agents, are a storm."""
        if not failed:
            if self.storms.is_failing and self.storms.succeeded(target):
                self.cleared("retry_storm", target, f"{target} answers again")
            return
        storm = self.storms.failed(target, caller, self._state.now_s)
        if storm is None:
            return
        if (one := self._standing.get(("retry_storm", target))) is not None:
            self._lasts(one, f"{storm.failures} failed calls in the last 10 s")
            return
        callers = ", ".join(storm.agents[:10])
        text = (
            f"{callers} keep calling {target}, which fails: {storm.failures} times in 10 s, {storm.before} before that"
        )
        evidence = {"target": target[:128], "failures": str(storm.failures), "before": str(storm.before)}
        self._begins("retry_storm", target, text, storm.agents, evidence)

    # --- waits and growth ---

    def gave_up(self, agent: str, resource: str) -> None:
        """An agent no longer asks for a resource that it was not given."""
        starving = self.starvation.gave_up(agent, resource)
        if starving is not None:
            self._starves(starving)

    def granted(self, agent: str, resource: str, ticket: str) -> None:
        """Somebody has a resource. To be asked only while somebody has given up on one."""
        if key := self.starvation.served(agent, resource, ticket):
            self.cleared("starvation", key, f"{agent} has {resource!r} now")

    def ring_again(self, ring: str, count: int, agents: list[str], edges: list[Edge], why: str) -> None:
        """The same ring of waits has closed so often that those in it only make way for each other."""
        key = f"{zlib.crc32(ring.encode()):08x}"
        if (one := self._standing.get(("livelock", key))) is not None:
            self._lasts(one, f"it has closed {count} times")
            return
        text = f"{', '.join(agents[:10])} form the same ring of waits again and again, {count} times by now: {why}"
        self._begins("livelock", key, text, tuple(agents), {"times": str(count)}, edges)

    def spread(self, view: AgentView, call: Call) -> None:
        """An agent has very many calls open; one task of it may have too many."""
        asked = call.task.asked
        count = len(asked) if isinstance(asked, dict) else 1
        if count >= self.fan_out:
            self._explodes(call.task.key, view.name, count)

    def deep(self, view: AgentView, call: Call, depth: int) -> None:
        """A chain of calls has become very long."""
        above = [link.task.agent.name for link in _links(call)]
        agents = tuple(dict.fromkeys([view.name, call.to, *above]))
        key = self.maker.chain_of(call.task) or view.name
        if (one := self._standing.get(("depth", key))) is not None:
            self._lasts(one, f"{view.name} calls {call.to}: {depth} deep")
            return
        path = " → ".join([*reversed(above[:8]), call.to])
        text = f"a chain of calls is {depth} deep and grows: … {path}"
        self._begins("depth", key, text, agents, {"depth": str(depth), "call": call.id})

    def _explodes(self, key: str, agent: str, count: int) -> None:
        if (one := self._standing.get(("fan_out", key))) is not None:
            self._lasts(one, f"{count} calls are open")
            return
        text = f"{count} calls are open below one task of {agent}"
        self._begins("fan_out", key, text, (agent,), {"calls": str(count), "task": key})

    def _starves(self, one: Starving) -> None:
        standing = self._standing.get(("starvation", one.key))
        by = ", ".join(one.by[-5:])
        if standing is not None:
            self._lasts(standing, f"passed {one.times} times by now, last by {by}")
            return
        text = f"{one.agent} waits for {one.what} while others are served first, {one.times} times by now: {by}"
        self._begins("starvation", one.key, text, (one.agent, *one.by), {"times": str(one.times)})

    # --- time ---

    def look(self) -> None:
        """What only the clock shows. To be called when the watch's time has come."""
        state = self._state
        if state.phase != "running":
            state.due_s["watch"] = self.patience.next_s()
            return
        self.patience.look()
        if self.patience.is_time_to_judge or any(one.kind == "stall" for one in self._standing.values()):
            self._look_for_stalls()
        starving, fed = self.starvation.look(state.graph)
        for each in starving:
            self._starves(each)
        for key in fed:
            self.cleared("starvation", key, "it has been served")
        exploding = {root.key: (root, count) for root, count in self.patience.explosions(self.fan_out)}
        for key, (root, count) in exploding.items():
            self._explodes(key, root.agent.name, count)
        for one in [one for one in self._standing.values() if one.kind == "fan_out" and one.key not in exploding]:
            self._over(one, "its calls have become fewer")
        for target in self.storms.calmed(state.now_s) if self.storms.is_failing else ():
            self.cleared("retry_storm", target, f"hardly anybody calls {target} any more")
        for one in [one for one in self._standing.values() if one.last_s <= state.now_s - QUIET_S]:
            self._over(one, f"nothing has been seen of it for {QUIET_S:g} s")
        next_s = self.patience.next_s()
        if any(one.kind in _STATES for one in self._standing.values()):
            next_s = min(next_s, state.now_s + AGAIN_S)
        state.due_s["watch"] = next_s

    def _look_for_stalls(self) -> None:
        state = self._state
        stalls = {stall.agent: stall for stall in self.patience.judge()}
        for agent, stall in stalls.items():
            for_s = state.now_s - stall.since_s
            if (one := self._standing.get(("stall", agent))) is not None:
                self._lasts(one, f"no progress for {for_s:.0f} s")
                continue
            doing = "runs"
            if stall.waits_for:
                doing = f"waits for {', '.join(stall.waits_for[:10])}, who does nothing for it"
            elif stall.call_since_s is not None:
                doing = f"waits for a call that is open for {state.now_s - stall.call_since_s:.0f} s"
            text = f"{agent} is alive, {doing}, and has made no progress for {for_s:.0f} s"
            evidence = {"since_s": f"{stall.since_s:.3f}", "for_s": f"{for_s:.0f}"}
            self._begins("stall", agent, text, (agent, *stall.waits_for), evidence)
        for one in [one for one in self._standing.values() if one.kind == "stall" and one.key not in stalls]:
            self._over(one, f"{one.key} gets on")

    # --- conditions ---

    def _begins(
        self,
        kind: FindingKind,
        key: str,
        text: str,
        agents: tuple[str, ...],
        evidence: dict[str, str],
        edges: list[Edge] | None = None,
    ) -> None:
        known = [agent for agent in dict.fromkeys(agents) if agent in self._state.agents][:50]
        at = (kind, key)
        if at not in self._standing and len(self._standing) >= STANDING_MAX:
            self._over(next(iter(self._standing.values())), "too many others stand to follow it")
        self._standing[at] = _Standing(kind, key, tuple(known), self._state.now_s)
        ladder.found(self._state, kind, text, known, key=key, evidence=evidence, edges=(edges or [])[:50])

    def _lasts(self, one: _Standing, detail: str) -> None:
        one.last_s, one.others = self._state.now_s, 0
        ladder.goes_on(self._state, one.kind, one.key, detail)

    def _over(self, one: _Standing, why: str) -> None:
        self._standing.pop((one.kind, one.key), None)
        ladder.cleared(self._state, one.kind, one.key, why)

    def cleared(self, kind: FindingKind, key: str, why: str) -> None:
        """A condition is over, if it stood."""
        one = self._standing.get((kind, key))
        if one is not None:
            self._over(one, why)

    def facts(self) -> list[Any]:
        """What is remembered, for the state's digest. Of the detectors it is what they were told."""
        standing = [[one.kind, one.key, one.last_s, one.others] for one in self._standing.values()]
        parts = [self.maker.facts(), self.patience.facts(), self.starvation.facts(), self.storms.facts()]
        models = [[*key, count] for key, count in self._models.items()]
        return [self._steps, self._sum, standing, parts, models, self.answer.facts() if self.answer else []]


def _links(call: Call) -> list[Call]:
    """The call and those above it, the nearest first."""
    links: list[Call] = []
    link: Call | None = call
    while link is not None and len(links) < 64:
        links.append(link)
        link = link.task.call
    return links
