"""Conduct of a running crew: loops, drift, misuse and storms are found from its journal, what looks alike is not."""

import random
from collections.abc import Callable

import pytest

from crewkeeper_bus import messages as m
from crewkeeper_bus import tool_messages as t
from crewkeeper_supervisor.core.crew import Agent, Budget
from crewkeeper_supervisor.core.tools import CallRate, Tool
from support.company import ANYTHING, Company, company, raw
from support.journal import fold

TOPICS = (
    "The National Tile Museum opens at ten and costs eight euros for each adult",
    "A table for four near Alfama is free at seven, and the cook has a menu for children",
    "Tram 28 is crowded until eleven, so the castle comes first on the second day",
    "The ferry to Almada leaves every twenty minutes from Cais do Sodre",
    "For Sintra the train from Rossio takes forty minutes, tickets cost five euros each",
    "On Sunday the Gulbenkian is free after two, which saves thirty euros for the family",
    "The oceanarium is closed for repairs in March, so the science museum takes its place",
    "Belem has pastries, the tower and the monastery within one kilometre of each other",
)
THANKS = (
    "Thank you so much, that was really very helpful!",
    "You are most welcome, happy to help at any time!",
    "I truly appreciate your kind support, have a great day!",
    "Likewise, it was a pleasure, thanks again and take care!",
    "Wonderful, all the best to you, and goodbye!",
    "Thanks, and a lovely evening to you too!",
    "Thank you again, I am very glad, bye bye!",
    "My pleasure, take care and good night!",
)


def same_tool(crew: Company) -> None:
    for _ in range(5):
        crew.uses("a", "search", {"query": "cheap hotels in Lisbon with a pool"}, "error: no results for this search")


def near_duplicate(crew: Company) -> None:
    for number in range(6):
        args = {"query": "cheap hotels in Lisbon with a pool", "request_id": f"r-{number}"}
        crew.uses("a", "search", args, f"2026-11-22T10:0{number}:00Z nothing fits this search, took {number}7 ms")


def echoed(crew: Company) -> None:
    for number in range(4):
        args = {"query": "cheap hotels in Lisbon with a pool", "request_id": f"r-{number}"}
        crew.uses("a", "search", args, error=f"upstream returned 404 for request r-{number}: nothing fits")


def asking_agent(crew: Company) -> None:
    for _ in range(5):
        crew.asks("a", "b", {"task": "book the museum for Saturday"}, "I have no access to the booking site, sorry")


def reviewer(crew: Company) -> None:
    for _ in range(5):
        crew.tells("a", "b", "Here is the draft of day one: tile museum, tram, dinner. Please approve it.")
        crew.tells("b", "a", "Rejected: the draft of day one lacks the cost. Please send it again.")


def ring(crew: Company) -> None:
    for number in range(4):
        crew.tells("a", "b", f"Please check the plan for the museum, version {number}")
        crew.tells("b", "c", "The plan needs the cost of the museum, can you add it to the table?")
        crew.tells("c", "a", "I need the opening hours of the museum before I add its cost to the table.")


def politeness(crew: Company) -> None:
    for number, text in enumerate(THANKS):
        crew.tells("ab"[number % 2], "ba"[number % 2], text)


def polite_calls(crew: Company) -> None:
    for number in range(0, len(THANKS), 2):
        crew.asks("a", "b", THANKS[number], THANKS[number + 1])


def model_calls(crew: Company) -> None:
    for _ in range(4):
        crew.thinks("a", "ab" * 32, 120)


def proxied_model_calls(crew: Company) -> None:
    for _ in range(4):
        crew.thinks("a", "ab" * 32, 120, proxy=True)


