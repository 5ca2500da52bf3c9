"""Three controllers, three servers, two hosts, each on a machine of its own: no fault of them or their network shows.

`STORM_SEED` says which faults there are and in which order, `STORM_FAULTS` how many.
"""

import os
from pathlib import Path

import pytest

from crewkeeper_bus.tool_messages import BudgetChanged
from crewkeeper_supervisor.shell import journal
from crewkeeper_supervisor.shell.receiver import Receiver
from support.failover import SECRET
from support.machines import missing
from support.spenders import RESERVE
from support.storm import storm

pytestmark = [pytest.mark.live, pytest.mark.slow]
SEED = int(os.environ.get("STORM_SEED", "1"))
FAULTS = int(os.environ.get("STORM_FAULTS", "12"))


@pytest.mark.timeout(3600)
async def test_no_fault_of_machines_and_networks_loses_doubles_or_contradicts(tmp_path: Path) -> None:
    if why := missing():
        pytest.skip(why)
    with Receiver(SECRET) as receiver:
        async with storm(tmp_path, receiver, SEED) as stage:
            await stage.recover()
            for _ in range(FAULTS):
                await stage.fault()
                await stage.recover()
                added = BudgetChanged(dimension="microusd", add=20 * RESERVE, by="test")
                await journal.publish_op(stage.link, stage.runs[0], added)
            await stage.end_runs()
            await stage.verify(receiver)
