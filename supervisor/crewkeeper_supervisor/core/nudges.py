"""Nudges: what an agent's model is told about its own conduct, and that it is told exactly once.

An agent that calls models through the proxy is nudged there: its next granted request carries the text. Any other is
sent a `Nudge`, which its client keeps until whoever speaks to the model takes it; it is sent again until it was taken,
and known again by its id.
"""

from typing import Final

from crewkeeper_bus.messages import Nudge
from crewkeeper_supervisor.core.findings import Finding
from crewkeeper_supervisor.core.gate_state import GateCall
from crewkeeper_supervisor.core.ladder_state import Owed
from crewkeeper_supervisor.core.state import RunState

QUOTED_MAX_CHARS: Final = 150
"""Of each of the two things that a nudge may quote."""
AGENTS_MAX: Final = 16
"""Agents nudged about one finding."""
OWED_MAX: Final = 200
"""Nudges that are remembered as not taken; the oldest is forgotten first."""
CARRIED_MAX: Final = 4
"""Nudges in one request to a model."""
AGAIN_S: Final = 10.0
"""How long an agent is given to take one before it is sent again."""
TRIES_MAX: Final = 5

_SAID: Final = {
    "loop": "You are repeating the same steps, and what comes back does not change.",
    "drift": "Your last steps have nothing to do with your task any more.",
    "outcome": "Your answer breaks a rule about the outcome.",
    "misuse": "You keep calling tools that are refused, do not exist, or are given values that nobody gave you.",
    "stall": "You have made no progress for a while.",
    "livelock": "You and others keep giving way to each other, and nobody gets on.",
    "starvation": "Somebody is overtaken again and again in a queue that you use.",
    "retry_storm": "You repeat failed calls without pause.",
    "fan_out": "You ask for too much at once.",
    "depth": "This chain of calls has grown too long.",
}
_DO: Final = {
    "loop": "Do not do it again. Change your approach, ask somebody who can help, or finish with what you have.",
    "drift": "Go back to your task. If it cannot be done, say so and finish with what you have.",
    "outcome": "Correct the answer so that it keeps the rule, or say why that cannot be done.",
    "misuse": "Call only tools you were given, with values from your task or from earlier results. If what you need is "
    "missing, ask for it, or finish with what you have.",
    "stall": "Take the next concrete step now, ask somebody who can help, or finish with what you have.",
    "livelock": "Do not try the same again at once. Wait, do another part first, or agree on who goes first.",
    "starvation": "Give back what you hold as soon as you can, and let others go first.",
    "retry_storm": "Stop retrying. Find out why it fails, do without it, or finish with what you have.",
    "fan_out": "Ask for less at a time: wait for answers before you ask for more.",
    "depth": "Do the rest yourself instead of asking further agents, or hand back what you have.",
}


def text_of(finding: Finding) -> str:
    """What a model is told: what it does, what came of it, what to do instead.

    Quotes `evidence["what"]` (what is repeated) with `evidence["words"]` (in which words), and `evidence["came_back"]`
    (what each time came of it), cut to `QUOTED_MAX_CHARS` each, and names `evidence["times"]`.
    """
    parts = [f"Notice from the supervisor of this run ({finding.id}).", _SAID.get(finding.kind, "Something is wrong.")]
    told = finding.evidence
    words, times = told.get("words", ""), told.get("times", "")
    what = quoted(f"{told['what']}: {words}" if words else told["what"]) if told.get("what") else ""
    came = quoted(told.get("came_back", ""))
    if what:
        parts.append(f"Repeated {times} times: {what}." if times.isdigit() else f"What is meant: {what}.")
    else:
        parts.append(f"What was seen: {quoted(finding.summary)}.")
    if came:
        parts.append(f"What came back each time: {came}.")
    parts.append(_DO.get(finding.kind, "Change your approach, or finish with what you have."))
    return " ".join(parts)