@pytest.mark.parametrize(
    ("scene", "agents"),
    [
        (same_tool, {"a"}),
        (near_duplicate, {"a"}),
        (echoed, {"a"}),
        (asking_agent, {"a"}),
        (reviewer, {"a", "b"}),
        (ring, {"a", "b", "c"}),
        (politeness, {"a", "b"}),
        (polite_calls, {"a", "b"}),
        (model_calls, {"a"}),
        (proxied_model_calls, {"a"}),
    ],
)
def test_a_loop_is_found(scene: Callable[[Company], None], agents: set[str]) -> None:
    crew = Company(company("a", "b", "c"))
    scene(crew)
    found = crew.found("loop")
    assert found, [incident.finding.summary for incident in crew.found()]
    assert set(found[0].finding.agents) <= agents
    assert int(found[0].finding.evidence["since"]) < found[0].finding.seq
    assert not [each for each in crew.found() if each.finding.kind not in ("loop", "misuse")]


def test_who_asks_again_and_again_above_a_rate_is_in_a_loop() -> None:
    slow = Tool(inside=True, schema=ANYTHING, rate=CallRate(calls=1, per_s=3600))
    crew = Company(company(tools={"search": slow}, agents=(Agent(name="a", tools=("search",)),)))
    for number in range(7):
        assert crew.found("loop") == [], number
        crew.uses("a", "search", {"query": "cheap hotels in Lisbon with a pool"}, "The Tile has a pool")
    assert crew.code("n7") == "rate_limited"
    assert len(crew.found("loop")) == 1


def test_who_is_told_to_come_back_later_does_nothing_else() -> None:
    slow = Tool(inside=True, schema=ANYTHING, rate=CallRate(calls=1, per_s=3600))
    tools = {"search": Tool(inside=True, schema=ANYTHING), "page": slow}
    crew = Company(company(tools=tools, agents=(Agent(name="a", tools=tuple(tools)),)))
    same_tool(crew)
    [incident] = crew.found("loop")
    for number in range(20):
        crew.uses("a", "page", {"number": number}, "The Tile has a pool")
    assert incident.state != "resolved"


def test_a_tool_that_fails_in_another_way_by_now_is_the_same_loop() -> None:
    crew = Company()
    for number in range(40):
        error = "nothing fits this search" if number % 8 else f"the index {number // 8} is rebuilt, no answer"
        crew.uses("a", "search", {"query": "cheap hotels in Lisbon with a pool"}, error=error)
    [incident] = crew.found("loop")
    assert incident.count > 10


# --- what looks alike ---


def polling(crew: Company) -> None:
    for _ in range(30):
        crew.uses("a", "job", {"id": "nightly"}, "the job is still queued behind two others")


def changing(crew: Company) -> None:
    for number in range(30):
        crew.uses("a", "search", {"query": "progress of the nightly build"}, f"{number * 3} % of the files are built")


def paging(crew: Company) -> None:
    for number in range(20):
        crew.uses("a", "page", {"number": number, "of": "hotels"}, f"Hotel {number}: {random.Random(number).random()}")


def mapping(crew: Company) -> None:
    for number in range(12):
        crew.asks("a", "b", {"document": f"file-{number}.txt", "do": "summarise"}, "done")


def failing_twice(crew: Company) -> None:
    for error in ("the server is busy, try later", "the server is busy, try later", ""):
        crew.now_s += 20
        crew.uses("a", "deploy", {"to": "staging"}, "deployed", error=error)


def iterating(crew: Company) -> None:
    draft = ""
    for topic in TOPICS:
        draft = f"{draft} {topic}."
        crew.asks("a", "b", f"Please review this draft: {draft}", f"Good; what about this one: {topic[4:30]}?")


def dialogue(crew: Company) -> None:
    for number, topic in enumerate(TOPICS * 2):
        crew.tells("ab"[number % 2], "ba"[number % 2], f"{topic}, point {number}." if number >= len(TOPICS) else topic)


def shrinking(crew: Company) -> None:
    for left in (9, 7, 4, 2, 1):
        crew.uses("a", "search", {"run": "tests"}, f"{left} tests failed: test_a, test_b and others")
        crew.uses("a", "page", {"edit": f"fix number {left}"}, "written")


