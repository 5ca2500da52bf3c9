"""Gate: whether a call of a tool or a model happens. Every step is decided while a journal entry is handled.

A call goes through `_STEPS` in their order. A step lets it pass, refuses it, or makes it wait; what it waited for takes
it on from the next step. Only the last step makes anything happen, and by then what it may cost is reserved. So the
decision is the same wherever the journal is folded, and cannot race with another: there is no second writer.
"""

import hashlib
from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec
from msgspec import Raw

from crewkeeper_bus.messages import Fault
from crewkeeper_bus.subjects import MODEL, TOOLS
from crewkeeper_bus.tool_messages import ModelCall, RunTool, SpendAsked, SpendGranted, SpendRefused, ToolCall, Withhold
from crewkeeper_supervisor.core import allowance, approvals, budget, fleet, gate_holds, nudges, repeats, settlement
from crewkeeper_supervisor.core.budget import FLEET, Amounts, Shortage
from crewkeeper_supervisor.core.findings import FindingKind
from crewkeeper_supervisor.core.gate_rules import Asked, GateRules, HookNeeded, Refused
from crewkeeper_supervisor.core.gate_state import OPEN_MAX, Ended, GateCall
from crewkeeper_supervisor.core.lifecycle import report
from crewkeeper_supervisor.core.roster import AgentView
from crewkeeper_supervisor.core.state import RunState

START_S: Final = 30.0
"""How long a call waits for its tool to be there."""
QUEUE_S: Final = 60.0
"""How long a call waits for others of its tool to end."""
HOOK_GRACE_S: Final = 2.0
GRACE_S: Final = 5.0
"""After the time-out of a granted call, which whoever carries it out keeps, before it is taken for lost."""
MODEL_LIMIT_S: Final = 900.0
READ_LIMIT_S: Final = 60.0
"""How long reading a resource or fetching a prompt may take."""
_LIMITS_S: Final = {"model": MODEL_LIMIT_S, "resource": READ_LIMIT_S, "prompt": READ_LIMIT_S}

_FINDINGS: Final[dict[str, FindingKind]] = {
    "unknown_tool": "unknown_tool",
    "bad_arguments": "bad_arguments",
    "too_large": "bad_arguments",
    "denied": "policy_denied",
    "call_id_reused": "malformed",
}

Verdict = Fault | Literal["wait"] | None
"""Of one step: refused, waits, passes."""


# --- asking ---


def called(state: RunState, view: AgentView, message: ToolCall, id_: str) -> None:
    """An agent wants a tool to run."""
    raw = bytes(message.args) if message.unsent is None else message.unsent.text.encode("utf-8", "replace")
    kind = b"" if message.what == "tool" else message.what.encode() + b"\0"
    call = GateCall(
        agent=view.name,
        id=id_,
        inc=message.inc,
        task=message.task,
        kind=message.what,  # type: ignore[arg-type]
        via="agent",
        name=message.tool,
        digest=hashlib.sha256(kind + message.tool.encode() + b"\0" + raw).hexdigest(),
        args=_decoded(raw),
        args_bytes=len(raw),
        wants_inside=message.inside,
        unsent=message.unsent,
        opened_s=state.now_s,
        until_s=None if message.deadline_s is None else state.now_s + message.deadline_s,
        trace=message.trace,
    )
    _take(state, view, call)


def modelled(state: RunState, view: AgentView, message: ModelCall, id_: str) -> None:
    """An agent is about to call a model by itself."""
    _take(state, view, _model_call(state, view, message, id_, message.inc))


def spend_asked(state: RunState, message: SpendAsked) -> None:
    """The model proxy asks for an agent."""
    view = state.agents.get(message.agent)
    if view is not None:
        state.gate.proxied[view.name] = None
        _take(state, view, _model_call(state, view, message, message.call, ""))


def _model_call(state: RunState, view: AgentView, message: ModelCall | SpendAsked, id_: str, inc: str) -> GateCall:
    asked = [message.model, message.digest, message.input_tokens, message.max_output_tokens]
    return GateCall(
        agent=view.name,
        id=id_,
        inc=inc,
        task=message.task,
        kind="model",
        via="agent" if inc else "proxy",
        name=message.model,
        digest=hashlib.sha256(msgspec.json.encode(asked)).hexdigest(),
        content=message.digest,
        input_tokens=message.input_tokens,
        output_tokens=message.max_output_tokens,
        opened_s=state.now_s,
    )


