"""Own network: a network namespace of one agent's, with one cable to the runner that can be pulled out.

The agent makes it when it starts, so it is there again after a restart, and is gone with the agent's last process: a
runner that is killed leaves nothing behind. It takes root, because one end of the cable is in the runner's own network.
"""

import os
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Final

import anyio

PORT: Final = 4222
COMMAND_S: Final = 10.0
WAIT_TURNS: Final = 400
"""Twentieths of a second that an agent waits for the runner to listen at the other end."""
_NETS: Final = 32_768
"""Networks of four addresses in 198.18.0.0/15, the range for tests of networks (RFC 2544)."""
_FIRST: Final = (198 << 24) + (18 << 16)
_INSIDE: Final = "eth0"


class OwnNetwork:
    """The network of one agent.

    Args:
        number: Of those that this process makes.
        ready: File that is there once the runner listens at its end.
    """

    def __init__(self, number: int, ready: Path) -> None:
        base = _FIRST + 4 * ((os.getpid() * 16 + number) % _NETS)
        self.address = _dotted(base + 1)
        """The runner's end."""
        self.ready = ready
        self._agents = _dotted(base + 2)
        self._interface = f"ck{os.getpid() % 10**7}x{number}"

    @property
    def url(self) -> str:
        """Where the agent connects."""
        return f"nats://{self.address}:{PORT}"

    @property
    def way(self) -> str:
        """Shell statements that make `"$@"` a command in the network."""
        here, cable = os.getpid(), self._interface
        outside = f"ip addr add {self.address}/30 dev {cable} && ip link set {cable} up"
        script = " && ".join(
            (
                f"ip link add {_INSIDE} type veth peer name {cable} netns {here}",
                f"ip addr add {self._agents}/30 dev {_INSIDE}",
                f"ip link set {_INSIDE} up",
                "ip link set lo up",
                f"nsenter --target {here} --net sh -c {shlex.quote(outside)}",
                f"for i in $(seq {WAIT_TURNS}); do test -e {shlex.quote(str(self.ready))} && break; sleep 0.05; done",
                'exec "$@"',
            )
        )
        return f'export CREWKEEPER_URL={self.url}; set -- unshare --net /bin/sh -c {shlex.quote(script)} sh "$@"'

    async def pull(self, pid: int) -> bool:
        """Pull the cable out of an agent's machine, as it were; whether there was one."""
        return await _ip(pid, "down")

    async def plug(self, pid: int) -> bool:
        """Put it back; harmless when repeated."""
        return await _ip(pid, "up")

    def unsent(self, pid: int) -> int:
        """Connections of the agent with bytes that have not arrived."""
        try:
            rows = Path(f"/proc/{pid}/net/tcp").read_text("ascii").splitlines()[1:]
        except OSError:
            return 0
        return sum(int(row.split()[4].partition(":")[0], 16) > 0 for row in rows)


def _dotted(address: int) -> str:
    return ".".join(str(address >> shift & 255) for shift in (24, 16, 8, 0))


async def _ip(pid: int, state: str) -> bool:
    if pid <= 0:
        return False
    command = ["nsenter", "--target", str(pid), "--net", "ip", "link", "set", _INSIDE, state]
    with anyio.fail_after(COMMAND_S):
        done = await anyio.run_process(command, check=False)
    return done.returncode == 0


@cache
def missing() -> str:
    """What this machine lacks for networks of agents' own, in words; empty if nothing."""
    for program in ("unshare", "nsenter", "ip", "seq"):
        if shutil.which(program) is None:
            return f"there is no program {program}"
    if os.geteuid() != 0:
        return "it takes root"
    here = str(os.getpid())
    trial_name = f"ck{here}"[:15]  # gone together with the namespace of the other end
    trial = subprocess.run(
        ["unshare", "--net", "ip", "link", "add", _INSIDE, "type", "veth", "peer", "name", trial_name, "netns", here],
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )
    return f"no network can be made: {trial.stderr.strip()[:200]}" if trial.returncode else ""