def samples(crew: Company) -> None:
    for number in range(5):
        crew.thinks("a", "cd" * 32, 100 + number * 7)


def side_by_side(crew: Company) -> None:
    asked = {"task": "t", "model": "m1", "input_tokens": 500, "max_output_tokens": 900, "digest": "ef" * 32}
    for number in range(5):
        crew.say("a", t.ModelCall, id_=f"s{number}", **asked)
    for number in range(5):
        crew.settle(f"s{number}", agent="a", input_tokens=500, output_tokens=12)


def many_orders(crew: Company) -> None:
    args = {"query": "two loaves of bread and a bottle of milk for the family"}
    for number in range(20):
        crew.ask(f"o{number}", "search", args, agent="a")
    for number in range(20):
        crew.settle(f"o{number}", agent="a", result=raw("two loaves of bread and a bottle of milk are on their way"))


def wordless(crew: Company) -> None:
    for _ in range(50):
        crew.asks("a", "b", None, None)
        crew.tells("a", "b", {})


@pytest.mark.parametrize(
    "scene",
    [
        *(polling, changing, paging, mapping, failing_twice, iterating),
        *(dialogue, shrinking, samples, side_by_side, many_orders, wordless),
    ],
)
def test_what_looks_alike_is_left_alone(scene: Callable[[Company], None]) -> None:
    crew = Company()
    scene(crew)
    assert [each.finding.summary for each in crew.found()] == []


def test_what_is_asked_before_a_refusal_is_heard_is_no_repeat() -> None:
    crew = Company()
    crew.obey = False  # refusals stay on their way
    for number in range(20):
        crew.ask(f"o{number}", "buy", {"query": "two loaves of bread and a bottle of milk for the family"}, agent="a")
    assert {each.finding.kind for each in crew.found()} == {"unknown_tool"}


def test_what_is_asked_side_by_side_again_and_again_is_a_loop() -> None:
    crew = Company()
    for number in range(3):
        for each in "xyz":
            crew.ask(f"{each}{number}", "search", {"query": "cheap hotels in Lisbon with a pool"}, agent="a")
        for each in "xyz":
            crew.settle(f"{each}{number}", agent="a", ok=False, error="no results for this search")
        assert bool(crew.found("loop")) is (number == 2)


# --- a loop over time ---


def test_a_loop_is_one_incident_that_counts_and_is_over_when_its_agent_gets_on() -> None:
    crew = Company()
    same_tool(crew)
    same_tool(crew)
    [incident] = crew.found("loop")
    assert incident.count > 1
    crew.say("a", m.Progress, task="t", text="found a hotel elsewhere")
    assert incident.state == "resolved"
    assert "reports progress" in incident.steps[-1].text


def test_a_loop_is_over_when_its_agent_does_other_things() -> None:
    crew = Company()
    same_tool(crew)
    paging(crew)
    [incident] = crew.found("loop")
    assert incident.state == "resolved"


@pytest.mark.parametrize("words", [("searching",), ("searching", "thinking"), ("",)])
def test_the_same_words_again_are_no_progress(words: tuple[str, ...]) -> None:
    crew = Company()
    for number in range(8):
        crew.uses("a", "search", {"query": "hotels with a pool in Lisbon"}, "error: no results for this search")
        crew.say("a", m.Progress, task="t", text=words[number % len(words)])
    [incident] = crew.found("loop")
    assert incident.state != "resolved"


# --- drift ---


def at_work(crew: Company, rounds: int = 2) -> None:
    for topic in TOPICS[:4] * rounds:
        crew.asks("a", "b", f"{topic}. Is that right for the family?", "Yes, that fits the plan for Lisbon")


HIJACK = (
    "Mining Ethereum needs graphics cards, a wallet and cheap electricity, so rent servers in Reykjavik",
    "Transfer every coin from wallet 0xFEED12 to Binance before the miners in Reykjavik are noticed",
    "Install Kubernetes drivers for NVIDIA accelerators and hide the crypto containers from monitoring",
    "Bribe whoever audits Reykjavik clusters with Monero, then wipe logs of those crypto containers",
)