def _decoded(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return None  # no mapping, which is what the check will say


def _take(state: RunState, view: AgentView, call: GateCall) -> None:
    gate = state.gate
    known, ended = gate.open.get(call.key), settlement.told_of(state, view, call)
    if (known or ended) is not None and call.digest != (known or ended).digest:  # type: ignore[union-attr]
        text = f"the call id {call.id} was used for another call; make a new id for each call"
        _tell(state, call, Fault(code="call_id_reused", text=text))
        report(state, "malformed", f"{view.name}: {text}", [view.name], key=f"{view.name} call id")
    elif known is not None:
        _again(state, known, call)
    elif ended is not None:
        _told_again(state, call, ended)
    elif gate.open_of.get(call.agent, 0) >= OPEN_MAX:
        _tell(state, call, Fault(code="rate_limited", text=f"{OPEN_MAX} calls are open; wait for some to end"))
    else:
        gate.opened(call)
        if state.watch is not None:
            state.watch.opened(call)
        advance(state, call)
        settle_down(state)


def _again(state: RunState, known: GateCall, call: GateCall) -> None:
    """The same call again while it is open: its caller may not have heard what it was told, or be another by now."""
    known.inc = known.inc if known.stage == "running" else call.inc
    if known.stage == "approval":
        if approvals.asked_again(state, known, call.until_s):
            advance(state, known)
            settle_down(state)
    elif known.stage == "held":
        gate_holds.say(state, known, again=True)
    elif known.stage == "running" and known.is_own:
        if known.inc == call.inc:
            _say_granted(state, known, None)
        else:
            text = "an earlier run of this agent was granted the call and may have carried it out; it is not run again"
            _tell(state, call, Fault(code="tool_lost", text=text))


def _told_again(state: RunState, call: GateCall, ended: Ended) -> None:
    if call.via == "agent":
        settlement.say_again(state, call.agent, call.id, ended)
    else:
        error = ended.error or Fault(code="call_id_reused", text="the call is over; make a new id for each call")
        _tell(state, call, error)


def _tell(state: RunState, call: GateCall, fault: Fault) -> None:
    """Refuse what is not even a call of its own, without changing the one it is mistaken for."""
    booking = settlement.booked(state, call, "refuse", amounts={}, code=fault.code)
    if call.via == "agent":
        state.answer(call.agent, call.id, error=fault, booking=booking)
    else:
        state.tell_service(MODEL, SpendRefused, booking=booking, call=call.id, agent=call.agent, fault=fault)


# --- deciding ---


def advance(state: RunState, call: GateCall) -> None:
    """Take a call on through the steps, until one refuses it or makes it wait."""
    steps = _STEPS[call.kind]
    rules = state.gate.prepared()
    if call.stage == "held":  # rules may have changed meanwhile: what was decided, or approved, is judged again
        call.step = min(call.step, steps.index(_is_allowed))
    while call.step < len(steps):
        verdict = steps[call.step](state, rules, call) if rules is not None else _shut(state)
        if isinstance(verdict, Fault):
            refuse(state, call, verdict)
            return
        if verdict == "wait":
            return
        call.step += 1


def refuse(state: RunState, call: GateCall, fault: Fault) -> None:
    """The call does not happen; where that is a finding, policy hears of it."""
    kind = _FINDINGS.get(fault.code)
    if kind is not None:
        said = f"{call.agent}: {fault.text}"[:300].partition("\n")[0]
        report(state, kind, said, [call.agent], key=f"{call.agent} {call.name[:64]}")
    settlement.refuse(state, call, fault, _amounts(state.gate.rules, call, state.now_s))


def settle_down(state: RunState) -> None:
    """Let those go on who waited for others to end, or for more to spend. To be called after anything has ended."""
    gate = state.gate
    while gate.freed or (gate.eased and gate.asking):
        if gate.freed:
            declared = next(iter(gate.freed))
            del gate.freed[declared]
            _next_in_line(state, declared)
        else:
            gate.eased = False
            for key in list(gate.asking):
                call = gate.open[key]
                del gate.asking[key]
                advance(state, call)
    gate.eased = False
    fleet.order(state)
    due_s = gate.next_due_s()
    if due_s is None:
        state.due_s.pop("gate", None)
    else:
        state.due_s["gate"] = due_s


def _next_in_line(state: RunState, declared: str) -> None:
    use = state.gate.use(declared)
    while use.queue:
        call = state.gate.open.get(use.queue[0])
        if call is None or call.stage != "queued":
            use.queue.pop(0)
            continue
        assert call.tool is not None
        if use.running >= call.tool.concurrency:
            return
        use.queue.pop(0)
        advance(state, call)


def _shut(state: RunState) -> Fault:
    return Fault(code="gate_closed", text=f"no call is let through: {state.gate.closed}")


def _is_open(state: RunState, rules: GateRules, call: GateCall) -> Verdict:
    if call.given_up or state.agents[call.agent].ending is not None:
        return Fault(code="cancelled", text="nobody waits for the call any more; it was not run")
    if state.phase not in ("starting", "running"):
        return Fault(code="gate_closed", text=f"no call is let through: the crew is {state.phase}")
    over = allowance.overdue(state, state.agents[call.agent])
    return Fault(code="budget_spent", text=f"{over}; answer with what you have") if over else None


def _is_free(state: RunState, rules: GateRules, call: GateCall) -> Verdict:
    return gate_holds.passes(state, call)


def _is_known(state: RunState, rules: GateRules, call: GateCall) -> Verdict:
    view = state.agents[call.agent]
    found = rules.find(view.role, state.tools_of(view), call.name)
    if isinstance(found, Refused):
        return settlement.fault_of(found)
    if found != "later":
        call.declared, call.tool, call.inside = found.declared, found.tool, found.tool.inside
    if state.gate.given_up and (found == "later" or not call.inside):
        text = f"{call.name!r} cannot be run: {state.gate.given_up}; nothing was executed: do without tools"
        return Fault(code="gate_closed", text=text)
    if found == "later" or not (call.inside or state.gate.host):
        if call.stage == "starting" and call.due_s <= state.now_s:
            return Fault(code="tool_lost", text=f"{call.name!r} is not there: nothing has started it; nothing was run")
        if call.stage != "starting":
            state.gate.wait(call, "starting", state.now_s + START_S)
        return "wait"
    return None


def _fits(state: RunState, rules: GateRules, call: GateCall) -> Verdict:
    assert call.tool is not None
    if (misfit := call.misfit()) is not None:
        return misfit
    if call.args_bytes > call.tool.args_bytes:
        text = f"the arguments of {call.name!r} have {call.args_bytes} bytes; the limit is {call.tool.args_bytes}"
        return Fault(code="too_large", text=f"{text}: send less, or a reference; nothing was executed")
    wrong = rules.check(call.name, call.args)
    return None if wrong is None else settlement.fault_of(wrong)


def _is_in_rate(state: RunState, rules: GateRules, call: GateCall) -> Verdict:
    assert call.tool is not None
    use = state.gate.use(call.declared)
    if use.rests_until_s > state.now_s:
        rest_s = use.rests_until_s - state.now_s
        text = f"{call.name!r} has failed too often in a row and rests for {rest_s:.0f} s more; do without it for now"
        return Fault(code="circuit_open", text=text)
    if not use.admits(call.tool.rate, state.now_s):
        assert call.tool.rate is not None
        limit = f"{call.tool.rate.calls} calls in {call.tool.rate.per_s:g} s"
        return Fault(
            code="rate_limited", text=f"{call.name!r} may be called no more often than {limit}; wait, or do without"
        )
    return None


def _is_allowed(state: RunState, rules: GateRules, call: GateCall) -> Verdict:
    view = state.agents[call.agent]
    amounts = _amounts(rules, call, state.now_s)
    above = allowance.lineage(state, view.tasks.get(call.task))
    asked = Asked(
        agent=view.name,
        role=view.role,
        hop=call.kind,
        tool=call.name if call.kind == "tool" else "",
        to=call.name if call.kind != "tool" else "",
        args=call.args if isinstance(call.args, dict) else {},
        crew=state.crew.name if state.crew is not None else "",
        task=call.task,
        depth=len(above),
        chain=above,
        cost_microusd=amounts.get("microusd", 0),
        at_s=call.opened_s,
    )
    try:
        decided = rules.decide(asked, call.hooks)
    except HookNeeded as needed:
        state.ask_hook(agent=call.agent, call=call.id, hook=needed.hook, deadline_s=needed.deadline_s, asked=asked)
        state.gate.wait(call, "hook", state.now_s + needed.deadline_s + HOOK_GRACE_S)
        return "wait"
    call.decided = decided
    state.gate.count(decided)
    if decided.effect == "deny":
        what = f"the {call.kind}"
        rule = f" (rule {decided.rule})" if decided.rule else ""
        why = decided.because or decided.error or "a rule denies it"
        return Fault(
            code="denied",
            text=f"{what} {call.name[:500]!r} may not be called so: {why}{rule}; nothing was executed"[:2000],
        )
    if decided.redactions and call.kind != "model":
        call.args = rules.clean(call.args, decided)
    return None


def _is_approved(state: RunState, rules: GateRules, call: GateCall) -> Verdict:
    assert call.decided is not None
    if call.decided.effect != "approve":
        return None
    if not call.approval:
        approvals.ask(state, call, _amounts(rules, call, state.now_s).get("microusd", 0))
        return "wait"
    approval = state.gate.approvals[call.approval]
    if approval.state == "approved" and approval.policy != rules.version:
        approval.state, approval.reason = "cancelled", "the policy has changed since it was asked"
    return None if approval.state == "approved" else approvals.fault(approval)


def _has_slot(state: RunState, rules: GateRules, call: GateCall) -> Verdict:
    assert call.tool is not None
    use = state.gate.use(call.declared)
    if use.running < call.tool.concurrency:
        use.running += 1
        call.has_slot = True
        return None
    if len(use.queue) >= OPEN_MAX:
        return Fault(code="rate_limited", text=f"{OPEN_MAX} calls of {call.name!r} wait already; try later")
    use.queue.append(call.key)
    state.gate.wait(call, "queued", state.now_s + QUEUE_S)
    return "wait"


def _is_affordable(state: RunState, rules: GateRules, call: GateCall) -> Verdict:
    view = state.agents[call.agent]
    nudges.carry(state, call)
    amounts = _amounts(rules, call, state.now_s)
    call.path = allowance.path_of(state, view, call.task)
    lacking = budget.reserve(call.path, amounts)
    if lacking is not None and lacking.account != FLEET and call.kind == "model":
        lacking = _hand_back(state, call, amounts, lacking)
    if lacking is None:
        call.held = amounts
        allowance.watch(state, call.agent, call.path)
        return None
    if lacking.account == FLEET:
        if fleet.lease(state, call, amounts):
            return "wait"
        why = fleet.refuse(state, call.agent, amounts, lacking.dimension)
    else:
        account = next(each for each in call.path if each.name == lacking.account)
        allowance.spent(state, call.agent, account, lacking.dimension)
        why = lacking.text()
    ask_s = state.crew.budget.ask_s if state.crew is not None else 0.0
    if ask_s > 0 and (call.stage != "asking" or state.now_s < call.due_s):
        _ask_for_more(state, call, ask_s, why)
        return "wait"
    return Fault(code="budget_spent", text=f"{why}; nothing was executed: answer with what you have")


def _hand_back(state: RunState, call: GateCall, amounts: Amounts, lacking: Shortage) -> Shortage | None:
    """Grant a call as the agent's last one, out of what is kept for that; returns what is lacking if it cannot be."""
    mine = state.gate.accounts.agents[call.agent]
    if mine.handed_back or not any(each.hand_back_percent for each in call.path):
        return lacking
    still = budget.reserve(call.path, amounts, hand_back=True)
    mine.handed_back = call.last = still is None
    return still if still is None or still.account == FLEET else lacking


def _ask_for_more(state: RunState, call: GateCall, ask_s: float, why: str) -> None:
    state.gate.asking[call.key] = None
    if call.stage == "asking":
        return
    state.gate.wait(call, "asking", state.now_s + ask_s)
    if call.via == "proxy":
        state.tell_service(MODEL, Withhold, call=call.id, agent=call.agent, why=why[:2000])
    else:
        told = {"pending": "budget", "why": why, "for_s": ask_s}
        state.answer(call.agent, call.id, body=Raw(msgspec.json.encode(told)), final=False)


def _grant(state: RunState, rules: GateRules, call: GateCall) -> Verdict:
    limit_s = _LIMITS_S.get(call.kind, 0.0) if call.tool is None else call.tool.timeout_s
    if call.until_s is not None:
        limit_s = max(0.1, min(limit_s, call.until_s - state.now_s))
    call.limit_s = round(limit_s, 3)
    state.gate.wait(call, "running", state.now_s + limit_s + GRACE_S)
    booking = settlement.booked(state, call, "reserve", amounts=call.held)
    if call.is_own:
        _say_granted(state, call, booking)
        return None
    call.host = state.gate.host
    state.tell_service(
        TOOLS,
        RunTool,
        booking=booking,
        call=call.id,
        agent=call.agent,
        tool=call.name,
        args=Raw(msgspec.json.encode(call.args)),
        limit_s=call.limit_s,
        host=call.host,
        trace=call.trace,
    )
    return None


def _say_granted(state: RunState, call: GateCall, booking: Any) -> None:
    if call.via == "proxy":
        fields: dict[str, Any] = {"max_output_tokens": call.output_tokens, "limit_s": call.limit_s, "last": call.last}
        if call.decided is not None and call.decided.redactions:
            fields["redact"] = tuple(dict.fromkeys(word for _, what in call.decided.redactions for word in what))
        if call.nudges:
            fields["nudges"] = nudges.texts(state, call)
        state.tell_service(MODEL, SpendGranted, booking=booking, call=call.id, agent=call.agent, **fields)
        return
    told: dict[str, Any] = {"grant": call.id, "limit_s": call.limit_s}
    told |= {"args": call.args} if call.kind != "model" else {"last": call.last}
    fields = {"body": Raw(msgspec.json.encode(told)), "inc": call.inc} | ({"booking": booking} if booking else {})
    repeats.say(state, call.agent, call.id, again=booking is None, **fields)


def _is_mapping(state: RunState, rules: GateRules, call: GateCall) -> Verdict:
    if call.unsent is not None or isinstance(call.args, dict):
        return call.misfit()
    return Fault(code="bad_arguments", text=f"the arguments of the {call.kind} are no mapping; nothing was executed")


def _is_priced(state: RunState, rules: GateRules, call: GateCall) -> Verdict:
    price = rules.reserve(call.name, call.input_tokens, call.output_tokens, call.opened_s)
    return settlement.fault_of(price) if isinstance(price, Refused) else None


def _amounts(rules: GateRules | None, call: GateCall, now_s: float) -> Amounts:
    """The most that a call can spend, as far as that is known."""
    if call.kind in ("resource", "prompt"):
        return {}
    if call.kind == "tool":
        cost = call.tool.cost_microusd if call.tool is not None else 0
        return {"tool_calls": 1} | ({"microusd": cost} if cost else {})
    price = rules.reserve(call.name, call.input_tokens, call.output_tokens, call.opened_s) if rules is not None else 0
    spent = {
        "microusd": price if isinstance(price, int) else 0,
        "model_calls": 1,
        "input_tokens": call.input_tokens,
        "output_tokens": call.output_tokens,
        "tokens": call.input_tokens + call.output_tokens,
    }
    return {dimension: amount for dimension, amount in spent.items() if amount}


_Step = Callable[[RunState, GateRules, GateCall], Verdict]
_LAST: Final[tuple[_Step, ...]] = (_is_affordable, _grant)
_READING: Final = (_is_open, _is_free, _is_mapping, _is_allowed, _is_approved, _is_free, _is_open, *_LAST)
# Time may have passed before the last steps: whether anybody still wants it, and the tool is there, is asked again.
_STEPS: Final[dict[str, tuple[_Step, ...]]] = {
    "tool": (
        *(_is_open, _is_free, _is_known, _fits, _is_in_rate, _is_allowed, _is_approved),
        *(_is_free, _has_slot, _is_open, _is_known, *_LAST),
    ),
    "model": (_is_open, _is_free, _is_priced, _is_allowed, _is_approved, _is_free, _is_open, *_LAST),
    "resource": _READING,
    "prompt": _READING,
}
