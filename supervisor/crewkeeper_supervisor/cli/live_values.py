"""Live values: what a shell completes names with, asked from the server at that moment; silent and quick on failure."""

import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from crewkeeper_supervisor.shell.nats_link import Link
    from crewkeeper_supervisor.shell.registry import RunInfo

LIMIT_S: Final = 1.5
"""Somebody has pressed a key and waits: what takes longer is not offered."""
RUNS_MAX: Final = 5
"""Newest runs looked into for incidents and the like where none is named."""

Values = dict[str, str]
"""By name: a few words about it."""


def attach(command: click.Command) -> None:
    """Let the arguments of a command and of everything below it complete live, by what they are called in its help."""
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            attach(inner)
            if command.name == "context" and inner.name != "add":
                _name_contexts(inner)
    for param in command.params:
        kind = _kind(param)
        if kind == "incident" and command.name in ("ack", "resolve"):
            kind = "open_incident"
        if kind:
            param._custom_shell_complete = _completer(kind)


def _name_contexts(command: click.Command) -> None:
    for param in command.params:
        if param.name == "name":
            param._custom_shell_complete = _completer("context")


def _kind(param: click.Parameter) -> str:
    if isinstance(param, click.Option):
        return _OPTIONS.get(param.opts[-1].lstrip("-"), "") if not isinstance(param.type, click.Choice) else ""
    words = re.findall("[a-z]+", (param.metavar or param.name or "").lower())
    for kind in ("incident", "approval", "question", "agent", "controller", "code", "topic", "run"):
        if kind in words or f"{kind}s" in words:
            return kind
    return ""


_OPTIONS: Final = {
    "context": "context",
    "run": "run",
    "agent": "agent",
    "with": "agent",
    "type": "type",
    "family": "family",
}
"""What the values of options are, by their names."""


def _completer(kind: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        given = ctx.params.get(param.name or "") or ()
        before = given[-1] if isinstance(given, tuple) and given else ""
        found = _found(kind, ctx, str(before))
        begin = incomplete.lower()
        return [CompletionItem(name, help=text) for name, text in found.items() if name.lower().startswith(begin)]

    return complete


def _found(kind: str, ctx: click.Context, before: str) -> Values:
    """The names of a kind; none, if anything at all is in the way: a shell has no place for errors."""
    try:
        if kind == "context":
            from crewkeeper_supervisor.shell import contexts

            return dict.fromkeys(contexts.ls(), "")
        if kind in _FIXED:
            return _FIXED[kind]()
        return _asked(kind, ctx, before)
    except Exception:  # noqa: BLE001 - a completion that fails offers nothing
        return {}


def _codes() -> Values:
    from crewkeeper_supervisor.cli import codes

    return {each.code: each.family for each in codes.codes()}


def _families() -> Values:
    from crewkeeper_supervisor.cli import codes

    return codes.about()


def _topics() -> Values:
    from crewkeeper_supervisor.cli.cheat import SHEET

    return dict.fromkeys(SHEET, "")


def _types() -> Values:
    from crewkeeper_supervisor.views.entry import entry_types

    return dict.fromkeys(entry_types(), "")


_FIXED: Final[dict[str, Callable[[], Values]]] = {
    "code": _codes,
    "family": _families,
    "topic": _topics,
    "type": _types,
}
"""By kind: names that are the same everywhere."""


def _asked(kind: str, ctx: click.Context, before: str) -> Values:
    import logging

    import anyio

    from crewkeeper_supervisor.cli.place_options import opened
    from crewkeeper_supervisor.shell.registry import Registry

    logging.disable(logging.CRITICAL)

    async def ask() -> Values:
        with anyio.move_on_after(LIMIT_S):
            async with opened(ctx.params.get("state"), ctx.params.get("nats")) as link:
                runs = await Registry(link).ls()
                return await _OF[kind](link, runs, before)
        return {}

    return anyio.run(ask)


async def _runs(_link: "Link", runs: "list[RunInfo]", _before: str) -> Values:
    return {info.run: f"{info.crew}, {info.state}" for info in reversed(runs)}


async def _controllers(link: "Link", _runs: "list[RunInfo]", _before: str) -> Values:
    from crewkeeper_supervisor.shell import members

    return {each.name: f"{each.state}, {each.count} runs" for each in await members.ls(link)}


def _meant(runs: "list[RunInfo]", before: str) -> "list[RunInfo]":
    """The runs that names are looked up in: the one named before, else those that are active."""
    from crewkeeper_supervisor.shell.registry import ENDED

    named = [info for info in runs if before and (info.run.startswith(before) or info.crew == before)]
    return (named or [info for info in runs if info.state not in ENDED] or runs)[-RUNS_MAX:]


async def _agents(link: "Link", runs: "list[RunInfo]", before: str) -> Values:
    """Agents, and where none is named yet the runs, which may stand before one."""
    from crewkeeper_supervisor.cli.runs import folded

    meant = _meant(runs, before)
    found: Values = {}
    for info in meant:
        core = (await folded(link, info.run)).supervisor
        found |= {agent.name: f"{agent.status} in {info.run}" for agent in core.agents.values()}
    return found if before else found | await _runs(link, meant, before)


def _inside(pick: Callable[[Any], Values]) -> Callable[["Link", "list[RunInfo]", str], Awaitable[Values]]:
    async def inside(link: "Link", runs: "list[RunInfo]", before: str) -> Values:
        from crewkeeper_supervisor.cli.runs import folded

        found: Values = {}
        for info in _meant(runs, before):
            found |= pick((await folded(link, info.run)).supervisor)
        return found

    return inside


def _incidents(core: Any) -> Values:
    return {each.id: f"{each.finding.kind}, {each.state}" for each in core.incidents.values()}


def _open_incidents(core: Any) -> Values:
    return {each.id: each.finding.kind for each in core.incidents.values() if each.state != "resolved"}


def _approvals(core: Any) -> Values:
    return {each.id: f"{each.agent}: {each.tool}" for each in core.gate.approvals.values() if each.state == "pending"}


def _questions(core: Any) -> Values:
    return {each.id: each.agent for each in core.questions.values()}


_OF: Final[dict[str, Callable[["Link", "list[RunInfo]", str], Awaitable[Values]]]] = {
    "run": _runs,
    "agent": _agents,
    "controller": _controllers,
    "incident": _inside(_incidents),
    "open_incident": _inside(_open_incidents),
    "approval": _inside(_approvals),
    "question": _inside(_questions),
}
