"""A real crew with metrics and traces: one trace over all its processes, numbers that agree with it, signs of life."""

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from crewkeeper_bus.tracing import root_of
from crewkeeper_supervisor.chaos.real.loopback import free_port
from support.collector import collecting
from support.up import up

pytestmark = pytest.mark.live

TOOLS = """\
from opentelemetry import trace


def add(n: int) -> str:
    "Say in which trace this is."
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}-{context.span_id:016x}"
"""
ASKER = """\
import json

import anyio

from crewkeeper_agents import Agent
from crewkeeper_bus import WouldDeadlock

asker = Agent("asker")


@asker.main
async def work(crew):
    try:
        await crew.ask("other", 1)
    except WouldDeadlock:
        pass
    told = {"add": await crew.call_tool("add", {"n": 1}), "env": await crew.call_tool("env", {})}
    await anyio.Path("told.json").write_text(json.dumps(told))
    while not await anyio.Path("leave").exists():
        await crew.sleep(0.2)


@asker.handler("ask")
async def answer(crew, request):
    return 1


asker.run()
"""
OTHER = """\
from crewkeeper_agents import Agent

other = Agent("other")


@other.handler("ask")
async def ask_back(crew, request):
    return await crew.ask("asker", 2)


other.run()
"""
CREW = """\
crew: told
agents:
  asker: {run: [python, asker.py], tools: [add, env], may_call: [other]}
  other: {run: [python, other.py], may_call: [asker]}
tools:
  add: {function: "m:add"}
  env: {command: [python, -c, "import os; print(os.environ['TRACEPARENT'])"], schema: {type: object}}
"""


def page(address: str, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def value(text: str, sample: str) -> float:
    """A sample of a page; 0 where it is not there."""
    return next((float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(f"{sample} ")), 0.0)


def test_a_crew_is_one_trace_and_its_numbers_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, text in (("m.py", TOOLS), ("asker.py", ASKER), ("other.py", OTHER), ("crew.yaml", CREW)):
        (tmp_path / name).write_text(text)
    address = f"127.0.0.1:{free_port()}"
    with collecting() as collector:
        environ = {
            "CREWKEEPER_METRICS": address,
            "CREWKEEPER_TRACES": "otlp",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        with up(tmp_path, monkeypatch, **environ) as crew:
            crew.wait_for(lambda: page(address, "/readyz")[0] == 200)
            assert page(address, "/healthz") == (200, '{"healthy":true}\n')
            added = 'supervisor_tool_calls_total{crew="told",decision="allow",tool="add"}'
            crew.wait_for(lambda: value(page(address, "/metrics")[1], added) == 1)
            text = page(address, "/metrics")[1]
            (tmp_path / "leave").touch()
            crew.wait_for(lambda: "told-" in crew.log.read_text() and " done in " in crew.log.read_text())
        crew.wait_for(lambda: collector.named("invoke_workflow told"))
    asked = collector.named("invoke_agent other")
    assert value(text, 'supervisor_incidents_total{crew="told",kind="deadlock",severity="error"}') == 1
    assert value(text, 'supervisor_agents{crew="told",state="up"}') == 2
    assert value(text, 'supervisor_runs{state="running"}') == 1
    assert value(text, "supervisor_detection_delay_seconds_count") == 1
    assert value(text, 'supervisor_telemetry_errors_total{part="traces"}') == 0

    (run,) = collector.named("invoke_workflow told")
    (trace,) = {span.trace for span in collector.spans}
    assert (trace, run.id) == tuple(root_of(run.attributes["crewkeeper.run"]).split("-")[1:3])
    by_id = {span.id: span for span in collector.spans}
    assert [span for span in collector.spans if span.parent and span.parent not in by_id] == []
    (served,) = [span for span in asked if span.resource["service.name"] == "other"]
    (called,) = [span for span in asked if span.resource["service.name"] == "asker"]
    assert served.parent == called.id
    (found,) = collector.named("crewkeeper.finding deadlock")
    assert called.id in found.links
    told = json.loads((tmp_path / "told.json").read_text())
    for tool, made in (("add", told["add"]), ("env", told["env"].strip()[3:-3])):
        (called,) = collector.named(f"execute_tool {tool}")
        (ran,) = collector.named(f"crewkeeper.run_tool {tool}")
        (decided,) = [span for span in collector.named("crewkeeper.decide allow") if span.parent == called.id]
        assert (called.resource["service.name"], ran.resource["service.name"]) == ("asker", "crewkeeper-tools")
        assert (ran.parent, decided.attributes["gen_ai.tool.name"]) == (called.id, tool)
        assert made == f"{ran.trace}-{ran.id}", "the tool itself is in the span of its run"
