"""Traffic: the same client unsupervised and under full supervision, in alternating rounds of one run."""

import anyio

import crewkeeper_bus as bus
from benchmarks.ground import Ground, against, median, now_s, report

ROUNDS = 5
CALLS = 300
MESSAGES = 2000


async def _calls(asker: bus.Client) -> float:
    """Microseconds of one request and its reply, one after the other (median)."""
    taken = []
    for _ in range(CALLS):
        begun = now_s()
        await asker.ask("echo", {"text": "x" * 200})
        taken.append(now_s() - begun)
    return 1e6 * median(taken)


async def _one_way(teller: bus.Client, listener: bus.Client) -> float:
    """Messages a second through one sender and one receiver."""
    begun = now_s()

    async def send() -> None:
        for _ in range(MESSAGES):
            await teller.tell("sink", {"text": "x" * 200})

    async with anyio.create_task_group() as group:
        group.start_soon(send)
        for _ in range(MESSAGES):
            await listener.receive(from_="teller")
    return MESSAGES / (now_s() - begun)


async def run(ground: Ground) -> None:
    """Measure and print."""
    calls: dict[bool, list[float]] = {True: [], False: []}
    one_way: dict[bool, list[float]] = {True: [], False: []}
    clients: dict[tuple[bool, str], bus.Client] = {}
    async with anyio.create_task_group() as group:
        stop, ready = anyio.Event(), anyio.Semaphore(0)

        async def hold(supervised: bool, name: str) -> None:
            async with await ground.client(name, supervised=supervised) as client:
                if name == "echo":
                    client.serve("*")(_echo)
                clients[supervised, name] = client
                ready.release()
                await stop.wait()

        for supervised in (False, True):
            for name in ("asker", "echo", "teller", "sink"):
                group.start_soon(hold, supervised, name)
        for _ in range(8):
            await ready.acquire()
        await clients[True, "asker"].ready()
        for _ in range(ROUNDS):
            for supervised in (False, True):
                calls[supervised].append(await _calls(clients[supervised, "asker"]))
                rate = await _one_way(clients[supervised, "teller"], clients[supervised, "sink"])
                one_way[supervised].append(rate)
        stop.set()
    report(
        f"Traffic, same client, {ROUNDS} alternating rounds (unsupervised : supervised)",
        [
            ("request and reply, p50", against(calls[False], calls[True], "µs")),
            ("one-way messages", against(one_way[False], one_way[True], "/s")),
        ],
        "Supervised: every message stored before it is delivered, a controller process folding it.",
    )


async def _echo(request: bus.Request) -> object:
    return request.body
