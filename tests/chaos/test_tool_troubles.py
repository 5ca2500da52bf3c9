"""Troubles of a scenario's tools: several at once on one tool strike, are counted and end each by itself."""

import importlib
import sys
from types import ModuleType

import pytest

from crewkeeper_supervisor.chaos.plan.scenario import TOOLS_MODULE, StubTool
from crewkeeper_supervisor.chaos.real.tools import Tools


@pytest.fixture
def search(tmp_path, monkeypatch) -> tuple[Tools, ModuleType]:
    """The troubles of one tool, and its module as a tool host imports it."""
    tools = Tools(tmp_path, (StubTool(name="search", answer="fine"),))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, TOOLS_MODULE, raising=False)
    return tools, importlib.import_module(TOOLS_MODULE)


def test_two_troubles_of_one_tool_end_each_by_itself_and_count_what_they_spoil(search):
    tools, module = search
    failing = tools.trouble("search", "tool_fails", 50)
    spoiling = tools.trouble("search", "tool_corrupts", 100)
    with pytest.raises(RuntimeError, match="told to fail"):
        module.search()
    tools.calm("search", failing)
    assert module.search() != "fine"
    assert (tools.fired(failing), tools.fired(spoiling)) == (1, 1)
    tools.calm("search", failing)
    tools.calm("search", spoiling)
    assert module.search() == "fine"
    assert (tools.fired(failing), tools.fired(spoiling)) == (1, 1)


def test_a_share_of_the_calls_is_spoilt_all_along(search):
    tools, module = search
    spoiling = tools.trouble("search", "tool_corrupts", 25)
    assert [module.search() != "fine" for _ in range(8)] == [True, False, False, False] * 2
    assert tools.fired(spoiling) == 2


def test_two_troubles_of_one_kind_spoil_a_call_together(search):
    tools, module = search
    both = [tools.trouble("search", "tool_fails", 100) for _ in range(2)]
    with pytest.raises(RuntimeError, match="told to fail"):
        module.search()
    assert [tools.fired(each) for each in both] == [1, 1]