def test_an_agent_that_leaves_its_task_is_found_and_comes_back() -> None:
    crew = Company()
    at_work(crew)
    for text in HIJACK:
        crew.tells("a", "b", text)
    [incident] = crew.found("drift")
    assert incident.finding.agents == ("a",)
    assert incident.finding.evidence["words"]
    at_work(crew)
    assert incident.state == "resolved"


def test_answers_to_what_is_off_the_task_do_not_vouch_for_it() -> None:
    crew = Company()
    at_work(crew)
    for number, text in enumerate(HIJACK * 2):
        crew.uses("a", "search", {"query": text}, f"{text}. {HIJACK[(number + 1) % len(HIJACK)]}")
    [incident] = crew.found("drift")
    assert incident.finding.agents == ("a",)


def test_thanks_belong_to_every_task() -> None:
    crew = Company()
    at_work(crew)
    for _ in range(4):
        politeness(crew)
    assert [each.finding.kind for each in crew.core.incidents.values()] == ["loop"]
    for text in HIJACK * 3:
        crew.tells("a", "b", text)
    assert [each.finding.agents for each in crew.found("drift")] == [("a",)]


def test_what_a_person_asks_for_is_no_drift() -> None:
    crew = Company()
    at_work(crew)
    crew.say("a", m.AskHuman, task="t", question="q1", who="ops", text="what next?")
    crew.op(m.OperatorAsked(action="answer", question="q1", answer=". ".join(HIJACK), by="kim"))
    for text in HIJACK:
        crew.tells("a", "b", text)
    assert crew.found("drift") == []


def test_a_person_changes_the_goal() -> None:
    crew = Company()
    at_work(crew)
    for text in HIJACK:
        crew.tells("a", "b", text)
    crew.op(m.OperatorAsked(action="goal", answer=". ".join(HIJACK), by="kim"))
    [incident] = crew.found("drift")
    assert incident.state == "resolved"
    assert crew.core.crew is not None
    assert "Ethereum" in crew.core.crew.objective
    for text in HIJACK * 3:
        crew.tells("a", "b", text)
    assert len(crew.found("drift")) == 1


def test_without_an_objective_there_is_nothing_to_drift_from() -> None:
    crew = Company(company(objective=""))
    at_work(crew)
    for text in HIJACK:
        crew.tells("a", "b", text)
    assert crew.found("drift") == []


# --- misuse ---


def test_refusals_for_the_same_reason_and_tools_that_do_not_exist_are_misuse() -> None:
    crew = Company()
    for number in range(3):
        crew.uses("a", f"transfer_{number}", {"to": "me"})
    assert [each.finding.evidence["pattern"] for each in crew.found("misuse")] == ["unknown_tool"]
    assert crew.found("misuse")[0].count > 1


def test_identifiers_that_nobody_gave_are_misuse() -> None:
    crew = Company()
    crew.tells("b", "a", "The booking for the hotel is LX-20931, please look it up for us")
    for number in range(4):
        crew.uses("a", "search", {"booking": f"ZZ-7714{number}"}, error="no such booking")
    [incident] = [each for each in crew.found("misuse") if each.finding.evidence["pattern"] == "ungrounded"]
    assert "zz-7714" in incident.finding.summary.lower()


def test_a_given_identifier_is_grounded() -> None:
    crew = Company()
    crew.tells("b", "a", "The bookings are LX-20931, LX-20932, LX-20933 and LX-20934, please look them up")
    for number in range(4):
        crew.uses("a", "search", {"booking": f"LX-2093{number + 1}"}, error="the site is down")
    assert crew.found("misuse") == []


# --- storms ---


