"""Replay: the simulated runs of a record played again and held against it."""

from collections.abc import Iterator
from contextlib import nullcontext

from msgspec import Struct

from crewkeeper_supervisor.chaos.product_mutations import applied
from crewkeeper_supervisor.chaos.sim.stage import play
from crewkeeper_supervisor.chaos.trial.record import Record, scenario_of


class Replayed(Struct, frozen=True, kw_only=True):
    """One run played again, and how it differs from the record; `detail` is empty where it does not."""

    scenario: str
    seed: int
    detail: str = ""

    @property
    def same(self) -> bool:
        """Whether it came out as before."""
        return not self.detail


def replayed(record: Record) -> Iterator[Replayed]:
    """Play every simulated run of a record again.

    Raises:
        KeyError: It was made with a mutation that this version does not have.
        msgspec.ValidationError: A scenario in it is none of this version.
    """
    for result in record.results:
        if result.mode != "sim":
            continue
        scenario = scenario_of(result.scenario)
        with applied(record.mutation) if record.mutation else nullcontext():
            for row in result.runs:
                again = play(scenario, row.seed)
                detail = ""
                if again.verdict.word != row.verdict:
                    detail = f"was {row.verdict} and is {again.verdict.word}"
                elif again.digest != row.digest:
                    detail = f"{again.verdict.word} as before, by another way: the state at its end differs"
                yield Replayed(scenario=scenario.id, seed=row.seed, detail=detail)
