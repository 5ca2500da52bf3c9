"""Loops: agents that are busy and learn nothing, told from those that poll, page, retry or iterate.

Theory of operation. A step counts as repeated only if what was done *and* what came back are the same (see
`fingerprint` for what is the same), so a request whose answer changes is never a loop: that covers paging, polling
with progress, shrinking failures. Steps fall into *classes*, kept per agent and tool, or per pair of agents; a loop is
the `REPEATS`th step of a class, if the run brought hardly any news in between. News is an answer never had before. How
much news is pardoned depends on how sure the repetition is: the same refused call is a loop although the agent looked
around between its attempts, since nothing that it saw changed the refusal; the same page seen a third time in a long
piece of work is none.

Two more forms. A *cycle* is a sequence of at most `PERIOD_MAX` classes that has passed `REPEATS` times without anything
in between, across agents, also where each answer differs from the one before it. *Courtesy* is in `courtesy`.

Never a bare count: the steps since the first of the class must have cost something, and asking again until something
changes, declared (`poll`) or plain from the tool's name, is let be until it has cost `POLL_TOKENS`.

Cost: at most `CLASSES_MAX` comparisons of bounded sets per step, tens of microseconds. Memory: see `loop_memory`.
"""

import re
import zlib
from itertools import pairwise
from typing import Final, Literal

import msgspec
from msgspec import Struct

from crewkeeper_supervisor.core.fingerprint import Fingerprint, filled_in, same_arguments, same_outcome, same_request
from crewkeeper_supervisor.core.loop_memory import (
    NAMES_MAX,
    REPEATS,
    Classes,
    History,
    Listener,
    Occurrence,
    Passed,
    RepeatClass,
    nothing_learned,
)
from crewkeeper_supervisor.core.steps import EVERYBODY, Step, tells_to_wait

TOKENS_MIN: Final = 20
"""What a loop must have cost at least: heartbeats are free."""
POLL_TOKENS: Final = 4000
"""What asking again and again may cost without any change."""
REFUSED_NEWS: Final = 6
SAME_NEWS: Final = 2
ALIKE_NEWS: Final = 1
"""News pardoned between the first and the last of the repeats: of a failing call, of equal steps, of similar ones.
Of messages to somebody one less: each answer that says something new is a reason to ask again."""
TRIES: Final = 5
"""Times that a call may fail for a reason that passes by itself, such as a busy service."""
ECHO_SHARE: Final = 0.5
"""Share of the new words of an answer that must stand in what it answers to be its echo."""
TELLING_WORDS: Final = 20
"""Words from which it is no accident that two answers are equal; `ok` may answer anything."""
REPLY_WORDS: Final = 5
"""Words from which an answer says something; below, it is a mere `done`."""

_POLLS: Final = re.compile(
    r"wait|sleep|poll|status|ping|heartbeat|health|progress|watch|monitor|idle|noop|no_op|check_job|is_ready|is_done",
    re.IGNORECASE,
)


def _gist(said: Fingerprint) -> int:
    """Checksum of what is said without numbers and names."""
    return zlib.crc32(" ".join(sorted(said.words - said.marks)).encode("utf-8", "surrogatepass"))


LoopForm = Literal["exact", "near", "cycle", "courtesy"]


class Loop(Struct, frozen=True, kw_only=True):
    """A loop, as concluded at one step."""

    at: int
    onset: int
    """Where the second occurrence began: from there on it was a repetition."""
    agents: tuple[str, ...]
    period: int
    """Steps from one occurrence to the next."""
    form: LoopForm
    count: int
    """Occurrences so far."""
    tokens: int
    """Spent since the first of them."""
    what: str
    """What was repeated: a tool, a verb, a message to somebody."""
    failed: bool
    """It failed each time."""
    chain: str = ""
    key: int = 0
    """Number of the loop within its run, from 1: its further repeats bear the same."""
    again: int = 0
    """0: it is told for the first time. Otherwise the how manieth further repeat of it this is."""