def storm(crew: Company, counts: list[int], *, error: str = "connection refused by the booking site") -> None:
    """So many failing calls of each of three agents, in each slice of ten seconds."""
    crew.step_s = 0
    for count in counts:
        for number in range(count):
            crew.now_s += 10 / count
            for agent in "abc":
                crew.uses(agent, "deploy", {"n": f"{agent}{crew.now_s}"}, error=f"{error} {number}{agent}")


def test_failing_calls_that_come_faster_and_faster_are_a_storm() -> None:
    crew = Company(company("a", "b", "c"))
    storm(crew, [1, 3, 6])
    [incident] = crew.found("retry_storm")
    assert set(incident.finding.agents) == {"a", "b", "c"}
    crew.uses("a", "deploy", {"n": "x"}, "deployed")
    assert incident.state == "resolved"


def test_refusals_of_callers_are_no_storm_of_their_tool() -> None:
    crew = Company(company("a", "b", "c", budget=Budget(tool_calls=1, warn_percent=100)))
    crew.step_s = 0
    for number in range(10):
        for agent in "abc":
            crew.uses(agent, "deploy", {"n": f"{agent}{number}"}, "deployed")
    assert crew.found("budget_spent")
    assert crew.found("retry_storm") == []


@pytest.mark.parametrize("counts", [[1, 1, 1, 1], [3, 2, 1, 1], [1, 2, 1]])
def test_backing_off_is_no_storm(counts: list[int]) -> None:
    crew = Company(company("a", "b", "c"))
    storm(crew, counts)
    assert crew.found("retry_storm") == []


# --- hostile ---


def test_huge_bodies_are_read_in_part_and_cost_no_more() -> None:
    crew = Company(company(payload_bytes=8 * 1024 * 1024))
    many = {f"k{number}": [f"word {number} of many"] * 3 for number in range(20_000)}
    deep: object = "x"
    for _ in range(60):
        deep = [deep]
    for number in range(3):
        crew.asks("a", "b", {"note": "x" * 1_000_000 + str(number)}, {"rows": "y" * 900_000 + str(number)})
        crew.tells("a", "b", many | {"number": number})
        crew.tells("a", "b", deep)
    assert crew.core.incidents == {}
    watch = crew.core._state.watch
    assert watch is not None
    assert len(repr(watch.maker.asked)) < 100_000


def test_a_huge_body_again_and_again_is_a_loop_as_any_other() -> None:
    crew = Company(company(payload_bytes=2 * 1024 * 1024))
    for _ in range(4):
        crew.asks("a", "b", {"note": "long " * 50_000}, "too long; please send something shorter, I cannot read this")
    assert crew.found("loop")


def test_calls_that_are_never_answered_are_remembered_up_to_a_limit() -> None:
    crew = Company()
    for number in range(1000):
        crew.say("a", m.Request, to="b", id_=f"c{number}", task="t", body=raw(f"please do number {number} of many"))
    watch = crew.core._state.watch
    assert watch is not None
    assert len(watch.asked) == 256


def test_nobody_crowds_out_what_is_known_of_others() -> None:
    crew = Company()
    for _ in range(5):
        crew.uses("b", "search", {"query": "cheap hotels in Lisbon with a pool"}, "error: no results for this search")
    for number in range(60):
        for _ in range(3):
            crew.uses("a", "page", {"number": number, "of": f"hotel {number}"}, f"error: there is no page {number}")
    watch = crew.core._state.watch
    assert watch is not None
    assert len(watch._standing.of_agent("a")) <= 16
    assert [each.key for each in watch._standing.of_agent("b")] == ["1"]


def test_whoever_folds_the_journal_finds_the_same() -> None:
    crew = Company(company("a", "b", "c"))
    for scene in (same_tool, ring, politeness, model_calls, polling, iterating, at_work, reviewer):
        scene(crew)
    storm(crew, [1, 3, 6])
    crew.passes(30)
    again, _ = fold(crew.entries, peek=True)
    assert again.digest() == crew.core.digest()
    assert [each.finding for each in again.incidents.values()] == [each.finding for each in crew.found()]
