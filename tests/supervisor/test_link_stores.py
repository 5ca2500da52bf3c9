"""Streams and buckets that the server cannot store at once: tried again for a while, then told."""

import nats.js.errors
import pytest
from nats.js.errors import ServerError
from nats_process import linked

from crewkeeper_supervisor.shell import nats_link
from crewkeeper_supervisor.shell.errors import StoreUnavailable
from crewkeeper_supervisor.shell.nats_link import NOT_STORED, connect, insist
from crewkeeper_supervisor.shell.place import Place
from support.existing import server_of

pytestmark = pytest.mark.live


async def test_a_server_that_keeps_no_streams_is_said_to_and_not_waited_for(tmp_path):
    async with server_of(tmp_path, "", streams=False) as url, connect(Place.of_url(url, tmp_path)) as link:
        with pytest.raises(StoreUnavailable, match="keeps no streams: add a jetstream block") as refused:
            await insist(lambda: link.ensure_bucket("X", "what is asked for once"))
        assert refused.value.lasting


@pytest.mark.parametrize("failures", [3, 1_000_000])
async def test_two_who_make_the_first_stores_at_a_time_do_not_fail(tmp_path, failures, monkeypatch):
    """The server says so to one of them when both are about to make the directory of their account."""
    async with linked(tmp_path) as (_, link):
        asked, make = [], link.making.create_key_value

        async def late(config):
            asked.append(config.bucket)
            if len(asked) <= failures:
                raise ServerError(code=500, err_code=NOT_STORED, description="error creating store for stream")
            return await make(config)

        monkeypatch.setattr(link.making, "create_key_value", late)
        if failures == 3:
            monkeypatch.setattr(nats_link, "STORE_LIMIT_S", 600.0)
            await link.ensure_bucket("X", "what is tried again")
            assert (await link.js.stream_info("KV_X")).config.name == "KV_X"
            assert len(asked) == 4
        else:
            monkeypatch.setattr(nats_link, "STORE_LIMIT_S", 0.5)
            with pytest.raises(StoreUnavailable, match="error creating store"):
                await link.ensure_bucket("X", "what stays out of reach")
            with pytest.raises(nats.js.errors.NotFoundError):
                await link.js.stream_info("KV_X")
            assert len(asked) > 1


def test_a_try_that_nobody_hears_leaves_time_for_others():
    """A server that dies with a question leaves it without an answer: the whole limit of one question is lost."""
    assert nats_link.OPEN_LIMIT_S >= 3 * nats_link.MAKE_LIMIT_S
