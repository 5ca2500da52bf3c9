"""`supervisor mcp gateway` under the official client, with the real gate of a run behind it."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "live"))

from live_crews import up

from crewkeeper_supervisor.chaos.real.loopback import free_port
from support.bus import LIMIT_S, until
from support.mcp import STUB

pytestmark = pytest.mark.live
mcp = pytest.importorskip("mcp", reason="the official package is not installed")
httpx2 = pytest.importorskip("httpx2")

MAIN = (sys.executable, "-m", "crewkeeper_supervisor.cli.main")
SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]
CREW = {
    "crew": "desk-crew",
    "agents": {
        "keeper": {"run": SLEEPER},
        "desk": {"external": True, "tools": ["stub"]},
        "guest": {"external": True, "tools": ["stub"]},
    },
    "tools": {"stub": {"inside": True, "timeout": "3s"}},
    "rules": [{"agents": ["guest"], "tools": ["stub.echo"], "do": "deny", "because": "guests do not speak"}],
}


@asynccontextmanager
async def gateway(state: Path, log: Path, *options: str) -> AsyncIterator[str]:
    """A gateway in a process of its own; its address."""
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *MAIN,
            *("mcp", "gateway", "--port", "0", "--name", "stub", "--state", str(state), *options),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    try:
        found = await until(lambda: re.search(r"listening on (http://\S+)", log.read_text()), "it listens")
        yield str(found[1])
    finally:
        if process.returncode is None:
            process.terminate()
        with anyio.fail_after(LIMIT_S, shield=True):
            await process.wait()


async def token(state: Path, agent: str) -> str:
    async def issued() -> dict[str, Any] | None:
        command = (*MAIN, "creds", "issue", "--agent", agent, "--state", str(state), "-o", "json")
        told = await anyio.run_process(command, check=False)
        return json.loads(told.stdout) if told.returncode == 0 else None

    given = await until(issued, "credentials are issued")
    return f"{given['user']}.{given['password']}"


@asynccontextmanager
async def client(address: str, bearer: str, mode: str = "auto") -> AsyncIterator[Any]:
    from mcp.client.streamable_http import streamable_http_client

    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {bearer}"}, timeout=60) as http,
        mcp.Client(streamable_http_client(address, http_client=http), mode=mode) as made,
    ):
        yield made


async def ready(made: Any, without: str = "") -> Any:
    """Its tools, once the server behind has told them, and the gate that one of them can never be called."""

    async def names() -> list[str]:
        found = [tool.name for tool in (await made.list_tools(cache_mode="bypass")).tools]
        return [] if without in found else found

    return await until(names, f"there are tools without {without!r}")


async def test_each_client_is_the_agent_whose_credentials_it_brings(tmp_path: Path) -> None:
    async with up(tmp_path, CREW) as (state, _):
        desk, guest = await token(state, "desk"), await token(state, "guest")
        command = ("--", sys.executable, str(STUB), str(tmp_path / "stub.log"))
        async with gateway(state, tmp_path / "gateway.log", *command) as address:
            for mode in ("auto", "legacy"):
                async with client(address, desk, mode) as made:
                    assert "echo" in await ready(made)
                    result = await made.call_tool("echo", {"text": "hello"})
                    assert (result.is_error, result.content[0].text) == (False, "hello")
            async with client(address, desk) as made:
                trace = f"00-{'a' * 32}-{'b' * 16}-01"
                await made.call_tool("echo", {"text": "hello"}, meta={"traceparent": trace})
                assert trace in (tmp_path / "stub.log").read_text(), "the server hears of the client's trace"
                late = await made.call_tool("hang", {})
                assert late.is_error
                assert "was cut" in late.content[0].text
                assert "did you mean" in (await made.call_tool("ecko", {})).content[0].text.lower()
            async with client(address, guest) as made:
                assert "hang" in await ready(made, without="echo")
                assert "'echo'" not in (await made.call_tool("ecko", {})).content[0].text
                denied = await made.call_tool("echo", {"text": "hello"})
                assert denied.is_error
                assert "guests do not speak" in denied.content[0].text
            async with httpx2.AsyncClient() as http:
                for wrong in ("", "Bearer", "Bearer x", f"Bearer {desk[:-1]}", f"Basic {desk}"):
                    head = {"Authorization": wrong} if wrong else {}
                    assert (await http.post(address, json={}, headers=head, timeout=60)).status_code == 401
            # The gateway of one is a server to another.
            said = [line for line in (tmp_path / "stub.log").read_text().splitlines() if line.startswith("call")]
            assert said == ['call echo {"text": "hello"}'] * 3 + ["call hang {}"]


SERVER = """
import sys
from mcp.server.mcpserver import MCPServer
server = MCPServer("words")

@server.tool()
def echo(text: str) -> str:
    "Say it again."
    return text

server.run("streamable-http", port=int(sys.argv[1]))
"""


async def test_a_server_over_http_behind_it(tmp_path: Path) -> None:
    port = free_port()
    file = tmp_path / "server.py"
    file.write_text(SERVER)
    async with up(tmp_path, CREW) as (state, _):
        desk = await token(state, "desk")
        with (tmp_path / "server.log").open("wb") as out:
            server = await asyncio.create_subprocess_exec(
                sys.executable, str(file), str(port), stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        try:
            options = ("--upstream", f"http://127.0.0.1:{port}/mcp")
            async with gateway(state, tmp_path / "gateway.log", *options) as address, client(address, desk) as made:
                assert await ready(made) == ["echo"]
                assert (await made.call_tool("echo", {"text": "hello"})).content[0].text == "hello"
                assert (await made.call_tool("echo", {"text": 7})).is_error
        finally:
            server.terminate()
            await server.wait()
