"""Gate facts: what happens to calls that were asked for: answers of hosts, proxies, hooks and people, and time."""

from typing import Any, Final

import msgspec
from msgspec import Raw

from crewkeeper_bus.messages import Fault, RestartsExhausted
from crewkeeper_bus.subjects import TOOLS
from crewkeeper_bus.tool_messages import (
    ApprovalAsked,
    ApprovalDecided,
    BudgetChanged,
    CallGivenUp,
    CutTool,
    FleetTold,
    HookAnswered,
    PolicyChanged,
    Proposed,
    Settled,
    ShareLeased,
    SpendAsked,
    Spent,
    Survey,
    ToolRan,
    ToolsGone,
    ToolsNarrowed,
    ToolsReady,
)
from crewkeeper_supervisor.core import allowance, approvals, fleet, gate, gate_holds, settlement
from crewkeeper_supervisor.core.gate_rules import Asked, Refused
from crewkeeper_supervisor.core.gate_state import GateCall
from crewkeeper_supervisor.core.lifecycle import report
from crewkeeper_supervisor.core.roster import AgentView
from crewkeeper_supervisor.core.rules import Rule
from crewkeeper_supervisor.core.state import RunState

UNKNOWN_TOLD_MAX: Final = 8
"""Unknown tools of one proposal that are told of: to say what is alike costs a millisecond for each."""


def stated(state: RunState, message: Any) -> None:
    """The supervisor side states something about calls."""
    match message:
        case ToolRan():
            settlement.tool_ran(state, message)
        case SpendAsked():
            gate.spend_asked(state, message)
        case Spent():
            settlement.spent(state, message)
        case ToolsReady():
            _tools_ready(state, message)
        case ToolsGone():
            if message.host == state.gate.host:
                state.gate.host = ""
                _lost(state, f"the tool host has ended: {message.why}" if message.why else "the tool host has ended")
        case ApprovalAsked():
            state.traced(message.command)
        case ApprovalDecided():
            _take_on(state, approvals.decided(state, message), past_step=False)
        case HookAnswered():
            _hook_answered(state, message)
        case PolicyChanged():
            _policy_changed(state, message)
        case BudgetChanged():
            allowance.changed(state, message)
        case FleetTold():
            fleet.told(state, message)
        case ShareLeased():
            fleet.leased(state, message)
    gate.settle_down(state)


def tools_narrowed(state: RunState, message: ToolsNarrowed) -> None:
    """An agent is left other tools. Calls that wait for more to spend do not look for theirs again; all others do."""
    rules = state.gate.rules
    state.gate.narrowed[message.agent] = message.tools
    for call in [each for each in state.gate.open.values() if each.kind == "tool"]:
        if rules is not None and call.stage in ("asking", "leasing"):
            view = state.agents[call.agent]
            found = rules.find(view.role, state.tools_of(view), call.name)
            if isinstance(found, Refused) and found.code == "unknown_tool":
                gate.refuse(state, call, settlement.fault_of(found))
    gate.settle_down(state)


def settled(state: RunState, view: AgentView, message: Settled, id_: str) -> None:
    """An agent settles a call that it has carried out itself."""
    call = state.gate.open.get((view.name, id_))
    if call is not None and call.stage == "running" and call.is_own and call.via == "agent":
        settlement.settled(state, call, message)
        gate.settle_down(state)
    elif call is not None:
        said = f"{view.name} settled a call that it was not granted"
        report(state, "forgery", said, [view.name], key=f"{view.name} settled")
    elif (ended := state.gate.ended.get(view.name, {}).get(id_)) is not None:
        settlement.say_again(state, view.name, id_, ended)


def given_up(state: RunState, view: AgentView, message: CallGivenUp, id_: str) -> None:
    """A caller no longer waits. What runs is cut, and charged by what its host says, or in full."""
    call = state.gate.open.get((view.name, id_))
    if call is None or call.given_up:
        return
    call.given_up = True
    if call.stage != "running":
        _cancel(state, call, f"its caller has given it up: {message.why}" if message.why else "its caller gave it up")
        gate.settle_down(state)
    elif not call.is_own:
        state.tell_service(TOOLS, CutTool, call=call.id, agent=call.agent, why=message.why)


