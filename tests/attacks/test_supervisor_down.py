"""Without a supervisor nobody new comes in, and those who are in go on; when it is back, all is as before."""

import os
import signal

import anyio
import pytest

from crewkeeper_bus.errors import ConnectionLost
from crewkeeper_bus.nats_transport import NatsTransport
from support.raw_nats import dial, raw
from support.siege import Siege

pytestmark = pytest.mark.live


async def test_new_connections_are_refused_and_messages_flow(siege: Siege):
    eve = siege.credentials("eve")
    async with siege.client("bob") as bob, siege.client("mallory") as mallory:

        @mallory.serve()
        async def answer(request):
            return "still here"

        await mallory.ready(90)
        await bob.ready(90)
        assert await bob.ask("mallory", timeout_s=90) == "still here"
        controller = siege.controller_pid()
        os.kill(controller, signal.SIGSTOP)
        try:
            late = await dial(eve)
            try:
                await late.closed()
                assert any("authorization violation" in each.lower() for each in late.errors), late.errors
            finally:
                await late.close()
            with pytest.raises(ConnectionLost, match="a supervisor runs"):
                await NatsTransport.open(credentials=lambda: eve, limit_s=0.1)
            for _ in range(20):
                assert await bob.ask("mallory", timeout_s=90) == "still here"
        finally:
            os.kill(controller, signal.SIGCONT)
        with anyio.fail_after(120):
            transport = await NatsTransport.open(credentials=lambda: eve, limit_s=90)
        await transport.close()


async def test_the_confinement_holds_without_a_supervisor(siege: Siege):
    async with raw(siege.credentials("eve")) as eve:
        controller = siege.controller_pid()
        os.kill(controller, signal.SIGSTOP)
        try:
            for subject in (siege.subject("ctl", "_", "bob"), siege.subject("req", "bob", "keeper"), "$JS.API.INFO"):
                eve.pub(subject, b"{}")
            eve.sub("out.crew.>")
            assert await eve.sync()
            assert len(eve.refusals("publish")) == 3
            assert len(eve.refusals("subscription")) == 1
        finally:
            os.kill(controller, signal.SIGCONT)
