"""`supervisor mcp`: MCP servers behind the gate, for any MCP client: over stdio, or over HTTP."""

import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio
import anyio.lowlevel
import click

from crewkeeper_supervisor.cli.failure import FAILED, INVALID, NOT_FOUND, Failure
from crewkeeper_supervisor.cli.output import say
from crewkeeper_supervisor.cli.place_options import opened, place_options

if TYPE_CHECKING:
    from crewkeeper_bus.client import Client
    from crewkeeper_supervisor.mcp.identity import Member
    from crewkeeper_supervisor.mcp.offer import Offer
    from crewkeeper_supervisor.shell.nats_link import Link

_Command = TypeVar("_Command", bound=Callable[..., Any])
_ALLOWED: Final = {"sampling": "sampling/createMessage", "elicitation": "elicitation/create"}


@click.group()
def mcp() -> None:
    """Put MCP servers behind the gate."""


def _server_options(command: _Command) -> _Command:
    """What proxy and gateway have in common."""
    for option in (
        click.option("--agent", metavar="NAME", help="As which agent; default: whose credentials these are."),
        click.option("--run", "run", metavar="RUN", help="Run id, the unique beginning of one, or a crew's name."),
        click.option("--name", metavar="NAME", help="What the gate calls the server: its tools are NAME.TOOL."),
        click.option("--only", default="*", show_default=True, metavar="A,B*", help="Tools to offer at all."),
        click.option(
            "--allow",
            multiple=True,
            type=click.Choice(list(_ALLOWED)),
            help="What the server may ask of the client; may be repeated.",
        ),
        click.option("--strict-pins", is_flag=True, help="Offer only tools that a person has pinned."),
    ):
        command = option(command)
    return command


@mcp.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@_server_options
@place_options
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
def proxy(
    agent: str | None,
    run: str | None,
    name: str | None,
    only: str,
    allow: tuple[str, ...],
    strict_pins: bool,
    state: Path | None,
    nats: str | None,
    command: tuple[str, ...],
) -> None:
    """Run an MCP server over stdio, each call of a tool put to the gate first.

    For the configuration of an MCP client, in place of the server's own command. Credentials are taken from the
    environment (CREWKEEPER_CREDENTIALS); on the machine of the run's host it issues them itself. While the gate cannot
    be asked, tools are listed and every call is refused.

    Exit status: 0 the client has ended it, 1 the server or the supervisor has.
    """
    from crewkeeper_bus import trace_export
    from crewkeeper_supervisor.mcp.gate_door import GateDoor
    from crewkeeper_supervisor.mcp.stdio import log_to_stderr, serve
    from crewkeeper_supervisor.mcp.upstream import Upstream, label_of

    log_to_stderr()
    _check_name(name)
    label = name or label_of(command)
    offer = _offer(state, strict_pins, label, name, only)
    door = GateDoor(_client_of(agent, run, state, nats))
    with trace_export.exported("crewkeeper-mcp", os.environ.get("CREWKEEPER_RUN", "")):
        ended = anyio.run(
            partial(
                serve,
                partial(Upstream, command, label=label),
                offer,
                door,
                allow=tuple(_ALLOWED[each] for each in allow),
            )
        )
    if ended not in ("client", "signal"):
        raise click.exceptions.Exit(FAILED)


def _offer(state: Path | None, strict_pins: bool, label: str, name: str | None, only: str) -> "Offer":
    from crewkeeper_supervisor.mcp.offer import Offer
    from crewkeeper_supervisor.mcp.pins import Pins
    from crewkeeper_supervisor.shell.place import state_dir

    pins = Pins(state_dir(state), strict=strict_pins)
    return Offer(pins, label, prefix=name or "", only=[each.strip() for each in only.split(",")])


def _check_name(name: str | None) -> None:
    from crewkeeper_bus.errors import SubjectError
    from crewkeeper_bus.subjects import check_token

    if name is not None:
        try:
            check_token(name, "name of a server")
        except SubjectError as error:
            raise Failure(str(error), code=INVALID) from None


