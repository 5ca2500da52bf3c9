"""Doctor's checks of crew files: whether they are valid, and whether the people they name could be reached.

Nothing is sent to a webhook: its host is connected to, and its certificate looked at, as far as the crew file allows.
"""

import contextlib
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import anyio
from anyio.streams.tls import TLSStream

from crewkeeper_supervisor.cli.doctor_check import Check
from crewkeeper_supervisor.shell.crew_variables import filled, names_in

if TYPE_CHECKING:
    from crewkeeper_supervisor.core.crew import Webhook

REACH_LIMIT_S: Final = 10.0
_ENCRYPTED: Final = "webhook: https://HOST/PATH  # in the crew file"
_ELSEWHERE: Final = "webhook: https://HOST/PATH, or allow_private: true beside it  # in the crew file"
_ROTATION: Final = "supervisor hooks rotate"
_SIGNED: Final = ("standard", "cloudevents", "alertmanager")
"""Formats whose receivers can tell who calls; the services of the others do not look."""


async def crew_checks(file: Path) -> list[Check]:
    """Whether a crew file is valid, and its webhooks could be called."""
    from crewkeeper_supervisor.shell.crew_problems import CrewFileError
    from crewkeeper_supervisor.shell.crewfile import read
    from crewkeeper_supervisor.views.wording import counted

    name = f"crew {file.name}"
    try:
        found = read(file)
    except CrewFileError as error:
        count = len(error.problems) + error.omitted
        first = str(error).splitlines()[0]
        fix = f"supervisor crew check {file}"
        return [Check(name=name, grade="fail", text=f"{counted(count, 'error')}; first: {first}", fix=fix)]
    warnings = [*found.warnings, *found.lint()]
    crew = found.crew
    checks = [
        Check(
            name=name,
            grade="warn" if warnings else "ok",
            text=counted(len(crew.agents), "agent") + (f", {counted(len(warnings), 'warning')}" if warnings else ""),
            fix=f"supervisor crew check {file}" if warnings else "",
        )
    ]
    judged = [webhook_check(webhook, os.environ) for webhook in crew.escalate]

    async def reach(place: int, webhook: "Webhook") -> None:
        judged[place] = await reached(webhook, os.environ, judged[place])

    async with anyio.create_task_group() as group:
        for place, webhook in enumerate(crew.escalate):
            if judged[place].grade != "fail" and not _unset(webhook, os.environ):
                group.start_soon(reach, place, webhook)
    return [*checks, *judged]


def webhook_check(webhook: "Webhook", environ: Mapping[str, str]) -> Check:
    """Whether a webhook's address and secrets have the right form, with the environment's values put in.

    No value is shown: it may hold a secret.
    """
    from crewkeeper_supervisor.views.hooks import identified, shown

    name = f"webhook {shown(webhook)} ({identified(webhook)})"
    if unset := _unset(webhook, environ):
        return Check(
            name=name,
            grade="warn",
            text=f"not set here: {', '.join(unset)}; a controller without them cannot send",
            fix=" ".join(["export", *(f"{each}=…" for each in unset)]),
        )
    url, secret = filled(webhook.webhook, environ), filled(webhook.secret, environ)
    previous = filled(webhook.previous_secret, environ)
    parts = _parts(url)
    if parts is None:
        return Check(name=name, grade="fail", text="is no http or https address", fix=_ENCRYPTED)
    if not all(_usable(each) for each in (secret, previous) if each):
        return Check(name=name, grade="fail", text="its secret is not whsec_ and base64", fix=_ROTATION)
    if parts[0] == "http" and not webhook.allow_private:
        return Check(name=name, grade="fail", text="is not encrypted, and so not called", fix=_ENCRYPTED)
    if not secret and webhook.format in _SIGNED:
        return Check(name=name, grade="warn", text="has no secret: nobody can tell who calls", fix=_ROTATION)
    if previous and previous == secret:
        text = "its previous secret is the one in use: nothing was rotated"
        return Check(name=name, grade="warn", text=text, fix=_ROTATION)
    if previous:
        text = "a rotation is not finished: the secret that was replaced is still good"
        fix = "take previous_secret out of the crew file, once every receiver has the new one"
        return Check(name=name, grade="warn", text=text, fix=fix)
    return Check(name=name, grade="ok", text="address and secret have the right form")


