"""Approvals: a person decides on exactly one call.

An approval is bound to the digest of what would be run, to the version of the policy that asks, and to a time. It
counts once; whatever does not match decides nothing. The agent that asks has no part in it: decisions come from the
supervisor side alone.
"""

import hashlib
from typing import Any, Final

import msgspec
from msgspec import Raw

from crewkeeper_bus.messages import Fault
from crewkeeper_bus.subjects import MODEL
from crewkeeper_bus.tool_messages import ApprovalDecided, Withhold
from crewkeeper_supervisor.core import repeats
from crewkeeper_supervisor.core.gate_state import APPROVALS_MAX, Approval, ApprovalState, GateCall
from crewkeeper_supervisor.core.state import RunState

TOLD_MAX: Final = 20
"""Pending approvals of a run that people are told of one by one; who is asked more often only looks away."""
_STATES: Final[dict[str, ApprovalState]] = {"approve": "approved", "deny": "denied", "cancel": "cancelled"}
_CODES: Final = {"denied": "approval_denied", "expired": "approval_expired", "cancelled": "cancelled"}


def ask(state: RunState, call: GateCall, cost_microusd: int) -> None:
    """Let a person decide on a call; it waits."""
    assert call.decided is not None
    assert state.crew is not None
    args = Raw(msgspec.json.encode(call.args))
    digest = digest_of(state.run, call, call.decided.version)
    expires_s = state.crew.approval_s
    id_ = state.ask_approval(
        agent=call.agent,
        call=call.id,
        tool=call.name,
        args=args,
        digest=digest,
        policy=call.decided.version,
        rule=call.decided.rule,
        because=call.decided.because[:2000],
        who=state.crew.approval_who,
        cost_microusd=cost_microusd,
        expires_s=expires_s,
    )
    call.approval = id_
    state.gate.approvals[id_] = Approval(
        id=id_,
        agent=call.agent,
        call=call.id,
        tool=call.name,
        digest=digest,
        policy=call.decided.version,
        rule=call.decided.rule,
        because=call.decided.because,
        args=args,
        cost_microusd=cost_microusd,
        who=state.crew.approval_who,
        asked_at_s=state.now_s,
        expires_at_s=state.now_s + expires_s,
    )
    _forget_old(state)
    state.graph.asked_of[f"{call.agent}/{call.id}"] = state.crew.approval_who
    state.gate.wait(call, "approval", state.now_s + expires_s)
    say_pending(state, call)
    if state.crew.escalate and sum(each.state == "pending" for each in state.gate.approvals.values()) <= TOLD_MAX:
        state.gate.approvals[id_].told = True
        state.escalate(id_, "asked", describe(state, state.gate.approvals[id_]))


def describe(state: RunState, approval: Approval) -> dict[str, Any]:
    """What a person needs to know before deciding, as plain data: the body of an escalation."""
    return {
        "kind": "approval",
        "id": f"{state.run}.{approval.id}",
        "approval": approval.id,
        "crew": state.crew.name if state.crew is not None else "",
        "objective": state.crew.objective if state.crew is not None else "",
        "summary": f"{approval.agent} wants to call {approval.tool!r}, and a person has to decide",
        "agent": approval.agent,
        "tool": approval.tool,
        "args": msgspec.json.decode(approval.args),
        "digest": approval.digest,
        "policy": approval.policy,
        "rule": approval.rule,
        "because": approval.because,
        "who": approval.who,
        "cost_microusd": approval.cost_microusd,
        "began_s": approval.asked_at_s,
        "expires_s": approval.expires_at_s,
        "look": f"supervisor approvals show {state.run} {approval.id}",
    }


def _over(state: RunState, approval: Approval) -> dict[str, Any]:
    """What people are told when there is nothing to decide any more."""
    by = f" by {approval.by}" if approval.by else ""
    why = f": {approval.reason}" if approval.reason else ""
    return {
        "kind": "approval",
        "approval": approval.id,
        "state": approval.state,
        "summary": f"{approval.agent}'s call of {approval.tool!r}: {approval.state}{by}{why}",
        "agent": approval.agent,
        "tool": approval.tool,
        "by": approval.by,
        "began_s": approval.asked_at_s,
        "look": f"supervisor approvals show {state.run} {approval.id}",
    }


def say_pending(state: RunState, call: GateCall, *, again: bool = False) -> None:
    """Tell whoever asked that a person has to decide first."""
    if call.via == "proxy":
        state.tell_service(MODEL, Withhold, call=call.id, agent=call.agent, why=f"waits for approval {call.approval}")
        return
    body = Raw(msgspec.json.encode({"pending": call.approval}))
    repeats.say(state, call.agent, call.id, again=again, body=body, final=False)


def digest_of(run: str, call: GateCall, policy: str) -> str:
    """What exactly is approved: SHA-256 over run, agent, call, tool, arguments and policy version."""
    facts = [run, call.agent, call.id, call.kind, call.name, call.args, call.input_tokens, call.output_tokens, policy]
    return hashlib.sha256(msgspec.json.encode(facts, order="deterministic")).hexdigest()


def decided(state: RunState, message: ApprovalDecided) -> GateCall | None:
    """A person has decided. Returns the call that may go on, or is to be refused; None: nothing was decided by it."""
    approval = state.gate.approvals.get(message.approval)
    if approval is None or approval.state != "pending" or message.digest != approval.digest:
        return None
    if state.now_s >= approval.expires_at_s and message.decision != "cancel":
        return None  # it has expired; that it has is decided by the clock
    close(state, approval, _STATES[message.decision], message.by, message.reason)
    call = state.gate.open.get((approval.agent, approval.call))
    if call is None or call.approval != approval.id or call.stage != "approval":
        return None
    call.approved_by = message.by
    if call.until_s is not None and call.until_s <= state.now_s:
        # Its caller waits no more, but may ask again; what the caller carries out itself goes on only then.
        call.until_s = None
        return None if call.is_own and message.decision == "approve" else call
    return call


def asked_again(state: RunState, call: GateCall, until_s: float | None) -> bool:
    """A caller asks again about a call that waits for a person. True: it was approved meanwhile, and may go on."""
    call.until_s = until_s
    if state.gate.approvals[call.approval].state == "approved":
        return True
    say_pending(state, call, again=True)
    return False


def close(state: RunState, approval: Approval, end: ApprovalState, by: str = "", reason: str = "") -> None:
    """An approval is no longer pending."""
    if approval.state != "pending":
        return
    approval.state, approval.by, approval.reason, approval.decided_at_s = end, by, reason, state.now_s
    state.graph.asked_of.pop(f"{approval.agent}/{approval.call}", None)
    if approval.told:
        state.escalate(approval.id, "resolved", _over(state, approval))


def fault(approval: Approval) -> Fault:
    """The answer to a call that was not approved."""
    who = f" by {approval.by}" if approval.by else ""
    why = f": {approval.reason}" if approval.reason else ""
    said = {
        "denied": f"the call of {approval.tool!r} was denied{who}{why}",
        "expired": f"nobody has decided on the call of {approval.tool!r} in time; it was not run",
        "cancelled": f"the request to approve the call of {approval.tool!r} was cancelled{who}{why}; it was not run",
    }
    return Fault(code=_CODES[approval.state], text=said[approval.state][:2000])


def _forget_old(state: RunState) -> None:
    known = state.gate.approvals
    if len(known) > APPROVALS_MAX:
        over = (id_ for id_, each in known.items() if (each.agent, each.call) not in state.gate.open)
        old = next(over, None)
        if old is not None:
            del known[old]
