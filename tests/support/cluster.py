"""A cluster of real nats-servers on loopback with the accounts of the product, and a callout that tests steer."""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel

from crewkeeper_bus import claims
from crewkeeper_bus.credentials import Credentials
from crewkeeper_bus.subjects import Permissions, agent_permissions
from crewkeeper_bus.wire import WireClient, quiet
from crewkeeper_supervisor.chaos.real.loopback import free_port
from crewkeeper_supervisor.core.scope import AccessState, Record
from crewkeeper_supervisor.shell.access import Access, AccessRefused

LIMIT_S = 120.0


@dataclass
class Node:
    """One server of a cluster."""

    name: str
    directory: Path
    port: int = field(default_factory=free_port)
    route_port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.directory / "nats-server.log"

    def send(self, how: signal.Signals) -> None:
        """Send the server a signal."""
        assert self.process is not None
        self.process.send_signal(how)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop the server without ending it: inside the block it is there and answers nothing."""
        assert self.process is not None
        self.send(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)
        try:
            yield
        finally:
            self.send(signal.SIGCONT)

    def start(self) -> None:
        binary = Path(sysconfig.get_path("scripts")) / "nats-server"
        self.process = subprocess.Popen(
            [str(binary), "-c", str(self.directory / "nats.conf")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + LIMIT_S
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.2) as greeting:
                if greeting.recv(5) == b"INFO ":
                    return
            assert self.process.poll() is None, f"{self.name} exited: {self.log}"
            time.sleep(0.01)
        raise AssertionError(f"{self.name} did not start")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(LIMIT_S)
            self.process = None


class Cluster:
    """Servers with the accounts SYS, AUTH (callout) and CREWS (JetStream), configured by file, without an operator.

    With `hidden`, all of them advertise one address, as behind a load balancer.

    Attributes:
        nodes: The servers, `n1`, `n2`, …; a cluster of one is a single server.
        issuer: The account key that callouts sign with.
    """

    def __init__(self, directory: Path, size: int, *, hidden: bool = False) -> None:
        self._hidden = hidden
        self.issuer = claims.Key.make("account")
        self.passwords = {user: secrets.token_hex(8) for user in ("_system", "_callout", "_supervisor")}
        self.nodes = [Node(f"n{i + 1}", directory / f"n{i + 1}") for i in range(size)]
        for node in self.nodes:
            node.directory.mkdir(parents=True)
            (node.directory / "nats.conf").write_text(json.dumps(self._config(node)))

    def _config(self, node: Node) -> dict[str, Any]:
        def users(name: str) -> list[dict[str, str]]:
            return [{"user": name, "password": self.passwords[name]}]

        config: dict[str, Any] = {
            "server_name": node.name,
            "listen": f"127.0.0.1:{node.port}",
            "jetstream": {"store_dir": str(node.directory / "store")},
            "logfile": str(node.log),
            "system_account": "SYS",
            "accounts": {
                "SYS": {"users": users("_system")},
                "AUTH": {"users": users("_callout")},
                "CREWS": {"jetstream": "enabled", "users": users("_supervisor")},
            },
            "authorization": {
                "timeout": 2,
                "auth_callout": {"issuer": self.issuer.public, "auth_users": list(self.passwords), "account": "AUTH"},
            },
        }
        if len(self.nodes) > 1:
            routes = [f"nats://127.0.0.1:{other.route_port}" for other in self.nodes]
            listen = f"127.0.0.1:{node.route_port}"
            config["cluster"] = {"name": "test", "listen": listen, "routes": routes}
        if self._hidden:
            config["client_advertise"] = f"127.0.0.1:{self.nodes[0].port}"
        return config

    def credentials(self, user: str, node: int = 0) -> Credentials:
        """Credentials of `_system`, `_callout` or `_supervisor` on one of the nodes."""
        return Credentials(url=self.nodes[node].url, user=user, password=self.passwords[user])

    async def connect(self, user: str, node: int = 0) -> WireClient:
        """A client of one of the three users that does not reconnect."""
        client = WireClient()
        own = self.credentials(user, node)
        await client.connect(own.url, user=own.user, password=own.password, allow_reconnect=False, error_cb=quiet)
        return client


@contextlib.contextmanager
def cluster(directory: Path, size: int = 3, *, hidden: bool = False) -> Iterator[Cluster]:
    """Start a cluster, and end it by the processes' ids."""
    servers = Cluster(directory, size, hidden=hidden)
    try:
        for node in servers.nodes:
            node.start()
        yield servers
    finally:
        for node in servers.nodes:
            node.stop()


