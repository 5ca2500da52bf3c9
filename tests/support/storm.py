"""A storm: controllers, servers and hosts, each on a machine of its own, one fault after another, and then the books.

Real agents with tools, a budget and deadlocks; logins are judged. Which faults there are is drawn from a seed.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import anyio

from crewkeeper_bus.server_binary import find_binary
from crewkeeper_bus.subjects import stream_name
from crewkeeper_supervisor.shell import heads, journal, lease, ledger, members
from crewkeeper_supervisor.shell.authority import make_config_block
from crewkeeper_supervisor.shell.errors import StoreUnavailable
from crewkeeper_supervisor.shell.nats_link import LINK_ERRORS, Link, connect
from crewkeeper_supervisor.shell.place import Place
from crewkeeper_supervisor.shell.receiver import Receiver
from crewkeeper_supervisor.shell.registry import Registry
from support.bus import until
from support.failover import SECRET, prove
from support.machines import Machines, machines
from support.spenders import RESERVE, TOOL, audit

NODES, CONTROLLERS, HOSTS = ("n1", "n2", "n3"), ("c1", "c2", "c3"), ("h1", "h2")
LIMIT_S = 240.0

AGENT = """
import asyncio, pathlib, sys, uuid
from crewkeeper_agents import Agent
from crewkeeper_bus import ToolRefused
from crewkeeper_bus.errors import BusError

HERE = pathlib.Path(__file__).parent
what, peer = sys.argv[1:]
agent = Agent("x")

@agent.handler("ask")
async def answer(crew, request):
    return "ok"

async def once(crew, call):
    try:
        if what == "pays":
            await crew.call_tool("pay", {"order": f"{crew.agent} {call}"}, call_id=call)
        else:
            await crew.ask(peer, call)
    except ToolRefused as refused:
        return refused.code
    except BusError as error:
        return type(error).__name__
    return "ok"

@agent.main
async def main(crew):
    life, number = uuid.uuid4().hex[:6], 0
    with (HERE / f"told-{what}").open("a", buffering=1) as told:
        while not (HERE / "stop").exists():
            number += 1
            call = f"{life}-{number}"
            outcome = await once(crew, call)
            print(crew.agent, call, outcome, file=told)
            await asyncio.sleep(1)

