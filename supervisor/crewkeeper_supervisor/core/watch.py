"""Watch: the detectors of conduct over a running crew, and what they find; what is done about it is `ladder`'s.

Whoever writes a fact into the state says so here if it has words. From it a step is made (`live_steps`), and every
detector sees the steps in the journal's order, so that whoever folds the same journal finds the same. What the clock
alone shows is in `patience`. A condition that was told stands until its agents get on, do something else for a while,
or nothing is seen of it for long; then the ladder is told that it is over.

Cost: what has no words costs a comparison; a step costs what its detectors cost, see docs/detectors.md. Memory is
bounded in every part, whatever agents send.
"""

import re
import zlib
from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Any, Final

import msgspec
from msgspec import Raw

from crewkeeper_bus.messages import Fault, Message, Request
from crewkeeper_supervisor.core.commands import AnswerCall
from crewkeeper_supervisor.core.courtesy import CourtesyDetector
from crewkeeper_supervisor.core.drift import CLEARED_AT, DriftModel, topic_of
from crewkeeper_supervisor.core.final_answer import FinalAnswer
from crewkeeper_supervisor.core.fingerprint import Fingerprint
from crewkeeper_supervisor.core.gate_state import GateCall
from crewkeeper_supervisor.core.grounding import Grounding
from crewkeeper_supervisor.core.live_steps import PASSING, SILENCE, Said, StepMaker, read
from crewkeeper_supervisor.core.lookout import Lookout
from crewkeeper_supervisor.core.loops import POLL_TOKENS, Loop, LoopDetector, polls
from crewkeeper_supervisor.core.misuse import LOOKBACK, Misuse, MisuseDetector
from crewkeeper_supervisor.core.nodes import Call
from crewkeeper_supervisor.core.retry_storm import SLICE_S, RetryStorms
from crewkeeper_supervisor.core.roster import AgentView
from crewkeeper_supervisor.core.standing import Conditions, Standing
from crewkeeper_supervisor.core.state import RunState
from crewkeeper_supervisor.core.steps import Step
from crewkeeper_supervisor.core.trace_analysis import PATTERNS, loop_text

