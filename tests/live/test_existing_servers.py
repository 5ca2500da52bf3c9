"""Crews on servers that are not embedded: with the block in their configuration, and with nothing but a signing key."""

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import anyio
import msgspec
import pytest

from crewkeeper_bus import claims
from crewkeeper_bus.claims import Key
from crewkeeper_bus.credentials import from_file
from crewkeeper_bus.errors import ConnectionLost
from crewkeeper_bus.keys import load_keyring
from crewkeeper_bus.nats_transport import NatsTransport
from crewkeeper_bus.server import EmbeddedServer
from crewkeeper_supervisor.shell.access import Access
from crewkeeper_supervisor.shell.authority import make_config_block, store_signing_key
from crewkeeper_supervisor.shell.ground import open_ground
from crewkeeper_supervisor.shell.nats_link import connect
from support.bus import LIMIT_S, until
from support.existing import server_of

pytestmark = pytest.mark.live


def scripted(script: dict[str, Any]) -> dict[str, Any]:
    return {"run": [sys.executable, "-m", "crewkeeper_agents.scripted", json.dumps(script)]}


CREW = {
    "crew": "guests",
    "agents": {
        "asker": scripted({"main": [{"ask": {"to": "answerer"}}, {"progress": "got it"}]}),
        "answerer": scripted({"handlers": {"ask": [{"reply": "here"}]}}),
    },
}


async def up(directory: Path, state: Path, url: str) -> str:
    """Run the crew to its end on a server; what was said about it."""
    file, output = directory / "crew.yaml", directory / "up.log"
    file.write_text(json.dumps(CREW))
    command = [
        sys.executable,
        "-m",
        "crewkeeper_supervisor.cli.main",
        "up",
        str(file),
        "--plain",
        "--state",
        str(state),
    ]
    environment = {**os.environ, "CREWKEEPER_NATS_URL": url}
    with output.open("wb") as log:
        process = await anyio.open_process(command, stdin=DEVNULL, stdout=log, stderr=log, env=environment)
        try:
            with anyio.fail_after(LIMIT_S):
                code = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    text = output.read_text()
    assert code == 0, text
    assert "got it" in text
    return " ".join(text.split())


async def test_a_crew_runs_on_a_cluster_that_has_the_block(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with server_of(tmp_path, make_config_block(state)) as url:
        text = await up(tmp_path, state, url)
        assert "warning" not in text
        assert "(embedded)" not in text


@asynccontextmanager
async def signing(tmp_path: Path) -> AsyncIterator[tuple[Path, str]]:
    """A server of somebody else, and a state directory with a signing key of one of its accounts."""
    state, signer = tmp_path / "guest", Key.make("account")
    async with EmbeddedServer(tmp_path / "theirs") as server:
        ring = load_keyring(tmp_path / "theirs")
        assert ring is not None
        crews = ring.public("crews")
        pushed = claims.account(
            ring.key("operator"), subject=crews, name="THEIRS", jetstream=True, signing_keys=[signer.public]
        )
        system = await NatsTransport.open(credentials=lambda: ring.user("system", server.url))
        await system.publish("$SYS.REQ.CLAIMS.UPDATE", pushed.encode())
        await system.barrier()
        await system.close()
        store_signing_key(state, account=crews, seed=signer.seed)
        yield state, server.url


async def test_a_crew_runs_with_nothing_but_a_signing_key_and_is_told_what_that_means(tmp_path: Path) -> None:
    async with signing(tmp_path) as (state, url):
        text = await up(tmp_path, state, url)
        assert "warning: The server confines every agent to its own name, but cannot be told to cut it off" in text
        [folder] = state.glob("runs/*/credentials")
        assert folder.stat().st_mode & 0o777 == 0o700
        for name in ("asker", "answerer"):
            assert from_file(folder / f"{name}.json", check_permissions=True).user.endswith(f".{name}")


async def test_signed_credentials_confine_are_renewed_and_end_for_the_killed(tmp_path: Path) -> None:
    async with signing(tmp_path) as (state, url), open_ground(state, url) as ground, connect(ground.place) as link:
        first = await ground.let_in(link, "r1", [("a", "a"), ("b", "b")], 1000)
        again = await ground.signed(link, "r1", ["a", "b"])
        assert first["a"].seed != again["a"].seed
        a = await NatsTransport.open(credentials=lambda: again["a"])
        heard: list[str] = []

        async def hear(message: Any) -> None:
            heard.append(message.subject)

        await link.nc.subscribe("crew.>", cb=hear)
        await link.flush()
        await a.publish("crew.r1.msg.b.a.1", b"forged")
        await a.publish("crew.r1.msg.a.b.1", b"true")
        await until(lambda: heard == ["crew.r1.msg.a.b.1"], "its own words alone")
        await a.close()
        await Access(link).set_state("r1", "a", "killed", "test")
        assert list(await ground.signed(link, "r1", ["a", "b"])) == ["b"]
        late = msgspec.structs.replace(first["b"], jwt=again["b"].jwt)
        with pytest.raises(ConnectionLost, match="Authorization Violation"):
            await NatsTransport.open(credentials=lambda: late, limit_s=0.0)
