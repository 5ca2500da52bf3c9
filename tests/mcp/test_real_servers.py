"""Real MCP servers behind the proxy, in both versions, spoken to by the official client; skipped where they are not."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from crewkeeper_supervisor.mcp import rpc
from crewkeeper_supervisor.mcp.offer import Refusal
from support.mcp import LIMIT_S, MemoryDoor, proxied, text_of

pytestmark = pytest.mark.live

ERAS = pytest.mark.parametrize("era", [rpc.LEGACY, rpc.MODERN])
INSTALL_S = 240
PACKAGES = tuple(f"@modelcontextprotocol/server-{name}@2026.8.31" for name in ("filesystem", "everything"))


@pytest.fixture(scope="session")
def node_servers(request: pytest.FixtureRequest) -> Path:
    """Where the servers of the npm registry are, installed once and kept in pytest's cache."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("there is no node and npm here")
    folder = Path(request.config.cache.mkdir("mcp-servers"))  # type: ignore[union-attr]
    programs = folder / "node_modules" / ".bin"
    if not (programs / "mcp-server-everything").exists():
        (folder / "package.json").write_text('{"private": true}')
        command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", *PACKAGES]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, timeout=INSTALL_S, check=False)
        except subprocess.TimeoutExpired:
            pytest.skip(f"npm did not install the servers within {INSTALL_S} s")
        if done.returncode != 0:
            pytest.skip(f"npm cannot install the servers: {done.stderr[-200:].decode(errors='replace')}")
    return programs


@ERAS
async def test_time(tmp_path: Path, era: str) -> None:
    if importlib.util.find_spec("mcp_server_time") is None:
        pytest.skip("mcp-server-time is not installed")
    async with proxied(tmp_path, command=(sys.executable, "-m", "mcp_server_time"), prefix="time") as stage:
        await stage.client.greet(era)
        assert sorted(await stage.client.tools()) == ["convert_time", "get_current_time"]
        result = await stage.client.call("get_current_time", timezone="Europe/Paris")
        assert "Europe/Paris" in text_of(result)
        assert stage.door.asked == [("time.get_current_time", {"timezone": "Europe/Paris"})]
        assert stage.door.settled[0][1] is True
        wrong = await stage.client.call("get_current_time", time_zone="Europe/Paris")
        assert "did you mean 'timezone'" in text_of(wrong) or "timezone: is required" in text_of(wrong)
        failed = await stage.client.call("get_current_time", timezone="Nowhere/At-All")
        assert failed["isError"] is True
        assert [ok for _, ok, _ in stage.door.settled] == [True, False]


@ERAS
async def test_filesystem(tmp_path: Path, era: str, node_servers: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.txt").write_text("alpha")
    door = MemoryDoor()
    door.refuse["fs.write_file"] = Refusal("denied", "files are not to be written")
    command = (str(node_servers / "mcp-server-filesystem"), str(data))
    async with proxied(tmp_path, command=command, door=door, prefix="fs") as stage:
        await stage.client.greet(era)
        assert {"read_text_file", "write_file"} <= set(await stage.client.tools())
        assert text_of(await stage.client.call("read_text_file", path=str(data / "a.txt"))) == "alpha"
        denied = await stage.client.call("write_file", path=str(data / "b.txt"), content="beta")
        assert denied["_meta"][rpc.REFUSAL_KEY] == "denied"
        assert sorted(each.name for each in data.iterdir()) == ["a.txt"]
        assert "'read_text_file'" in text_of(await stage.client.call("read_txt_file", path="x"))


@ERAS
async def test_everything(tmp_path: Path, era: str, node_servers: Path) -> None:
    door = MemoryDoor()
    async with proxied(tmp_path, command=(str(node_servers / "mcp-server-everything"),), door=door) as stage:
        await stage.client.greet(era)
        names = await stage.client.tools()
        assert {"echo", "get-sum", "trigger-long-running-operation"} <= set(names)
        assert "7" in text_of(await stage.client.call("get-sum", a=3, b=4))
        door.limit_s = 1.0
        late = await stage.client.call("trigger-long-running-operation", duration=60, steps=2)
        assert late["_meta"][rpc.REFUSAL_KEY] == "tool_timeout"
        door.limit_s = LIMIT_S
        assert "hello" in text_of(await stage.client.call("echo", message="hello"))
        prompts = await stage.client.ask("prompts/list")
        assert prompts["result"]["prompts"]
        resources = await stage.client.ask("resources/list")
        assert resources["result"]["resources"]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_official_client(tmp_path: Path, mode: Any) -> None:
    sdk = pytest.importorskip("mcp", reason="the official client is not installed")
    if importlib.util.find_spec("mcp_server_time") is None:
        pytest.skip("mcp-server-time is not installed")
    options = ["-m", "crewkeeper_supervisor.cli.main", "mcp", "proxy", "--agent", "desk"]
    options += ["--state", str(tmp_path / "state"), "--", sys.executable, "-m", "mcp_server_time"]
    server = sdk.StdioServerParameters(command=sys.executable, args=options)
    async with sdk.Client(server, mode=mode) as client:
        assert sorted(tool.name for tool in (await client.list_tools()).tools) == ["convert_time", "get_current_time"]
        # Nothing runs there: the client lists, and is told why it may not call.
        result = await client.call_tool("get_current_time", {"timezone": "UTC"})
        assert result.is_error
        assert "nothing was executed" in result.content[0].text