def proposed(state: RunState, view: AgentView, message: Proposed) -> None:
    """A model wants to call tools: those that do not exist are findings already."""
    if message.unsafe:
        for name in dict.fromkeys(message.tools):
            said = f"{view.name}: the tool {name!r} is withheld: {message.unsafe}"[:300]
            report(state, "malformed", said, [view.name], key=f"{view.name} withholds {name[:64]}")
        return
    rules = state.gate.prepared()
    if rules is None:
        return
    own = state.tools_of(view)
    unknown = [name for name in dict.fromkeys(message.tools) if rules.lacks(view.role, own, name)]
    for name in unknown[:UNKNOWN_TOLD_MAX]:
        found = rules.find(view.role, own, name)
        assert isinstance(found, Refused)
        said = f"{view.name}: {found.text}"[:300]
        report(state, "unknown_tool", said, [view.name], key=f"{view.name} {name[:64]}")


def surveyed(state: RunState, view: AgentView, message: Survey, id_: str) -> None:
    """Which of these could be called at all; while nobody can say, all of them."""
    rules, own = state.gate.prepared(), state.tools_of(view)
    never = []
    for place, name in enumerate(message.names) if rules is not None else ():
        assert rules is not None
        is_tool = message.what == "tool"
        asked = Asked(
            agent=view.name,
            role=view.role,
            hop=message.what,  # type: ignore[arg-type]
            tool=name if is_tool else "",
            to="" if is_tool else name,
        )
        if (is_tool and rules.lacks(view.role, own, name)) or rules.never(asked):
            never.append(place)
    state.answer(view.name, id_, body=Raw(msgspec.json.encode({"never": never})))


def too_large(state: RunState, agent: str, call: str, why: str) -> None:
    """A call that could not even be read: its caller waits for an answer all the same."""
    if (agent, call) in state.gate.open:
        return
    text = f"the call cannot be read: {why}; nothing was executed"[:2000]
    state.answer(agent, call, error=Fault(code="too_large" if "bytes" in why else "bad_arguments", text=text))


def watch(state: RunState) -> None:
    """What only time brings. To be called when the gate's time has come."""
    for call in state.gate.take_due(state.now_s):
        if call.key not in state.gate.open:
            continue
        match call.stage:
            case "running":
                late = f"{call.name} has said nothing for {call.limit_s:g} s; it may have run, and is charged in full"
                settlement.charge_in_full(state, call, Fault(code="tool_timeout", text=late[:2000]))
            case "approval":
                approval = state.gate.approvals[call.approval]
                approvals.close(state, approval, "expired")
                call.given_up = approval.state == "approved"  # and nobody has asked for it again
                gate.advance(state, call)
            case "held" | "starting" | "leasing" | "asking":
                gate.advance(state, call)
            case "hook":
                gate.refuse(state, call, Fault(code="denied", text="a hook of the policy has not answered in time"))
            case _:
                text = f"other calls of {call.name!r} have not ended in time; nothing was run; try later"
                gate.refuse(state, call, Fault(code="rate_limited", text=text))
    gate.settle_down(state)


def rested(state: RunState) -> None:
    """Calls that are held for want of what all crews share may ask for it again."""
    del state.due_s["fleet"]
    state.gate.eased = True
    gate.settle_down(state)


def run_over(state: RunState) -> None:
    """Nothing of the run goes on: what was granted is charged, what waits is refused."""
    for call in list(state.gate.open.values()):
        if call.stage == "running":
            text = "the run has ended before the call was settled; it is charged in full"
            settlement.charge_in_full(state, call, Fault(code="tool_lost", text=text))
        else:
            _cancel(state, call, "the run has ended")
    state.gate.freed.clear()
    fleet.run_over(state)
    gate.settle_down(state)


