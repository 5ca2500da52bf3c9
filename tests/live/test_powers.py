"""Ended, held, throttled and let in by a real server, on the order of a controller in its own process."""

import hashlib
import json
import sys
from pathlib import Path

import anyio
import msgspec
import pytest

from crewkeeper_bus import messages as m
from crewkeeper_bus.credentials import Credentials
from crewkeeper_supervisor.core.crew import Rate
from support.bus import LIMIT_S, until
from support.powered import RUN, powered
from support.raw_nats import Raw, dial, enter

pytestmark = pytest.mark.live

PATIENTLY = ("--timeout", "300")
"""For commands that wait for their effect: how slow a machine may be."""
FLOOD = """
import json, socket, sys
host, port, user, password, subject = sys.argv[1:6]
sock = socket.create_connection((host, int(port)))
login = {"user": user, "pass": password, "verbose": False}
sock.sendall(b'CONNECT ' + json.dumps(login).encode() + b'\\r\\nPING\\r\\n')
line = b'PUB ' + subject.encode() + b' 64\\r\\n' + b'x' * 64 + b'\\r\\n'
try:
    while True:
        sock.sendall(line * 100)
except OSError:
    pass
"""


async def test_one_that_obeys_nothing_is_terminated_and_nothing_of_it_is_stored_any_more(tmp_path: Path):
    async with powered(tmp_path) as stage:
        eve = await stage.enter("eve")
        told: list[tuple[int, dict[str, object]]] = []

        async def kill() -> None:
            told.append(await stage.cli("agent", "kill", RUN, "eve", "--grace", "0.2", *PATIENTLY, "--yes"))

        async def talk() -> None:
            nonlocal eve
            while not told:
                stage.say(eve, "eve", m.Progress, task="t", text="still here")
                await anyio.sleep(0.002)
                if eve.is_closed:
                    await eve.close()
                    eve = await dial(stage.credentials("eve"))

        async with anyio.create_task_group() as group:
            group.start_soon(talk)
            group.start_soon(kill)
        ((code, result),) = told
        assert (code, result["outcome"]) == (0, "terminated"), result
        assert any("shuts eve out" in proof["text"] for proof in result["evidence"]), result
        await stage.look()
        view = stage.fold.supervisor.agents["eve"]
        assert view.ending is not None
        assert view.ending.heard_seq == 0
        again = await dial(stage.credentials("eve"))
        assert again.is_closed
        await again.close()
        code, result = await stage.cli("agent", "kill", RUN, "eve", *PATIENTLY, "--yes")
        assert (code, result["outcome"]) == (0, "terminated")
        await eve.close()


async def test_one_that_ignores_a_pause_is_held_and_goes_on_when_it_is_let(tmp_path: Path):
    async with powered(tmp_path) as stage:
        eve, b = await stage.enter("eve"), await stage.enter("b")
        code, result = await stage.cli("agent", "pause", RUN, "eve", "--grace", "0.2", *PATIENTLY, "--yes")
        assert (code, result["outcome"]) == (0, "paused"), result
        assert "the server holds it" in str(result["why"])
        if eve.is_closed:
            await eve.close()
            eve = await enter(stage.credentials("eve"))
        stage.say(eve, "eve", m.Progress, task="t", text="in spite of it")
        stage.say(b, "b", m.Progress, task="t", text="freely")
        await eve.sync()
        await stage.until(lambda core: core.agents["b"].progress == "freely", "the other is heard")
        assert stage.fold.supervisor.agents["eve"].progress == ""
        code, result = await stage.cli("resume", RUN, *PATIENTLY)
        assert (code, result["ok"]) == (0, True), result

        async def is_heard() -> bool:
            nonlocal eve
            if eve.is_closed:  # its connection without rights was cut, so that it comes back with them
                await eve.close()
                eve = await enter(stage.credentials("eve"))
            stage.say(eve, "eve", m.Progress, task="t", text="free again")
            await anyio.sleep(0.1)
            return (await stage.look()).supervisor.agents["eve"].progress == "free again"

        await until(is_heard, "it is heard again")
        await eve.close()
        await b.close()


