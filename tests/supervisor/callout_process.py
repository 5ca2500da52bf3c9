"""A callout in a process of its own, for tests that kill it: `callout_process.py STATE URL`."""

import sys
from pathlib import Path

import anyio

sys.path.insert(0, str(Path(__file__).parents[1]))
from crewkeeper_supervisor.shell import nats_link
from crewkeeper_supervisor.shell.access import Access
from crewkeeper_supervisor.shell.authority import Authority
from crewkeeper_supervisor.shell.callout import Callout
from crewkeeper_supervisor.shell.place import Place
from support.bus import until


async def main(state: Path, url: str) -> None:
    authority = Authority.load(state, url)
    assert authority is not None
    async with nats_link.connect(Place.of(state, authority.supervisor)) as link:
        callout = Callout(link, Access(link), authority)
        await callout.open()
        async with anyio.create_task_group() as group:
            await group.start(callout.serve)
            say("serving")
            await until(lambda: callout.counts.granted, "it is asked", limit_s=3600)
            say("granted")


def say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), sys.argv[2])