OTHERS_MAX: Final = 10
"""Steps of its agents, without a repeat, after which a loop is over."""
KEPT_MAX: Final = 1000
PENDING_LOOKED_AT: Final = 50
DECLARED_MAX: Final = 16
"""Declarations of progress of each agent that are remembered."""
HEARD_MAX: Final = 3
"""Things said to an agent that are remembered."""
_CALLERS_OWN: Final = frozenset(
    ("bad_arguments", "too_large", "denied", "approval_denied", "approval_expired", "budget_spent")
)
"""Refusals that are about who calls: its tool has not failed."""
_WORD: Final = re.compile(r"[^\W_]+")


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
        self.storms = RetryStorms()
        self._loops = LoopDetector(follow=True)
        self._courtesy = CourtesyDetector(follow=True)
        self._grounding = Grounding()
        self._misuse = MisuseDetector(self._grounding)
        self._drift = DriftModel(crew.objective) if crew.objective else None
        self._grounding.saw(crew.objective)
        self.answer = FinalAnswer(state, crew.outcome) if crew.outcome is not None else None
        self.is_alert = self.answer is not None
        """Whether answers without words matter, too."""
        self._spent: dict[str, int] = {}
        """Tokens of each agent's steps."""
        self._polling: dict[str, int] = {}
        """Loops of polling that the detector has told, with what their agent had spent then."""
        self._looped_on: dict[str, str] = {}
        """What was repeated in the loops that were told of late, by their keys."""
        self._spoken: dict[str, deque[str]] = {}
        """What an agent said of late."""
        self._declared: dict[str, deque[int]] = {}
        """Checksums of the words in which an agent declared progress of late."""
        self._heard: dict[str, deque[frozenset[str]]] = {}
        """What an agent was told of late, in words."""
        self._standing = Conditions(state)
        self.lookout = Lookout(state, self._standing)
        self.vain = self.lookout.starvation.vain
        self._moved = self.lookout.patience.moved
        self._steps = 0
        self._sum = 0
        """Checksum over all steps: folds that differ in one differ here."""
        self._models: dict[tuple[str, str], int] = {}

    # --- what agents say ---

    def requested(self, view: AgentView, call: Call, message: Request) -> None:
        """An agent asks another for something, in words."""
        self.is_alert = True
        said, whole = self.maker.request(view, call, message.body, self._state.seq)
        self._words(view.name, said)
        if call.callee is not None:
            self._hears(call.callee.name, said.words)
        self._polite(view.name, call.callee.name if call.callee is not None else call.to, said, whole, "")

    def replied(self, view: AgentView, call: Call, body: Raw | None, error: Fault | None) -> None:
        """An agent answers a call; the step is its caller's."""
        state = self._state
        caller = state.agents.get(call.caller)
        if caller is None:
            return
        said = read(body) if body is not None else SILENCE
        self.maker.cut = self.maker.cut or bool(said.cut)
        step, whole = self.maker.reply(caller, call, said, error, state.seq, state.now_s)
        self._moved[view.name] = state.now_s
        self._step(step, courtesy=False)
        self._words(view.name, said)
        self._hears(caller.name, said.words)
        self._polite(view.name, caller.name, said, whole, step.chain)
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
        if to in state.agents:
            self._hears(to, step.text)
        self._grounding.saw(step.text)

    def progressed(self, view: AgentView, text: str) -> None:
        """An agent says that it got on. Words it used of late say nothing; none say that it is at work, and no more.

        A step that reports itself each time, in no words or by turns in the same ones, must not hide a loop of steps.
        """
        state = self._state
        declared = self._declared.setdefault(view.name, deque(maxlen=DECLARED_MAX))
        mark = zlib.crc32(text.encode("utf-8", "surrogatepass"))
        if text and mark in declared:
            return
        self._moved[view.name] = state.now_s
        if not text:
            return
        declared.append(mark)
        for one in self._standing.of_agent(view.name):
            if one.kind == "loop":
                self._standing.over(one, f"{view.name} reports progress")
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
        self._moved[to] = state.now_s

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
        for one in self._standing.of_kind("drift"):
            self._standing.over(one, "a person changed the goal")

    def rejoined(self, view: AgentView) -> None:
        """A new incarnation remembers nothing of what the last one had asked."""
        self.maker.gone(view.name)
        self._loops.resumed(view.name)
        self.lookout.patience.begins(view.name)

    # --- the gate ---

    def opened(self, call: GateCall) -> None:
        """A call has come to the gate."""
        call.opened_seq = self._known_to(call.agent) if call.via == "agent" else self._state.seq
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
            self._moved[call.agent] = state.now_s
            return
        unknown = step.known is False
        if (step.refused or unknown) and self._is_untold(call.agent):
            # nobody learns from what it has not been told yet
            step = msgspec.structs.replace(step, refused="", known=None)
        self._step(step, other=error is None or error.code not in PASSING)
        if call.kind != "tool":
            return
        self._drifts(call.agent, step.text)
        if self._drift is not None and not step.failed:
            self._drift.heard(step.outcome.words, call.agent)  # after what was asked is judged: it may be off the task
        if body is not None:
            self._grounding.saw(read(body).text)
        if not unknown and (error is None or error.code not in _CALLERS_OWN):
            self._ended(call.name, call.agent, failed=error is not None or (call.inside and step.failed))

    def _is_untold(self, agent: str) -> bool:
        """Whether a refusal is on its way to this agent: what it asks meanwhile, it asks side by side."""
        return any(answer.error is not None for answer in self._untold(agent))

    def _known_to(self, agent: str) -> int:
        """The journal's sequence, or where the oldest answer was decided that is still on its way to this agent."""
        return min((int(answer.id.partition("-")[0]) for answer in self._untold(agent)), default=self._state.seq)

    def _untold(self, agent: str) -> list[AnswerCall]:
        newest = islice(reversed(self._state.pending.values()), PENDING_LOOKED_AT)
        return [c for c in newest if isinstance(c, AnswerCall) and c.agent == agent]

    # --- detectors ---

    def _step(self, step: Step, *, courtesy: bool = True, other: bool = True) -> None:
        """A step of an agent: told to all, and what it shows. Being told to come back later is doing nothing else."""
        agent = step.agent
        self.lookout.patience.steps[agent] = self.lookout.patience.steps.get(agent, 0) + 1
        for one in self._standing.of_agent(agent) if other else ():
            self._other_step(one, step)
        if not self._feed(step, courtesy=courtesy):
            self._moved[agent] = self._state.now_s

    def _feed(self, step: Step, *, courtesy: bool) -> bool:
        """Tell the detectors; returns whether the step repeats what was done before."""
        self._steps += 1
        self._spent[step.agent] = self._spent.get(step.agent, 0) + step.tokens
        self._sum = zlib.crc32(msgspec.json.encode((step.agent, step.kind, step.began, step.at)), self._sum)
        self._sum ^= step.arguments.digest ^ step.said.digest ^ step.outcome.digest
        loop = self._loops.step(step)
        if loop is not None:
            self._looped("", loop, step)
        polite = self._courtesy.step(step) if courtesy else None
        if polite is not None:
            self._looped("courtesy ", polite, step)
        for misuse in self._misuse.step(step):
            self._misused(misuse)
        return loop is not None or polite is not None

    def _polite(self, agent: str, to: str, said: Said, whole: Fingerprint, chain: str) -> None:
        """What is said in a call may be a courtesy as well as what is said in a message."""
        if not said.words or self._courtesy.has_content(agent, to, whole, said.words):
            return
        step = self.maker.spoken(agent, to, said, whole, chain, self._state.seq, self._state.now_s)
        polite = self._courtesy.empty(step)
        if polite is not None:
            self._looped("courtesy ", polite, step)

    def _words(self, agent: str, said: Said) -> None:
        self._grounding.saw(said.text)
        self._drifts(agent, said.words)

    def _hears(self, agent: str, words: str) -> None:
        """An agent is told something: to take it up is no drift of its own."""
        if self._drift is not None and words:
            self._heard.setdefault(agent, deque(maxlen=HEARD_MAX)).append(topic_of(words))

    def _drifts(self, agent: str, words: str) -> None:
        if self._drift is None or not words:
            return
        spoken = self._spoken.setdefault(agent, deque(maxlen=HEARD_MAX))
        spoken.append(words)
        drift = self._drift.did(agent, words, self._state.seq, self._heard.get(agent, ()))
        if drift is not None:
            strange = ", ".join(_whole(stem, spoken) for stem in drift.strange)
            text = f"{drift.score:.0%} of what {agent} said lately has nothing to do with the task: {strange[:200]}"
            evidence = {"since": str(drift.onset), "score": f"{drift.score:.2f}", "words": strange[:300]}
            self._standing.tell("drift", agent, text, (agent,), evidence, again=text)
        elif (one := self._standing.find("drift", agent)) is not None:
            score = self._drift.score(agent)
            if score < CLEARED_AT:
                self._standing.over(one, f"{agent} is back at the task")
            else:
                self._standing.lasts(one, f"still {score:.0%} of what {agent} says")

    def _looped(self, prefix: str, loop: Loop, step: Step) -> None:
        key = self._known_as(f"{prefix}{loop.key}", loop)
        if polls(step) and self._standing.find("loop", key) is None:
            # The detector counts what the whole run spends; who polls is let be until it has itself spent so much.
            since = self._polling.setdefault(key, self._spent.get(step.agent, 0))
            _bound(self._polling)
            if self._spent.get(step.agent, 0) - since < POLL_TOKENS:
                return
        evidence = {
            "since": str(loop.onset),
            "what": loop.what[:200],
            "form": loop.form,
            "period": str(loop.period),
            "times": str(loop.count),
            "tokens": str(loop.tokens),
            "words": step.text[:100],
            "came_back": step.came,
        }
        again = f"{loop.what[:100]}: once more, {loop.count} times by now"
        self._standing.tell("loop", key, loop_text(loop), loop.agents, evidence, again=again, talk=_is_talk(loop))

    def _known_as(self, key: str, loop: Loop) -> str:
        """The key of a loop; what two agents say to each other is one loop, however many detectors see it."""
        if self._standing.find("loop", key) is not None:
            return key
        if _is_talk(loop):
            for one in self._standing.of_kind("loop"):
                if one.talk and set(one.agents) == set(loop.agents):
                    return one.key
        else:
            # The same tool again, that fails in another way by now: it is the same loop, and its ladder goes on.
            for one in self._standing.of_kind("loop"):
                if not one.talk and one.agents == loop.agents and self._looped_on.get(one.key) == loop.what:
                    return one.key
            self._looped_on[key] = loop.what
            _bound(self._looped_on)
        return key

    def _misused(self, misuse: Misuse) -> None:
        key = f"{misuse.agent} {misuse.pattern} {misuse.detail[:64] if misuse.pattern == 'refusals' else ''}".strip()
        text = f"{misuse.agent} {PATTERNS[misuse.pattern]} {misuse.count} times: {misuse.detail[:200]}"
        evidence = {"since": str(misuse.onset), "pattern": misuse.pattern, "tool": misuse.tool[:128]}
        self._standing.tell("misuse", key, text, (misuse.agent,), evidence, again=text)

    def _other_step(self, one: Standing, step: Step) -> None:
        """An agent of a standing condition has done something; a repeat of it will say so itself."""
        if one.kind == "loop":
            one.others += 1
            if one.others > OTHERS_MAX * len(one.agents):
                self._standing.over(one, f"{step.agent} does other things now")
        elif one.kind == "misuse" and step.kind == "tool":
            pattern = one.key.split(" ")[1]
            same = {
                "refusals": bool(step.refused) and one.key.endswith(step.refused[:64]),
                "unknown_tool": step.known is False,
                "ungrounded": step.failed and bool(self._grounding.unknown(step.quotes)),
            }[pattern]
            one.others = 0 if same else one.others + 1
            if same:
                self._standing.lasts(one, f"{step.agent}: {step.name[:64]}, once more")
            elif one.others > LOOKBACK:
                self._standing.over(one, f"{step.agent} calls tools as they are now")

    def _ended(self, target: str, caller: str, *, failed: bool) -> None:
        """A call of a tool or an agent is over: many that fail, of several agents, are a storm."""
        if not failed:
            if self.storms.is_failing and self.storms.succeeded(target):
                self._standing.cleared("retry_storm", target, f"{target} answers again")
            return
        self.is_alert = True
        storm = self.storms.failed(target, caller, self._state.now_s)
        if storm is None:
            return
        callers = ", ".join(storm.agents[:10])
        text = (
            f"{callers} keep calling {target}, which fails: {storm.failures} times in 10 s, {storm.before} before that"
        )
        evidence = {"target": target[:128], "failures": str(storm.failures), "before": str(storm.before)}
        again = f"{storm.failures} failed calls in the last {SLICE_S:g} s"
        self._standing.tell("retry_storm", target, text, storm.agents, evidence, again=again, still=storm.calling)

    # --- time ---

    def look(self) -> None:
        """What only the clock shows. To be called when the watch's time has come."""
        for target in self.storms.calmed(self._state.now_s) if self.storms.is_failing else ():
            self._standing.cleared("retry_storm", target, f"hardly anybody calls {target} any more")
        self.is_alert = self.answer is not None or self.storms.is_failing or bool(self.asked)
        self.lookout.look()

    def facts(self) -> list[Any]:
        """What is remembered, for the state's digest. Of the detectors it is what they were told."""
        parts = [self.maker.facts(), self._standing.facts(), self.lookout.facts(), self.storms.facts()]
        models = [[*key, count] for key, count in self._models.items()]
        return [self._steps, self._sum, parts, models, self.answer.facts() if self.answer is not None else []]


def _is_talk(loop: Loop) -> bool:
    """Whether it is of things that agents say to each other."""
    return loop.form == "courtesy" or loop.what.startswith("message")


def _bound(known: dict[str, Any]) -> None:
    while len(known) > KEPT_MAX:
        del known[next(iter(known))]


def _whole(stem: str, texts: Iterable[str]) -> str:
    """The word that a stem stands for, as it was said."""
    words = (word for text in texts for word in _WORD.findall(text))
    return next((word for word in words if word.lower().startswith(stem)), stem)
