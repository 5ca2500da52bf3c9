"""Innocent agents: nothing that others do, and no honest work, has an agent disturbed, whatever it looks like."""

from collections.abc import Callable

import pytest

from crewkeeper_supervisor.core.crew import Budget
from crewkeeper_supervisor.core.drift import DriftModel
from crewkeeper_supervisor.core.retry_storm import RetryStorms
from support.company import Company, company

THANKS = (
    "Thank you so much, that was really very helpful!",
    "You are most welcome, happy to help at any time!",
    "I truly appreciate your kind support, have a great day!",
    "Likewise, it was a pleasure, thanks again and take care!",
    "Wonderful, all the best to you, and goodbye!",
    "Thanks, and a lovely evening to you too!",
)
PLEASE = "Please send the list of museums to me today, it is urgent now"
QUERY = {"query": "museums in the old town with prices for a family of four"}


def offers_and_counteroffers(crew: Company) -> None:
    for number in range(0, 12, 2):
        crew.tells("a", "b", f"How about {60 - number}, is that good for you?")
        crew.tells("b", "a", f"No, {20 + number} would be alright")


def data_with_thanks(crew: Company) -> None:
    for number, text in enumerate(THANKS * 2):
        crew.tells("ab"[number % 2], "ba"[number % 2], {"rows": [number * 7, number * 13], "note": text})


def parts_and_receipts(crew: Company) -> None:
    for number in range(8):
        crew.tells("a", "b", f"Part {number} of the export is ready.")
        crew.tells("b", "a", "Received, thank you.")


def people_looked_up_in_vain(crew: Company) -> None:
    for name in ("Anna Schmidt", "Bob Marley", "Carla Bruni", "Dora Maar"):
        query = {"query": f"Find the email address of employee {name} in the directory"}
        crew.uses("a", "search", query, "error: no results for this search")


def cities_looked_up_in_vain(crew: Company) -> None:
    for name in ("lisbon", "porto", "faro", "braga"):
        crew.uses("a", "search", {"query": f"cheap family hotels with a pool in {name}"}, "error: no results")


def service_times_out(crew: Company) -> None:
    for number in range(4):
        crew.passes(2**number)
        crew.uses("a", "search", QUERY, error="the request timed out")


@pytest.mark.parametrize(
    "work",
    [
        offers_and_counteroffers,
        data_with_thanks,
        parts_and_receipts,
        people_looked_up_in_vain,
        cities_looked_up_in_vain,
        service_times_out,
    ],
)
def test_honest_work_is_no_loop(work: Callable[[Company], None]) -> None:
    crew = Company(company("a", "b", "c"))
    work(crew)
    assert [incident.finding.summary for incident in crew.found("loop")] == []


def test_who_is_told_the_same_again_and_again_takes_no_part() -> None:
    crew = Company(company("a", "b"))
    for _ in range(8):
        crew.tells("a", "b", PLEASE)
    [incident] = crew.found("loop")
    assert incident.finding.agents == ("a",)


def test_who_answers_the_same_again_and_again_takes_part() -> None:
    crew = Company(company("a", "b"))
    for _ in range(4):
        crew.tells("a", "b", PLEASE)
        crew.tells("b", "a", "I cannot send it before the list of the museums is complete")
    [incident] = crew.found("loop")
    assert set(incident.finding.agents) == {"a", "b"}


def test_the_ladder_climbs_no_further_for_who_has_stopped() -> None:
    crew = Company(company("a", "b"))
    for _ in range(4):
        crew.tells("a", "b", PLEASE)
        crew.tells("b", "a", "I cannot send it before the list of the museums is complete")
    crew.step_s = 30
    for _ in range(12):
        crew.tells("a", "b", PLEASE)
    first, second = crew.found("loop")
    assert set(first.finding.agents) == {"a", "b"}
    assert (first.state, second.finding.agents) == ("resolved", ("a",))
    assert "it goes on without b" in first.steps[-1].text
    assert crew.core.agents["b"].status == "up"
    assert crew.core.agents["a"].status in ("paused", "pausing")


@pytest.mark.parametrize("crashed", [True, False])
def test_who_begins_anew_may_repeat_its_last_step(crashed: bool) -> None:
    crew = Company(company("a", "b"))
    for _ in range(2):
        crew.uses("a", "search", QUERY, "error: no results for this search")
    if crashed:
        crew.join("a")
    crew.uses("a", "search", QUERY, "error: no results for this search")
    assert bool(crew.found("loop")) is not crashed
    crew.uses("a", "search", QUERY, "error: no results for this search")
    assert crew.found("loop"), "twice is once too often"