def shut_out(state: RunState) -> None:
    """Agents are being ended: what they wait for is not going to happen."""
    for call in [call for call in state.gate.open.values() if call.agent in state.gate.shut]:
        if call.stage != "running":
            _cancel(state, call, f"{call.agent} is being ended")
    state.gate.shut.clear()
    gate.settle_down(state)


def released(state: RunState) -> None:
    """Agents may go on, or what they have begun is failed: what becomes of their calls."""
    agents = list(state.gate.released)
    state.gate.released.clear()
    for agent in agents:
        calls = [call for call in state.gate.open.values() if call.agent == agent]
        failed, why = gate_holds.to_fail(state, agent, calls)
        for call in failed:
            _cancel(state, call, why, code="repeated")
        for call in calls:
            if call.stage == "held" and call.key in state.gate.open:
                gate.advance(state, call)
    gate.settle_down(state)


def _cancel(state: RunState, call: GateCall, why: str, code: str = "cancelled") -> None:
    approval = state.gate.approvals.get(call.approval)
    if approval is not None:
        approvals.close(state, approval, "cancelled", reason=why)
    gate.refuse(state, call, Fault(code=code, text=f"the call was not run: {why}"[:2000]))


def _take_on(state: RunState, call: GateCall | None, *, past_step: bool) -> None:
    if call is None:
        return
    call.stage = "new"
    call.due_s = 0.0
    call.step += past_step
    gate.advance(state, call)


def _hook_answered(state: RunState, message: HookAnswered) -> None:
    state.traced(message.command)
    call = state.gate.open.get((message.agent, message.call))
    if call is not None and call.stage == "hook":
        call.hooks[message.hook] = message
        _take_on(state, call, past_step=False)


def _tools_ready(state: RunState, message: ToolsReady) -> None:
    rules = state.gate.prepared()
    if rules is None:
        return
    if state.gate.host and message.host != state.gate.host:
        _lost(state, "the tool host was started anew")
    state.gate.host, state.gate.given_up = message.host, ""
    for problem in rules.tools_ready(message):
        report(state, "malformed", f"tools: {problem}"[:300], [], key=f"tools {problem[:64]}")
    _look_again(state)


def tools_given_up(state: RunState, message: RestartsExhausted) -> None:
    """The host no longer starts a tool host: whoever waits for one is told at once, and people are."""
    often = f"more than {message.intensity} times within {message.period_s:g} s"
    state.gate.host, state.gate.given_up = "", f"the tool host has ended {often} and is not started again"
    said = f"{state.gate.given_up}: every call of its tools is refused"
    report(state, "restart_intensity", said, [], key=TOOLS)
    _lost(state, "the tool host has ended")
    _look_again(state)
    gate.settle_down(state)


def _look_again(state: RunState) -> None:
    """Calls whose tool was not there yet look again."""
    for call in [each for each in state.gate.open.values() if each.stage == "starting"]:
        gate.advance(state, call)


def _lost(state: RunState, why: str) -> None:
    """What a tool host was running is gone with it; whether it had any effect nobody knows."""
    for call in [each for each in state.gate.open.values() if each.stage == "running" and each.host]:
        text = f"{why} while {call.name!r} was running: it may have run, and is not run again"
        settlement.charge_in_full(state, call, Fault(code="tool_lost", text=text[:2000]))


def _policy_changed(state: RunState, message: PolicyChanged) -> None:
    rules = state.gate.prepared()
    if rules is None:
        return
    if problem := rules.policy_changed(message):
        report(state, "malformed", f"new policy: {problem}"[:300], [], key="policy")
        return
    state.gate.judge((msgspec.convert(rule, Rule) for rule in message.rules), message.default)
    calls = [each for each in state.gate.open.values() if each.stage == "approval"]
    for call in calls:
        approval = state.gate.approvals[call.approval]
        if approval.policy != rules.version:
            approvals.close(state, approval, "cancelled", reason="the policy has changed since it was asked")
            _take_on(state, call, past_step=False)
