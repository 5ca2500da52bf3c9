"""The metrics site: who is answered, and that readiness is the truth while a server comes and goes."""

import contextlib
import signal
import socket

import anyio
import httpx2
import pytest
from nats_process import linked, until

from crewkeeper_bus.errors import ConfigError
from crewkeeper_supervisor.chaos.real.loopback import free_port
from crewkeeper_supervisor.shell import controller, metrics_site, telemetry
from crewkeeper_supervisor.shell.listening import listener
from crewkeeper_supervisor.shell.metrics import Metrics
from crewkeeper_supervisor.shell.metrics_site import MetricsSite, serving
from crewkeeper_supervisor.shell.observing import Standing

LOCAL = frozenset({"127.0.0.1:1"})


@contextlib.asynccontextmanager
async def asking(hosts=LOCAL, standing=None):
    site = MetricsSite(Metrics(), standing or Standing(), hosts)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(site), base_url="http://127.0.0.1:1") as client:
        yield client


async def test_it_answers_what_it_has_and_takes_nothing():
    async with asking() as client:
        page = await client.get("/metrics")
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert "supervisor_connected 0.0" in page.text
        assert (await client.get("/healthz")).json() == {"healthy": True}
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["problems"]) == (503, ["it has no connection to NATS yet"])
        assert (await client.get("/")).status_code == 404
        assert (await client.get("/metrics/../etc/passwd")).status_code == 404
        assert (await client.post("/metrics", content=b"x")).status_code == 405


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1:2", "localhost", ""])
async def test_a_foreign_name_that_leads_here_is_not_answered(host):
    async with asking() as client:
        assert (await client.get("/metrics", headers={"host": host})).status_code == 421
    async with asking(hosts=frozenset()) as client:
        assert (await client.get("/metrics", headers={"host": host or "x"})).status_code == 200


async def test_a_page_is_made_once_however_often_it_is_asked_for(monkeypatch):
    made = 0
    metrics = Metrics()

    def written() -> bytes:
        nonlocal made
        made += 1
        return b"x 1\n"

    monkeypatch.setattr(metrics, "written", written)
    monkeypatch.setattr(metrics_site, "KEPT_S", 1000.0)
    site = MetricsSite(metrics, Standing(), LOCAL)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(site), base_url="http://127.0.0.1:1") as client:
        for _ in range(20):
            assert (await client.get("/metrics")).text == "x 1\n"
    assert made == 1


async def test_an_address_that_is_taken_is_served_once_it_is_free(monkeypatch):
    monkeypatch.setattr(metrics_site, "AGAIN_S", 0.01)
    port = free_port()  # one that no connection of somebody else can take once it is free
    with socket.create_server(("127.0.0.1", port)) as taken:
        async with serving(f"127.0.0.1:{port}", Metrics(), Standing()) as address:
            assert address == ""
            taken.close()
            await until(lambda: got(f"http://127.0.0.1:{port}/healthz"), 60)
    listener("127.0.0.1", port).close()


async def test_what_fails_in_it_ends_nothing_around_it(monkeypatch):
    async def fail(*_: object) -> None:
        raise RuntimeError("no beat")

    monkeypatch.setattr(metrics_site, "_beat", fail)
    async with serving("127.0.0.1:0", Metrics(), Standing()) as address:
        assert await got(f"{address}/healthz") == 200


async def got(url: str) -> int:
    async with httpx2.AsyncClient(timeout=30) as client:
        try:
            return (await client.get(url)).status_code
        except httpx2.TransportError:
            return 0


@pytest.mark.parametrize("listen", ["9464", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", ":1"])
async def test_what_is_no_address_is_refused(listen):
    with pytest.raises(ConfigError, match="write host:port"):
        async with telemetry.opened(listen, traces=False):
            raise AssertionError("never served")


async def test_without_telemetry_nothing_is_observed():
    async with telemetry.opened("", traces=False) as (observer, standing):
        assert observer is None
        assert standing == Standing()


class Silent:
    """A connection whose server answers nothing: stopped, or cut off without a word."""

    is_connected = True

    def __init__(self) -> None:
        self.nc = self
        self.asked = 0

    async def flush(self, timeout: int) -> None:
        self.asked += 1
        raise TimeoutError


async def test_a_server_that_says_nothing_is_not_ready_and_asked_once_a_second():
    link = Silent()
    site = MetricsSite(Metrics(), Standing(link=link, opened=True), LOCAL)  # type: ignore[arg-type]
    for _ in range(20):
        assert await site.problems() == ["NATS has not answered within 2 s"]
    assert 0 < link.asked < 20


@pytest.mark.live
async def test_readiness_follows_the_server(tmp_path):
    async with linked(tmp_path) as (server, _), telemetry.opened("127.0.0.1:0", traces=False) as (observer, standing):
        assert observer is not None
        site = MetricsSite(Metrics(), standing, frozenset())

        async def is_ready() -> bool:
            return not await site.problems()

        async def is_lost() -> bool:
            return await site.problems() in (["its connection to NATS is lost"], ["NATS has not answered within 2 s"])

        async with anyio.create_task_group() as group:
            group.start_soon(lambda: controller.serve(server.place, "one", observer=observer, standing=standing))
            await until(is_ready, 60)
            server.stop(signal.SIGKILL)
            await until(is_lost, 60)
            server.start()
            await until(is_ready, 60)
            standing.draining = True
            assert await site.problems() == ["it is draining: it gives its runs to others"]
            group.cancel_scope.cancel()
