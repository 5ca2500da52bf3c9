"""A real controller whose deliveries are hurried: `python hurried_controller.py STATE SPEED`."""

import sys
from pathlib import Path

import anyio

from crewkeeper_supervisor.shell import circuit, controller, outbox, owner
from crewkeeper_supervisor.shell.controller import Settings
from crewkeeper_supervisor.shell.place import Place


def main() -> None:
    """Serve until killed."""
    speed = float(sys.argv[2])
    for name in ("PAUSE_S", "PAUSE_MAX_S"):
        setattr(circuit, name, getattr(circuit, name) / speed)
    settings = Settings(
        lease_ttl_s=3,
        # Some more than there are: a slow machine must not run out of attempts while it starts processes.
        retries_s=tuple(pause_s / speed for pause_s in (*outbox.RETRIES_S, *outbox.RETRIES_S[-1:] * 5)),
        timing=owner.Timing(resend_s=0.5),
    )
    anyio.run(lambda: controller.serve(Place.find(state=Path(sys.argv[1])), settings=settings))


if __name__ == "__main__":
    main()
