"""`supervisor controllers` and `supervisor drain`, with controllers of this process on a real server."""

import json
import threading

import anyio
import pytest
from nats_process import nats_process, until
from test_controller_runs import declare, of_type

from crewkeeper_bus import messages as m
from crewkeeper_supervisor.cli.drain import _choose
from crewkeeper_supervisor.cli.failure import Failure
from crewkeeper_supervisor.cli.main import run
from crewkeeper_supervisor.shell import controller, members
from crewkeeper_supervisor.shell.controller import Settings
from crewkeeper_supervisor.shell.members import Member, heard_lately
from crewkeeper_supervisor.shell.nats_link import connect
from crewkeeper_supervisor.shell.sharing import Sharing

pytestmark = pytest.mark.live
SETTINGS = Settings(lease_ttl_s=30, sharing=Sharing(every_s=0.1, tenure_s=600))
LIMIT_S = 120.0


class Controllers:
    """Controllers in a thread with a loop of its own, while commands run in this one."""

    def __init__(self, place):
        self._place = place
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: anyio.run(self._main))

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(LIMIT_S)
        return self

    def __exit__(self, *_):
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive(), "a controller that was drained has not ended"

    async def _main(self):
        async with connect(self._place, name="test") as link, anyio.create_task_group() as group:
            await declare(link)
            group.start_soon(self._serve, "one")
            await until(lambda: of_type(link, m.OwnerChanged), LIMIT_S)
            group.start_soon(self._serve, "two")
            await until(lambda: there_are_two(link), LIMIT_S)
            self._ready.set()

    async def _serve(self, name):
        await controller.serve(self._place, name, settings=SETTINGS)


async def there_are_two(link):
    return sorted((each.name, each.count) for each in await members.ls(link)) == [("one", 1), ("two", 0)]


def test_a_controller_that_was_killed_is_not_meant_by_its_name():
    def one(id_, heard_at_s):
        return Member(id=id_, name="one", machine="m", pid=1, code="c", began_at_s=0.0, heard_at_s=heard_at_s)

    killed, again = one("a", 100.0), one("b", 104.0)
    assert _choose([killed, again], heard_lately([killed, again]), "one") is again
    assert _choose([killed, again], heard_lately([killed, again]), "a") is killed
    assert _choose([killed], heard_lately([killed]), None) is killed
    with pytest.raises(Failure, match="2 controllers fit"):
        _choose([again, one("c", 103.0)], [again, one("c", 103.0)], "one")


def test_a_controller_hands_over_and_the_last_one_only_if_told_to(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CREWKEEPER_STATE", str(tmp_path))
    monkeypatch.delenv("CREWKEEPER_NATS_URL", raising=False)

    def said(*words, code=0):
        assert run(list(words)) == code, capsys.readouterr()
        return capsys.readouterr()

    with nats_process(tmp_path) as server:
        server.announce()
        assert "no controller serves here" in said("controllers").err
        with Controllers(server.place):
            one, two = json.loads(said("controllers", "-o", "json").out)["items"]
            assert (one["name"], one["state"], one["runs"][0]["run"]) == ("one", "serving", "r1")
            assert (two["name"], two["owns"]) == ("two", 0)
            assert "r1 (1)" in said("controllers", "-o", "wide").out
            assert "2 controllers fit" in said("drain", code=2).err
            assert "no controller 'on'; did you mean 'one'" in said("drain", "on", code=5).err
            assert said("drain", "one", "--dry-run").out == "one would hand over r1 and end\n"
            drained = said("drain", "one")
            assert "one: asked to hand over 1 run\n" in drained.err
            assert drained.out == "one owns nothing any more and has ended\ntwo has r1\n"
            assert "no other controller takes r1" in said("drain", code=1).err
            assert "nobody has r1" in said("drain", "two", "--alone").out
