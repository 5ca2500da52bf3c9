"""A real server that asks a callout about every login, and the callout, which a test steers: sessions of any length."""

import contextlib
import json
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import nats
from nats.js.api import RePublish, StreamConfig

from crewkeeper_bus import claims
from crewkeeper_bus.credentials import Credentials
from crewkeeper_bus.orphan_guard import kill_group, open_guarded, release
from crewkeeper_bus.server_binary import find_binary
from crewkeeper_bus.subjects import Permissions, agent_permissions, run_filter, stream_name
from support.bus import RUN, until

_STATIC = ("auth", "root", "system")


class Logins:
    """Who is let in, and what came of it.

    Attributes:
        seen: (user, password as sent) of every login that was asked about.
        refused: Names that are refused.
        session_s: How long a connection may live.
        answers: Whether the callout answers at all.
    """

    def __init__(self, url: str, issuer: claims.Key, session_s: float) -> None:
        self.url = url
        self.session_s = session_s
        self.seen: list[tuple[str, str]] = []
        self.refused: set[str] = set()
        self.answers = True
        self._issuer = issuer

    def credentials(self, agent: str, **fields: Any) -> Credentials:
        """What this agent logs in with."""
        fields = {"session_s": self.session_s, **fields}
        return Credentials(url=self.url, user=f"{RUN}.{agent}", password=f"t-{agent}", **fields)

    async def decide(self, message: Any) -> None:
        request = claims.login_request(message.data)
        self.seen.append((request.user, request.password))
        if not self.answers:
            return
        run, _, agent = request.user.partition(".")
        password = request.password.partition("~")[0]
        if agent in self.refused or password != f"t-{agent}":
            verdict: dict[str, str] = {"error": "refused by the test"}
        else:
            jwt = claims.user(
                self._issuer,
                subject=request.user_nkey,
                name=request.user,
                permissions=agent_permissions(run, agent, agent) if agent != "all" else Permissions((">",), (">",)),
                expires_at=int(time.time() + self.session_s),
                audience="CREWS",
            )
            verdict = {"jwt": jwt}
        await message.respond(
            claims.response(self._issuer, subject=request.user_nkey, server_id=request.server_id, **verdict)
        )


def _config(directory: Path, issuer: str, timeout_s: float) -> dict[str, Any]:
    auth, root, system = ([{"user": name, "password": name}] for name in _STATIC)
    return {
        "listen": "127.0.0.1:-1",
        "ports_file_dir": str(directory),
        "jetstream": {"store_dir": str(directory / "store")},
        "accounts": {
            "AUTH": {"users": auth},
            "CREWS": {"jetstream": "enabled", "users": root},
            "SYSTEM": {"users": system},
        },
        "system_account": "SYSTEM",
        "authorization": {
            "timeout": timeout_s,
            "auth_callout": {"issuer": issuer, "auth_users": list(_STATIC), "account": "AUTH"},
        },
    }


def _write_config(directory: Path, issuer: str, timeout_s: float) -> None:
    directory.mkdir(exist_ok=True)
    (directory / "server.conf").write_text(json.dumps(_config(directory, issuer, timeout_s)))


def _listening(directory: Path) -> str:
    for file in directory.glob("*.ports"):
        with contextlib.suppress(ValueError, LookupError):
            return str(json.loads(file.read_text())["nats"][0])
    return ""


@asynccontextmanager
async def login_server(directory: Path, session_s: float, *, timeout_s: float = 1.0) -> AsyncIterator[Logins]:
    """Such a server with the journal of `RUN`, and its callout; `timeout_s` is how long the server waits for it."""
    issuer = claims.Key.make("account")
    _write_config(directory, issuer.public, timeout_s)
    command = [str(find_binary()), "-c", str(directory / "server.conf")]
    process = await open_guarded(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = await until(lambda: _listening(directory), "the server listens")
        async with _as("auth", url) as auth, _as("root", url) as root:
            await root.jetstream().add_stream(
                StreamConfig(
                    name=stream_name(RUN),
                    subjects=[run_filter(RUN)],
                    no_ack=True,
                    republish=RePublish(src=run_filter(RUN), dest=f"out.{run_filter(RUN)}"),
                )
            )
            logins = Logins(url, issuer, session_s)
            await auth.subscribe("$SYS.REQ.USER.AUTH", cb=logins.decide)
            await auth.flush()
            await auth.flush()
            yield logins
    finally:
        kill_group(process.pid, signal.SIGTERM)
        with anyio.fail_after(120, shield=True):
            await process.wait()
        release(process.pid)
        await process.aclose()


@asynccontextmanager
async def _as(user: str, url: str) -> AsyncIterator[Any]:
    client = await nats.connect(url, user=user, password=user)
    try:
        yield client
    finally:
        await client.close()
