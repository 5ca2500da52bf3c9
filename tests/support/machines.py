"""Machines: network namespaces on one bridge, each with an address, between which packets can be lost in one direction.

A packet is lost on its way out, by a neighbour entry that leads nowhere: no connection is refused or closed, and who
sends is told nothing. It takes root. A process that is killed leaves them behind (`ip netns`).
"""

import contextlib
import functools
import os
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from itertools import count

NOWHERE = "02:ff:00:00:ff:ff"
PREFIX = "ckt"


class Machines:
    """The machines, by name.

    Attributes:
        gateway: The address of this process on their network.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._numbers = dict(zip(names, count(2), strict=False))
        self._net = f"10.231.{os.getpid() % 250}"
        self._bridge = f"{PREFIX}{os.getpid()}"
        self.gateway = f"{self._net}.1"

    def address(self, name: str) -> str:
        return f"{self._net}.{self._numbers[name]}"

    def on(self, name: str, *command: str) -> list[str]:
        """A command line that runs a command on a machine."""
        return ["nsenter", f"--net=/run/netns/{self._space(name)}", *command]

    def cut(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Lose what the first of each pair sends to the second."""
        for sender, receiver in pairs:
            self._send_to(sender, receiver, NOWHERE)

    def heal(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Lose nothing of that any more."""
        for sender, receiver in pairs:
            self._send_to(sender, receiver, _hardware(self._numbers[receiver]))

    def make(self) -> None:
        """Make them all."""
        self.remove()
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("addr", "add", f"{self.gateway}/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        for name, number in self._numbers.items():
            cable, space = self._cable(name), self._space(name)
            _ip("netns", "add", space)
            peer = ["peer", "name", "eth0", "address", _hardware(number), "netns", space]
            _ip("link", "add", cable, "type", "veth", *peer)
            _ip("link", "set", cable, "master", self._bridge, "up")
            _ip("-n", space, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                _ip("-n", space, "link", "set", device, "up")

    def remove(self) -> None:
        """Remove what there is of them, their cables first: a namespace that is removed goes a moment later."""
        for name in self._numbers:
            for words in (("link", "del", self._cable(name)), ("netns", "del", self._space(name))):
                with contextlib.suppress(OSError):
                    _ip(*words)
        with contextlib.suppress(OSError):
            _ip("link", "del", self._bridge)

    def _cable(self, name: str) -> str:
        return f"{self._bridge}x{self._numbers[name]}"

    def _space(self, name: str) -> str:
        return f"{self._bridge}-{name}"

    def _send_to(self, sender: str, receiver: str, hardware: str) -> None:
        entry = ["neigh", "replace", self.address(receiver), "lladdr", hardware, "dev", "eth0", "nud", "permanent"]
        _ip("-n", self._space(sender), *entry)


@contextlib.contextmanager
def machines(*names: str) -> Iterator[Machines]:
    """Machines for as long as the block lasts; what runs on them must have ended by then."""
    made = Machines(names)
    try:
        made.make()
        yield made
    finally:
        made.remove()


@functools.cache
def missing() -> str:
    """What is lacking for machines here, in words; empty if nothing."""
    if os.geteuid() != 0:
        return "it takes root"
    try:
        with machines("a"):
            return ""
    except OSError as error:
        return f"no network can be made: {error}"


def _hardware(number: int) -> str:
    return f"02:ff:00:00:00:{number:02x}"


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")