def _client_of(
    agent: str | None, run: str | None, state: Path | None, nats: str | None
) -> "Callable[[], AbstractAsyncContextManager[Client]]":
    """How a proxy gets a client: by the environment's credentials, or by the state directory's."""
    from crewkeeper_supervisor.mcp.identity import SelfIssued, fixed, given
    from crewkeeper_supervisor.shell.place import state_dir

    identity = given(os.environ, agent, run)
    if identity is not None:
        return partial(fixed, identity)
    named = agent or os.environ.get("CREWKEEPER_AGENT")
    if not named:
        raise Failure("nothing says as which agent", code=INVALID, remedy="--agent NAME, or CREWKEEPER_CREDENTIALS")
    find = partial(_find_member, run or os.environ.get("CREWKEEPER_RUN"), named)
    return SelfIssued(partial(opened, state, nats), find, state_dir(state)).client


async def _find_member(run: str | None, agent: str, link: "Link") -> "Member":
    """Who a proxy is; only an agent that is started elsewhere, so that there is no second one of it."""
    from crewkeeper_bus.errors import ConnectionLost
    from crewkeeper_supervisor.cli.runs import find_run, folded
    from crewkeeper_supervisor.mcp.identity import Member
    from crewkeeper_supervisor.shell.registry import ENDED

    try:
        info = await find_run(link, run)
        if info.state in ENDED:
            raise Failure(f"run {info.run} is over ({info.state})", code=NOT_FOUND)
        found = (await folded(link, info.run)).supervisor.agents.get(agent)
        if found is None:
            raise Failure(f"run {info.run} has no agent {agent[:60]!r}", code=NOT_FOUND)
        if not found.external:
            raise Failure(f"{agent} is started by its host: declare an external agent for the proxy", code=INVALID)
    except Failure as failure:
        raise ConnectionLost(str(failure)) from None
    return Member(info.run, agent, found.role)


@mcp.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--name", metavar="NAME", help="What the gate calls the server: its tools are NAME.TOOL.")
@click.option("--only", default="*", show_default=True, metavar="A,B*", help="Tools to offer at all.")
@click.option("--strict-pins", is_flag=True, help="Offer only tools that a person has pinned.")
@click.option("--upstream", metavar="URL", help="The server, if it is one over HTTP.")
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Where to listen.")
@click.option("--port", default=8931, show_default=True, type=click.IntRange(0, 65535), help="0: any that is free.")
@place_options
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
def gateway(
    name: str | None,
    only: str,
    strict_pins: bool,
    upstream: str | None,
    host: str,
    port: int,
    state: Path | None,
    nats: str | None,
    command: tuple[str, ...],
) -> None:
    """Serve an MCP server over HTTP, each call of a tool put to the gate first.

    A client is the agent whose credentials it brings as a bearer token: RUN.AGENT.PASSWORD, from `supervisor creds
    issue`. The server is a program of this machine, or one over HTTP.
    """
    import importlib.util

    from crewkeeper_bus import trace_export
    from crewkeeper_supervisor.mcp.stdio import log_to_stderr
    from crewkeeper_supervisor.mcp.upstream import label_of
    from crewkeeper_supervisor.shell.place import Place

    if bool(upstream) == bool(command):
        raise click.UsageError("give the server as --upstream URL, or as a command line after --")
    if importlib.util.find_spec("mcp_types") is None:
        raise Failure("MCP over HTTP needs another package", code=INVALID, remedy="pip install 'crewkeeper[mcp]'")
    log_to_stderr()
    _check_name(name)
    label = name or upstream or label_of(command)
    offer = _offer(state, strict_pins, label, name, only)
    with trace_export.exported("crewkeeper-mcp"):
        anyio.run(_serve_gateway, upstream, command, label, offer, Place.find(state, nats).url, host, port)


async def _serve_gateway(
    upstream: str | None, command: tuple[str, ...], label: str, offer: "Offer", url: str, host: str, port: int
) -> None:
    from crewkeeper_supervisor.mcp import gateway
    from crewkeeper_supervisor.mcp.session import Session

    async def nothing_to_do() -> None:
        await anyio.lowlevel.checkpoint()

    behind: gateway.Behind
    if upstream:
        behind = gateway.HttpSession(upstream, offer)
    else:
        behind = Session(command, offer, label=label, on_tools=nothing_to_do)
    await gateway.serve(behind, url, host, port, lambda address: say(f"listening on {address}"))
