"""Sentences about calls of tools and models, budgets and approvals: the gate's part of the story."""

from typing import Any, Final, Literal

import msgspec

from crewkeeper_bus import messages as m
from crewkeeper_bus import tool_messages as t
from crewkeeper_supervisor.core.budget import amount
from crewkeeper_supervisor.core.events import Recorded
from crewkeeper_supervisor.views.wording import safe

Weight = Literal["detail", "normal", "good", "bad"]
Told = tuple[str, Weight] | None

_DECISIONS: Final = {"approve": "approves", "deny": "denies", "cancel": "cancels"}


def told(event: Recorded) -> Told:
    """The sentence for a message of the gate; None: it is none of its."""
    message, who, to = event.message, safe(event.sender), safe(event.to)
    asked = _asked(who, message)
    return asked or _ordered(to, message) or _stated(message)


def replied(to: str, message: m.SupervisorReply) -> Told:
    """The sentence for an answer that the gate gave to a call; None: it is another kind of answer."""
    body = None if isinstance(message.body, msgspec.UnsetType) else message.body
    if body is None or message.error is not None:
        return None
    try:
        said = msgspec.json.decode(body)
    except msgspec.MsgspecError:
        return None
    if not isinstance(said, dict):
        return None
    if not message.final:
        waits = (
            "for more to spend" if said.get("pending") == "budget" else f"for approval {safe(str(said.get('pending')))}"
        )
        return f"{to}'s call waits {waits}", "normal"
    if "grant" in said:
        return f"{to} may go on with its call {safe(said['grant'])}", "normal"
    return None


def _asked(who: str, message: Any) -> Told:
    match message:
        case t.ToolCall(tool=tool, what=kind) if kind != "tool":
            return f"{who} wants the {kind} {safe(tool)!r}", "normal"
        case t.Survey(names=names, what=kind):
            return f"{who} asks which of {len(names)} {kind}s it could call", "detail"
        case t.ToolCall(tool=tool):
            return f"{who} calls the tool {safe(tool)!r}", "normal"
        case t.ModelCall(model=model):
            return f"{who} wants to call the model {safe(model)}", "normal"
        case t.Settled(ok=ok):
            return f"{who} has carried out its call{'' if ok else ', which failed'}", "detail"
        case t.CallGivenUp():
            return f"{who} gives up its call", "normal"
        case t.Proposed(tools=tools, unsafe=why) if why:
            return f"{who} withholds {safe(', '.join(tools))}: {safe(why)}", "normal"
        case t.Proposed(tools=tools):
            return f"{who}'s model proposes {safe(', '.join(tools))}", "detail"
    return None


def _ordered(to: str, message: Any) -> Told:
    match message:
        case t.RunTool(tool=tool, agent=agent):
            return f"lets {safe(agent)}'s call of {safe(tool)!r} run", "normal"
        case t.CutTool(agent=agent):
            return f"has a call of {safe(agent)} cut", "normal"
        case t.SpendGranted(agent=agent):
            return f"lets {safe(agent)} call its model", "normal"
        case t.SpendRefused(agent=agent, fault=fault):
            return f"refuses {safe(agent)} its model: {safe(fault.text)}", "bad"
        case t.Withhold(agent=agent, why=why):
            return f"keeps {safe(agent)}'s call of a model waiting: {safe(why)}", "normal"
        case t.SpendBooked(agent=agent):
            return f"books what {safe(agent)}'s model has cost", "detail"
    return None


def _stated(message: Any) -> Told:
    match message:
        case t.ToolsReady(tools=tools, failed=failed):
            without = f", not {safe(', '.join(failed))}" if failed else ""
            return f"tools are ready: {safe(', '.join(tools)) or 'none'}{without}", "bad" if failed else "normal"
        case t.ToolsGone(why=why):
            return f"the tool host has ended{f': {safe(why)}' if why else ''}", "bad"
        case t.ToolRan(agent=agent, ok=ok, error=error, took_ms=took_ms):
            return f"a tool of {safe(agent)} {'ran' if ok else 'failed: ' + safe(error)} ({took_ms} ms)", "detail"
        case t.SpendAsked(agent=agent, model=model):
            return f"{safe(agent)} wants to call the model {safe(model)}", "normal"
        case t.Spent(agent=agent, input_tokens=read, output_tokens=written):
            return f"{safe(agent)}'s model used {read + written} tokens", "detail"
        case _:
            return _of_people(message)


def _of_people(message: Any) -> Told:
    match message:
        case t.ApprovalAsked(approval=approval, agent=agent, tool=tool):
            return f"{safe(agent)}'s call of {safe(tool)!r} needs approval {safe(approval)}", "bad"
        case t.ApprovalDecided(approval=approval, decision=decision, by=by, reason=reason):
            because = f": {safe(reason)}" if reason else ""
            return f"{safe(by)} {_DECISIONS[decision]} {safe(approval)}{because}", "normal"
        case t.PolicyChanged(version=version, by=by):
            return f"{safe(by) or 'somebody'} changes the policy to {safe(version[:8])}", "normal"
        case t.BudgetChanged(agent=agent, dimension=dimension, limit=limit, add=add, by=by):
            what = (
                f"by {amount(dimension, add)}" if add else "away" if limit is None else f"to {amount(dimension, limit)}"
            )
            return f"{safe(by) or 'somebody'} sets the limit of {safe(agent) or 'the crew'} {what}", "normal"
        case t.HookAnswered(hook=hook, answer=answer):
            return f"the hook {safe(hook)} says {answer}", "detail"
    return None
