"""`supervisor creds`: what agents log in with, issued, listed and taken back; keys for an existing cluster."""

import getpass
import re
import shlex
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import anyio
import click
import msgspec

from crewkeeper_supervisor.cli.consent import dry_run_option
from crewkeeper_supervisor.cli.deed import Deed, tell
from crewkeeper_supervisor.cli.failure import INVALID, NOT_FOUND, Failure
from crewkeeper_supervisor.cli.output import emit_document, emit_rows, emit_secret, output_option, say, write
from crewkeeper_supervisor.cli.place_options import opened, place_options
from crewkeeper_supervisor.cli.watching import watch_option

if TYPE_CHECKING:
    from crewkeeper_supervisor.core.roster import AgentView
    from crewkeeper_supervisor.core.supervisor import Supervisor
    from crewkeeper_supervisor.shell.access import Issued
    from crewkeeper_supervisor.shell.authority import Authority
    from crewkeeper_supervisor.shell.nats_link import Link
    from crewkeeper_supervisor.shell.registry import RunInfo
    from crewkeeper_supervisor.views.fold import Fold

NARROW_S: Final = 60.0
"""How long the journal may take to hold which tools an agent is left."""
SEED_MAX_CHARS: Final = 200
"""A signing key has 58; more is read only to refuse it."""
_SPAN = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(s|m|h|d)?\Z")
_UNITS_S: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Span(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    """A span of time such as `90s`, `30m`, `1h` or `7d`; a bare number is seconds."""

    name = "span"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds of the text given."""
        if isinstance(value, float):
            return value
        found = _SPAN.match(str(value))
        if found is None:
            self.fail(f"{str(value)[:40]!r} is no span of time; write 90s, 30m, 1h or 7d", param, ctx)
        return float(found[1]) * _UNITS_S[found[2] or "s"]


class Printed(msgspec.Struct, frozen=True, kw_only=True):
    """All that a NATS client in any language needs to connect as one agent."""

    url: str
    user: str
    password: str
    run: str
    agent: str
    expires_at: float
    """Unix seconds."""


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """Where credentials were written to."""

    file: str
    url: str
    user: str
    run: str
    agent: str
    expires_at: float


class Revoked(msgspec.Struct, frozen=True, kw_only=True):
    """What came of taking credentials back."""

    run: str
    agent: str
    tokens: tuple[str, ...]
    """Ids of those that were in force."""
    connections: int | None
    """How many open connections were closed; null: nothing here can close connections."""
    silent: tuple[str, ...] = ()
    """Servers that did not answer."""


@click.group()
def creds() -> None:
    """Issue, list and revoke what agents log in with."""


def _listed(text: str | None) -> tuple[str, ...] | None:
    """Names of a comma-separated option; None where it was not given."""
    if text is None:
        return None
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


# --- issue ---


@creds.command()
@click.option("--run", "run", metavar="RUN", help="Run id, the unique beginning of one, or a crew's name.")
@click.option("--agent", "agent", required=True, metavar="NAME", help="An agent of that run.")
@click.option("--ttl", type=Span(), default="1h", show_default=True, metavar="SPAN", help="How long it is good for.")
@click.option(
    "--peers", metavar="A,B", help="Agents and roles it may address, '' for none; default: as before, at first any."
)
@click.option("--tools", metavar="A,B", help="Tools it may ask for; the same.")
@click.option("--file", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write them there, mode 0600.")
@dry_run_option
@output_option()
@place_options
def issue(
    run: str | None,
    agent: str,
    ttl: float,
    peers: str | None,
    tools: str | None,
    file: Path | None,
    dry_run: bool,
    output: str,
    state: Path | None,
    nats: str | None,
) -> None:
    """Issue credentials for an agent that is started elsewhere.

    The secret is shown once, here, and kept nowhere. Credentials issued before stay good. --peers and --tools hold for
    the agent, so for all its credentials: --peers from the next login of each on, --tools at once.
    """
    anyio.run(_issue, run, agent, ttl, _listed(peers), _listed(tools), file, dry_run, output, state, nats)


async def _issue(
    run: str | None,
    agent: str,
    ttl_s: float,
    peers: tuple[str, ...] | None,
    tools: tuple[str, ...] | None,
    file: Path | None,
    dry_run: bool,
    output: str,
    state: Path | None,
    nats: str | None,
) -> None:
    from crewkeeper_bus.codec import PAYLOAD_MAX_BYTES
    from crewkeeper_supervisor.cli.runs import find_run, folded
    from crewkeeper_supervisor.core.scope import expand_peers
    from crewkeeper_supervisor.shell.access import Access
    from crewkeeper_supervisor.views.wording import duration

    async with opened(state, nats) as link:
        info = await find_run(link, run)
        _check_active(info)
        fold = await folded(link, info.run)
        supervisor = fold.supervisor
        found = _find_agent(supervisor, info.run, agent)
        await _check_judged(link)
        roles = {name: view.role for name, view in supervisor.agents.items()}
        if peers is not None:
            _check_peers(peers, roles, info.run)
            peers = expand_peers(peers, roles)
        if dry_run:
            text = f"would issue credentials of {agent} in {info.run}, good for {duration(ttl_s)}"
            tell(Deed(action="creds issue", name=agent, run=info.run, ok=True, text=(text,), dry_run=True), output)
            return
        crew, by = supervisor.crew, f"{getpass.getuser()} (supervisor creds)"
        issued = await Access(link).issue(
            info.run,
            agent,
            found.role,
            peers=msgspec.UNSET if peers is None else peers,
            tools=msgspec.UNSET if tools is None else tools,
            ttl_s=ttl_s,
            by=by,
            payload_bytes=PAYLOAD_MAX_BYTES if crew is None else crew.payload_bytes,
        )
        if tools is not None:
            await _narrow(link, fold, agent, tools, by)
    if not found.external:
        say(f"{agent} is started by its host: with these credentials a second {agent} takes the place of the first")
    _show(issued, found.role, file, output)


def _check_active(info: "RunInfo") -> None:
    from crewkeeper_supervisor.shell.registry import ENDED

    if info.state in ENDED:
        raise Failure(f"run {info.run} is over ({info.state}): nobody is let in any more", remedy="supervisor ps")


def _find_agent(supervisor: "Supervisor", run: str, name: str) -> "AgentView":
    from crewkeeper_supervisor.cli.runs import near

    if name in supervisor.agents:
        return supervisor.agents[name]
    instances = [each.name for each in supervisor.agents.values() if each.role == name]
    hint = f"; {name} is a role, its agents are {', '.join(instances[:10])}" if instances else ""
    raise Failure(
        f"run {run} has no agent {name[:60]!r}{hint or near(name, list(supervisor.agents))}",
        code=NOT_FOUND,
        remedy=f"supervisor agent ls {run}, or declare it in the crew file: {{external: true}}",
    )


async def _narrow(link: "Link", fold: "Fold", agent: str, tools: tuple[str, ...], by: str) -> None:
    """Have the gate know what an agent is left before anybody is told its secret: it decides by the journal alone."""
    from crewkeeper_bus.tool_messages import ToolsNarrowed
    from crewkeeper_supervisor.shell import journal

    await journal.publish_op(link, fold.run, ToolsNarrowed(agent=agent, tools=tools, by=by))
    await link.flush()
    with anyio.move_on_after(NARROW_S):
        async with journal.follow(link, fold.run, fold.supervisor.seq + 1) as entries:
            while fold.supervisor.gate.narrowed.get(agent) != tools:
                for entry in await entries.batch():
                    fold.feed(entry)
    if fold.supervisor.gate.narrowed.get(agent) != tools:
        text = f"the journal of {fold.run} has not taken within {NARROW_S:g} s which tools {agent} is left"
        raise Failure(text, remedy="try again: the secret that was issued is known to nobody")


def _check_peers(peers: tuple[str, ...], roles: dict[str, str], run: str) -> None:
    from crewkeeper_supervisor.cli.runs import near

    known = {*roles, *roles.values()}
    for peer in peers:
        if peer not in known:
            raise Failure(f"run {run} has no agent or role {peer[:60]!r}{near(peer, sorted(known))}", code=NOT_FOUND)


async def _check_judged(link: "Link") -> None:
    """Credentials that nobody asks about would look like confinement and be none."""
    from crewkeeper_supervisor.shell import sessions

    if not await sessions.is_there(link):
        raise Failure(
            "no supervisor decides about logins on this server: credentials would be good for nothing here",
            code=INVALID,
            remedy="supervisor creds block, for a cluster of your own; see docs/credentials.md",
        )


def _show(issued: "Issued", role: str, file: Path | None, output: str) -> None:
    given = issued.credentials
    common = {"url": given.url, "user": given.user, "run": issued.run, "agent": issued.agent}
    if file is not None:
        given.to_file(file)
        written = Written(**common, file=str(file), expires_at=issued.expires_at)
        emit_document(written, output, lambda: _file_lines(written, role))
        return
    printed = Printed(**common, password=given.password, expires_at=issued.expires_at)
    emit_secret(printed, output, lambda: _text_lines(issued, role))


def _settings(settings: dict[str, str]) -> list[str]:
    return [f"  export {name}={shlex.quote(value)}" for name, value in settings.items() if value]


def _until(expires_at: float) -> str:
    at = datetime.fromtimestamp(expires_at, UTC)
    return f"good until {at:%Y-%m-%d %H:%M:%S}Z"


def _role(issued_agent: str, role: str) -> dict[str, str]:
    return {"CREWKEEPER_ROLE": role if role != issued_agent else ""}


def _file_lines(written: Written, role: str) -> list[str]:
    named = {"CREWKEEPER_RUN": written.run, "CREWKEEPER_AGENT": written.agent, **_role(written.agent, role)}
    return [
        f"wrote the credentials of {written.agent} in {written.run} to {written.file}, {_until(written.expires_at)}",
        "",
        "An agent built with crewkeeper_agents:",
        *_settings({"CREWKEEPER_CREDENTIALS": str(Path(written.file).absolute()), **named}),
    ]


def _text_lines(issued: "Issued", role: str) -> list[str]:
    given = issued.credentials
    return [
        f"{issued.agent} in {issued.run}, {_until(issued.expires_at)}. This is shown once.",
        "",
        f"  url       {given.url}",
        f"  user      {given.user}",
        f"  password  {given.password}",
        "",
        "An agent built with crewkeeper_agents:",
        *_settings(
            {
                "CREWKEEPER_URL": given.url,
                "CREWKEEPER_USER": given.user,
                "CREWKEEPER_PASSWORD": given.password,
                "CREWKEEPER_SESSION_S": f"{given.session_s:g}" if given.session_s else "",
                "CREWKEEPER_RUN": issued.run,
                "CREWKEEPER_AGENT": issued.agent,
                **_role(issued.agent, role),
            }
        ),
        "Any other NATS client: connect with url, user and password, and speak docs/protocol.md.",
    ]


# --- revoke ---


@creds.command()
@click.argument("run")
@click.argument("agent")
@click.option("--token", metavar="ID", help="Only this one, as `supervisor creds ls -o wide` shows it.")
@dry_run_option
@output_option()
@place_options
def revoke(
    run: str, agent: str, token: str | None, dry_run: bool, output: str, state: Path | None, nats: str | None
) -> None:
    """Take back what an agent logs in with, and close its connections.

    With --token the agent stays: its connections are closed, and whoever has another token in force logs in again.
    """
    anyio.run(_revoke, run, agent, token, dry_run, output, state, nats)


async def _revoke(
    run: str, agent: str, token: str | None, dry_run: bool, output: str, state: Path | None, nats: str | None
) -> None:
    from crewkeeper_supervisor.cli.runs import find_run, near
    from crewkeeper_supervisor.shell.access import Access

    async with opened(state, nats) as link:
        info = await find_run(link, run)
        access = Access(link)
        before = await access.get(info.run, agent) if await access.is_there() else None
        if before is None:
            known = [record.agent for record in await access.ls(info.run)] if await access.is_there() else []
            raise Failure(
                f"nothing was issued to {agent[:60]!r} of {info.run}{near(agent, known)}",
                code=NOT_FOUND,
                remedy=f"supervisor creds ls {info.run}",
            )
        if dry_run:
            text = f"would revoke {token or 'every token'} of {agent} in {info.run}, and close its connections"
            tell(Deed(action="creds revoke", name=agent, run=info.run, ok=True, text=(text,), dry_run=True), output)
            return
        after = await access.revoke(info.run, agent, token)
        result = await _evicted(link.place.authority(), info.run, agent)
    now_s = time.time()
    in_force = {each.id for each in before.tokens if each.in_force(now_s)}
    ended = tuple(each.id for each in after.tokens if each.revoked_at and each.id in in_force)
    revoked = msgspec.structs.replace(result, tokens=ended)
    emit_document(revoked, output, lambda: _revoked_lines(revoked))


async def _evicted(authority: "Authority", run: str, agent: str) -> Revoked:
    from crewkeeper_supervisor.shell import system_link
    from crewkeeper_supervisor.shell.eviction import evict

    if not authority.enforces:
        return Revoked(run=run, agent=agent, tokens=(), connections=None)
    async with system_link.connect(authority.system) as system:
        done = await evict(system, f"{run}.{agent}")
    return Revoked(run=run, agent=agent, tokens=(), connections=done.connections, silent=done.silent)


def _revoked_lines(revoked: Revoked) -> list[str]:
    from crewkeeper_supervisor.core.scope import SESSION_S

    lines = [f"{revoked.agent} of {revoked.run}: {len(revoked.tokens)} tokens revoked"]
    if revoked.connections is None:
        lines.append(
            f"  connections that are open go on for up to {SESSION_S} s: this state directory has no keys to close them"
        )
    else:
        lines.append(f"  {revoked.connections} connections closed")
    if revoked.silent:
        lines.append(
            f"  no answer from {', '.join(revoked.silent)}: what is open there goes on for up to {SESSION_S} s"
        )
    return lines


# --- ls ---


@creds.command()
@click.argument("run", required=False)
@watch_option
@output_option()
@place_options
def ls(run: str | None, output: str, state: Path | None, nats: str | None) -> None:
    """List who may log in as which agent, never with what."""
    anyio.run(_ls, run, output, state, nats)


async def _ls(run: str | None, output: str, state: Path | None, nats: str | None) -> None:
    from crewkeeper_supervisor.cli.runs import find_run
    from crewkeeper_supervisor.shell.access import Access
    from crewkeeper_supervisor.views.credentials import CredentialRow, credential_rows, credentials_table

    async with opened(state, nats, stored=True) as link:
        named = (await find_run(link, run)).run if run else None
        access = Access(link)
        records = await access.ls(named) if await access.is_there() else []
    if named is None:
        records = [record for record in records if not record.over]
    now = datetime.now(UTC)
    rows: list[CredentialRow] = credential_rows(records, now.timestamp())
    emit_rows(
        rows,
        output,
        table=lambda wide: credentials_table(rows, now, wide=wide),
        name=lambda row: f"{row.run}.{row.agent}",
    )


# --- block ---


@creds.command()
@click.option("--account", default="CREWS", show_default=True, help="Account that agents work in.")
@click.option("--auth-account", default="CREWS_AUTH", show_default=True, help="Account that logins are decided in.")
@click.option("--system-account", default="SYS", show_default=True, help="The cluster's system account.")
@click.option("--keep-user", multiple=True, metavar="USER", help="A user that logs in as before; may be repeated.")
@click.option(
    "--state", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Where the keys are kept."
)
def block(account: str, auth_account: str, system_account: str, keep_user: tuple[str, ...], state: Path | None) -> None:
    """Print the block that lets supervisors decide about logins on a cluster of your own.

    The keys for it are made once and stay in the state directory; the block holds public keys only.
    """
    from crewkeeper_supervisor.shell.authority import make_config_block
    from crewkeeper_supervisor.shell.place import state_dir

    directory = state_dir(state)
    text = make_config_block(
        directory,
        account=account,
        auth_account=auth_account,
        system_account=system_account,
        keep_users=keep_user,
    )
    write(text.rstrip("\n"))
    say(f"the keys are in {directory / 'keys'}; every supervisor of this cluster needs them, and nobody else")


# --- signing-key ---


@creds.command(name="signing-key")
@click.option("--account", required=True, metavar="KEY", help="Public key of the account, A….")
@click.option(
    "--seed-file", type=click.File("r"), default="-", metavar="FILE", help="Where the key (SA…) is; default: the input."
)
@click.option("--state", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Where the key is kept.")
def signing_key(account: str, seed_file: IO[str], state: Path | None) -> None:
    """Keep a signing key of an account, where nothing more of a cluster can be had.

    Hosts then sign credentials of 60 s. Nothing can be cut off before they end: `supervisor doctor` says what is not
    enforced. The key is read from a file or the input, never from the command line, which others can read.
    """
    from crewkeeper_supervisor.shell.authority import store_signing_key
    from crewkeeper_supervisor.shell.place import state_dir

    directory = state_dir(state)
    store_signing_key(directory, account=account.strip(), seed=seed_file.read(SEED_MAX_CHARS).strip())
    say(f"the key is in {directory / 'keys'}; start crews with: supervisor up --nats tls://HOST crew.yaml")
