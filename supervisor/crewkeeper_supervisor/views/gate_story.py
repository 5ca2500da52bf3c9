"""Sentences about calls of tools and models, budgets and approvals: the gate's part of the story."""

from collections import OrderedDict
from typing import Any, Final, Literal

import msgspec

from crewkeeper_bus import messages as m
from crewkeeper_bus import tool_messages as t
from crewkeeper_supervisor.core.budget import amount
from crewkeeper_supervisor.core.events import Recorded
from crewkeeper_supervisor.views.wording import duration, safe

Weight = Literal["detail", "normal", "good", "bad"]
Told = tuple[str, Weight] | None

REMEMBERED_CALLS_MAX: Final = 10_000
_CARRIED_OUT: Final = ("tool_failed", "tool_timeout", "tool_lost")
"""Ends of calls that were let through."""
_DECISIONS: Final = {"approve": "approves", "deny": "denies", "cancel": "cancels"}


class GateStory:
    """Tells what becomes of calls; it remembers what they are calls of, to name that in later sentences."""

    def __init__(self) -> None:
        self._calls: OrderedDict[tuple[str, str], str] = OrderedDict()

    def told(self, event: Recorded) -> Told:
        """The sentence for a message of the gate; None: it is none of its."""
        message, who = event.message, safe(event.sender)
        if isinstance(message, t.ToolCall | t.ModelCall) and (event.sender, event.id) in self._calls:
            return f"{who} asks again what becomes of its call of {self._calls[event.sender, event.id]}", "detail"
        match message:
            case t.ToolCall(tool=tool):
                self._remember(event.sender, event.id, repr(safe(tool)))
            case t.ModelCall(model=model):
                self._remember(event.sender, event.id, f"the model {safe(model)}")
        return self._asked(who, event.id, message) or self._ordered(message) or self._stated(message)

    def replied(self, event: Recorded, message: m.SupervisorReply) -> Told:
        """The sentence for an answer that the gate gave to a call; None: it is another kind of answer."""
        to, what = safe(event.to), self._calls.get((event.to, event.id))
        if what is None:
            return None
        if message.error is not None:
            code, text = message.error.code, _in_one_line(message.error.text)
            if code in _CARRIED_OUT:
                return f"{to}'s call of {what} has failed ({safe(code)}): {text}", "normal"
            return f"refuses {to}'s call of {what} ({safe(code)}): {text}", "normal"
        said = _said(message)
        why = safe(str(said.get("why", "")))
        match said.get("pending") if not message.final else None:
            case None:
                pass
            case "held":
                return f"holds {to}'s call of {what}{f': {why}' if why else ''}", "normal"
            case "budget":
                return f"holds {to}'s call of {what} until there is more to spend{f': {why}' if why else ''}", "bad"
            case approval:
                return f"{to} is told that its call of {what} waits for approval {safe(str(approval))}", "detail"
        if said.keys() >= {"grant", "limit_s"}:
            return f"lets {to} carry out its call of {what}", "normal"
        if said.keys() >= {"settled", "cost_microusd"}:
            return f"books what {to}'s call of {what} has cost", "detail"
        return f"{to} has the result of {what}", "normal"

    def _remember(self, agent: str, call: str, what: str) -> None:
        self._calls[agent, call] = what
        if len(self._calls) > REMEMBERED_CALLS_MAX:
            self._calls.popitem(last=False)

    def _call(self, agent: str, call: str) -> str:
        what = self._calls.get((agent, call))
        return f"{safe(agent)}'s call" + (f" of {what}" if what is not None else "")

    def _asked(self, who: str, call: str, message: Any) -> Told:
        match message:
            case t.ToolCall(tool=tool):
                return f"{who} calls the tool {safe(tool)!r}", "normal"
            case t.ModelCall(model=model):
                return f"{who} wants to call the model {safe(model)}", "normal"
            case t.Settled(ok=ok, error=error):
                failed = f" and failed: {safe(error)}" if error else " and failed"
                return f"{self._call(who, call)} was carried out{'' if ok else failed}", "detail"
            case t.CallGivenUp(why=why):
                return f"{who} gives up its call{f': {safe(why)}' if why else ''}", "normal"
            case t.Proposed(tools=tools, unsafe=why) if why:
                return f"{who} withholds {safe(', '.join(tools))}: {safe(why)}", "normal"
            case t.Proposed(tools=tools):
                return f"{who}'s model proposes {safe(', '.join(tools))}", "detail"
        return None

    def _ordered(self, message: Any) -> Told:
        match message:
            case t.RunTool(tool=tool, agent=agent):
                return f"lets {safe(agent)}'s call of {safe(tool)!r} run", "normal"
            case t.CutTool(agent=agent, call=call, why=why):
                return f"cuts {self._call(agent, call)}{f': {safe(why)}' if why else ''}", "normal"
            case t.SpendGranted(agent=agent, last=last):
                out_of = ", for the last time: its budget is spent" if last else ""
                return f"lets {safe(agent)} call its model{out_of}", "normal"
            case t.SpendRefused(agent=agent, fault=fault):
                why = f"({safe(fault.code)}): {_in_one_line(fault.text)}"
                return f"refuses {safe(agent)}'s call of a model {why}", "bad"
            case t.Withhold(agent=agent, why=why):
                return f"keeps {safe(agent)}'s call of a model waiting: {safe(why)}", "normal"
            case t.SpendBooked(agent=agent):
                return f"books what {safe(agent)}'s model has cost", "detail"
        return None

    def _stated(self, message: Any) -> Told:
        match message:
            case t.ToolsReady(tools=tools, failed=failed):
                without = "".join(f"; {safe(name)} cannot be had: {safe(why)}" for name, why in failed.items())
                return f"tools are ready: {safe(', '.join(tools)) or 'none'}{without}", "bad" if failed else "normal"
            case t.ToolsGone(why=why):
                return f"the tool host has ended{f': {safe(why)}' if why else ''}", "bad"
            case t.ToolRan(agent=agent, call=call, ok=ok, error=error, took_ms=took_ms):
                came = "ran" if ok else f"failed: {safe(error)}"
                return f"{self._call(agent, call)} {came} ({took_ms} ms)", "detail"
            case t.SpendAsked(agent=agent, model=model):
                return f"{safe(agent)} wants to call the model {safe(model)}", "normal"
            case t.Spent(agent=agent, input_tokens=read, output_tokens=written):
                return f"{safe(agent)}'s model used {read + written} tokens", "detail"
            case t.FleetTold() | t.ShareLeased():
                return _of_fleet(message)
            case _:
                return _of_people(message)


