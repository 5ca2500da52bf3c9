"""The receiver is down for an hour, by a faster clock, and controllers die: all arrives, in order, genuine."""

import signal
import time
from pathlib import Path

import anyio
import pytest
from approval_stage import RUN, Scene, scene
from nats_process import python, until
from standardwebhooks import Webhook as Verifier

from crewkeeper_bus import messages as m
from crewkeeper_bus.subjects import HOST
from crewkeeper_supervisor.chaos.real.loopback import free_port
from crewkeeper_supervisor.core.commands import Escalate
from crewkeeper_supervisor.core.crew import Agent, Crew, Response, Responses, Webhook
from crewkeeper_supervisor.core.supervisor import Supervisor
from crewkeeper_supervisor.gate.rules import make_fold
from crewkeeper_supervisor.shell import journal
from crewkeeper_supervisor.shell.deliveries import Deliveries
from crewkeeper_supervisor.shell.outbox import DEAD_STREAM, STREAM
from crewkeeper_supervisor.shell.receiver import Receiver

pytestmark = pytest.mark.live
SECRET = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"
HOUR_S = 3600.0
LIMIT_S = 240.0
PROGRAM = str(Path(__file__).with_name("hurried_controller.py"))


class Independent(Receiver):
    """Keeps what is genuine by the library of Standard Webhooks alone; refuses the first of each incident once."""

    def __init__(self, port: int) -> None:
        super().__init__(SECRET, port)
        self.taken: list[tuple[str, bytes]] = []
        self.forged: list[str] = []
        self.refused: set[str] = set()

    def take(self, path: str, headers: dict[str, str], payload: bytes) -> int:
        known = {name.lower(): value for name, value in headers.items()}
        try:
            Verifier(SECRET).verify(payload, known)
        except Exception as error:  # noqa: BLE001 - the library has many
            self.forged.append(repr(error))
            return 401
        id_ = known["webhook-id"]
        if b".opened" in payload and id_ not in self.refused:
            self.refused.add(id_)
            return 503  # what comes after it must wait for it all the same
        self.taken.append((id_, payload))
        return 204


def crew_of(count: int, port: int) -> Crew:
    agents = tuple(Agent(name=f"a{number}", run=("true",)) for number in range(count))
    hook = Webhook(webhook=f"http://127.0.0.1:{port}/hook", secret=SECRET, allow_private=True)
    responses = Responses(crash=Response(do=("escalate",)))
    return Crew(name="hour", agents=agents, escalate=(hook,), escalations_per_minute=1000, responses=responses)


class Hour:
    """A run whose agents crash, and what people are to be told of it."""

    def __init__(self, made: Scene) -> None:
        self.made = made
        self.records = Deliveries(made.link)

    async def crash(self, names: range) -> None:
        for number in names:
            gone = m.ProcessExited(agent=f"a{number}", pid=0, code=1)
            await journal.publish_op(self.made.link, RUN, gone, sender=HOST)

    async def acknowledge(self) -> None:
        for incident in list((await self.fold())[0].incidents):
            known = m.OperatorAsked(action="acknowledge", incident=incident, by="kim")
            await journal.publish_op(self.made.link, RUN, known)

    async def end(self) -> None:
        await journal.publish_op(self.made.link, RUN, m.RunEnded(state="stopped"), sender=HOST)

    async def fold(self) -> tuple[Supervisor, list[Escalate]]:
        core, told = make_fold(RUN), []
        for entry in await journal.read_all(self.made.link, RUN):
            told += [each for each in core.handle(core.read(*entry)) if isinstance(each, Escalate)]
        return core, told

    async def tried(self, times: int, of: int) -> bool:
        """Whether so many messages were tried so often, by the record of attempts."""
        await anyio.sleep(0.2)  # each look reads all there is
        return sum(each.count >= times for each in await self.records.ls(RUN)) >= of

    async def is_empty(self) -> bool:
        await anyio.sleep(0.2)
        if (await self.made.link.js.stream_info(STREAM)).state.messages:
            return False
        core, told = await self.fold()  # that the run has ended may come into the journal last
        is_told = len(told) == sum(each.state == "delivered" for each in await self.records.ls(RUN))
        return core.state == "stopped" and is_told


async def check(tmp_path: Path, speed: float, incidents: int, kills: int) -> None:
    port = free_port()
    async with scene(tmp_path, crew_of(incidents, port)) as made:
        hour, began_s = Hour(made), time.monotonic()
        share = incidents // (kills + 1)
        for part in range(kills):
            with python([PROGRAM, str(tmp_path), str(speed)], tmp_path / f"c{part}.log") as controller:
                await hour.crash(range(part * share, (part + 1) * share))
                await until(lambda: hour.tried(2, 1), LIMIT_S)
                await hour.acknowledge()
                controller.send(signal.SIGKILL)
        with python([PROGRAM, str(tmp_path), str(speed)], tmp_path / "last.log") as controller:
            await hour.crash(range(kills * share, incidents))
            await until(lambda: time.monotonic() - began_s > HOUR_S / speed, LIMIT_S)
            with Independent(port) as receiver:
                await hour.end()
                await until(hour.is_empty, LIMIT_S)
            assert controller.process.poll() is None
        core, told = await hour.fold()
        dead = (await made.link.js.stream_info(DEAD_STREAM)).state.messages
    assert dead == 0
    assert receiver.forged == []
    arrived = list(dict.fromkeys(id_ for id_, _ in receiver.taken))
    assert sorted(arrived) == sorted(f"msg_{RUN}_{each.id}" for each in told), "one id each, and nobody is left out"
    assert len(dict(receiver.taken)) == len(set(receiver.taken)), "sent twice, it says the same"
    assert len(core.incidents) == incidents
    for incident in core.incidents:
        mine = [(f"msg_{RUN}_{each.id}", each.kind) for each in told if each.incident == incident]
        assert [id_ for id_ in arrived if id_ in dict(mine)] == [id_ for id_, _ in mine], "in the order of the journal"
        assert [kind for _, kind in mine] in (["opened", "resolved"], ["opened", "acknowledged", "resolved"])
    assert any(each.kind == "acknowledged" for each in told)


async def test_a_quick_hour_with_one_death(tmp_path):
    await check(tmp_path, speed=3600, incidents=8, kills=1)


@pytest.mark.slow
async def test_a_slower_hour_with_many_deaths(tmp_path):
    await check(tmp_path, speed=120, incidents=40, kills=4)