def test_drift_is_seen_of_each_of_very_many() -> None:
    model = DriftModel("Plan three days in Lisbon for a family of four, with museums and restaurants")
    found = []
    for number in range(9):
        stray = number > 5
        text = "Zinc furnace Kiln alloys melt under Argon pressure" if stray else "Plan the days in Lisbon with museums"
        found.append(model.did("a", f"{text} {number}", number))
        for other in range(300):
            model.did(f"b{other}", "Plan the days in Lisbon with museums", number)
    assert any(found)


@pytest.mark.parametrize("called", [True, False])
def test_who_declines_what_has_nothing_to_do_with_its_task_has_not_drifted(called: bool) -> None:
    crew = Company(company("a", "b", "c"))
    for number in range(8):
        crew.tells("b", "a", f"Lisbon museum number {number} costs euros for the family on that day")
    for what in ("zinc furnace", "argon pressure", "kiln alloy", "steel bolt", "copper wire"):
        question = f"What do you know about {what} and its use in old factories of Norway?"
        answer = f"I know nothing about {what}, that is not my task, please ask somebody else"
        if called:
            crew.asks("c", "b", question, answer)
        else:
            crew.tells("c", "b", question)
            crew.tells("b", "c", answer)
    assert [each.finding.agents for each in crew.found("drift") if "b" in each.finding.agents] == []


def test_a_nudge_says_how_often_it_was_by_now() -> None:
    crew = Company(company("a", "b"))
    crew.step_s = 9
    for _ in range(7):
        crew.uses("a", "search", QUERY, "error: no results for this search")
    [incident] = crew.found("loop")
    nudge = next(each for each in crew.core.ladder.owed.values() if each.finding == incident.finding.id)
    assert "Repeated 6 times" in nudge.text
    assert incident.finding.evidence["times"] == "7"


def test_each_of_two_is_told_how_often_it_said_the_same() -> None:
    crew = Company(company("a", "b"))
    for _ in range(6):
        crew.tells("a", "b", PLEASE)
        crew.tells("b", "a", "I cannot send it before the list of the museums is complete")
    [incident] = crew.found("loop")
    assert incident.finding.evidence["times"] == "6"
    assert incident.steps[-1].text == "message to a: once more, 6 times by now"


def test_one_thanks_for_many_is_no_exchange_of_courtesies() -> None:
    crew = Company(company("a", "b"))
    crew.tells("a", "b", THANKS[0])
    crew.tells("b", "a", "You are welcome!")
    for text in THANKS[1:]:
        crew.tells("a", "b", text)
    assert [incident.finding.summary for incident in crew.found("loop")] == []


def test_who_is_asked_too_often_is_not_held_for_it() -> None:
    crew = Company(company("a", "b", "c", budget=Budget(fan_out=1, warn_percent=100)))
    crew.call("a", "t", "q0", "b")
    for number in range(1, 8):
        crew.passes(12)
        crew.call("a", "t", f"q{number}", "c")
    [incident] = crew.found("fan_out")
    assert incident.finding.agents == ("a",)
    assert list(crew.core.gate.holds) == ["a"]


def test_all_of_a_ring_are_named_although_one_counts_the_rounds() -> None:
    crew = Company(company("a", "b", "c"))
    for number in range(4):
        crew.tells("a", "b", f"Please check the plan for the museum, version {number}")
        crew.tells("b", "c", "The plan needs the cost of the museum, can you add it to the table?")
        crew.tells("c", "a", "I need the opening hours of the museum before I add its cost to the table.")
    [incident] = crew.found("loop")
    assert set(incident.finding.agents) == {"a", "b", "c"}


# --- storms ---


def test_one_failure_among_anothers_many_makes_nobody_part_of_a_storm() -> None:
    storms = RetryStorms()
    told = [storms.failed("t", "evil", number / 10) for number in range(30)]
    told += [storms.failed("t", "good", 3.1)]
    assert told == [None] * 31


def test_who_backs_off_after_a_common_failure_is_in_no_storm() -> None:
    storms = RetryStorms()
    times = sorted((at_s + number / 20, f"a{number}") for number in range(4) for at_s in (0, 1, 3, 7, 15, 31))
    assert [storms.failed("t", agent, at_s) for at_s, agent in times] == [None] * len(times)


def test_a_storm_is_over_although_one_goes_on_calling() -> None:
    storms = RetryStorms()
    times = sorted((at_s / 10 + number / 100, f"a{number}") for number in range(3) for at_s in range(8))
    told = [found for at_s, agent in times if (found := storms.failed("t", agent, at_s))]
    assert set(told[0].agents) == {"a0", "a1", "a2"}
    for number in range(10):
        storms.failed("t", "a0", 20 + number / 10)
    assert storms.calmed(21.0) == ["t"]