@dataclass
class Identity:
    """Whom the test's callout lets in."""

    run: str
    agent: str
    role: str
    password: str
    state: str = "running"

    @property
    def user(self) -> str:
        return f"{self.run}.{self.agent}"

    @property
    def permissions(self) -> Permissions:
        if self.state == "paused":
            return Permissions((), (f"out.crew.{self.run}.ctl.*.{self.agent}.*",))
        return agent_permissions(self.run, self.agent, self.role)


class Callout:
    """Answers logins from a table that the test changes.

    Attributes:
        identities: By user name.
        asked: How many logins it was asked about.
        slow_s: How long it takes over an answer after it has looked into the table.
    """

    def __init__(self, issuer: claims.Key) -> None:
        self.identities: dict[str, Identity] = {}
        self.asked = 0
        self.slow_s = 0.0
        self._issuer = issuer

    def add(self, run: str, agent: str, role: str = "") -> Identity:
        """Let an agent in."""
        identity = Identity(run, agent, role or agent, secrets.token_hex(8))
        self.identities[identity.user] = identity
        return identity

    def answer(self, data: bytes) -> bytes:
        """The answer to one login request."""
        self.asked += 1
        request = claims.login_request(data)
        known = self.identities.get(request.user)
        jwt = error = ""
        if known is None or known.password != request.password or known.state == "killed":
            error = "not let in"
        else:
            jwt = claims.user(
                self._issuer,
                subject=request.user_nkey,
                name=known.user,
                permissions=known.permissions,
                audience="CREWS",
            )
        server = request.server_id
        return claims.response(self._issuer, subject=request.user_nkey, server_id=server, jwt=jwt, error=error)


@contextlib.asynccontextmanager
async def callout(servers: Cluster, node: int = 0) -> AsyncIterator[Callout]:
    """A responder that is connected to one node and answers for all."""
    table = Callout(servers.issuer)
    client = await servers.connect("_callout", node)

    async def asked(msg: Any) -> None:
        answer = table.answer(msg.data)
        if table.slow_s:
            await anyio.sleep(table.slow_s)
        await client.publish(msg.reply, answer)

    try:
        await client.subscribe("$SYS.REQ.USER.AUTH", queue="crewkeeper", cb=asked)
        await client.flush()
        yield table
    finally:
        await client.close()


@contextlib.asynccontextmanager
async def logged_in(identity: Identity, node: Node) -> AsyncIterator[WireClient]:
    """A connection of an agent that is not renewed and does not come back."""
    client = WireClient()
    try:
        await client.connect(
            node.url, user=identity.user, password=identity.password, allow_reconnect=False, error_cb=quiet
        )
        yield client
    finally:
        client.abandon()
        await anyio.lowlevel.checkpoint()  # its socket ends in the loop's next round


class TableAccess(Access):
    """Access records in the table of the test's callout, with the rule that nothing leads out of `killed`."""

    def __init__(self, table: Callout) -> None:
        self._table = table

    async def set_state(self, run: str, agent: str, state: AccessState, why: str = "", term: int = 0) -> Record:
        identity = self._table.identities[f"{run}.{agent}"]
        if identity.state == "killed" != state:
            raise AccessRefused(f"{agent} of run {run} was killed: that is final")
        identity.state = state
        return Record(run=run, agent=agent, role=identity.role, state=state, why=why, term=term)
