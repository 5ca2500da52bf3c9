"""A kill while the killed one reconnects without a pause, several times over: it is out, and the report is true."""

import asyncio
import json
import uuid

import anyio
import pytest

from support.bus import until
from support.raw_nats import dial, raw
from support.siege import Siege, join

pytestmark = pytest.mark.live


class Churner:
    """Connects, says something as often as it can, and comes back whenever it is thrown out."""

    def __init__(self, siege: Siege, agent: str, mark: str) -> None:
        own = siege.credentials(agent)
        self._credentials = type(own)(url=own.url, user=own.user, password=f"{own.password}~{mark * 20}")
        self._subject = siege.subject("msg", agent, "bob", "")
        self.logins = 0
        self.refusals = 0

    async def storm(self) -> None:
        while True:
            client = await dial(self._credentials)
            try:
                if client.is_closed:
                    self.refusals += 1
                    continue
                self.logins += 1
                while not client.is_closed:
                    client.pub(self._subject + uuid.uuid4().hex[:12], b"{}")
                    await asyncio.sleep(0.0003)
            finally:
                await client.close()


@pytest.mark.slow
async def test_three_that_share_an_identity_and_never_stop_are_out(siege: Siege):
    async with siege.link() as link, raw(siege.credentials("eve")) as eve, siege.client("bob") as bob:
        await bob.ready(90)
        join(siege, eve, "eve")
        await eve.sync()
        churners = [Churner(siege, "eve", mark) for mark in "abc"]
        async with anyio.create_task_group() as storm:
            for churner in churners:
                storm.start_soon(churner.storm)
            await until(lambda: all(each.logins >= 2 for each in churners), "the storm rages")
            ran = await anyio.to_thread.run_sync(
                siege.supervisor, "agent", "kill", siege.run, "eve", "--grace", "0", "-y", "-o", "json"
            )
            assert ran.returncode == 0, ran.stderr
            told = json.loads(ran.stdout)
            assert told["outcome"] == "terminated", told
            out_at = await siege.last_seq(link)
            logins = [each.logins for each in churners]
            refused = [each.refusals for each in churners]
            await until(
                lambda: all(each.refusals > before + 3 for each, before in zip(churners, refused, strict=True)),
                "each has tried again",
            )
            assert [each.logins for each in churners] == logins, "somebody came in again"
            storm.cancel_scope.cancel()
        after = [
            e for e in await siege.stored(link) if e.seq > out_at and ".eve." in e.subject.partition(".msg")[2][:6]
        ]
        assert after == [], "something was accepted from a killed identity"
        with anyio.fail_after(120):
            assert await bob.ask("worker", 1) == "ok", "the innocent go on"
        again = await anyio.to_thread.run_sync(siege.supervisor, "agent", "kill", siege.run, "eve", "-y", "-o", "json")
        assert again.returncode == 0, again.stderr
        assert json.loads(again.stdout)["outcome"] == "terminated", "a kill can be repeated"
