"""Plans: what running a crew would start, declare and hold to, in words; nothing is started or asked here."""

import shlex
from collections.abc import Callable, Iterable

from crewkeeper_supervisor.core.budget import SPENT, amount
from crewkeeper_supervisor.core.crew import Agent, Budget, Crew, Response, Responses, Webhook
from crewkeeper_supervisor.core.tools import Tool
from crewkeeper_supervisor.shell.crew_variables import names_in
from crewkeeper_supervisor.views.hooks import shown
from crewkeeper_supervisor.views.tables import Table, plain_lines
from crewkeeper_supervisor.views.wording import duration, safe


def crew_lines(crew: Crew, is_set: Callable[[str], bool]) -> list[str]:
    """What a run of this crew would be.

    Args:
        crew: The crew as declared.
        is_set: Whether a variable of the environment, of which webhooks and their secrets are made, is set.
    """
    facts = [
        ("tools", "; ".join(_tool(name, tool) for name, tool in crew.tools.items())),
        ("models", _models(crew)),
        ("budget", _budget(crew.budget) or "no limit"),
        ("rules", f"{len(crew.rules)}, otherwise {crew.policy_default}" if crew.rules else ""),
        ("findings", "; ".join(_responses(crew.responses))),
        ("people", _people(crew)),
        ("told", "; ".join(_receiver(hook, is_set) for hook in crew.escalate)),
    ]
    agents = plain_lines(_agents(crew.agents))
    width = max(len(name) for name, _ in facts)
    return [
        f"crew {safe(crew.name)}: {safe(crew.objective) or 'no objective'}",
        *(f"  {line}" for line in agents),
        *(f"  {name.ljust(width)}  {text}" for name, text in facts if text),
    ]


def _agents(agents: Iterable[Agent]) -> Table:
    rows = tuple(
        (
            safe(each.name) + (f" x{each.replicas}" if each.replicas > 1 else ""),
            "started elsewhere" if each.external else safe(shlex.join(each.run), 60),
            "anybody" if each.may_call is None else safe(", ".join(each.may_call), 60) or "nobody",
            safe(", ".join(each.tools), 60) or "-",
            _restart(each),
            _budget(each.budget) if each.budget is not None else "-",
        )
        for each in agents
    )
    return Table(columns=("AGENT", "RUNS", "MAY CALL", "TOOLS", "RESTART", "BUDGET"), rows=rows)


def _restart(agent: Agent) -> str:
    rule = agent.restart
    if agent.external:
        return "-"
    return (
        rule.policy if rule.policy == "temporary" else f"{rule.policy}, {rule.intensity} in {duration(rule.period_s)}"
    )


def _tool(name: str, tool: Tool) -> str:
    if tool.mcp:
        return f"{safe(name)} (MCP: {safe(' '.join(tool.mcp), 60)})"
    if tool.command:
        return f"{safe(name)} ({safe(' '.join(tool.command), 60)})"
    return f"{safe(name)} (in the agent)" if tool.inside else f"{safe(name)} ({safe(tool.function, 60)})"


def _models(crew: Crew) -> str:
    proxy = crew.model_proxy
    if proxy is None:
        return ""
    named = [name for name, each in (("openai", proxy.openai), ("anthropic", proxy.anthropic)) if each is not None]
    return f"through a proxy at {safe(proxy.listen)} to {', '.join(named)}"


def _budget(budget: Budget) -> str:
    limits = [(name, getattr(budget, name)) for name in SPENT]
    told = [amount(name, limit) for name, limit in limits if limit is not None]
    shape = [("depth", budget.depth), ("fan-out", budget.fan_out)]
    told += [f"{name} {limit}" for name, limit in shape if limit is not None]
    return ", ".join([*told, duration(budget.wall_s)] if budget.wall_s is not None else told)


def _responses(responses: Responses) -> list[str]:
    """What is done about deadlocks, and about whatever the crew file says otherwise than usual."""
    usual = Responses()
    told = [
        f"{name.replace('_', ' ')}: {_response(getattr(responses, name))}"
        for name in responses.__struct_fields__
        if name == "deadlock" or getattr(responses, name) != getattr(usual, name)
    ]
    return [*told, "the others as usual"] if len(told) < len(responses.__struct_fields__) else told


def _response(response: Response) -> str:
    return f"{'would ' if response.shadow else ''}{', '.join(response.do)}"


def _people(crew: Crew) -> str:
    asks = any(rule.do == "approve" for rule in crew.rules)
    if not asks and not crew.approval_listen:
        return ""
    where = f", with forms at {safe(crew.approval_url or crew.approval_listen)}" if crew.approval_listen else ""
    return f"{safe(crew.approval_who)} has {duration(crew.approval_s)} to approve{where}"


def _receiver(hook: Webhook, is_set: Callable[[str], bool]) -> str:
    variables = names_in(hook.webhook, hook.secret, hook.previous_secret, hook.routing_key)
    known = all(is_set(each) for each in variables)
    where = shown(hook) + (f" ({'set' if known else 'NOT SET'})" if variables else "")
    after = f", if nobody acknowledges within {duration(hook.after_s)}" if hook.after_s else ""
    return f"{where} as {hook.format}{after}"
