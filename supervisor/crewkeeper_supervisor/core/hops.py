"""Hops: what the policy says of messages between agents, and what can still be done about those it denies.

The journal comes first: when a message is read here it has been delivered. So a denied call is failed for its caller
and cancelled at its callee, who may have begun on it; a denied message is a finding. Nothing here holds one back.
"""

from typing import Any, Final

import msgspec

from crewkeeper_bus.messages import Fault
from crewkeeper_supervisor.core import allowance
from crewkeeper_supervisor.core.gate_rules import Asked, Decided, HookNeeded
from crewkeeper_supervisor.core.lifecycle import report
from crewkeeper_supervisor.core.nodes import Call, Task
from crewkeeper_supervisor.core.roster import AgentView
from crewkeeper_supervisor.core.state import RunState
from crewkeeper_supervisor.core.withdrawal import give_up

_NO_HOOK: Final = "a message cannot wait for the hook"
_NO_APPROVAL: Final = "a message cannot wait for a person; rules about agents allow or deny"


def request_denied(state: RunState, view: AgentView, call: Call, verb: str, body: bytes) -> bool:
    """Judge a call between agents, and fail it if it is denied; returns whether it is."""
    why = _denied(state, view, call.task, call.to, verb, body)
    if why:
        give_up(state, call, why)
        state.graph.call_lost(call.id)
        state.answer(view.name, call.id, error=Fault(code="denied", text=why))
    return bool(why)


def message_judged(state: RunState, view: AgentView, task: str, to: str, body: bytes) -> None:
    """Judge a message between agents: it cannot be taken back, only be known of."""
    _denied(state, view, view.tasks.get(task), to, "", body)


def _denied(state: RunState, view: AgentView, task: Task | None, to: str, verb: str, body: bytes) -> str:
    """Why the policy denies it; empty: it does not."""
    rules = state.gate.prepared()
    if rules is None:
        return ""  # a gate that is shut lets no tool run; agents may still talk
    partner = state.agents.get(to)
    above = allowance.lineage(state, task)
    asked = Asked(
        agent=view.name,
        role=view.role,
        hop="agent",
        to=to,
        to_role=partner.role if partner is not None else to,
        args=_arguments(verb, body),
        crew=state.crew.name if state.crew is not None else "",
        depth=len(above),
        chain=above,
        at_s=state.now_s,
    )
    try:
        decided = rules.decide(asked, {})
    except HookNeeded as needed:
        decided = Decided(effect="deny", version=rules.version, error=f"{_NO_HOOK} {needed.hook}")
    state.gate.count(decided)
    if decided.effect == "allow":
        return ""
    reason = _NO_APPROVAL if decided.effect == "approve" else decided.because or decided.error or "a rule denies it"
    rule = f" (rule {decided.rule})" if decided.rule else ""
    why = f"{view.name} may not say this to {to}: {reason}{rule}"[:2000]
    report(state, "policy_denied", why[:300].partition("\n")[0], [view.name], key=f"{view.name} {to}")
    return why


def _arguments(verb: str, raw: bytes) -> dict[str, Any]:
    """What conditions see as `args`: the fields of the body, or all of it as `body`; and the verb of a call.

    A field of that name in the body of a call is not seen: its callee acts by the verb.
    """
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        body = None
    fields = body if isinstance(body, dict) else {"body": body}
    return {**fields, "verb": verb} if verb else {"verb": "", **fields}
