"""`python -m benchmarks.wait_rings`: many rings that close at once while many others wait; CPU time to open them all.

Every agent of a ring answers for its wait, one wait of each ring is failed, and the crew goes on. Nobody else is
touched by that, so a ring should cost the same however many there are, and however many wait beside them.
"""

import argparse
import gc
import time
from typing import Any

from benchmarks.ground import load
from benchmarks.wait_loads import Journal
from crewkeeper_bus import messages as m
from crewkeeper_bus.subjects import SUPERVISOR
from crewkeeper_supervisor.core.commands import TellAgent
from crewkeeper_supervisor.core.events import Recorded
from crewkeeper_supervisor.core.supervisor import Supervisor

WITHIN_S = 60.0
"""Journal time in which all must be over."""


class Rings:
    """Rings of two agents with one slot each, and honest agents that do what they are told."""

    def __init__(self, rings: int, waiting: int) -> None:
        self.core = Supervisor("load")
        self._journal = journal = Journal(2 * rings + waiting + 1)
        self._tasks = [journal.began(n) for n in range(2 * rings + waiting + 1)]
        for n in range(2 * rings, 2 * rings + waiting):
            journal.called(n, self._tasks[n], 2 * rings + waiting)
        self._now_s = 0.0
        self._feed()
        self._calls = [journal.asked(n, self._tasks[n], n ^ 1) for n in range(2 * rings)]
        self._epochs = [journal.waits(n, self._tasks[n], m.OnCall(call=call)) for n, call in enumerate(self._calls)]

    def open(self) -> None:
        """Let everything take its course until every ring is over."""
        begun_s = 0.0
        while not self._are_over():
            while self._journal.events:
                self._feed()
            begun_s = begun_s or self._now_s
            due_s = self.core.next_tick_at_s()
            assert due_s is not None, "nothing is due, and rings are open"
            assert due_s < begun_s + WITHIN_S, "they are not opened in time"
            self._now_s = max(self._now_s, due_s)
            self._journal.wrote(SUPERVISOR, m.Tick())

    def _are_over(self) -> bool:
        found = self.core.incidents.values()
        return len(found) == len(self._calls) // 2 and all(one.state == "resolved" for one in found)

    def _feed(self) -> None:
        for event in self._journal.drain():
            self._now_s = max(self._now_s + 1e-6, event.at_s)
            timed = Recorded(
                seq=event.seq, at_s=self._now_s, sender=event.sender, to=event.to, id=event.id, message=event.message
            )
            for command in self.core.handle(timed):
                if isinstance(command, TellAgent):
                    self._journal.wrote(SUPERVISOR, command.message, f"a{command.agent[1:]}", command.id)
                    self._obey(int(command.agent[1:]), command.message)

    def _obey(self, agent: int, told: Any) -> None:
        if not isinstance(told, m.Break | m.Probe):
            return
        task, call = self._tasks[agent], self._calls[agent]
        if isinstance(told, m.Break):
            self._journal.woke(agent, task, "broken")
            self._journal.cancelled(agent, agent ^ 1, call)
        else:
            wait = m.OpenWait(epoch=self._epochs[agent], condition=m.OnCall(call=call))
            self._journal.affirmed(
                agent,
                nonce=told.nonce,
                role=f"a{agent}",
                tasks=(m.TaskState(task=task, wait=wait),),
                calls=(m.OpenCall(call=call, to=f"a{agent ^ 1}", task=task),),
                queued=(self._calls[agent ^ 1],),
            )


def measure(rings: int, waiting: int) -> float:
    """CPU milliseconds for each ring."""
    crew = Rings(rings, waiting)
    gc.collect()
    begun = time.process_time()
    crew.open()
    return 1e3 * (time.process_time() - begun) / rings


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rings", default="1,20,200", help="how many close at once")
    parser.add_argument("--waiting", default="0,10000,100000", help="how many others wait")
    chosen = parser.parse_args()
    print(load())
    gc.disable()
    print("others that wait   rings   ms a ring")
    for waiting in map(int, chosen.waiting.split(",")):
        for rings in map(int, chosen.rings.split(",")):
            print(f"{waiting:16,}   {rings:5}   {measure(rings, waiting):9.2f}", flush=True)


if __name__ == "__main__":
    main()
