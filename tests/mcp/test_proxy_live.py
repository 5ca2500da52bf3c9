"""`supervisor mcp proxy` as a client starts it, with the real gate of a run behind it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "live"))

from live_crews import the_run, up

from crewkeeper_bus.subjects import ledger_subject
from crewkeeper_supervisor.mcp import rpc
from crewkeeper_supervisor.shell.nats_link import connect
from crewkeeper_supervisor.shell.place import Place
from support.bus import LIMIT_S, until
from support.collector import Collector, collecting
from support.mcp import STUB, McpClient, text_of

pytestmark = pytest.mark.live

MAIN = (sys.executable, "-m", "crewkeeper_supervisor.cli.main")
SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]


def crew(**more: Any) -> dict[str, Any]:
    return {
        "crew": "desk-crew",
        "agents": {"keeper": {"run": SLEEPER}, "desk": {"external": True, "tools": ["stub"]}},
        "tools": {"stub": {"inside": True, "cost_usd": 1, "timeout": "3s"}},
        **more,
    }


@asynccontextmanager
async def proxy_process(
    tmp_path: Path, *options: str, server: Sequence[str] = (), env: dict[str, str] | None = None
) -> AsyncIterator[McpClient]:
    """A proxy in a process of its own, as an MCP client starts it."""
    import asyncio

    command = server or (sys.executable, str(STUB), str(tmp_path / "stub.log"))
    with (tmp_path / "proxy.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *MAIN,
            *("mcp", "proxy", *options, "--", *command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, **(env or {})},
            limit=2**20,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield McpClient(process.stdout, process.stdin)
    finally:
        process.stdin.close()
        with anyio.fail_after(LIMIT_S, shield=True):
            await process.wait()


async def granted(client: McpClient, name: str, **args: Any) -> dict[str, Any]:
    """The result of a call, once the proxy has found the gate."""

    async def answered() -> dict[str, Any] | None:
        result = await client.call(name, **args)
        return None if result.get("_meta", {}).get(rpc.REFUSAL_KEY) == "gate_unavailable" else result

    return dict(await until(answered, "the gate answers"))


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as made:
        yield made


async def test_calls_are_decided_by_the_gate_of_a_run_and_traced(tmp_path: Path, collector: Collector) -> None:
    rules = [
        {"tools": ["stub.fail"], "do": "deny", "because": "it always fails"},
        {"hop": "resource", "to": ["stub.memo://salaries*"], "do": "deny", "because": "not for agents"},
        {"hop": "prompt", "agents": ["desk"], "when": "has(args.tone) && args.tone == 'rude'", "do": "deny"},
    ]
    declared = crew(rules=rules, budget={"usd": 3})
    async with up(tmp_path, declared) as (state, _):
        options = ("--agent", "desk", "--name", "stub", "--state", str(state))
        env = {"CREWKEEPER_TRACES": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        async with proxy_process(tmp_path, *options, env=env) as client:
            await client.handshake()
            assert "echo" in await client.tools()
            assert text_of(await granted(client, "echo", text="one")) == "one"
            denied = await client.call("fail")
            assert denied["_meta"][rpc.REFUSAL_KEY] == "denied"
            assert "it always fails" in text_of(denied)

            async def shown() -> list[str]:
                names = await client.tools()
                return [] if "fail" in names else names

            # A gate that is not heard of in time hides nothing: it refuses.
            assert "env" in await until(shown, "what could never be called is not shown")
            listed = (await client.ask("resources/list"))["result"]["resources"]
            assert [each["uri"] for each in listed] == ["memo://plan"]
            read = await client.ask("resources/read", {"uri": "memo://plan"})
            assert read["result"]["contents"][0]["text"] == "the plan"
            secret = await client.ask("resources/read", {"uri": "memo://salaries"})
            assert "not for agents" in secret["error"]["message"]
            rude = await client.ask("prompts/get", {"name": "brief", "arguments": {"tone": "rude"}})
            assert rude["error"]["data"] == {rpc.REFUSAL_KEY: "denied"}
            cut = await client.call("hang")
            assert cut["_meta"][rpc.REFUSAL_KEY] == "tool_timeout"
            assert text_of(await client.call("echo", text="two")) == "two"
            spent = await client.call("echo", text="three")
            assert spent["_meta"][rpc.REFUSAL_KEY] == "budget_spent"
            said = [line for line in (tmp_path / "stub.log").read_text().splitlines() if line.startswith("call")]
            assert said == ['call echo {"text": "one"}', "call hang {}", 'call echo {"text": "two"}']
        spans = {span.id: span for span in collector.spans if span.resource["service.name"] == "crewkeeper-mcp"}
        found = re.compile(r'^meta .*"traceparent": "00-\w+-(\w+)-01"', re.MULTILINE)
        reached = [spans[id_].name for id_ in found.findall((tmp_path / "stub.log").read_text())]
        assert reached == [f"execute_tool stub.{name}" for name in ("echo", "hang", "echo")]
        assert [span.failed for span in spans.values() if span.name == "execute_tool stub.fail"] == [True]
        async with connect(Place.find(state)) as link:
            run = await the_run(link)
            info = await link.js.stream_info("LEDGER", subjects_filter=ledger_subject(run.run))
            subjects = info.state.subjects or {}
            assert sum(subjects.values()) >= 8


async def test_while_nothing_runs_tools_are_listed_and_every_call_is_refused(tmp_path: Path) -> None:
    options = ("--agent", "desk", "--state", str(tmp_path / "state"))
    async with proxy_process(tmp_path, *options) as client:
        await client.handshake()
        assert "echo" in await client.tools()
        result = await client.call("echo", text="x")
        assert result["_meta"][rpc.REFUSAL_KEY] == "gate_unavailable"
        assert "nothing was executed" in text_of(result)
        assert not [line for line in (tmp_path / "stub.log").read_text().splitlines() if line.startswith("call")]


async def test_issued_credentials_are_enough(tmp_path: Path) -> None:
    async with up(tmp_path, crew()) as (state, _):
        file = tmp_path / "desk.json"

        async def issue() -> bool:
            told = await anyio.run_process(
                (*MAIN, "creds", "issue", "--agent", "desk", "--file", str(file), "--state", str(state)), check=False
            )
            return told.returncode == 0

        await until(issue, "credentials are issued")
        env = {"CREWKEEPER_CREDENTIALS": str(file), "CREWKEEPER_STATE": str(tmp_path / "elsewhere")}
        async with proxy_process(tmp_path, "--name", "stub", env=env) as client:
            await client.handshake()
            assert text_of(await granted(client, "echo", text="one")) == "one"
            assert text_of(await client.call("env")) == "[]"
        pins = json.loads((tmp_path / "elsewhere" / "tool-pins.json").read_text())
        assert "echo" in pins["servers"]["stub"]


async def test_credentials_of_another_agent_are_an_error(tmp_path: Path) -> None:
    file = tmp_path / "desk.json"
    file.write_text(json.dumps({"url": "nats://127.0.0.1:1", "user": "r1.desk", "password": "x"}))
    told = await anyio.run_process(
        (*MAIN, "mcp", "proxy", "--agent", "other", "--", "true"),
        env={**os.environ, "CREWKEEPER_CREDENTIALS": str(file)},
        check=False,
    )
    assert told.returncode == 3
    assert b"are of desk in run r1, not of other" in told.stderr
