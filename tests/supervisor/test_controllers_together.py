"""Several controllers on one server: runs are shared, handed over without a loss, and let go of by a drain."""

import anyio
import pytest
from nats_process import crew, linked, until
from test_controller_runs import ask, declare, of_type, start

from crewkeeper_bus import messages as m
from crewkeeper_supervisor.shell import controller, ledger, members, owner
from crewkeeper_supervisor.shell.controller import Settings
from crewkeeper_supervisor.shell.owner import Owner
from crewkeeper_supervisor.shell.sharing import Sharing

pytestmark = pytest.mark.live
RUNS = ("r1", "r2", "r3", "r4")
LIMIT_S = 120.0
SHARED = Settings(
    lease_ttl_s=30,  # nothing here waits for one to expire
    timing=owner.Timing(resend_s=30.0, ended_s=1),
    sharing=Sharing(every_s=0.1, tenure_s=0.0, patience_s=300.0),
)


async def loads(link):
    """Runs by controller, as they say themselves; those that serve alone."""
    return {each.name: each.count for each in await members.ls(link) if each.state == "serving"}


async def test_runs_are_shared_with_who_comes_and_handed_over_by_who_drains(tmp_path):
    async with linked(tmp_path) as (server, link):
        for run in RUNS:
            await declare(link, run, crew())
            await start(link, run)
        drains = {name: anyio.Event() for name in ("one", "two")}
        ended = []

        async def serve(name):
            await controller.serve(server.place, name, settings=SHARED, drain=drains[name])
            ended.append(name)

        async def share_is(**wanted):
            return await loads(link) == wanted

        async with anyio.create_task_group() as group:
            group.start_soon(serve, "one")
            await until(lambda: share_is(one=4), LIMIT_S)
            group.start_soon(serve, "two")
            await until(lambda: share_is(one=2, two=2), LIMIT_S)
            for run in RUNS:
                await ask(link, "pause", run, agent="a")
            for run in RUNS:
                await until(lambda run=run: of_type(link, m.Pause, run), LIMIT_S)
            drains["one"].set()
            await until(lambda: ended, LIMIT_S)
            await until(lambda: share_is(two=4), LIMIT_S)
            for run in RUNS:
                await ask(link, "pause", run, agent="b")
            for run in RUNS:
                await until(lambda run=run: paused(link, run), LIMIT_S)
            # Asked over the bus, it ends, too.
            (two,) = await members.ls(link)
            await members.ask_to_drain(link, two.id)
            await until(lambda: "two" in ended, LIMIT_S)
            assert await members.ls(link) == []
        handed = [len(await of_type(link, m.OwnerChanged, run)) for run in RUNS]
        assert sum(handed) == 4 + 2 + 2, "a run changed hands more often than it had to"
        for run in RUNS:
            recorded = await ledger.read(link, run)
            assert ledger.verify(recorded) == []
            assert [record.kind for record in recorded].count("TellAgent") == 2


async def paused(link, run):
    return {pause.id for pause in found} if len(found := await of_type(link, m.Pause, run)) == 2 else None


async def test_a_run_that_does_not_get_on_is_left_to_another_controller(tmp_path, monkeypatch, capfd):
    stuck = []
    carry_out = Owner._carry_out

    async def hangs(self, commands, **how):
        if self._name == "one" and list(commands):
            stuck.append(self)
            await anyio.sleep_forever()
        await carry_out(self, commands, **how)

    monkeypatch.setattr(Owner, "_carry_out", hangs)
    settings = Settings(lease_ttl_s=30, timing=owner.Timing(resend_s=30.0, stall_s=1.0))
    async with linked(tmp_path) as (server, link):
        await declare(link)
        await start(link)
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: controller.serve(server.place, "one", settings=settings))
            await until(lambda: of_type(link, m.OwnerChanged), LIMIT_S)
            await ask(link, "pause", agent="a")
            await until(lambda: stuck, LIMIT_S)
            group.start_soon(lambda: controller.serve(server.place, "two"))
            await until(lambda: of_type(link, m.Pause), LIMIT_S)
            owners = [changed.owner for changed in await of_type(link, m.OwnerChanged)]
            assert owners[-1] == "two"
            group.cancel_scope.cancel()
    assert "run.stalled" in capfd.readouterr().err
