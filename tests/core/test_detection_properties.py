"""What detection promises, on random honest crews over a slow network: nothing invented or missed, one cure each."""

import random
from collections import Counter

import msgspec
import networkx as nx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crewkeeper_bus import messages as m
from crewkeeper_bus import subjects
from crewkeeper_bus.subjects import Kind
from crewkeeper_supervisor.core.commands import Command, TellAgent
from crewkeeper_supervisor.core.detection import Detector
from crewkeeper_supervisor.core.reduction import Verdict
from crewkeeper_supervisor.core.supervisor import Supervisor
from support.core_checks import check
from support.honest_crew import HonestCrew
from support.journal import Journal, fold
from support.reference_waits import verdicts

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


class Watched(Supervisor):
    """A core whose every break is held against the reference at the moment at which it is decided."""

    def handle(self, event: object) -> list[Command]:
        given = super().handle(event)  # type: ignore[arg-type]
        for command in given:
            if isinstance(command, TellAgent) and isinstance(command.message, m.Break):
                told = command.message
                finding = self.incidents[told.finding].finding
                found = verdicts(self._state.graph, timers=not finding.timed)
                for key in finding.core[0]:
                    assert found[key] >= Verdict.DEAD, f"{key} is not stuck: {finding.summary}"
        return given


def crew_of(seed: int, *, obey: bool = True) -> HonestCrew:
    rnd = random.Random(seed)
    crew = HonestCrew(rnd, obey=obey, core=Watched)
    crew.live(rnd.randint(10, 80))
    return crew


def breaks(journal: Journal) -> list[m.Break]:
    return [c.message for c in journal.commands if isinstance(c, TellAgent) and isinstance(c.message, m.Break)]


def stuck(journal: Journal, *, timers: bool = True) -> set[str]:
    found = verdicts(journal.core._state.graph, timers=timers)
    return {key for key, verdict in found.items() if verdict is Verdict.STUCK}


@QUICK
@given(st.integers(0, 2**32))
def test_the_graph_is_what_the_agents_know(seed: int) -> None:
    crew = crew_of(seed)
    crew.freeze(3, 0.1)
    check(crew.journal.core)
    for name in crew.journal.mirrors:
        crew.journal.receive(name)
    for name, mirror in crew.journal.mirrors.items():
        node = crew.journal.core.agents[name].node
        assert set(node.tasks) == set(mirror.tasks)
        for task, doing in mirror.tasks.items():
            wait = node.tasks[task].wait
            assert (wait and wait.epoch) == (doing.wait and doing.wait.epoch)
        assert {id_ for id_, call in node.inbound.items() if call.state == "open"} == set(mirror.queued)
        assert {id_ for id_, call in crew.journal.core._state.graph.calls.items() if call.caller == name} >= set(
            mirror.calls
        )
        assert {t.id for t in crew.journal.core._state.graph.tickets_of(name) if t.granted} == set(mirror.held)


@QUICK
@given(st.integers(0, 2**32))
def test_no_stuck_task_stays_unreported_and_none_is_reported_that_is_not_stuck(seed: int) -> None:
    crew = crew_of(seed, obey=False)
    crew.freeze(12, 0.5)
    journal = crew.journal
    open_now = [
        i.finding for i in journal.core.incidents.values() if i.finding.kind == "deadlock" and i.state != "resolved"
    ]
    for finding in open_now:
        if finding.timed:
            assert set(finding.core[0]) <= stuck(journal, timers=False), finding.summary
        else:
            assert set(finding.core[0]) <= stuck(journal), finding.summary
    cores = {key for finding in open_now for key in finding.core[0]}
    assert _hang_on(journal, stuck(journal), cores), f"{stuck(journal)} are stuck, and only {cores} were reported"


def _hang_on(journal: Journal, keys: set[str], cores: set[str]) -> bool:
    """Whether each of these tasks is in a reported core or, edge by edge, waits for one."""
    waits = nx.DiGraph((edge.task, other) for edge in journal.core.waits() for other in edge.waits_for)
    waits.add_nodes_from(keys)
    return all(key in cores or nx.descendants(waits, key) & cores for key in keys)


@QUICK
@given(st.integers(0, 2**32))
def test_a_crew_that_obeys_gets_out_of_every_deadlock(seed: int) -> None:
    crew = crew_of(seed)
    crew.freeze(60, 0.3)
    assert stuck(crew.journal) == set()
    assert all(
        each.state == "resolved" or each.finding.timed
        for each in crew.journal.core.incidents.values()
        if each.finding.kind == "deadlock"
    )
    assert crew.journal.core.pending == {}


def test_who_hangs_on_a_core_is_found_as_soon_as_that_opens_without_any_patrol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Detector, "_patrol", lambda self: self._state.due_s.pop("sweep"))
    deadlocks = 0
    for seed in range(150):
        crew = crew_of(seed)
        crew.freeze(60, 0.3)
        assert stuck(crew.journal) == set(), f"seed {seed}"
        deadlocks += sum(each.finding.kind == "deadlock" for each in crew.journal.core.incidents.values())
    assert deadlocks >= 150, deadlocks


@QUICK
@given(st.integers(0, 2**32))
def test_each_finding_breaks_one_wait_and_only_after_all_its_members_affirmed(seed: int) -> None:
    crew = crew_of(seed)
    crew.freeze(20, 0.3)
    journal = crew.journal
    per_finding = Counter(each.finding for each in breaks(journal))
    assert all(count == 1 for count in per_finding.values()), per_finding
    began: dict[tuple[str, int], int] = {}
    affirmed: dict[str, list[int]] = {}
    for place, (_, subject, payload) in enumerate(journal.entries):
        address = subjects.parse(subject)
        if address.kind is Kind.HB and msgspec.json.decode(payload).get("nonce"):
            affirmed.setdefault(address.sender, []).append(place)
        if address.kind is Kind.NOTE and msgspec.json.decode(payload)["t"] == "wait":
            note = msgspec.json.decode(payload)
            began[f"{address.sender}/{note['task']}", note["epoch"]] = place
    for incident in journal.core.incidents.values():
        finding = incident.finding
        if finding.kind != "deadlock" or finding.edges == ():
            continue
        epochs = {edge.task: edge.epoch for edge in finding.edges}
        closed = max(began[key, epochs[key]] for key in finding.core[0])
        for key in finding.core[0]:
            agent = key.partition("/")[0]
            assert any(closed < place < finding.seq for place in affirmed[agent]), f"{agent} never affirmed"


@QUICK
@given(st.integers(0, 2**32))
def test_the_journal_of_an_honest_crew_folds_to_the_same_end(seed: int) -> None:
    crew = crew_of(seed)
    core, commands = fold(crew.journal.entries)
    assert commands == crew.journal.commands
    assert core.digest() == crew.journal.core.digest()


def test_the_random_crews_deadlock_often_and_in_many_ways() -> None:
    kinds: Counter[str] = Counter()
    for seed in range(60):
        crew = crew_of(seed)
        crew.freeze(10, 0.3)
        for incident in crew.journal.core.incidents.values():
            if incident.finding.kind == "deadlock":
                kinds.update({edge.kind for edge in incident.finding.edges})
                kinds["timed" if incident.finding.timed else "untimed"] += 1
    assert kinds["untimed"] >= 20, kinds
    assert min(kinds[kind] for kind in ("call", "queued_call", "resource", "message")) >= 3, kinds
