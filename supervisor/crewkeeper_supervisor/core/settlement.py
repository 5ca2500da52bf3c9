"""Settlement: how calls of the gate end, what they are charged, and what their callers are told.

Every end is one command with its booking: an answer to the agent or to the model proxy. What nobody settles is charged
in full when its time is over, because it may have been spent.
"""

from typing import Any, Final, Literal

import msgspec
from msgspec import Raw

from crewkeeper_bus.messages import Fault, OnAll, OnSome, OnTool
from crewkeeper_bus.subjects import MODEL, TOOLS
from crewkeeper_bus.tool_messages import CutTool, Settled, SpendBooked, SpendRefused, Spent, ToolRan
from crewkeeper_supervisor.core import allowance, budget, nudges, repeats
from crewkeeper_supervisor.core.booking import Booking, balances
from crewkeeper_supervisor.core.budget import Amounts
from crewkeeper_supervisor.core.conditions import AnyCondition
from crewkeeper_supervisor.core.gate_rules import Refused
from crewkeeper_supervisor.core.gate_state import Ended, GateCall
from crewkeeper_supervisor.core.roster import AgentView
from crewkeeper_supervisor.core.state import RunState

TEXT_MAX_CHARS: Final = 2000

_LOST: Final = Fault(code="peer_gone", text="the call was lost on its way to the gate; nothing was run; ask again")
Act = Literal["reserve", "settle", "expire", "release", "refuse"]


def booked(
    state: RunState, call: GateCall, act: Act, *, amounts: Amounts, freed: Amounts | None = None, code: str = ""
) -> Booking:
    """The booking of what has just been done to the accounts."""
    decided, noted = call.decided, state.gate.noted
    state.gate.noted = {}
    return Booking(
        act=act,
        agent=call.agent,
        call=call.id,
        task=call.task,
        what=call.name[:200],
        amounts=amounts,
        freed=freed or {},
        noted=noted,
        accounts=tuple(account.name for account in call.path),
        balances=balances(call.path),
        policy=decided.version if decided is not None else "",
        rule=decided.rule if decided is not None else "",
        warned=decided.warned if decided is not None else (),
        shadow=decided.shadow if decided is not None else (),
        approval=call.approval,
        by=call.approved_by,
        last=call.last,
        code=code,
    )


def refuse(state: RunState, call: GateCall, fault: Fault, asked: Amounts) -> None:
    """The call does not happen. Nothing was executed, nothing is charged."""
    finish(state, call, fault, None, booked(state, call, "refuse", amounts=asked, code=fault.code))


def finish(state: RunState, call: GateCall, error: Fault | None, body: Raw | None, booking: Booking) -> None:
    """The call is over: whoever asked is told, now and whenever it asks again."""
    gate = state.gate
    if state.watch is not None:
        state.watch.called(call, error, body)
    gate.over(call, Ended(digest=call.digest, error=error, body=body))
    gate.asking.pop(call.key, None)
    gate.fleet.waiting.pop(call.key, None)
    if call.nudges:
        nudges.carried(state, call, forwarded=call.stage == "running" and booking.act != "release")
    state.graph.asked_of.pop(f"{call.agent}/{call.id}", None)
    if call.has_slot:
        gate.use(call.declared).running -= 1
        gate.freed[call.declared] = None
    if booking.freed:
        gate.eased = True
    if call.via == "agent":
        state.answer(call.agent, call.id, error=error, body=body, booking=booking)
    elif error is not None:
        state.tell_service(MODEL, SpendRefused, booking=booking, call=call.id, agent=call.agent, fault=error)
    else:
        state.tell_service(MODEL, SpendBooked, booking=booking, call=call.id, agent=call.agent)


def say_again(state: RunState, agent: str, call: str, ended: Ended) -> None:
    """Repeat the answer to a call that is over."""
    if ended.forgotten:
        fault = Fault(code="tool_lost", text="the call is over, and its answer is no longer kept; it was not run again")
        repeats.tell(state, agent, call, error=fault)
    else:
        repeats.tell(state, agent, call, error=ended.error, body=ended.body)


def remind(state: RunState, agent: str, call: str) -> bool:
    """An agent still waits for a call: say again what it was told, or that nobody knows of it. False: it is open."""
    if (agent, call) in state.gate.open:
        return False
    ended = state.gate.ended.get(agent, {}).get(call)
    if ended is not None:
        say_again(state, agent, call, ended)
    elif repeats.tell(state, agent, call, error=_LOST):
        state.gate.told_as_lost(agent, call)
    return True


def told_of(state: RunState, view: AgentView, call: GateCall) -> Ended | None:
    """What the caller of a call was told of its end, if it has ended.

    A call that was told as lost may come yet: said again before its caller had heard. Then nothing is run for it, as
    was said. Once its caller has stopped waiting, it asks anew.
    """
    lost = state.gate.lost.get(call.agent, {})
    if call.id not in lost:
        return state.gate.ended.get(call.agent, {}).get(call.id)
    task = view.tasks.get(call.task)
    if task is not None and task.wait is not None and _is_for(task.wait.condition, call.id):
        return Ended(digest=call.digest, error=_LOST)
    del lost[call.id]
    return None


def _is_for(condition: AnyCondition, call: str) -> bool:
    if isinstance(condition, OnAll | OnSome):
        return any(_is_for(part, call) for part in condition.of)
    return isinstance(condition, OnTool) and condition.call == call


# --- ends ---


