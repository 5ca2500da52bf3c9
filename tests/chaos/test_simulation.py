"""The simulation of the production core: a sweep of seeds, runs that are equal, faults that shrink, seeds kept."""

from pathlib import Path

import msgspec
import pytest

from crewkeeper_supervisor.chaos import sweep as sweeps
from crewkeeper_supervisor.chaos.chance import Faults, Stream
from crewkeeper_supervisor.chaos.mutations import named
from crewkeeper_supervisor.chaos.options import Options
from crewkeeper_supervisor.chaos.shrink import minimal
from crewkeeper_supervisor.chaos.simulation import Outcome, simulate
from crewkeeper_supervisor.chaos.sweep import Sweep

KEPT = sorted((Path(__file__).parents[1] / "seeds").glob("*.json"))


def told(outcome: Outcome) -> str:
    violations = "\n".join(f"  {each.invariant} at {each.at_s}: {each.text}" for each in outcome.violations)
    return f"seed {outcome.seed} ({outcome.options.mode}):\n{violations}"


def swept(scale: int) -> Sweep:
    """Crews at leisure, crews that go wild, and crews that must get on: `scale` times four, one and one of them."""
    sweep = Sweep(Options(events=1500))
    sweep.run(range(4 * scale))
    sweep.options = Options(mode="swarm", events=1200)
    sweep.run(range(scale))
    sweep.options = Options(mode="liveness", events=1000)
    sweep.run(range(scale))
    return sweep


def test_a_short_sweep_breaks_nothing() -> None:
    sweep = swept(2)
    assert not sweep.failures, "\n".join(told(outcome) for outcome in sweep.failures)
    assert {"deadlock reported", "suspicion refuted", "break obeyed"} <= set(+sweep.counts)


@pytest.mark.slow
def test_a_sweep_breaks_nothing_and_sees_everything() -> None:
    sweep = swept(15)
    assert not sweep.failures, "\n".join(told(outcome) for outcome in sweep.failures)
    assert sweep.never == []


def test_equal_seeds_give_equal_runs_and_others_others() -> None:
    first, again, other = (simulate(seed, Options(events=400)) for seed in (7, 7, 8))
    assert first == again
    assert first.digest != other.digest


def test_messages_read_back_from_the_wire_give_the_same_run() -> None:
    plain, wired = (simulate(5, Options(events=500, wire=wire)) for wire in (False, True))
    assert plain.digest == wired.digest


@pytest.mark.parametrize("path", KEPT, ids=[path.stem for path in KEPT])
def test_a_kept_seed_breaks_nothing_any_more(path: Path) -> None:
    file = sweeps.read(path)
    if file.mutation:
        with named(file.mutation).applied():
            assert file.invariant in {each.invariant for each in file.run().violations}
    outcome = file.run()
    assert outcome.violations == (), told(outcome)


# --- the tools themselves ---


def test_one_choice_does_not_shift_another() -> None:
    rates = {"lose": 0.5}
    every, some = Faults(1, rates), Faults(1, rates, kept={"lose:a:2", "lose:b:1"})
    struck = [[faults.strikes("lose", place) for place in "abababab"] for faults in (every, some)]
    assert len(every.struck) > 1
    assert set(some.struck) == {"lose:a:2", "lose:b:1"} & set(every.struck)
    assert sum(struck[1]) == len(some.struck)
    assert Stream(1, "x").fraction("y") == Stream(1, "x").fraction("y") != Stream(1, "z").fraction("y")


def test_frozen_faults_do_not_strike() -> None:
    faults = Faults(1, {"lose": 1.0})
    assert faults.strikes("lose", "a")
    faults.frozen = True
    assert not faults.strikes("lose", "a")


@pytest.mark.parametrize("needed", [set(), {"c"}, {"b", "g"}, {"a", "d", "h"}])
def test_delta_debugging_finds_what_is_needed(needed: set[str]) -> None:
    assert set(minimal("abcdefgh", lambda names: needed <= set(names))) == needed


def test_a_failing_run_is_shrunk_and_kept(tmp_path: Path) -> None:
    with named("any-as-all").applied():
        outcome = next(o for seed in range(20) if (o := simulate(seed, Options(events=400))).violations)
        file = sweeps.shrunk(outcome)
        assert len(file.kept or ()) < len(outcome.faults)
        path = sweeps.write(file, tmp_path)
        again = sweeps.read(path)
        assert again == file
        assert file.invariant in {each.invariant for each in again.run().violations}
    assert sweeps.read(path).run().violations == ()


def test_a_seed_file_with_unknown_keys_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(b'{"seed": 1, "invariant": "x", "options": {}, "colour": 1}')
    with pytest.raises(msgspec.ValidationError):
        sweeps.read(path)


def test_a_situation_that_never_arose_fails_a_sweep() -> None:
    sweep = Sweep(Options())
    outcome = simulate(1, Options(events=60))
    for _ in range(sweeps.COVERED_FROM):
        sweep.add(outcome)
    assert "takeover with a pending break" in sweep.never
    assert not sweep.ok