async def reached(webhook: "Webhook", environ: Mapping[str, str], judged: Check) -> Check:
    """The same check, or what is worse: that the host of a webhook cannot be connected to from here.

    Args:
        webhook: Its address has the right form.
        environ: Where the values of its variables are.
        judged: What was found of its form.
    """
    from crewkeeper_supervisor.shell.destination import Forbidden, resolve

    scheme, host, port = _parts(filled(webhook.webhook, environ)) or ("", "", 0)
    problem = ""
    try:
        with anyio.fail_after(REACH_LIMIT_S):
            there = await resolve(filled(webhook.webhook, environ), allow_private=webhook.allow_private)
            addresses = [urlsplit(url).hostname or "" for url in there.urls]
            await _connect(addresses, port, host if scheme == "https" else "")
    except Forbidden as error:
        return Check(name=judged.name, grade="fail", text=str(error), fix=_ELSEWHERE)
    except TimeoutError:
        problem = f"no answer within {REACH_LIMIT_S:g} s"
    except ssl.SSLCertVerificationError as error:
        problem = f"its certificate is not good: {error.verify_message}"
    except OSError as error:
        problem = _said(error)
    except (anyio.BrokenResourceError, anyio.EndOfStream):
        problem = "it has closed the connection where TLS begins"
    if problem:
        text = f"{host} cannot be reached from here at port {port}: {problem}"
        told = f"https://{host}:{port}/" if scheme == "https" else f"http://{host}:{port}/"
        return Check(name=judged.name, grade="fail", text=text, fix=f"curl -sv {told}  # shows where it ends")
    if judged.grade != "ok":
        return judged
    return Check(name=judged.name, grade="ok", text=f"{judged.text}, {host} can be reached")


def _said(error: OSError) -> str:
    """What the system says: of several attempts that failed alike, the reason of one."""
    if isinstance(error, ssl.SSLError):  # its number is none of the system's
        return f"no TLS: {(error.reason or str(error)).replace('_', ' ').lower()}"
    inner = error.__cause__ if isinstance(error.__cause__, OSError) else error
    number = inner.errno or 0
    return os.strerror(number) if number > 0 else inner.strerror or str(error)


async def _connect(addresses: list[str], port: int, tls_host: str) -> None:
    """Connect to the first address that answers, and see its certificate.

    Raises:
        OSError: What the last one said.
        BrokenResourceError, EndOfStream: It has hung up while TLS was begun.
    """
    for left, address in zip(reversed(range(len(addresses))), addresses, strict=True):
        try:
            async with await anyio.connect_tcp(address, port) as stream:
                if tls_host:
                    await TLSStream.wrap(stream, hostname=tls_host)
        except (OSError, anyio.BrokenResourceError, anyio.EndOfStream):
            if not left:
                raise
        else:
            return


def _unset(webhook: "Webhook", environ: Mapping[str, str]) -> list[str]:
    """Variables of a webhook that have no value; a delivery that needs one is given up."""
    named = names_in(webhook.webhook, webhook.secret, webhook.previous_secret, webhook.routing_key)
    return [each for each in named if not environ.get(each)]


def _parts(url: str) -> tuple[str, str, int] | None:
    """Scheme, host and port; None if it is no address of a webhook."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return None
    return (parts.scheme, parts.hostname, port) if parts.scheme in ("http", "https") and parts.hostname else None


def _usable(secret: str) -> bool:
    from standardwebhooks.webhooks import Webhook as Signer

    with contextlib.suppress(Exception):  # whatever the library makes of it, it is not usable
        Signer(secret)
        return secret.startswith("whsec_")
    return False