def quoted(words: str) -> str:
    """Words of others in quotation marks, on one line and cut, so that they cannot pass for ours; empty for none."""
    line = " ".join("".join(each if each.isprintable() else " " for each in words).split()).replace('"', "'")
    if not line:
        return ""
    return f'"{line}"' if len(line) <= QUOTED_MAX_CHARS else f'"{line[: QUOTED_MAX_CHARS - 1]}…"'


def nudge(state: RunState, finding: Finding) -> list[str]:
    """Nudge the agents of a finding that are there; returns who."""
    there = [name for name in finding.agents if name in state.agents and state.agents[name].present][:AGENTS_MAX]
    text = text_of(finding)
    for agent in there:
        owed = Owed(id=state.next_name("N"), agent=agent, finding=finding.id, text=text, told_s=state.now_s)
        state.ladder.owed[owed.id] = owed
        if agent not in state.gate.proxied:
            _send(state, owed)
    while len(state.ladder.owed) > OWED_MAX:
        del state.ladder.owed[next(iter(state.ladder.owed))]
    return there


def taken(state: RunState, agent: str, id_: str) -> str:
    """An agent says that its model was given a nudge; returns the finding, empty if there was no such nudge."""
    owed = state.ladder.owed.get(id_)
    if owed is None or owed.agent != agent:
        return ""
    del state.ladder.owed[id_]
    return owed.finding


def joined(state: RunState, agent: str) -> None:
    """A new incarnation: what the last one may not have taken is sent to this one."""
    for owed in state.ladder.owed.values():
        if owed.agent == agent and owed.tries:
            owed.tries = 0
            _send(state, owed)


def over(state: RunState, finding: str) -> None:
    """The condition is over: what has not been taken need not be."""
    for id_ in [id_ for id_, owed in state.ladder.owed.items() if owed.finding == finding and not owed.call]:
        del state.ladder.owed[id_]


def watch(state: RunState) -> None:
    """Send again what was not taken in time."""
    for owed in state.ladder.owed.values():
        if 0 < owed.tries < TRIES_MAX and owed.told_s + AGAIN_S <= state.now_s:
            _send(state, owed)


def next_due_s(state: RunState) -> float | None:
    """When something is to be sent again."""
    return min(
        (owed.told_s + AGAIN_S for owed in state.ladder.owed.values() if 0 < owed.tries < TRIES_MAX), default=None
    )


# --- through the model proxy ---


def carry(state: RunState, call: GateCall) -> None:
    """Let a model call carry the nudges that its agent is owed; its tokens grow by them."""
    if call.via != "proxy" or call.nudges or not call.output_tokens:
        return
    waiting = [owed for owed in state.ladder.owed.values() if owed.agent == call.agent and not owed.call]
    for owed in [each for each in waiting if not each.tries][:CARRIED_MAX]:
        owed.call = call.id
        call.nudges += (owed.id,)
        call.input_tokens += tokens_of(owed.text)


def tokens_of(text: str) -> int:
    """At most so many tokens: its bytes, and a few for what is around it."""
    return len(text.encode()) // 3 + 20


def texts(state: RunState, call: GateCall) -> tuple[str, ...]:
    """The nudges that a call carries."""
    return tuple(state.ladder.owed[id_].text for id_ in call.nudges if id_ in state.ladder.owed)


def carried(state: RunState, call: GateCall, *, forwarded: bool) -> None:
    """The call is over. What was sent to a model was given to it; what certainly was not, is carried by another."""
    for id_ in call.nudges:
        owed = state.ladder.owed.get(id_)
        if owed is None:
            continue
        if forwarded:
            del state.ladder.owed[id_]
        else:
            owed.call = ""


def _send(state: RunState, owed: Owed) -> None:
    owed.tries += 1
    owed.told_s = state.now_s
    state.tell(owed.agent, Nudge, durable=True, nudge=owed.id, finding=owed.finding, text=owed.text)
    if owed.tries < TRIES_MAX:
        state.due_s.arm("ladder", state.now_s + AGAIN_S)