agent.run()
"""


class Storm:
    """The machines, what runs on them, and what becomes of it."""

    def __init__(self, folder: Path, net: Machines, receiver: str, seed: int) -> None:
        self.folder, self.net = folder, net
        self.chance = random.Random(seed)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.state = folder / "state"
        self.link: Link
        self.runs: list[str] = []
        self._env = {**os.environ, "TEST_HOOK": receiver, "TEST_HOOK_SECRET": SECRET}
        self._env.pop("CREWKEEPER_NATS_URL", None)

    # --- processes ---

    def prepare(self) -> None:
        """Write what servers, hosts and crews are made of."""
        block = make_config_block(self.state)
        routes = ", ".join(f'"nats://{self.net.address(name)}:6222"' for name in NODES)
        for name in NODES:
            (self.folder / f"{name}.conf").write_text(
                f'server_name: {name}, listen: "{self.net.address(name)}:4222"\n'
                f'jetstream {{ store_dir: "{self.folder}/{name}", sync_interval: "1s" }}\n'
                f'cluster {{ name: storm, listen: "{self.net.address(name)}:6222", routes: [{routes}] }}\n{block}'
            )
        for name in HOSTS:
            shutil.copytree(self.state, self.folder / f"state-{name}")
        (self.folder / "agent.py").write_text(AGENT)
        (self.folder / "paid_tool.py").write_text(TOOL)

    def start(self, name: str) -> None:
        """Start whatever has this name, on its machine."""
        words = ["-m", "crewkeeper_supervisor.cli.main"]
        to = ["--nats", self.url(f"n{name[1]}"), "--name", name]
        if name in NODES:
            command = [str(find_binary()), "-c", str(self.folder / f"{name}.conf")]
        elif name in CONTROLLERS:
            command = [sys.executable, *words, "serve", "--state", str(self.state), *to]
        else:
            command = [sys.executable, *words, "host", "--state", str(self.folder / f"state-{name}"), *to]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                self.net.on(name, *command), env=self._env, cwd=self.folder, stdout=log, stderr=log
            )

    def kill(self, name: str) -> None:
        process = self.processes[name]
        process.kill()
        process.wait(30)

    def end(self) -> None:
        """End everything; agents go with their hosts."""
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait(30)

    def url(self, node: str) -> str:
        return f"nats://{self.net.address(node)}:4222"

    def supervisor(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run a command, on a server that lives."""
        node = next(name for name in NODES if self.processes[name].poll() is None)
        command = [sys.executable, "-m", "crewkeeper_supervisor.cli.main", *words, "--state", str(self.state)]
        command += ["--nats", self.url(node)]
        return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, env=self._env, check=False)

    async def launch(self) -> None:
        """Two crews: one pays from one budget, one has deadlocks for as long as it lasts."""
        elsewhere = {"policy": "transient", "intensity": 100, "period": "600s", "elsewhere": True}
        told = {"webhook": "${TEST_HOOK}", "secret": "${TEST_HOOK_SECRET}", "allow_private": True}
        common = {"restart": elsewhere, "escalate": [told], "limits": {"start_timeout": "300s"}}
        pays = {name: {"run": "python agent.py pays -", "tools": ["pay"]} for name in ("ann", "bob")}
        pay = {"function": "paid_tool:pay", "cost_usd": RESERVE / 1e6, "timeout": "60s"}
        asks = {"ra": "rb", "rb": "rc", "rc": "ra"}
        crews = {
            "pays": {"agents": pays, "tools": {"pay": pay}, "budget": {"usd": 5 * RESERVE / 1e6}},
            "ring": {
                "agents": {name: {"run": f"python agent.py asks {peer}"} for name, peer in asks.items()},
                "responses": {"deadlock": {"confirm": "250ms", "do": ["break", "escalate"]}},
            },
        }
        files = []
        for name, crew in crews.items():
            files.append(self.folder / f"{name}.yaml")
            files[-1].write_text(json.dumps({"crew": name, **crew, **common}))
        done = await anyio.to_thread.run_sync(self.supervisor, "launch", *map(str, files))
        assert done.returncode == 0, done.stderr
        self.runs = done.stdout.split()

    # --- faults ---

    async def owner(self) -> str:
        """Who owns one of the runs now; anybody, where that cannot be read."""
        with contextlib.suppress(StoreUnavailable):
            holder = await lease.holder_of(self.link, self.chance.choice(self.runs))
            if holder is not None and holder.owner in CONTROLLERS:
                return holder.owner
        return self.chance.choice(CONTROLLERS)

    async def leader(self) -> str:
        """A server that leads something that matters."""
        stream = self.chance.choice([stream_name(self.runs[0]), ledger.STREAM, f"KV_{lease.BUCKET}", "KV_HOSTS"])
        with contextlib.suppress(*LINK_ERRORS):
            info = await self.link.js.stream_info(stream)
            if info.cluster is not None and info.cluster.leader in NODES:
                return str(info.cluster.leader)
        return self.chance.choice(NODES)

    async def dies(self, name: str) -> None:
        self.kill(name)
        await anyio.sleep(self.chance.uniform(0, 8))
        self.start(name)

    async def stands_still(self, name: str) -> None:
        self.processes[name].send_signal(signal.SIGSTOP)
        await anyio.sleep(self.chance.choice([1, 4, 12]))
        self.processes[name].send_signal(signal.SIGCONT)

    async def is_cut_off(self, name: str, others: tuple[str, ...]) -> None:
        """For a while nothing of it reaches the others, or nothing of theirs reaches it, or both."""
        out = [(name, other) for other in others if other != name]
        into = [(other, name) for other in others if other != name]
        pairs = self.chance.choice([out, into, out + into])
        self.net.cut(pairs)
        await anyio.sleep(self.chance.choice([2, 6, 15]))
        self.net.heal(pairs)

    async def drains(self, name: str) -> None:
        self.processes[name].send_signal(signal.SIGTERM)
        await until(lambda: self.processes[name].poll() is not None, f"{name} ends", LIMIT_S)
        assert self.processes[name].returncode == 0
        self.start(name)

    async def fault(self) -> None:
        """One fault, from its beginning to its end."""
        faults: list[Callable[[], Awaitable[None]]] = [
            lambda: self._of(self.owner, self.dies),
            lambda: self._of(self.owner, self.stands_still),
            lambda: self._of(self.owner, self.drains),
            lambda: self._of(self.owner, lambda name: self.is_cut_off(name, NODES)),
            lambda: self._of(self.leader, self.dies),
            lambda: self._of(self.leader, self.stands_still),
            lambda: self._of(self.leader, lambda name: self.is_cut_off(name, NODES)),
            lambda: self._of(self.leader, lambda name: self.is_cut_off(name, (*NODES, *CONTROLLERS, *HOSTS))),
            lambda: self.is_cut_off(self.chance.choice(HOSTS), NODES),
            lambda: self.dies(self.chance.choice(HOSTS)),
        ]
        await self.chance.choice(faults)()

    async def _of(self, whom: Callable[[], Awaitable[str]], what: Callable[[str], Awaitable[None]]) -> None:
        await what(await whom())

    async def recover(self) -> None:
        """Start what has given up because nothing could be reached, and wait until every run gets on."""

        async def gets_on() -> bool:
            for name, process in self.processes.items():
                if process.poll() is not None:
                    assert process.returncode == 4, f"{name} ended with {process.returncode}"
                    self.start(name)
            with contextlib.suppress(StoreUnavailable):
                return all([await self._is_owned(run) for run in self.runs])
            return False

        await until(gets_on, "every run gets on", LIMIT_S)

    async def _is_owned(self, run: str) -> bool:
        """Whether somebody folds what its journal has by now."""
        stored = await journal.last_seq(self.link, run)
        with anyio.move_on_after(5):
            while True:
                await anyio.sleep(0.3)
                for member in await members.ls(self.link):
                    if any(each.run == run and each.seq >= stored for each in member.runs):
                        return True
        return False

    # --- what came of it ---

    async def end_runs(self) -> None:
        """Let the agents end, and wait until the runs are over and everybody is told."""
        (self.folder / "stop").touch()

        async def over() -> bool:
            with contextlib.suppress(StoreUnavailable):
                infos = [await Registry(self.link).get(run) for run in self.runs]
                return all(info is not None and info.is_over for info in infos)
            return False

        await until(over, "the runs are over", LIMIT_S)
        states = {(await Registry(self.link).get(run)).state for run in self.runs}  # type: ignore[union-attr]
        assert states == {"done"}
        # Whoever is behind the others is asked for what follows, too.
        await until(self._is_whole, "every server has caught up", LIMIT_S)

    async def _is_whole(self) -> bool:
        with contextlib.suppress(*LINK_ERRORS):
            copies = [(await self.link.js.stream_info(each)).cluster for each in (ledger.STREAM, heads.STREAM)]
            return all(each is not None and all(peer.current for peer in each.replicas or ()) for each in copies)
        return False

    def told(self, what: str) -> list[list[str]]:
        """What the agents were told: agent, call, outcome."""
        return [line.split() for line in (self.folder / f"told-{what}").read_text().splitlines()]

    async def _records(self, run: str) -> list[ledger.Record]:
        """The ledger of a run; empty while servers find each other again."""
        with contextlib.suppress(StoreUnavailable):
            return await ledger.read(self.link, run)
        return []

    async def verify(self, receiver: Receiver) -> None:
        """Hold everything against everything."""
        books: dict[str, list[ledger.Record]] = {}
        for run in self.runs:
            records = books[run] = await until(lambda run=run: self._records(run), "the ledger can be read", LIMIT_S)
            assert ledger.verify(records) == []
            assert len({record.id for record in records}) == len(records), "decided twice"
            await prove(self.link, run, await journal.read_all(self.link, run), records)
            wanted = {f"msg_{run}_{record.id}" for record in records if record.kind == "Escalate"}
            await until(lambda wanted=wanted: wanted <= {each.id for each in receiver.received}, "people are told", 90)
        assert all(each.verified for each in receiver.received)
        pays, ring = self.runs
        found = audit(books[pays])
        assert (found.problems, found.granted) == ([], {})
        ran = Counter(tuple(line.split()) for line in (self.folder / "ran").read_text().splitlines())
        assert max(ran.values()) == 1, "a tool ran twice"
        assert set(ran) <= set(found.over), "a tool ran without a grant"
        assert {(who, call) for who, call, outcome in self.told("pays") if outcome == "ok"} <= set(ran)
        told = [record.command["message"] for record in books[ring] if record.kind == "TellAgent"]
        breaks = sum(message["t"] == "break" for message in told)
        broken = sum(outcome == "WouldDeadlock" for _, _, outcome in self.told("asks"))
        assert 0 < broken <= breaks


