"""A responder in the gate's place that grants whatever is asked: what the way through the journal alone costs."""

import sys
from pathlib import Path

import anyio
import msgspec

from crewkeeper_bus import messages as m
from crewkeeper_bus.codec import encode
from crewkeeper_bus.subjects import Kind, build, parse
from crewkeeper_supervisor.shell import journal
from crewkeeper_supervisor.shell.nats_link import connect
from crewkeeper_supervisor.shell.place import Place

RUN = "bench-1"
BODY = msgspec.Raw(b'{"grant":"c1","limit_s":300.0,"args":{"path":"out/report.md","lines":12}}')


async def _answer(state: Path) -> None:
    async with connect(Place.find(state=state), name="no-gate") as link, journal.follow(link, RUN) as entries:
        while True:
            for entry in await entries.batch():
                address = parse(entry.subject)
                if address.kind is Kind.TOOL:
                    reply = encode(m.SupervisorReply(id=f"{entry.seq}-0", body=BODY))
                    await link.publish(build(RUN, Kind.REP, "_", address.sender, address.id), reply)


if __name__ == "__main__":
    anyio.run(_answer, Path(sys.argv[sys.argv.index("--state") + 1]))
