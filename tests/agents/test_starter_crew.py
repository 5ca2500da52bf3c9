"""The agents that `supervisor init` writes do their work on a real bus."""

import pytest
from agent_process import member

from crewkeeper_bus import messages as m
from crewkeeper_bus.messages import Stop
from crewkeeper_supervisor.cli.main import run
from support.crew import open_crew


@pytest.mark.live
async def test_the_agents_of_a_new_crew_finish_their_note(tmp_path):
    folder = tmp_path / "new"
    assert run(["init", str(folder)]) == 0
    async with (
        open_crew("nats", tmp_path) as crew,
        member(crew, tmp_path, "reviewer", ["reviewer.py"], cwd=folder) as reviewer,
        member(crew, tmp_path, "writer", ["writer.py"], cwd=folder) as writer,
    ):
        assert await writer.ended() == 0
        assert (await crew.double.told("writer", m.Progress))[-1].text == "done: Agents that wait for each other stop."
        await crew.double.command("reviewer", Stop, why="the work is done")
        assert await reviewer.ended() == 0