def tool_ran(state: RunState, message: ToolRan) -> None:
    """The tool host says how a call ended. What is not open, or not its, is nothing new."""
    call = state.gate.open.get((message.agent, message.call))
    if call is None or call.stage != "running" or call.kind != "tool" or call.inside:
        return
    assert call.tool is not None  # it was granted
    spent = {
        "microusd": call.tool.cost_microusd if message.cost_microusd is None else message.cost_microusd,
        "tool_calls": 1,
        "input_tokens": message.input_tokens,
        "output_tokens": message.output_tokens,
        "tokens": message.input_tokens + message.output_tokens,
    }
    code = "" if message.ok else message.code or "tool_failed"
    body: Raw | None = None
    error = None if message.ok else Fault(code=code, text=_cut(message.error or f"{call.name} failed"))
    if message.ok:
        body, error = _result(state, call, message.result)
    state.gate.use(call.declared).ended("" if code == "too_large" else code, state.now_s)
    _settle(state, call, spent, error, body)


def settled(state: RunState, call: GateCall, message: Settled) -> None:
    """An agent says what became of a call that it was granted and has carried out itself."""
    tokens = (message.input_tokens, message.output_tokens, message.cached_tokens)
    call.made_tokens = message.output_tokens
    if call.kind == "model":
        spent = _model_spent(state, call, call.name, (*tokens, 0, 0))
    elif call.kind != "tool":
        spent = {"microusd": 0}
    else:
        assert call.tool is not None
        # The agent cannot make a tool cheaper than it was declared to be.
        cost = max(call.tool.cost_microusd, message.cost_microusd or 0)
        spent = {"microusd": cost, "tool_calls": 1} | _tokens(*tokens)
    told: dict[str, Any] = {"settled": True, "ok": message.ok, "cost_microusd": spent["microusd"]}
    if not isinstance(message.result, msgspec.UnsetType):
        told["result"] = message.result
    if message.error:
        told["error"] = message.error
    _settle(state, call, spent, None, Raw(msgspec.json.encode(told)))


def spent(state: RunState, message: Spent) -> None:
    """The model proxy says what the provider has reported."""
    call = state.gate.open.get((message.agent, message.call))
    if call is None or call.via != "proxy" or call.stage != "running":
        return
    if not message.forwarded:
        budget.settle(call.path, call.held, {})
        booking = booked(state, call, "release", amounts={}, freed=call.held)
        finish(state, call, None, None, booking)
        return
    call.made_tokens = message.output_tokens
    if message.estimated:
        _settle(state, call, call.held, None, None)
        return
    written = (message.cache_write_tokens, message.cache_write_1h_tokens)
    tokens = (message.input_tokens, message.output_tokens, message.cached_tokens, *written)
    _settle(state, call, _model_spent(state, call, message.model or call.name, tokens), None, None)


def charge_in_full(state: RunState, call: GateCall, fault: Fault) -> None:
    """Nobody says what the call has cost: it may have happened, so it is charged what was held for it."""
    if call.stage == "running" and not call.is_own:
        state.tell_service(TOOLS, CutTool, call=call.id, agent=call.agent, why=_cut(fault.text))
        state.gate.use(call.declared).ended(fault.code, state.now_s)
    budget.settle(call.path, call.held, call.held)
    booking = booked(state, call, "expire", amounts=call.held, freed=call.held, code=fault.code)
    finish(state, call, fault, None, booking)


def _settle(state: RunState, call: GateCall, spent: Amounts, error: Fault | None, body: Raw | None) -> None:
    spent = {dimension: amount for dimension, amount in spent.items() if amount}
    budget.settle(call.path, call.held, spent)
    code = error.code if error is not None else ""
    allowance.watch(state, call.agent, call.path)
    view = state.agents.get(call.agent)
    task = view.tasks.get(call.task) if view is not None else None
    if task is not None:
        task.tokens += spent.get("tokens", 0)
    for usage in [state.usage] if view is None else [state.usage, view.usage]:
        usage.add(spent.get("input_tokens", 0), spent.get("output_tokens", 0), spent.get("microusd", 0))
    finish(state, call, error, body, booked(state, call, "settle", amounts=spent, freed=call.held, code=code))


def _model_spent(state: RunState, call: GateCall, model: str, tokens: tuple[int, int, int, int, int]) -> Amounts:
    """What a model call is charged: by the model that answered where that is known, else by the one asked for."""
    rules = state.gate.rules
    cost = None
    if rules is not None:
        cost = rules.cost(model, tokens, state.now_s)
        if cost is None:
            cost = rules.cost(call.name, tokens, state.now_s)
    if cost is None:
        cost = call.held.get("microusd", 0)
    return {"microusd": cost, "model_calls": 1} | _tokens(*tokens[:3])


def _tokens(given: int, made: int, cached: int) -> Amounts:
    return {"input_tokens": given, "output_tokens": made, "cached_tokens": cached, "tokens": given + made}


def _result(state: RunState, call: GateCall, result: Any) -> tuple[Raw | None, Fault | None]:
    """A tool's result as its caller may have it."""
    tool, decided, rules = call.tool, call.decided, state.gate.rules
    assert tool is not None  # it was granted
    raw = bytes(result) if not isinstance(result, msgspec.UnsetType) else b"null"
    if len(raw) > tool.result_bytes:
        text = f"{call.name} has run, but its result has {len(raw)} bytes; the limit is {tool.result_bytes}"
        return None, Fault(code="too_large", text=f"{text}: ask for less")
    if decided is not None and rules is not None and decided.redactions:
        value = msgspec.json.decode(raw)
        cleaned = rules.clean_result(value, decided)
        if cleaned != value:
            raw = msgspec.json.encode(cleaned)
    return Raw(raw), None


def fault_of(refused: Refused) -> Fault:
    """What a caller is told of a refusal by the rules."""
    return Fault(code=refused.code, text=_cut(refused.text))


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_MAX_CHARS else text[: TEXT_MAX_CHARS - 1] + "…"
