"""`python -m benchmarks`: everything, in one run of about a minute."""

import tempfile
from pathlib import Path

import anyio

from benchmarks import deadlock, enforcement, gate, monitor, policy, redaction, traffic
from benchmarks.ground import ground, load


async def _live() -> None:
    with tempfile.TemporaryDirectory(prefix="crewkeeper-bench-") as folder:
        agents = ("asker", "echo", "teller", "sink", "left", "right")
        async with ground(Path(folder), agents) as where:
            await traffic.run(where)
            await deadlock.run(where)
    await gate.run()
    await enforcement.run(sizes=(1, 100), rounds=5)


def main() -> None:
    """Run all benchmarks."""
    print(load())
    monitor.run()
    policy.run()
    redaction.run()
    anyio.run(_live)


if __name__ == "__main__":
    main()