@contextlib.contextmanager
def passed_on(host: str, to: int) -> Iterator[int]:
    """A port on an address that passes connections on to a port of the loopback address."""

    class PassOn(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(("127.0.0.1", to)) as other, contextlib.suppress(OSError):
                back = threading.Thread(target=pump, args=(other, self.request), daemon=True)
                back.start()
                pump(self.request, other)
                back.join(60)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads, allow_reuse_address, block_on_close = True, True, False

    with Server((host, 0), PassOn) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield int(server.server_address[1])
        server.shutdown()


def pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(1)


@contextlib.asynccontextmanager
async def storm(folder: Path, receiver: Receiver, seed: int) -> AsyncIterator[Storm]:
    """Everything, running and joined."""
    with machines(*NODES, *CONTROLLERS, *HOSTS) as net:
        port = int(receiver.url.rpartition(":")[2].partition("/")[0])
        with passed_on(net.gateway, port) as outside:
            made = Storm(folder, net, f"http://{net.gateway}:{outside}/hook", seed)
            made.prepare()
            try:
                for name in (*NODES, *CONTROLLERS, *HOSTS):
                    made.start(name)
                await until(lambda: reached(made), "a server answers", LIMIT_S)
                async with connect(Place.find(made.state, made.url("n1")), name="test") as made.link:
                    await until(lambda: hosts_are_there(made), "hosts and controllers are there", LIMIT_S)
                    await made.launch()
                    yield made
            finally:
                made.end()


async def reached(made: Storm) -> bool:
    with contextlib.suppress(OSError):
        async with await anyio.connect_tcp(made.net.address("n1"), 4222):
            return True
    return False


async def hosts_are_there(made: Storm) -> bool:
    done = await anyio.to_thread.run_sync(made.supervisor, "hosts", "-o", "name")
    return len(done.stdout.split()) == len(HOSTS)
