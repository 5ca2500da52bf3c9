"""A change that others may come between is made in the end, or says that it was not."""

import anyio
import pytest

from crewkeeper_supervisor.shell.contention import contend
from crewkeeper_supervisor.shell.errors import StoreUnavailable
from crewkeeper_supervisor.shell.nats_link import WrongLastSequence


async def test_a_change_is_tried_until_nobody_comes_between():
    tries = []

    async def attempt():
        tries.append(len(tries))
        if len(tries) < 30:
            raise WrongLastSequence("1")
        return "made"

    assert await contend("x", attempt, 600) == "made"
    assert len(tries) == 30


async def test_writers_that_never_rest_are_an_error_that_names_what_they_write():
    async def attempt():
        await anyio.lowlevel.checkpoint()
        raise WrongLastSequence("1")

    with pytest.raises(StoreUnavailable, match=r"the list: others kept changing it for 0\.05 s"):
        await contend("the list", attempt, 0.05)


async def test_any_other_error_ends_it_at_once():
    tries = []

    async def attempt():
        tries.append(1)
        raise StoreUnavailable("down")

    with pytest.raises(StoreUnavailable, match="down"):
        await contend("x", attempt)
    assert tries == [1]
