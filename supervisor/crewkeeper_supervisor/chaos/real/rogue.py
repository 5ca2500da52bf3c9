"""Rogue: an agent program that talks all the time, obeys nothing, and comes back whenever it is put out.

`python -m crewkeeper_supervisor.chaos.real.rogue RUN NAME CREDENTIALS-FILE [LOGINS-FILE]`. It speaks the protocol just
well enough to be heard: a joined note, then progress notes. The last file grows by a byte whenever it is let in.
"""

import signal
import sys
from pathlib import Path
from typing import Final

import anyio

from crewkeeper_bus import codec, credentials
from crewkeeper_bus import messages as m
from crewkeeper_bus.credentials import Credentials
from crewkeeper_bus.errors import BusError
from crewkeeper_bus.nats_transport import NatsTransport
from crewkeeper_bus.subjects import SUPERVISOR, Kind, build

EVERY_S: Final = 0.05
CONNECT_S: Final = 2.0
PATIENCE_S: Final = 0.5
"""How long one word may take. A connection that was cut comes back by itself, but politely, and ever later."""
_LIFE: Final = "rogue"


class Rogue:
    """One rogue.

    Args:
        run: The run it was let into.
        name: Its name there.
        own: What it logs in with.
        logins: File to count in how often it was let in; None: nobody wants to know.
    """

    def __init__(self, run: str, name: str, own: Credentials, logins: Path | None = None) -> None:
        self._run = run
        self._name = name
        self._own = own
        self._logins = logins
        self._seq = 0

    async def live(self) -> None:
        """Talk, for ever."""
        while True:
            try:
                with anyio.fail_after(2 * CONNECT_S):
                    transport = await NatsTransport.open(
                        credentials=lambda: self._own, name=self._name, limit_s=CONNECT_S
                    )
                if self._logins is not None:
                    with self._logins.open("a") as file:
                        file.write(".")
                try:
                    await self._talk(transport)
                finally:
                    with anyio.move_on_after(CONNECT_S, shield=True):
                        await transport.close()
            except (BusError, OSError, TimeoutError):
                await anyio.sleep(EVERY_S)  # whatever keeps it out, it comes again

    async def _talk(self, transport: NatsTransport) -> None:
        await self._say(transport, m.Joined(inc=_LIFE, seq=self._seq + 1, role=self._name))
        while True:
            await self._say(transport, m.Progress(inc=_LIFE, seq=self._seq + 1, task="t", text="still here"))
            await anyio.sleep(EVERY_S)

    async def _say(self, transport: NatsTransport, note: m.Joined | m.Progress) -> None:
        self._seq += 1
        subject = build(self._run, Kind.NOTE, self._name, SUPERVISOR, f"n{self._seq}")
        with anyio.fail_after(PATIENCE_S):
            await transport.publish(subject, codec.encode(note))
            await transport.barrier()


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    login = credentials.from_file(sys.argv[3])
    counted = Path(sys.argv[4]) if len(sys.argv) > 4 else None
    anyio.run(Rogue(sys.argv[1], sys.argv[2], login, counted).live)
