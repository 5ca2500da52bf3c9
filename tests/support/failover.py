"""A run whose controllers die at points that a test names, and a reader that holds what they left against the truth.

The agents are played by the test. What was asked is read from the journal, so that a question that the server lost is
none; what was decided and done is read from the ledger, the journal and a receiver of webhooks.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import msgspec

from crewkeeper_bus import codec, subjects
from crewkeeper_bus import messages as m
from crewkeeper_bus import tool_messages as t
from crewkeeper_bus.errors import CodecError, ConnectionLost
from crewkeeper_bus.subjects import HOST, Kind
from crewkeeper_supervisor.core.crew import Agent, Budget, Crew, Webhook
from crewkeeper_supervisor.core.tools import Tool
from crewkeeper_supervisor.shell import audit_keys, heads, journal, lease, ledger, source
from crewkeeper_supervisor.shell.audit import examine
from crewkeeper_supervisor.shell.errors import StoreUnavailable
from crewkeeper_supervisor.shell.nats_link import Link, connect
from crewkeeper_supervisor.shell.place import Place
from crewkeeper_supervisor.shell.receiver import Receiver
from crewkeeper_supervisor.shell.registry import Registry
from crewkeeper_supervisor.views.replay import Replay
from support.bus import until
from support.cluster import Cluster, cluster
from support.spenders import RESERVE, audit

RUN = "r1"
AGENTS = 80
LIMIT_S = 120.0
SECRET = "whsec_" + "ZmFpbG92ZXItZmFpbG92ZXItZmFpbG92ZXI="


class Failover:
    """One run, its controllers, and what it was asked.

    Attributes:
        folder: Where logs and the state directory are.
        servers: The cluster.
        link: A connection of the test.
        receiver: Who is told.
    """

    def __init__(self, folder: Path, servers: Cluster, link: Link, receiver: Receiver) -> None:
        self.folder = folder
        self.servers = servers
        self.link = link
        self.receiver = receiver
        self.controllers: dict[str, subprocess.Popen[bytes]] = {}
        self._points: dict[str, str] = {}
        self._next = 0

    # --- controllers ---

    def serve(self, *names: str, point: str = "") -> None:
        """Start controllers, of which each dies when it first passes `point`; one in whose place it died lives."""
        account = self.servers.credentials("_supervisor")
        node = next(node for node in self.servers.nodes if node.process is not None)
        env = {
            **os.environ,
            "CREWKEEPER_NATS_URL": node.url.replace("//", f"//{account.user}:{account.password}@"),
            "CREWKEEPER_FAIL_POINT": point,
            "CREWKEEPER_FAIL_LOG": str(self._struck(point)),
            "TEST_HOOK": self.receiver.url,
            "TEST_HOOK_SECRET": SECRET,
        }
        for name in names:
            self._points[name] = point
            command = [sys.executable, "-m", "crewkeeper_supervisor.cli.main", "serve"]
            command += ["--state", str(self.folder / "state"), "--name", name]
            with (self.folder / f"{name}.log").open("ab") as log:
                self.controllers[name] = subprocess.Popen(command, env=env, stdout=log, stderr=log)

    def kill(self, *names: str) -> None:
        """kill -9; all of them where none is named."""
        for name in names or tuple(self.controllers):
            process = self.controllers.pop(name)
            process.send_signal(signal.SIGKILL)
            process.wait(LIMIT_S)

    def _struck(self, point: str) -> Path:
        return self.folder / f"struck-{point.replace(':', '-')}"

    async def struck(self, point: str) -> None:
        """Wait until a controller has died at the point, and start anew whoever did."""
        log = self._struck(point)
        await until(log.exists, f"somebody dies at {point}", LIMIT_S)
        await until(self.revive, f"who has passed {point} is dead", LIMIT_S)

    def revive(self) -> bool:
        """Start anew whoever has died at its point; whether anybody had.

        One by one they get there, each when it has taken over: so it is looked for whenever something is waited for.
        """
        dead = [name for name, process in self.controllers.items() if process.poll() == -signal.SIGKILL]
        for name in dead:
            self.serve(name, point=self._points[name])
        return bool(dead)

    async def owner(self) -> str:
        """Name of the controller that owns the run, once one does."""

        async def holds() -> str:
            self.revive()
            with contextlib.suppress(StoreUnavailable):
                holder = await lease.holder_of(self.link, RUN)
                return holder.owner if holder is not None and not holder.is_dead else ""
            return ""

        name: str = await until(holds, "somebody owns the run", LIMIT_S)
        return name

    # --- what is asked ---

    async def act(self, times: int = 1, *, confirm: bool = True) -> None:
        """Ask for the pause of an agent that was not asked about yet, and for a call of it; several times.

        With `confirm`, return when the journal has them.
        """
        for _ in range(times):
            agent, self._next = f"a{self._next}", self._next + 1
            asked = m.OperatorAsked(action="pause", by="test", agent=agent)
            call = t.ToolCall(inc="i1", seq=2, task="t", tool="pay", args=msgspec.Raw(b"{}"), inside=True)
            before = await self._last() if confirm else 0
            await journal.publish_op(self.link, RUN, asked)
            await journal.publish(self.link, f"crew.{RUN}.tool.{agent}._.c{agent}", codec.encode(call))
            if confirm:
                await until(lambda before=before: self._has_more(before + 1), "it is stored", LIMIT_S)

    async def disturb(self) -> None:
        """Have an agent do what people are told of."""
        agent, self._next = f"a{self._next}", self._next + 1
        await journal.publish(self.link, f"crew.{RUN}.ctl.{agent}.a0.x1", codec.encode(m.Resume(id="1-0")))

    async def _last(self) -> int:
        with contextlib.suppress(StoreUnavailable):
            return await journal.last_seq(self.link, RUN)
        return 0

    async def _has_more(self, than: int) -> bool:
        return await self._last() > than

    # --- what came of it ---

    async def settled(self) -> None:
        """Wait until everything that the journal has was decided and done."""
        await until(self._is_settled, "everything asked for is done", LIMIT_S)

    async def _is_settled(self) -> bool:
        await anyio.sleep(0.1)
        self.revive()
        with contextlib.suppress(StoreUnavailable):
            found = await self.read()
            told = {each.id for each in self.receiver.received}
            return not found.open and found.escalations <= told
        return False

    async def read(self) -> "Found":
        """What stands in the journal and the ledger now."""
        records = await ledger.read(self.link, RUN)
        return Found(await journal.read_all(self.link, RUN), records)

    async def end(self) -> None:
        """End the run, as its host would."""
        await journal.publish_op(self.link, RUN, m.RunEnded(state="done"), sender=HOST)

    async def has_ended(self) -> None:
        """Wait until the registry says so."""

        async def is_done() -> bool:
            self.revive()
            with contextlib.suppress(StoreUnavailable):
                info = await Registry(self.link).get(RUN)
                return info is not None and info.state == "done"
            return False

        await until(is_done, "the run is over", LIMIT_S)

    async def verify(self) -> "Found":
        """Hold everything against everything; returns what was found."""
        found = await self.read()
        books = audit(found.records)
        assert found.open == []
        assert found.doubles == {}, "done twice"
        assert books.problems == []
        assert books.grants == min(len(found.calls), books.limit // RESERVE), "the budget is not exact"
        assert len(books.granted) + len(books.over) + len(books.refused) == len(found.calls)
        assert len({record.id for record in found.records}) == len(found.records)
        assert ledger.verify(found.records) == []
        received = self.receiver.received
        assert all(each.verified for each in received)
        assert found.escalations <= {each.id for each in received}
        await prove(self.link, RUN, found.entries, found.records)
        return found


async def prove(link: Link, run: str, entries: list[journal.Entry], records: list[ledger.Record]) -> None:
    """Decide a run again, and hold the records against the chain and what was signed."""
    replaying = Replay(run, records, await heads.read(link, run))
    replaying.take(entries)
    replayed = replaying.finish()
    assert replayed.differences == []
    assert replayed.states > 0, "no signed state was held against the replay"
    proven = await examine(await source.of_run(link, run), key=audit_keys.load(link.place.state))
    assert proven.problems == []


class Found:
    """What was asked, and what was done about it.

    Attributes:
        entries: The journal.
        records: The ledger.
        calls: Calls that the journal has.
        open: What was asked and not done: agents to pause, calls to decide.
        doubles: Agents for which two different orders were given for one question.
        escalations: Ids of the messages that people must have been sent.
    """

    def __init__(self, entries: list[journal.Entry], records: list[ledger.Record]) -> None:
        self.entries, self.records = entries, records
        asked: set[str] = set()
        pauses: dict[str, set[str]] = {}
        self.calls: set[str] = set()
        for entry in entries:
            address = subjects.parse(entry.subject)
            if address.kind == Kind.TOOL:
                self.calls.add(address.sender)
            if address.sender not in ("_", HOST):
                continue
            try:
                message = codec.decode_supervisor(address.kind, entry.payload)
            except CodecError:
                continue
            match message:
                case m.OperatorAsked(action="pause", agent=agent):
                    asked.add(agent)
                case m.Pause(id=id_):
                    pauses.setdefault(address.to, set()).add(id_)
        decided: Counter[str] = Counter()
        for record in records:
            booking = record.command.get("booking") if isinstance(record.command, dict) else None
            if booking and booking["act"] in ("reserve", "refuse"):
                decided[booking["agent"]] += 1
        self.open = sorted(asked - set(pauses)) + sorted(self.calls - set(decided))
        self.doubles = {agent: ids for agent, ids in pauses.items() if len(ids) > 1}
        self.doubles |= {agent: {"call"} for agent, count in decided.items() if count > 1}
        self.escalations = {f"msg_{RUN}_{record.id}" for record in records if record.kind == "Escalate"}


@contextlib.asynccontextmanager
async def failover(folder: Path, *, servers: int, grants: int) -> AsyncIterator[Failover]:
    """A run of played agents, `grants` of whose calls are within the budget; controllers are started by the test."""
    (folder / "state").mkdir()
    with cluster(folder / "servers", servers) as running, Receiver(SECRET) as receiver:
        place = Place.of(folder / "state", running.credentials("_supervisor"))
        async with connect(place, name="test") as link:
            await until(lambda: _has_store(link), "the servers keep streams", LIMIT_S)
            await _declare(link, grants)
            made = Failover(folder, running, link, receiver)
            with _ended(made):
                yield made


@contextlib.contextmanager
def _ended(made: Failover) -> Iterator[None]:
    try:
        yield
    finally:
        made.kill()


async def _has_store(link: Link) -> bool:
    with contextlib.suppress(StoreUnavailable):
        await Registry(link).open()
        return True
    return False


async def _declare(link: Link, grants: int) -> None:
    agents = tuple(Agent(name=f"a{n}", tools=("pay",), external=True) for n in range(AGENTS))
    pay = Tool(inside=True, schema={"type": "object"}, cost_microusd=RESERVE, concurrency=1000, timeout_s=3600)
    declared = Crew(
        name="shop",
        agents=agents,
        tools={"pay": pay},
        budget=Budget(microusd=grants * RESERVE),
        heartbeat_s=300,  # nobody here beats: silence means nothing
        escalate=(Webhook(webhook="${TEST_HOOK}", secret="${TEST_HOOK_SECRET}", allow_private=True),),
    )
    await journal.create_run(link, RUN, declared, "here")
    await Registry(link).declare(RUN, "shop", "here")
    for agent in agents:
        joined = m.Joined(inc="i1", seq=1, role=agent.name, heartbeat_s=300)
        with contextlib.suppress(ConnectionLost):
            await journal.publish(link, f"crew.{RUN}.note.{agent.name}._.j", codec.encode(joined))
