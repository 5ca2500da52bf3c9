"""The trip crew's own work, without a bus: planning, checking, booking."""

import copy
import csv
import sys
from pathlib import Path

import pytest

TRIP = Path(__file__).parents[2] / "examples" / "trip"


@pytest.fixture(scope="module")
def programs():
    """The example's modules, imported as its programs import each other."""
    sys.path.insert(0, str(TRIP))
    try:
        import executor
        import planner
        import reviewer
        import town

        yield {"town": town, "planner": planner, "reviewer": reviewer, "executor": executor}
    finally:
        sys.path.remove(str(TRIP))
        for name in ("town", "planner", "reviewer", "executor"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def lisbon(programs):
    return programs["town"].read_town()


@pytest.fixture(scope="module")
def good_plan(programs, lisbon):
    return programs["planner"].make_plan(lisbon)


def visits(plan):
    return [stop for day in plan["days"] for stop in day["stops"] if stop["kind"] == "visit"]


def test_the_plan_is_good_and_within_the_budget(programs, lisbon, good_plan):
    assert programs["reviewer"].check(lisbon, good_plan) == []
    assert good_plan["total_cents"] <= 900_00
    assert len(good_plan["days"]) == 3
    assert len(visits(good_plan)) >= 9


def test_planning_twice_gives_the_same_plan(programs, lisbon, good_plan):
    assert programs["planner"].make_plan(programs["town"].read_town()) == good_plan


def test_no_single_hotel_beats_the_plan(programs, lisbon, good_plan):
    others = [programs["planner"].plan_with(lisbon, hotel) for hotel in lisbon.hotels.values()]
    assert max(plan["worth"] for plan in others if plan) == good_plan["worth"]


def test_a_smaller_budget_gives_a_cheaper_plan_or_none(programs, lisbon):
    from dataclasses import replace

    planner, reviewer = programs["planner"], programs["reviewer"]
    poor = replace(lisbon, request=replace(lisbon.request, budget_cents=600_00))
    plan = planner.make_plan(poor)
    assert plan["total_cents"] <= 600_00
    assert reviewer.check(poor, plan) == []
    broke = replace(lisbon, request=replace(lisbon.request, budget_cents=100_00))
    with pytest.raises(ValueError, match=r"no hotel leaves anything of 100\.00 EUR"):
        planner.make_plan(broke)


def test_both_breakdowns_agree_and_add_up(programs, lisbon, good_plan):
    told = programs["planner"].break_down(good_plan)
    assert told == programs["reviewer"].cost_by_day(lisbon, good_plan)
    assert sum(day["cents"] for day in told) + good_plan["hotel_cents"] == good_plan["total_cents"]


def shift(plan):
    visits(plan)[0]["starts"] = "08:00"


def cheat(plan):
    visits(plan)[0]["cost_cents"] -= 100


def twice(plan):
    plan["days"][1]["stops"] += copy.deepcopy(plan["days"][0]["stops"])


def rush(plan):
    move = next(stop for stop in plan["days"][0]["stops"] if stop["kind"] == "move")
    move["ends"] = move["starts"]


def stray(plan):
    plan["days"][2]["stops"].pop()


def invent(plan):
    visits(plan)[0]["what"] = "s99"


def another_hotel(plan):
    plan["hotel"] = "h99"


def lose_a_day(plan):
    plan["days"].pop()


def dear_hotel(plan):
    plan["hotel"] = "h6"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (shift, "begins at 08:00, before"),
        (shift, "is open from 09:00"),
        (cheat, "costs 17.00 EUR each"),
        (twice, "is visited twice"),
        (rush, "one cannot get from"),
        (stray, "does not end at the hotel"),
        (invent, "there is no sight 's99'"),
        (another_hotel, "there is no hotel 'h99'"),
        (lose_a_day, "the days are not the days asked for"),
        (dear_hotel, "is over the budget of 900.00 EUR"),
        (dear_hotel, "the data say"),
    ],
)
def test_the_reviewer_finds_what_is_wrong(programs, lisbon, good_plan, spoil, words):
    plan = copy.deepcopy(good_plan)
    spoil(plan)
    assert words in "\n".join(programs["reviewer"].check(lisbon, plan))


def test_the_files_are_written_and_agree_with_the_data(programs, lisbon, good_plan, tmp_path):
    executor = programs["executor"]
    total = executor.book_all(lisbon, good_plan, ["a remark"], tmp_path / "out")
    assert total == good_plan["total_cents"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["bookings.csv", "itinerary.md"]
    with (tmp_path / "out" / "bookings.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["kind"] == "hotel"
    assert {row["id"] for row in rows[1:]} == {stop["what"] for stop in visits(good_plan) if stop["cost_cents"]}
    assert len({row["reference"] for row in rows}) == len(rows)
    page = (tmp_path / "out" / "itinerary.md").read_text()
    assert "a remark" in page
    assert "## 2027-04-18" in page


def test_validation_sees_a_wrong_price_and_a_missing_row(programs, lisbon, good_plan, tmp_path):
    executor = programs["executor"]
    executor.book_all(lisbon, good_plan, [], tmp_path)
    bookings = tmp_path / "bookings.csv"
    good = bookings.read_text()
    bookings.write_text(good.replace(",34.00", ",33.00"))
    with pytest.raises(ValueError, match=r"the data say 34\.00 EUR"):
        executor.validate(lisbon, good_plan, tmp_path)
    bookings.write_text("\n".join(good.splitlines()[:-1]) + "\n")
    with pytest.raises(ValueError, match="adds up to"):
        executor.validate(lisbon, good_plan, tmp_path)


def test_ways_take_lines_where_walking_is_long(programs, lisbon):
    town = programs["town"]
    rossio, pena = lisbon.stops["Baixa"], lisbon.sights["s22"]
    way = lisbon.move(rossio, pena, town.minutes("09:00"))
    assert way.by == "train Sintra at 09:08"
    assert way.fare_cents == 240
    assert lisbon.move(lisbon.sights["s15"], pena, town.minutes("23:55")) is None
    near = lisbon.move(lisbon.sights["s14"], lisbon.sights["s16"], 600)
    assert near.by == "on foot"
    assert near.fare_cents == 0
    change = lisbon.move(lisbon.stops["Oriente"], lisbon.stops["Belem"], town.minutes("10:00"))
    assert change.by.count(", then ") == 2
