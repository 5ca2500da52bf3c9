"""Gate holds: agents whose new calls of tools and models wait at the gate, and those whose calls are failed.

What an agent says to others flows on, and what was granted runs to its end. What becomes of the waiting calls is
`gate`'s and `gate_facts`'s; here is who is held, by what, and until when.
"""

from collections.abc import Iterable
from typing import Final, Literal

import msgspec
from msgspec import Raw

from crewkeeper_bus.messages import Fault
from crewkeeper_bus.subjects import MODEL
from crewkeeper_bus.tool_messages import Withhold
from crewkeeper_supervisor.core import repeats
from crewkeeper_supervisor.core.gate_state import CallHold, GateCall
from crewkeeper_supervisor.core.state import RunState

BREAK_LASTS_S: Final = 60.0
"""How long the next call of an agent may still be failed for what it has repeated before."""


def hold(state: RunState, incident: str, agents: Iterable[str], until_s: float, why: str) -> list[str]:
    """Let no new tool or model call of these agents through until then; returns who is held by that."""
    held = []
    for agent in agents:
        state.gate.holds.setdefault(agent, {})[incident] = CallHold(incident=incident, until_s=until_s, why=why)
        held.append(agent)
    if held:
        state.due_s.arm("ladder", until_s)
    return held


def release(state: RunState, incident: str) -> list[str]:
    """What an incident held goes on; returns who. Other incidents may still hold them."""
    holders = [agent for agent, holds in state.gate.holds.items() if incident in holds]
    for agent in holders:
        _let_go(state, agent, [incident])
    for agent in [agent for agent, each in state.gate.breaks.items() if each.incident == incident]:
        del state.gate.breaks[agent]
    return holders


def resume(state: RunState, agent: str) -> list[str]:
    """A person lets an agent go on; returns the incidents that held it."""
    incidents = list(state.gate.holds.get(agent, ()))
    _let_go(state, agent, incidents)
    return incidents


def expire(state: RunState) -> list[tuple[str, str]]:
    """Holds whose time is over end; returns them as (incident, agent)."""
    over = [
        (incident, agent)
        for agent, holds in state.gate.holds.items()
        for incident, each in holds.items()
        if each.until_s <= state.now_s
    ]
    for incident, agent in over:
        _let_go(state, agent, [incident])
    return over


def of(state: RunState, agent: str) -> CallHold | None:
    """What holds an agent's calls longest; None: nothing."""
    holds = state.gate.holds.get(agent)
    return max(holds.values(), key=lambda each: each.until_s) if holds else None


def holds(state: RunState, incident: str) -> bool:
    """Whether an incident holds anybody."""
    return any(incident in each for each in state.gate.holds.values())


def fail_calls(state: RunState, incident: str, agent: str, why: str) -> None:
    """Fail the open calls of an agent; if there are none, the next one that it makes within `BREAK_LASTS_S`."""
    state.gate.breaks[agent] = CallHold(incident=incident, until_s=state.now_s + BREAK_LASTS_S, why=why)
    state.gate.released[agent] = None
    state.stirred = True


# --- at the gate ---


def passes(state: RunState, call: GateCall) -> Fault | Literal["wait"] | None:
    """The step of the gate: whether nothing that was found about its agent stops a call."""
    broken = _broken(state, call.agent) if call.kind == "tool" else ""
    if broken:
        return Fault(code="repeated", text=f"{broken}: the call was not run; do something else, or finish"[:2000])
    hold = of(state, call.agent)
    if hold is None:
        return None
    if call.until_s is not None and call.until_s <= state.now_s:
        text = f"new calls of {call.agent} are held ({hold.incident}: {hold.why[:300]}), and its time is over"
        return Fault(code="held", text=f"{text}; nothing was run: change your approach, or ask an operator"[:2000])
    first = call.stage != "held"
    state.gate.wait(call, "held", hold.until_s)
    if first:
        say(state, call)
    return "wait"


def say(state: RunState, call: GateCall, *, again: bool = False) -> None:
    """Tell whoever made a held call that it has to wait."""
    hold = of(state, call.agent)
    if hold is None:
        return
    why = f"held: {hold.why}"[:2000]
    if call.via == "proxy":
        state.tell_service(MODEL, Withhold, call=call.id, agent=call.agent, why=why)
    else:
        told = {"pending": "held", "why": why, "for_s": round(hold.until_s - state.now_s, 3)}
        body = Raw(msgspec.json.encode(told))
        repeats.say(state, call.agent, call.id, again=again, body=body, final=False)


def to_fail(state: RunState, agent: str, calls: Iterable[GateCall]) -> tuple[list[GateCall], str]:
    """The waiting tool calls of an agent that are to be failed, and why. What runs has its effects, and is let end."""
    waiting = [call for call in calls if call.kind == "tool" and call.stage != "running"]
    why = _broken(state, agent) if waiting else ""
    return (waiting, f"{why}; do something else, or finish") if why else ([], "")


def _broken(state: RunState, agent: str) -> str:
    """Why the call of an agent is failed, once; empty: it is not."""
    each = state.gate.breaks.pop(agent, None)
    return each.why if each is not None and each.until_s > state.now_s else ""


def _let_go(state: RunState, agent: str, incidents: Iterable[str]) -> None:
    held = state.gate.holds.get(agent)
    if held is None:
        return
    for incident in incidents:
        held.pop(incident, None)
    if not held:
        del state.gate.holds[agent]
        if state.watch is not None:
            state.watch.lookout.patience.begins(agent)
        state.gate.released[agent] = None
        state.stirred = True
