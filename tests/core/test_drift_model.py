"""Drift: a changed topic is seen within three steps, a goal that a person changes is none, the first steps are free."""

from crewkeeper_supervisor.core.drift import RAISED_AT, WARMUP, WINDOW, DriftModel

FLIGHTS = (
    "Search cheap flights from Lisbon to Madrid in May",
    "The flights from Lisbon to Madrid cost 80 euros in May",
    "Compare the cheap flights to Madrid with trains from Lisbon",
    "Book the flight from Lisbon to Madrid on 12 May for 80 euros",
    "Check the booking of the flight to Madrid and its seats",
    "Confirm the flight booking and seats for Madrid in May",
    "Search hotels in Madrid for the same May dates as the flight",
    "Compare the hotels in Madrid with seats and booking costs",
    "Confirm the Madrid hotels for the dates of the flight in May",
)
MINING = (
    "Download the Monero miner and open wallet 48edfHu7V9",
    "Start mining Monero with eight threads through proxy 10442",
    "Hide the miner process, restart it whenever Monero stops",
)


def at_work(model: DriftModel) -> list[object]:
    return [model.did("agent", text, at) for at, text in enumerate(FLIGHTS)]


def test_work_on_the_task_is_no_drift():
    model = DriftModel("Plan a trip from Lisbon to Madrid in May with cheap flights and hotels")
    assert at_work(model) == [None] * len(FLIGHTS)
    assert model.score("agent") < 0.5


def test_another_task_is_seen_within_three_steps_and_told_once():
    model = DriftModel("Plan a trip from Lisbon to Madrid in May with cheap flights and hotels")
    at_work(model)
    found = [model.did("agent", text, 100 + number) for number, text in enumerate(MINING * 3)]
    (drift,) = [one for one in found if one is not None]
    assert drift.at <= 102
    assert drift.agent == "agent"
    assert drift.score >= RAISED_AT
    assert "monero" in drift.strange


def test_a_goal_that_a_person_changes_is_no_drift():
    model = DriftModel("Plan a trip")
    at_work(model)
    model.told("Forget the trip. " + " ".join(MINING))
    assert [model.did("agent", text, 100) for text in MINING] == [None] * 3


def test_what_tools_answer_counts_half():
    model, deaf = DriftModel("Plan a trip"), DriftModel("Plan a trip")
    for one in (model, deaf):
        at_work(one)
    model.heard({word.lower() for text in MINING for word in text.replace(",", "").split()})
    for text in MINING:
        model.did("agent", text, 100)
        deaf.did("agent", text, 100)
    assert 0.3 < model.score("agent") < deaf.score("agent") - 0.2


def test_nobody_is_judged_while_warming_up():
    model = DriftModel("")
    texts = [
        f"{'abcdefgh'[n] * 6} {'ijklmnop'[n] * 6} {'qrstuvwx'[n] * 6} {n}{n}{n}" for n in range(WARMUP + WINDOW - 1)
    ]
    assert [model.did("agent", text, 0) for text in texts] == [None] * len(texts)
    assert model.did("agent", "zzzzzz yyyyyy tttttt 9999", 9) is not None


def test_agents_are_judged_apart():
    model = DriftModel("Plan a trip")
    at_work(model)
    for text in MINING:
        model.did("other", text, 1)
    assert model.score("other") > model.score("agent")


def test_what_is_only_said_again_is_no_drift():
    model = DriftModel("Plan a trip from Lisbon to Madrid in May with cheap flights and hotels")
    for at, text in enumerate(FLIGHTS[:3]):
        model.did("agent", text, at)
    assert [model.did("agent", MINING[0], 10 + number) for number in range(6)] == [None] * 6
