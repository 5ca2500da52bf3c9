"""A crew whose file names an MCP server: started by the run's tool host, called by an agent through the gate."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "live"))

from live_crews import up

from support.bus import until
from support.mcp import STUB

pytestmark = pytest.mark.live

CALLER = """
import anyio, json, pathlib, sys
from crewkeeper_bus import ToolRefused, connect

async def main() -> None:
    out = []
    async with connect() as crew:
        await crew.ready(60)
        for name, args in json.loads(sys.argv[1]):
            try:
                out.append(await crew.call_tool(name, args, limit_s=60))
            except ToolRefused as refused:
                out.append([refused.reason, str(refused)])
    pathlib.Path(sys.argv[2]).write_text(json.dumps(out))

anyio.run(main)
"""


async def test_agents_call_the_tools_of_a_server(tmp_path: Path) -> None:
    (tmp_path / "caller.py").write_text(CALLER)
    (tmp_path / "mytools.py").write_text("def double(number: int) -> int:\n    return 2 * number\n")
    log, out = tmp_path / "stub.log", tmp_path / "out.json"
    calls = [
        ["stub.echo", {"text": "hello"}],
        ["stub.ecko", {"text": "hello"}],
        ["stub.echo", {"text": 7}],
        ["stub.hang", {}],
        ["stub.echo", {"text": "again"}],
        ["stub.fail", {}],
        ["double", {"number": 4}],
        ["stub.env", {}],
    ]
    crew = {
        "crew": "served",
        "agents": {
            "caller": {
                "run": [sys.executable, str(tmp_path / "caller.py"), json.dumps(calls), str(out)],
                "tools": ["stub", "double"],
            }
        },
        "tools": {
            "stub": {"mcp": [sys.executable, str(STUB), str(log)], "timeout": "3s", "env": {"STUB_KEY": "x"}},
            "double": {"function": "mytools:double"},
        },
    }
    async with up(tmp_path, crew) as (state, _):
        await until(out.exists, "the agent has called")
        got = json.loads(await until(out.read_text, "what it got"))
        assert got[0] == "hello"
        assert got[1][0] == "unknown_tool"
        assert "'stub.echo'" in got[1][1]
        assert got[2][0] == "bad_arguments"
        assert got[3][0] == "tool_timeout"
        assert got[4] == "again"
        assert got[5][0] == "tool_failed"
        assert "it did not work" in got[5][1]
        assert got[6] == 8
        assert got[7] == "[]"
        said = [line for line in log.read_text().splitlines() if line.startswith("call")]
        assert said[:3] == [
            'call echo {"text": "hello"}',
            "call hang {}",
            'call echo {"text": "again"}',
        ]
        pins = json.loads((state / "tool-pins.json").read_text())
        assert "echo" in pins["servers"]["stub"]
