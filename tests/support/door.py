"""A door to a real server: lets agents in by a list in memory, as a supervisor does by its records."""

import json
import secrets
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from crewkeeper_bus import claims
from crewkeeper_bus.credentials import Credentials
from crewkeeper_bus.keys import Keyring, load_keyring
from crewkeeper_bus.server import EmbeddedServer
from crewkeeper_bus.subjects import Permissions, agent_permissions
from crewkeeper_bus.wire import WireClient, quiet

SESSION_S = 600


class Door:
    """Who is let in, and the connections that decide and cut; made by `open_door`."""

    def __init__(self, url: str, ring: Keyring, system: WireClient) -> None:
        self.url = url
        self._ring = ring
        self._system = system
        self._users: dict[str, tuple[Permissions, list[str]]] = {}

    def let_in(self, run: str, agents: Iterable[tuple[str, str]]) -> dict[str, Credentials]:
        """Credentials of agents, by name; passwords that they had before stay good."""
        return {agent: self._new(run, agent, role) for agent, role in agents}

    def _new(self, run: str, agent: str, role: str) -> Credentials:
        user, password = f"{run}.{agent}", secrets.token_urlsafe(24)
        _, before = self._users.get(user, (None, []))
        self._users[user] = (agent_permissions(run, agent, role), [*before, password])
        return Credentials(url=self.url, user=user, password=password)

    def forget(self, credentials: Credentials) -> None:
        """Take one password out of force; whoever is in stays in."""
        self._users[credentials.user][1].remove(credentials.password)

    async def shut_out(self, user: str) -> None:
        """Forget a user and cut its connections."""
        del self._users[user]
        answer = json.loads((await self._ask("PING.CONNZ", {"auth": True, "user": user})).data)
        for connection in answer["data"]["connections"]:
            await self._ask(f"{answer['server']['id']}.KICK", {"cid": connection["cid"]})

    async def _ask(self, what: str, asked: dict[str, Any]) -> Any:
        return await self._system.request(f"$SYS.REQ.SERVER.{what}", json.dumps(asked).encode(), timeout=60)

    async def decide(self, message: Any) -> None:
        """Answer one login request."""
        asked = claims.login_request(message.data)
        outcome = {"error": "not on the list"}
        permissions, passwords = self._users.get(asked.user, (Permissions((), ()), []))
        if asked.password in passwords:
            expires_at = int(time.time()) + SESSION_S
            crews = self._ring.key("crews")
            outcome = {
                "jwt": claims.user(
                    crews, subject=asked.user_nkey, name=asked.user, permissions=permissions, expires_at=expires_at
                )
            }
        auth = self._ring.key("auth")
        await message.respond(claims.response(auth, subject=asked.user_nkey, server_id=asked.server_id, **outcome))


@asynccontextmanager
async def open_door(server: EmbeddedServer) -> AsyncIterator[Door]:
    """Decide about the logins of a server for as long as the block lasts."""
    ring = load_keyring(server.state_dir)
    assert ring is not None
    callout, system = WireClient(), WireClient()
    try:
        for client, role in ((callout, "callout"), (system, "system")):
            await client.connect(server.url, **ring.user(role, server.url).options(), error_cb=quiet)
        door = Door(server.url, ring, system)
        await callout.subscribe("$SYS.REQ.USER.AUTH", cb=door.decide)
        await callout.flush()
        yield door
    finally:
        for client in (callout, system):
            await client.close()
