"""What a main activity returns is its result, told when it ends."""

import msgspec
import pytest
from agent_process import member

from crewkeeper_bus import messages as m
from support.crew import open_crew

pytestmark = pytest.mark.live

PROGRAM = """
from crewkeeper_agents import Agent

agent = Agent("planner")

@agent.main
async def main(crew):
    return {result}

if __name__ == "__main__":
    agent.run()
"""


async def test_a_result_is_told_and_one_that_is_no_data_is_not(tmp_path):
    (tmp_path / "planner.py").write_text(PROGRAM.format(result='{"city": "Lisbon", "cost": 870}'))
    (tmp_path / "odd.py").write_text(PROGRAM.format(result="object()"))
    (tmp_path / "huge.py").write_text(PROGRAM.format(result='"x" * 10_000_000'))
    async with (
        open_crew("nats", tmp_path) as crew,
        member(crew, tmp_path, "planner", ["planner.py"], cwd=tmp_path) as planner,
        member(crew, tmp_path, "odd", ["odd.py"], cwd=tmp_path) as odd,
        member(crew, tmp_path, "huge", ["huge.py"], cwd=tmp_path) as huge,
    ):
        assert [await each.ended() for each in (planner, odd, huge)] == [0, 0, 0]
        [end] = await crew.double.told("planner", m.TaskEnded)
        assert bytes(end.result) == b'{"city":"Lisbon","cost":870}'
        for each, name in ((odd, "odd"), (huge, "huge")):
            [end] = await crew.double.told(name, m.TaskEnded)
            assert end.result is msgspec.UNSET
            assert each.logged("agent.result_not_told")
