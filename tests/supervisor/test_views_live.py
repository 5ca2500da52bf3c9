"""The live view of runs on a real server: it repaints on a terminal, tells lines elsewhere, and ends with the runs."""

import io

import pytest
from nats_process import linked
from told_runs import RUN, crew, deadlocked

from crewkeeper_bus import messages as m
from crewkeeper_bus.subjects import HOST
from crewkeeper_supervisor.core.crew import Response, Responses
from crewkeeper_supervisor.shell import journal
from crewkeeper_supervisor.views.live import AGENTS_SHOWN, render, watch
from crewkeeper_supervisor.views.snapshot import snapshot
from crewkeeper_supervisor.views.tables import new_console

OTHER = "trip-000002"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("LINES", "60")
    monkeypatch.delenv("NO_COLOR", raising=False)


async def store(link, run):
    """A run that deadlocked and was stopped."""
    declared = crew(responses=Responses(deadlock=Response(do=("break",), confirm_s=0.0)))
    telling = deadlocked(declared)
    await journal.create_run(link, run, declared, "here")
    for entry in telling.entries[1:]:
        await journal.publish(link, entry.subject.replace(RUN, run), entry.payload)
    await journal.publish_op(link, run, m.RunEnded(state="stopped", why="enough"), sender=HOST)
    await link.flush()


@pytest.mark.live
async def test_a_picture_on_a_terminal_and_a_story_elsewhere(tmp_path):
    async with linked(tmp_path) as (server, link):
        for run in (RUN, OTHER):
            await store(link, run)
        terminal, plain, pair = Terminal(), io.StringIO(), io.StringIO()
        await watch(server.place, [RUN], live=True, out=terminal)
        await watch(server.place, [RUN], live=False, out=plain, show_all=True)
        await watch(server.place, [RUN, OTHER], live=False, out=pair)
    picture = terminal.getvalue()
    assert "\x1b[" in picture
    for part in ("planner", "PROGRESS", "reviewer → planner → reviewer", "the run is over: stopped: enough"):
        assert part in picture
    lines = plain.getvalue().splitlines()
    assert all(line.isprintable() for line in lines)
    assert lines[0].endswith("crew trip declared: 3 agents (planner, reviewer, executor)")
    assert any("DEADLOCK" in line for line in lines)
    assert any("is alive" in line for line in lines)
    told = pair.getvalue()
    assert "is alive" not in told
    for run in (RUN, OTHER):
        assert sum(f" {run}: DEADLOCK" in line for line in told.splitlines()) == 1


def test_of_many_agents_those_that_wait_are_shown():
    from msgspec.structs import replace

    view = snapshot(deadlocked().fold)
    planner, _, executor = view.agents
    idle = tuple(replace(executor, name=f"idle-{number}") for number in range(60))
    out = io.StringIO()
    new_console(out).print(render([replace(view, agents=(*idle, planner))], [], view.last_at))
    shown = out.getvalue()
    assert "reviewer for" in shown
    assert f"… and {61 - AGENTS_SHOWN} more agents" in shown
