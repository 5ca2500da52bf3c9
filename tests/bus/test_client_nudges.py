"""What the supervisor wants a model to read: given once, by whichever way the author takes it."""

import anyio
import pytest

from crewkeeper_bus import messages as m
from crewkeeper_bus.errors import Repeated
from crewkeeper_bus.nudges import KEPT_MAX
from support.bus import two_buses, until
from support.crew import open_crew


async def nudge(crew, id_: str, text: str = "do it otherwise") -> None:
    await crew.double.command("a", m.Nudge, nudge=id_, finding="F1", text=text)


async def settled(crew) -> None:
    """Return when what was commanded has been obeyed."""
    await crew.double.probe("a")


@two_buses
async def test_every_nudge_is_taken_once_and_that_is_said(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,):
        assert a.take_nudges() == []
        await nudge(crew, "N1")
        await nudge(crew, "N2", "and so")
        await settled(crew)
        assert await crew.double.told("a", m.NudgeTaken) == []
        assert [(each.id, each.finding, each.text) for each in a.take_nudges()] == [
            ("N1", "F1", "do it otherwise"),
            ("N2", "F1", "and so"),
        ]
        assert a.take_nudges() == []
        assert [each.nudge for each in await crew.double.told("a", m.NudgeTaken)] == ["N1", "N2"]


@two_buses
async def test_the_same_nudge_by_another_command_is_known_again(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,):
        await nudge(crew, "N1")
        await nudge(crew, "N1")
        await settled(crew)
        assert len(a.take_nudges()) == 1
        await nudge(crew, "N1")
        await settled(crew)
        assert a.take_nudges() == []
        assert len(await crew.double.told("a", m.NudgeTaken)) == 2, "whoever asks again has not heard that it was taken"


@two_buses
async def test_a_text_is_given_with_what_is_to_be_read_after_it(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,):
        assert a.with_nudges("3 results") == "3 results"
        await nudge(crew, "N1")
        await settled(crew)
        assert a.with_nudges("3 results") == "3 results\n\n[supervisor] do it otherwise"
        assert a.with_nudges("3 results") == "3 results"


@two_buses
async def test_a_listener_is_given_what_comes_and_what_was_there(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,):
        heard: list[str] = []
        await nudge(crew, "N1")
        await settled(crew)
        a.on_nudge(lambda each: heard.append(each.id))
        await nudge(crew, "N2")
        await until(lambda: heard == ["N1", "N2"], "both are heard")
        assert a.take_nudges() == []
        assert [each.nudge for each in await crew.double.told("a", m.NudgeTaken)] == ["N1", "N2"]


@two_buses
async def test_a_listener_that_fails_loses_nothing(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,):

        @a.on_nudge
        def broken(_nudge) -> None:
            raise RuntimeError("no model")

        await nudge(crew, "N1")
        await settled(crew)
        assert await crew.double.told("a", m.NudgeTaken) == []
        assert [each.id for each in a.take_nudges()] == ["N1"]


@two_buses
async def test_nobody_takes_them_for_ever(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,):
        for number in range(KEPT_MAX + 5):
            await nudge(crew, f"N{number}")
        await settled(crew)
        assert [each.id for each in a.take_nudges()][::50] == ["N5", "N55"]


@two_buses
async def test_a_wait_that_repeats_fails_with_an_error_of_its_own(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", "b") as (a, b):

        @b.serve()
        async def never(_request) -> None:
            await anyio.sleep_forever()

        call = await a.call("b")
        async with anyio.create_task_group() as group:

            async def wait() -> None:
                with pytest.raises(Repeated) as raised:
                    await call.answer()
                assert raised.value.finding == "F1"

            group.start_soon(wait)
            began = await crew.double.wait("a", m.WaitBegan)
            await crew.double.break_wait("a", began, code="repeated")
        assert await crew.double.outcomes("a", 1) == ["broken"]
