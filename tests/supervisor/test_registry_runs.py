"""The registry of runs on a real server."""

import contextlib

import anyio
import pytest
from nats_process import linked, until

from crewkeeper_supervisor.shell.errors import RunAmbiguous, RunNotFound
from crewkeeper_supervisor.shell.registry import Registry

pytestmark = pytest.mark.live


async def test_runs_are_declared_listed_resolved_and_end_once(tmp_path):
    async with linked(tmp_path) as (_, link):
        registry = Registry(link)
        assert await registry.ls() == []
        await registry.open()
        await registry.open()
        assert await registry.ls() == []
        for run, name in (("trip-aa1", "trip"), ("trip-ab2", "trip"), ("shop-c3", "shop")):
            await registry.declare(run, name, "here")
        assert [info.run for info in await registry.ls()] == ["trip-aa1", "trip-ab2", "shop-c3"]
        assert (await registry.resolve("trip-aa1")).run == "trip-aa1"
        assert (await registry.resolve("trip")).run == "trip-ab2"
        assert (await registry.resolve("sho")).run == "shop-c3"
        with pytest.raises(RunAmbiguous) as ambiguous:
            await registry.resolve("trip-a")
        assert ambiguous.value.runs == ("trip-aa1", "trip-ab2")
        for nobody in ("x", ""):
            with pytest.raises(RunNotFound):
                await registry.resolve(nobody)
        await registry.set_state("trip-ab2", "done")
        assert (await registry.set_state("trip-ab2", "failed")).state == "done"
        assert (await registry.resolve("trip")).run == "trip-aa1"
        # What its host says of an end is not the last word; what its owner says is.
        assert not (await registry.set_state("shop-c3", "failed", unfinished=True)).is_over
        ended = await registry.set_state("shop-c3", "done")
        assert (ended.state, ended.is_over) == ("failed", True)
        assert (await registry.set_state("shop-c3", "failed", unfinished=True)).is_over
        with pytest.raises(RunNotFound):
            await registry.set_state("nobody", "done")
        assert await registry.get("nobody") is None


async def test_a_watch_sees_each_change_and_survives_what_is_not_a_run(tmp_path):
    async with linked(tmp_path) as (_, link):
        registry = Registry(link)
        await registry.open()
        seen = []

        async def watch():
            async with contextlib.aclosing(registry.watch()) as lists:
                async for runs in lists:
                    seen.append({info.run: info.state for info in runs})

        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            await until(lambda: seen)
            await link.js.publish("$KV.CREWS.junk", b"\xff not json")
            await registry.declare("r1", "trip", "here")
            await until(lambda: seen[-1] == {"r1": "running"})
            await registry.set_state("r1", "done")
            await until(lambda: seen[-1] == {"r1": "done"})
            group.cancel_scope.cancel()
