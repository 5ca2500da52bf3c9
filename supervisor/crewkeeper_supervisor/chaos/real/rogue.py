"""Rogue: an agent program that talks all the time, obeys nothing, and comes back whenever it is put out.

`python -m crewkeeper_supervisor.chaos.real.rogue RUN NAME CREDENTIALS-FILE`. It speaks the protocol just well enough to
be heard: a joined note, then progress notes.
"""

import signal
import sys
from pathlib import Path
from typing import Final

import anyio
import msgspec
import nats

from crewkeeper_bus import codec
from crewkeeper_bus import messages as m
from crewkeeper_bus.credentials import Credentials
from crewkeeper_bus.subjects import SUPERVISOR, Kind, build

EVERY_S: Final = 0.05


async def talk(run: str, name: str, own: Credentials) -> None:
    """Talk for ever."""
    incarnation, life = 0, "rogue"
    seq = 0
    while True:
        incarnation += 1
        try:
            client = await nats.connect(allow_reconnect=False, connect_timeout=2, error_cb=_ignore, **own.options())
            seq += 1
            await client.publish(
                build(run, Kind.NOTE, name, SUPERVISOR, f"j{incarnation}"),
                codec.encode(m.Joined(inc=life, seq=seq, role=name)),
            )
            while not client.is_closed:
                seq += 1
                note = m.Progress(inc=life, seq=seq, task="t", text="still here")
                await client.publish(build(run, Kind.NOTE, name, SUPERVISOR, f"p{seq}"), codec.encode(note))
                await client.flush(2)
                await anyio.sleep(EVERY_S)
        except Exception:  # noqa: BLE001 - whatever keeps it out, it comes again: that is its whole point
            await anyio.sleep(EVERY_S)


async def _ignore(_error: Exception) -> None:
    return


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    login = msgspec.json.decode(Path(sys.argv[3]).read_bytes(), type=Credentials)
    anyio.run(talk, sys.argv[1], sys.argv[2], login)