def polls(step: Step) -> bool:
    """Whether a step asks again until something changes: it says so, its tool's name does, or the answer does."""
    if step.poll or step.kind != "tool":
        return step.poll
    return _POLLS.search(step.name) is not None or (not step.failed and tells_to_wait(step.outcome, failed=False))


def _asked_again(group: RepeatClass, step: Step) -> bool:
    """Whether a call is the same as those of a class, possibly in other words."""
    in_other_words = step.failed or _indifferent(group.outcome, step.outcome)
    if not same_arguments(group.arguments, step.arguments, in_other_words=in_other_words):
        return False
    return group.arguments.digest == step.arguments.digest or not group.refills(step.arguments)


def _indifferent(one: Fingerprint, other: Fingerprint) -> bool:
    """Whether two answers show that the wording of what was asked made no difference: as long as they are equal."""
    return one.literal == other.literal and len(one.words) >= TELLING_WORDS


def _waits(step: Step) -> bool:
    """Whether it does nothing but wait: it polls, or was told to come back."""
    return polls(step) or (step.kind == "tool" and step.failed and tells_to_wait(step.outcome, failed=True))


class LoopDetector:
    """Finds loops in the steps of one run. Feed it every step, in order.

    Args:
        follow: Whether further repeats of a loop that was told are told too, with `again` above 0.
    """

    def __init__(self, *, follow: bool = False) -> None:
        self._follow = follow
        self._again: dict[int, int] = {}
        self._classes = Classes()
        self._agents: dict[str, Listener] = {}
        self._news = 0
        self._learned = 0
        self._number = 0
        self._tokens = 0
        self._next_token = 0
        self._chains: dict[str, History] = {}
        self._told: dict[str, tuple[int, int]] = {}
        self._keys = 0

    def step(self, step: Step) -> Loop | None:
        """Take in one step.

        Returns:
            The loop that it completes, once for each loop unless they are followed; None otherwise.
        """
        self._number += 1
        self._tokens += step.tokens
        agent = self._agent(step.agent)
        match step.kind:
            case "progress":
                self._classes.forget(step.agent)
                self._chains.pop(step.chain, None)
                return None
            case "model":
                return None
            case "human" | "report":
                self._told_something(step, agent)
                return None
            case "tool":
                return self._tool(step, agent) if step.answered else None
            case "message":
                return self._message(step, agent)

    def resumed(self, agent: str) -> None:
        """An agent that crashed begins anew: what it does first may be what it did last."""
        self._classes.resume(agent)

    def _told_something(self, step: Step, agent: Listener) -> None:
        """People and surroundings make no loops, but what they say may be news, and ends a cycle unless it is not."""
        known = self._classes.known(step.agent, "", step.kind)
        same = next((group for group in known if same_outcome(group.said, step.said)), None)
        if same is None or step.kind == "human":
            same = self._begin(known, step, step.agent)
            agent.talk += 1
            self._news += 1
        agent.heard(step.said, step.failed, self._number)
        self._history(step.chain).add(Passed(same.token, step.agent, step.began, self._number, self._tokens, False))

    def _tool(self, step: Step, agent: Listener) -> Loop | None:
        # What everybody hears nobody needs to ask for again, whoever asked first.
        owner = EVERYBODY if step.public else step.agent
        known = self._classes.known(owner, step.peer, step.name)
        agent.heard(step.outcome, step.failed, self._number)
        same = None
        for group in known:
            if not nothing_learned(group, step.outcome):
                if group.seen and group.arguments.digest == step.arguments.digest:
                    group.seen.clear()  # the same call, another answer: something moved
                    group.told = group.count = 0
            elif same is None and _asked_again(group, step):
                same = group
        new = same is None and not step.failed and not step.outcome.empty
        agent.news += new
        self._news += new
        self._learned += new
        begun = same is None
        if same is None:
            same = self._begin(known, step, owner)
        exact = same.arguments.digest == step.arguments.digest
        learned = self._history(step.chain).learned(step.agent, new, step.public)
        if same.seen and step.agent == same.seen[-1].agent and step.began <= same.seen[-1].at:
            return None  # asked side by side: nobody learns from an answer that is not there yet
        equal = exact and same.outcome.literal == step.outcome.literal
        return self._note(same, step, learned, exact, equal, begun=begun)

    def _message(self, step: Step, agent: Listener) -> Loop | None:
        known = self._classes.known(step.agent, "", step.peer, spoken=True)
        same = next((group for group in known if self._said_again(group, step)), None)
        agent.heard(step.said, step.failed, self._number)
        begun = same is None
        if same is None:
            same = self._begin(known, step, step.agent)
            agent.talk += 1
            self._news += 1
        exact = same.said.literal == step.said.literal
        heard: float = self._news
        if step.peer != EVERYBODY:
            peer = self._agent(step.peer)
            own = agent.news + peer.news
            heard = own + peer.talk + (self._learned - own) / len(self._agents)
        return self._note(same, step, heard, exact, exact, begun=begun)

    def _said_again(self, group: RepeatClass, step: Step) -> bool:
        if group.said.literal == step.said.literal:
            return True
        if step.said.empty or not same_request(group.said, step.said):
            return False
        # Other words or other volatile parts. If what changed stands in what the other side says, it is what mattered.
        changed = group.said.words ^ step.said.words
        if filled_in(group.said.words, step.said.words):
            return False
        peer = self._agents.get(step.peer)
        since = group.seen[-1].number if group.seen else 0
        if peer is None or peer.reply is None or peer.reply_failed or peer.reply_number < since:
            return True
        if len(peer.reply.words) < REPLY_WORDS:
            return False
        # An echo is what makes up the difference between two answers: `done for Ann`, `done for Bob`.
        answered = peer.reply.words - peer.before
        return not answered or len(changed & answered) < ECHO_SHARE * len(answered)

    def _note(
        self, group: RepeatClass, step: Step, news: float, exact: bool, equal: bool, *, begun: bool
    ) -> Loop | None:
        """Count one more occurrence of a class, which may have begun with it, and judge."""
        if not begun:
            group.did(step.arguments, step.said)
        if not group.seen:
            group.since_tokens = self._tokens
        group.seen.append(Occurrence(step.agent, step.began, step.at, self._number, news, exact, equal))
        group.count += 1
        if len(group.seen) > REPEATS:
            del group.seen[0]
        if not begun:  # else it was made of this very step
            group.came(step.outcome)
            self._classes.weigh(EVERYBODY if step.public and step.kind == "tool" else step.agent, group)
        history = self._history(step.chain)
        passed = Passed(group.token, step.agent, step.began, self._number, self._tokens, _waits(step))
        if step.kind == "message":
            passed.peer, passed.gist = step.peer, _gist(step.said)
        cycle = history.add(passed)
        found = self._repeated(group, step, news, history)
        if found is not None:
            group.told, told = self._tell(found, group.seen[0].number, group.told)
            return told
        if (found := self._cycled(cycle, history, step)) is not None:
            first = history.steps[-cycle * REPEATS].number
            history.told, told = self._tell(found, first, history.told)
            return told
        return None

    def _repeated(self, group: RepeatClass, step: Step, news: float, history: History) -> Loop | None:
        """The loop that a class is, if it is one."""
        if len(group.seen) < REPEATS or (group.told and not self._follow):
            return None
        first, second = group.seen[0], group.seen[1]
        pardoned = SAME_NEWS if all(one.exact for one in group.seen[1:]) else ALIKE_NEWS
        refused = group.failed and step.kind == "tool"
        if refused:
            pardoned = REFUSED_NEWS
            if group.count <= TRIES and tells_to_wait(step.outcome, failed=True):
                return None
        elif step.kind == "message" and step.peer != EVERYBODY:
            pardoned -= 1
        if not refused and all(one.news - before.news >= 1 for before, one in pairwise(group.seen)):
            return None  # news each time: the repeats are looks at something while the work goes on
        spent = self._tokens - group.since_tokens
        if news - first.news > pardoned or spent < (POLL_TOKENS if polls(step) else TOKENS_MIN):
            return None
        period = self._number - group.seen[-2].number
        passed = history.period(period)
        agents = dict.fromkeys(one.agent for one in (passed if len(passed) > 1 else group.seen))
        agents |= dict.fromkeys(history.ring(period))
        if step.kind == "message" and step.peer != EVERYBODY and self._answers_alike(step, group.seen[-2].number):
            agents[step.peer] = None
        return Loop(
            at=step.at,
            onset=second.began,
            agents=tuple(agents),
            period=period,
            form="cycle" if len(passed) > 1 else "exact" if all(one.equal for one in group.seen[1:]) else "near",
            count=group.count,
            tokens=spent,
            what=step.name or f"message to {step.peer}",
            failed=refused,
            chain=step.chain,
        )

    def _answers_alike(self, step: Step, since: int) -> bool:
        """Whether who was told the same again and again has repeated itself to who tells it: else it takes no part."""
        said = self._classes.of(step.peer, "", step.agent)
        return any(len(group.seen) > 1 and group.seen[-1].number >= since for group in said)

    def _cycled(self, period: int, history: History, step: Step) -> Loop | None:
        """The loop that the last steps of a chain are, if they have passed often enough."""
        if not period or (history.told and not self._follow):
            return None
        passed = history.period(period)
        first = history.steps[-period * REPEATS]
        spent = self._tokens - first.tokens
        if spent < (POLL_TOKENS if all(one.polls for one in passed) else TOKENS_MIN):
            return None
        return Loop(
            at=step.at,
            onset=history.steps[-period * (REPEATS - 1)].began,
            agents=tuple(dict.fromkeys(one.agent for one in passed)),
            period=period,
            form="cycle",
            count=REPEATS,
            tokens=spent,
            what=step.name or f"message to {step.peer}",
            failed=False,
            chain=step.chain,
        )

    def _tell(self, loop: Loop, first: int, key: int) -> tuple[int, Loop | None]:
        """Tell a loop, unless it was told before and is not followed.

        Args:
            loop: It.
            first: Number of the step that began it.
            key: Of the loop that it goes on with; 0: it is a loop of its own, or part of one of the same agents that
                was told after it had begun.

        Returns:
            Its key, and what is told of it.
        """
        if not key:
            told = max((self._told[agent] for agent in loop.agents if agent in self._told), default=(0, 0))
            if first > told[0]:
                self._keys += 1
            key = told[1] if first <= told[0] else self._keys
            for agent in loop.agents:
                self._told.pop(agent, None)
                self._told[agent] = (self._number, key)
            while len(self._told) > NAMES_MAX:
                del self._told[next(iter(self._told))]
            if first > told[0]:
                return key, msgspec.structs.replace(loop, key=key)
        if not self._follow:
            return key, None
        again = self._again.pop(key, 0) + 1
        self._again[key] = again
        while len(self._again) > NAMES_MAX:
            del self._again[next(iter(self._again))]
        count = loop.count + again if loop.count == REPEATS else loop.count
        return key, msgspec.structs.replace(loop, key=key, again=again, count=count)

    def _history(self, chain: str) -> History:
        history = self._chains.pop(chain, None) or History()
        self._chains[chain] = history
        if len(self._chains) > NAMES_MAX:
            del self._chains[next(iter(self._chains))]
        return history

    def _begin(self, known: list[RepeatClass], step: Step, owner: str) -> RepeatClass:
        self._next_token += 1
        group = RepeatClass(
            token=self._next_token,
            arguments=step.arguments,
            said=step.said,
            outcome=step.outcome,
            failed=step.failed,
            met=step.outcome.words,
        )
        self._classes.add(owner, known, group)
        return group

    def _agent(self, name: str) -> Listener:
        agent = self._agents.pop(name, None) or Listener()
        self._agents[name] = agent
        if len(self._agents) > NAMES_MAX:
            del self._agents[next(iter(self._agents))]
        return agent