def _of_fleet(message: t.FleetTold | t.ShareLeased) -> Told:
    match message:
        case t.FleetTold(limits=limits, by=by):
            told = ", ".join(amount(*each) for each in limits.items()) or "no limit"
            return f"what all crews together may spend, as set by {safe(by) or 'somebody'}: {told}", "detail"
        case t.ShareLeased(lacking=lacking, left=left, limits=limits) if lacking:
            rest = amount(lacking, left.get(lacking, 0))
            return (
                f"all crews together have {rest} left of {amount(lacking, limits.get(lacking, 0))}: not enough",
                "normal",
            )
        case t.ShareLeased(closed=True):
            return "what the crew has spent is in the books of all crews", "detail"
        case t.ShareLeased(leased=leased, limits=limits):
            told = ", ".join(amount(name, leased.get(name, 0)) for name in limits) or "whatever it likes"
            return f"of what all crews share this one may spend {told}", "detail"


def _of_people(message: Any) -> Told:
    match message:
        case t.ApprovalAsked(approval=approval, agent=agent, tool=tool):
            return f"{safe(agent)}'s call of {safe(tool)!r} needs approval {safe(approval)}", "bad"
        case t.ApprovalDecided(approval=approval, decision=decision, by=by, reason=reason):
            because = f": {safe(reason)}" if reason else ""
            return f"{safe(by)} {_DECISIONS[decision]} {safe(approval)}{because}", "normal"
        case t.PolicyChanged(version=version, by=by):
            return f"{safe(by) or 'somebody'} changes the policy to {safe(version[:8])}", "normal"
        case t.ToolsNarrowed(agent=agent, tools=tools, by=by):
            left = ", ".join(safe(tool) for tool in tools) or "no tool"
            return f"{safe(by) or 'somebody'} leaves {safe(agent)} {left}", "normal"
        case t.BudgetChanged(agent=agent, dimension=dimension, limit=limit, add=add, by=by, why=why):
            who, whose, because = safe(by) or "somebody", safe(agent) or "the crew", f": {safe(why)}" if why else ""
            if add:
                return f"{who} allows {whose} {_limit(dimension, add)} more{because}", "normal"
            if limit is None:
                what = "usd" if dimension == "microusd" else dimension.removesuffix("_s").replace("_", " ")
                return f"{who} takes away the limit of {what} of {whose}{because}", "normal"
            return f"{who} sets the limit of {whose} to {_limit(dimension, limit)}{because}", "normal"
        case t.HookAnswered(hook=hook, answer=answer):
            return f"the hook {safe(hook)} says {answer}", "detail"
    return None


def _limit(dimension: str, value: int) -> str:
    return f"{duration(value)} of time" if dimension == "wall_s" else amount(dimension, value)


def _in_one_line(text: str) -> str:
    """A refusal without the schema that it repeats for models."""
    first, *more = [line for line in text.split("\n") if line and not line.startswith("Expected:")] or [""]
    return safe("; ".join([first.rstrip(".") if more else first, *(line.removeprefix("- ") for line in more)]), 400)


def _said(message: m.SupervisorReply) -> dict[str, Any]:
    """The body of an answer, where it is an object."""
    if isinstance(message.body, msgspec.UnsetType):
        return {}
    try:
        found = msgspec.json.decode(message.body)
    except msgspec.MsgspecError:
        return {}
    return found if isinstance(found, dict) else {}
