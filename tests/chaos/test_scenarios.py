"""The scenarios that come along: each passes in simulation, and turns red where the product is broken on purpose."""

from pathlib import Path

import msgspec
import pytest

from crewkeeper_supervisor.chaos.plan.scenario import Scenario, load, parse
from crewkeeper_supervisor.chaos.product_mutations import PRODUCT_MUTATIONS, ProductMutation
from crewkeeper_supervisor.chaos.sim.stage import play
from crewkeeper_supervisor.chaos.trial.journal_truth import JournalTruth
from crewkeeper_supervisor.chaos.trial.junit import line
from crewkeeper_supervisor.chaos.trial.record import Record
from crewkeeper_supervisor.chaos.trial.runner import run_sim
from support.verdicts import is_red

FOLDER = Path(__file__).resolve().parents[2] / "scenarios"
SCENARIOS = [load(path) for path in sorted(FOLDER.glob("*.yaml"))]
SIMULATED = [each for each in SCENARIOS if "sim" in each.modes and each.players]
SEEDS = range(100)
LARGE = "large"
SMALLER = {"200": "12"}
"""Numbers in scenarios with this tag, of which one run takes long, and what a small copy has instead."""


def small(scenario: Scenario) -> Scenario:
    """The scenario, or a copy of it with fewer agents; `make soak` plays all of them as they are."""
    if LARGE not in scenario.tags:
        return scenario
    text, id_ = Path(scenario.path).read_text(), scenario.id
    for number, smaller in SMALLER.items():
        assert number in text
        text, id_ = text.replace(number, smaller), id_.replace(number, smaller)
    return parse(text.encode(), f"{id_}.yaml")


def named(id_: str) -> Scenario:
    return next(each for each in SCENARIOS if each.id == id_)


def check(scenario: Scenario, played: range) -> None:
    result = run_sim(scenario, played)
    assert result.told is not None
    reasons = [line(check) for check in result.told.checks if check.word != "pass"]
    assert result.verdict == "pass", (result.told.seed, reasons)
    written = msgspec.json.encode(Record(results=[result]))
    assert msgspec.json.encode(msgspec.json.decode(written, type=Record)) == written, "a journal that can be read"


@pytest.mark.parametrize("scenario", SIMULATED, ids=[each.id for each in SIMULATED])
def test_it_passes_over_seeds(scenario: Scenario) -> None:
    check(small(scenario), SEEDS)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SIMULATED, ids=[each.id for each in SIMULATED])
def test_it_passes_over_many_more_seeds(scenario: Scenario) -> None:
    check(scenario, range(5) if LARGE in scenario.tags else range(100, 250))


MUTATED = [(each, id_) for each in PRODUCT_MUTATIONS if each.mode == "sim" for id_ in each.scenarios]


@pytest.mark.parametrize(
    ("mutation", "id_"), MUTATED, ids=lambda value: value if isinstance(value, str) else value.mutation.name
)
def test_a_broken_product_turns_it_red(mutation: ProductMutation, id_: str) -> None:
    scenario = small(named(id_))
    assert any(is_red(run_sim(scenario, [seed], mutated=mutation.mutation.applied)) for seed in range(8))


def test_equal_seeds_give_equal_runs_and_others_others() -> None:
    first, again, other = (play(named("dining-philosophers"), seed) for seed in (3, 3, 4))
    assert first.digest == again.digest
    assert first.observed.seen == again.observed.seen
    assert first.digest != other.digest


CALM = [each for each in SIMULATED if each.weather == "calm" and not each.faults and LARGE not in each.tags]


@pytest.mark.parametrize("scenario", CALM, ids=[each.id for each in CALM])
def test_the_journal_alone_tells_who_is_stuck_as_the_world_does(scenario: Scenario) -> None:
    played = play(scenario, 1)
    truth = JournalTruth()
    stuck = [agents for event in played.journal if (agents := truth.feed(event))]
    in_truth = [set(each.fields["agents"]) for each in played.observed.seen if each.event == "truth.deadlock"]
    assert bool(stuck) == bool(in_truth)
    assert all(any(agents <= each for each in stuck) for agents in in_truth)


def test_a_crew_ends_although_the_note_that_its_work_is_done_was_lost() -> None:
    played = play(named("late-news"), 21)
    assert [each.fields["agent"] for each in played.observed.seen if each.event == "done"] == ["b", "a"]
    assert played.observed.seen[-1].event == "run_ended"


def test_every_scenario_says_what_it_is_about() -> None:
    for scenario in SCENARIOS:
        assert len(scenario.story) > 100, scenario.id
        assert scenario.tags, scenario.id
