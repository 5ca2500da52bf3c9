"""Declaring agents and finding them by name; the example crew files."""

import subprocess
import sys

import pytest
from agent_process import EXAMPLES

from crewkeeper_agents import Agent, host
from crewkeeper_agents.runtime import Life
from crewkeeper_bus.errors import ConfigError, SubjectError
from crewkeeper_supervisor.shell import crewfile


async def nothing(*_):
    return None


@pytest.mark.parametrize("name", ["", "a.b", "_host", "x" * 33])
def test_a_name_must_be_a_subject_token(name):
    with pytest.raises(SubjectError):
        Agent(name)


def test_a_verb_and_main_are_declared_once():
    agent = Agent("a")
    assert agent.handler("approve")(nothing) is nothing
    agent.handler("*")(nothing)
    assert agent.main(nothing) is nothing
    with pytest.raises(ConfigError, match="'approve' has a handler already"):
        agent.handler("approve")
    with pytest.raises(ConfigError, match="has a main activity already"):
        agent.main(nothing)
    with pytest.raises(SubjectError):
        agent.handler("a.b")


def test_a_life_lasts_until_stop_or_main():
    with pytest.raises(ConfigError, match="until is 'noon': give one of stop, main"):
        Life(Agent("a"), None, until="noon")


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "crewmodule.py").write_text(
        "from crewkeeper_agents import Agent\nagent = Agent('one')\nother = Agent('two')\nnumber = 3\n"
    )
    (tmp_path / "crewbroken.py").write_text("import nowhere_at_all\n")
    yield "crewmodule"
    sys.modules.pop("crewmodule", None)


def test_an_agent_is_found_by_module_and_name(module):
    assert host.find("crewmodule").name == "one"
    assert host.find("crewmodule:other").name == "two"


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("crewmodul:agent", "there is no module 'crewmodul'"),
        ("crewmodule.sub:agent", "there is no module 'crewmodule.sub'"),
        ("crewmodule:third", "has no 'third'; its agents: agent, other"),
        ("crewmodule:number", "has a int, not an Agent, as 'number'"),
        ("planner.py:agent", "names a file; name its module: planner:agent"),
        ("crew/planner:agent", "does not name an agent: write module:name"),
        (":agent", "does not name an agent"),
    ],
)
def test_what_is_not_found_is_said(module, place, words):
    with pytest.raises(ConfigError) as caught:
        host.find(place)
    assert words in str(caught.value)


def test_an_import_that_fails_inside_the_module_is_not_hidden(module):
    with pytest.raises(ModuleNotFoundError, match="nowhere_at_all"):
        host.find("crewbroken:agent")


@pytest.mark.parametrize("example", ["trip", "two-agents"])
def test_the_example_crew_files_are_right(example):
    crew = crewfile.load(EXAMPLES / example / "crew.yaml")
    for agent in crew.agents:
        assert (EXAMPLES / example / agent.run[1]).exists()


def test_the_trip_declares_what_its_programs_do():
    crew = crewfile.load(EXAMPLES / "trip" / "crew.yaml")
    assert {agent.name: agent.may_call for agent in crew.agents} == {
        "planner": ("reviewer", "executor"),
        "reviewer": ("planner",),
        "executor": (),
    }
    assert crew.responses.deadlock.do == ("break", "escalate")
    assert crew.responses.deadlock.confirm_s == 0.25
    assert [(hook.webhook, hook.secret) for hook in crew.escalate] == [("${OPS_WEBHOOK}", "${OPS_WEBHOOK_SECRET}")]


@pytest.mark.parametrize("program", ["asker.py", "adder.py"])
def test_the_smallest_agents_are_under_15_lines(program):
    assert len((EXAMPLES / "two-agents" / program).read_text().splitlines()) < 15


def test_declaring_an_agent_imports_no_event_loop_and_no_network():
    code = "import sys, crewkeeper_agents as a; a.Agent('x'); print(sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'crewkeeper_agents'" in loaded
    assert not [name for name in ("nats", "anyio", "asyncio", "structlog", "networkx") if f"'{name}'" in loaded]