@pytest.mark.slow
async def test_a_flood_is_held_and_a_ring_of_others_is_found_meanwhile(tmp_path: Path):
    async with powered(tmp_path, rate=Rate(messages_per_s=100, burst=500)) as stage:
        a, b, eve = [await stage.enter(name) for name in ("a", "b", "eve")]
        own = stage.credentials("eve")
        host, _, port = own.url.rpartition("/")[2].rpartition(":")
        words = [host, port, own.user, own.password, f"crew.{RUN}.msg.eve.a.x1"]
        async with await anyio.open_process([sys.executable, "-c", FLOOD, *words]) as flooder:
            await stage.until(
                lambda core: core.agents["eve"].throttled > 100 or core.agents["eve"].flood is not None,
                "the flood is noticed",
            )
            for client, one, other in ((a, "a", "b"), (b, "b", "a")):
                stage.say(client, one, m.TaskBegan, task="main", name="main")
                asked = {"kind": "req", "to": other, "id_": f"c-{one}"}
                stage.say(client, one, m.Request, **asked, task="main", body=msgspec.Raw(b"{}"))
                stage.say(client, one, m.WaitBegan, task="main", epoch=1, condition=m.OnCall(call=f"c-{one}"))
            await answer_probes(stage, {"a": a, "b": b})
            found = stage.fold.supervisor.incidents.values()
            assert {"deadlock", "flood"} <= {each.finding.kind for each in found}
            assert stage.fold.supervisor.agents["eve"].hold is not None or stage.fold.supervisor.agents["eve"].ending
            with anyio.fail_after(LIMIT_S):
                assert await flooder.wait() == 0, "the server has not put the flooder out"
        log = (tmp_path / "controller.log").read_text()
        assert "lease.lost" not in log
        assert "Traceback" not in log
        for client in (a, b, eve):
            await client.close()


async def answer_probes(stage, clients: dict[str, Raw]) -> None:
    """Affirm every wait that is asked about until both the ring and the flood are findings and the flooder is held."""
    answered: set[str] = set()

    async def done() -> bool:
        await anyio.sleep(0.02)
        for name, client in clients.items():
            for heard in client.heard:
                told = json.loads(heard.payload)
                if told.get("t") == "probe" and told["nonce"] not in answered:
                    answered.add(told["nonce"])
                    other = "b" if name == "a" else "a"
                    wait = m.OpenWait(epoch=1, condition=m.OnCall(call=f"c-{name}"))
                    whole = {
                        "tasks": (m.TaskState(task="main", wait=wait),),
                        "calls": (m.OpenCall(call=f"c-{name}", to=other, task="main"),),
                        "queued": (f"c-{other}",),
                    }
                    stage.say(client, name, m.Heartbeat, kind="hb", nonce=told["nonce"], role=name, **whole)
        core = (await stage.look()).supervisor
        kinds = {incident.finding.kind for incident in core.incidents.values()}
        eve = core.agents["eve"]
        held = (eve.hold is not None and eve.hold.step == "held") or eve.ending is not None
        return {"deadlock", "flood"} <= kinds and held

    await until(done, "the ring is found, the flooder held")


async def test_a_task_lets_in_a_helper_that_goes_with_it(tmp_path: Path):
    async with powered(tmp_path) as stage:
        a = await stage.enter("a")
        stage.say(a, "a", m.TaskBegan, task="t1")
        secret = "s" * 43
        digest = hashlib.sha256(secret.encode()).hexdigest()
        wish = {
            "task": "t1",
            "agent": "helper",
            "peers": ("b",),
            "limit_s": 60.0,
            "digest": digest,
            "token": "token001",
        }
        stage.say(a, "a", m.Delegate, id_="d1", **wish)
        await a.until(lambda: any(b".d1" in each.subject for each in a.heard), "the answer")
        answer = json.loads(next(each.payload for each in a.heard if b".d1" in each.subject))
        assert "error" not in answer, answer
        assert answer["body"]["agent"] == "helper"
        own = stage.credentials("a")
        credentials = Credentials(url=own.url, user=f"{RUN}.helper", password=f"token001-{secret}")
        helper = await enter(credentials)
        stage.say(helper, "helper", m.Joined, role="helper")
        await stage.until(lambda core: core.agents["helper"].present, "the helper has joined")
        helper.pub(f"crew.{RUN}.msg.helper.eve.x1", b"{}")
        await helper.sync()
        assert helper.refusals("publish")
        stage.say(a, "a", m.TaskEnded, task="t1")
        await helper.closed()
        await stage.until(lambda core: core.agents["helper"].ending.outcome == "terminated", "its end is proven")
        again = await dial(credentials)
        assert again.is_closed
        for client in (a, helper, again):
            await client.close()
