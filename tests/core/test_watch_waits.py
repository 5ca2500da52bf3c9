"""Waits of a running crew over time: stalls, starvation, livelocks, growth; and those who wait with a reason."""

from collections.abc import Callable

import msgspec
import pytest

from crewkeeper_bus import messages as m
from crewkeeper_bus import tool_messages as t
from crewkeeper_supervisor.core.crew import Agent, Budget, Response, Responses, Watching
from crewkeeper_supervisor.core.findings import Incident
from crewkeeper_supervisor.core.outcome import Outcome
from crewkeeper_supervisor.core.rules import Rule
from crewkeeper_supervisor.core.tools import Tool
from support.company import ANYTHING, Company, company, raw
from support.journal import fold

QUICK = Watching(stall_s=60, depth=4, fan_out=5)


def of(*names: str, **fields: object) -> Company:
    return Company(company(*names, **({"watch": QUICK, "heartbeat_s": 5} | fields)))


def only(crew: Company, kind: str) -> Incident:
    [incident] = crew.found()
    assert incident.finding.kind == kind, incident.finding.summary
    return incident


# --- stalls ---


def busy(crew: Company, seconds: float = 200) -> None:
    """Time passes, and everybody is heard of."""
    crew.passes(seconds, step_s=5)


def idle(crew: Company, *agents: str) -> None:
    """These wait for whatever may come."""
    for agent in agents:
        crew.wait(agent, "t", m.OnMessage())


def test_who_runs_and_gets_nowhere_has_stalled_and_gets_on_again() -> None:
    crew = of()
    idle(crew, "b")
    busy(crew)
    incident = only(crew, "stall")
    assert incident.finding.agents == ("a",)
    assert 60 <= incident.finding.at_s - 1000 <= 80
    assert incident.count > 5, "it goes on by the clock"
    crew.say("a", m.Progress, task="t", text="one page is done")
    busy(crew, 10)
    assert incident.state == "resolved"


def test_who_waits_for_a_stalled_agent_is_not_blamed() -> None:
    crew = of("a", "b", "c")
    crew.call("a", "t", "c1", "b")
    crew.wait("a", "t", m.OnCall(call="c1"))
    crew.call("b", "t", "c2", "c")
    crew.wait("b", "t", m.OnCall(call="c2"))
    crew.begin_call("c", "c2", "h2")
    crew.end("c", "t")
    busy(crew)
    stalls = {incident.finding.agents[0] for incident in crew.found("stall")}
    assert stalls == {"c"}


def test_a_call_that_nobody_starts_on_is_a_stall_of_whom_it_was_made_to() -> None:
    crew = Company(company("a", "b", watch=QUICK, heartbeat_s=5))
    crew.end("b", "t")
    crew.call("a", "t", "c1", "b")
    crew.wait("a", "t", m.OnCall(call="c1"))
    busy(crew)
    assert only(crew, "stall").finding.agents == ("a", "b")


def waits_for_a_person(crew: Company) -> None:
    crew.say("a", m.AskHuman, task="t", question="q1", who="ops", text="May I?")
    crew.wait("a", "t", m.OnHuman(who="ops", question="q1"))
    busy(crew)


def sleeps(crew: Company) -> None:
    crew.wait("a", "t", m.OnTimer(after_s=3600))
    busy(crew)


def waits_for_a_slow_model(crew: Company) -> None:
    crew.say("a", t.ModelCall, id_="m1", task="t", model="m1", input_tokens=1000, max_output_tokens=1000)
    crew.wait("a", "t", m.OnTool(call="m1", tool="m1"))
    busy(crew)


def waits_for_a_proxied_model(crew: Company) -> None:
    crew.model("p1", agent="a", given=100, most=1000)
    busy(crew)


def waits_for_an_approval(crew: Company) -> None:
    crew.ask("c1", "deploy", {"to": "production"}, agent="a")
    assert crew.core.gate.approvals
    crew.wait("a", "t", m.OnTool(call="c1", tool="deploy"))
    busy(crew)


def waits_for_a_busy_child(crew: Company) -> None:
    crew.call("a", "t", "c1", "b")
    crew.wait("a", "t", m.OnCall(call="c1"))
    crew.begin_call("b", "c1", "h1")
    for number in range(20):
        busy(crew, 20)
        crew.say("b", m.Progress, task="h1", text=f"page {number} of 20")


def polls_a_slow_job(crew: Company) -> None:
    for _ in range(20):
        busy(crew, 20)
        crew.uses("a", "job", {"id": "nightly"}, "the job is still queued behind two others")


def works_without_words(crew: Company) -> None:
    for _ in range(20):
        busy(crew, 20)
        crew.asks("a", "b", None, None)


def takes_turns_with_a_lock(crew: Company) -> None:
    crew.acquire("b", "t", "table", "kb")
    crew.acquire("a", "t", "table", "ka")
    crew.wait("a", "t", m.OnResource(resource="table", ticket="ka"))
    for number in range(20):
        busy(crew, 20)
        crew.say("b", m.Progress, task="t", text=f"row {number}")


def is_held(crew: Company) -> None:
    crew.op(m.OperatorAsked(action="pause", agent="a", by="kim"))
    busy(crew)


def waits_for_work(crew: Company) -> None:
    crew.wait("a", "t", m.OnMessage())
    busy(crew)


APPROVED = {
    "tools": {"deploy": Tool(inside=True, schema=ANYTHING), "job": Tool(inside=True, schema=ANYTHING, poll=True)},
    "rules": (Rule(id="ask", tools=("deploy",), do="approve"),),
    "agents": tuple(Agent(name=name, tools=("deploy", "job"), concurrency=4) for name in ("a", "b")),
}


@pytest.mark.parametrize(
    "scene",
    [
        *(waits_for_a_person, sleeps, waits_for_a_slow_model, waits_for_a_proxied_model, waits_for_an_approval),
        *(waits_for_a_busy_child, polls_a_slow_job, works_without_words, takes_turns_with_a_lock, is_held),
        waits_for_work,
    ],
)
def test_who_waits_with_a_reason_has_not_stalled(scene: Callable[[Company], None]) -> None:
    crew = of(**APPROVED)
    if scene not in (waits_for_a_busy_child, takes_turns_with_a_lock):
        idle(crew, "b")
    scene(crew)
    assert [each.finding.summary for each in crew.found()] == []


def test_time_that_an_agent_was_held_does_not_count() -> None:
    crew = of()
    idle(crew, "b")
    crew.op(m.OperatorAsked(action="pause", agent="a", by="kim"))
    busy(crew, 300)
    crew.op(m.OperatorAsked(action="resume", agent="a", by="kim"))
    busy(crew, 30)
    assert crew.found() == []
    busy(crew, 60)
    only(crew, "stall")


def test_time_that_the_gate_held_an_agent_does_not_count() -> None:
    crew = of(responses=Responses(loop=Response(do=("hold",), hold_s=200)))
    idle(crew, "b")
    while not crew.found("loop"):
        crew.uses("a", "search", {"query": "hotels with a pool in Lisbon"}, error="error: no results for this search")
    busy(crew, 225)
    assert any("held long enough" in step.text for step in only(crew, "loop").steps)
    busy(crew, 30)
    only(crew, "loop")
    busy(crew, 40)
    assert [each.finding.kind for each in crew.found()] == ["loop", "stall"]


def test_calls_that_are_refused_because_their_agent_is_held_are_no_repeats() -> None:
    crew = of(responses=Responses(loop=Response(do=("hold", "kill"), climb_s=1, hold_s=200)))
    while not crew.found("loop"):
        crew.uses("a", "search", {"query": "hotels with a pool in Lisbon"}, error="error: no results for this search")
    for number in range(8):
        crew.ask(f"d{number}", "search", {"query": "hotels with a pool in Lisbon"}, agent="a", deadline_s=2)
        busy(crew, 5)
        assert crew.code(f"d{number}") == "held"
    assert only(crew, "loop").count == 1


def test_a_crew_that_is_told_to_end_is_not_judged_and_wants_no_ticks_without_end() -> None:
    crew = of()
    crew.op(m.OperatorAsked(action="stop_run", by="kim"))
    for _ in range(100):
        due_s = crew.core.next_tick_at_s()
        assert due_s is not None
        assert due_s > crew.now_s
        crew.now_s = due_s
        crew.op(m.Tick())
    assert crew.now_s > 1000 + 3600
    assert crew.found() == []


def test_a_stall_is_judged_by_the_limit_of_its_agent() -> None:
    agents = (Agent(name="a", stall_s=0), Agent(name="b", stall_s=300), Agent(name="c"))
    crew = of(agents=agents)
    busy(crew, 150)
    assert [incident.finding.agents[0] for incident in crew.found("stall")] == ["c"]
    busy(crew, 250)
    assert [incident.finding.agents[0] for incident in crew.found("stall")] == ["c", "b"]


def test_nobody_is_judged_where_the_crew_file_says_so() -> None:
    crew = of(watch=Watching(stall_s=0))
    busy(crew, 2000)
    assert crew.found() == []


# --- locks and queues ---


def tries(crew: Company, agent: str, ticket: str) -> None:
    """Asks for the table with a limit, and gives up."""
    crew.acquire(agent, "t", "table", ticket)
    crew.wait(agent, "t", m.OnResource(resource="table", ticket=ticket), deadline_s=1)
    crew.now_s += 1
    crew.wake(agent, "t", "timeout")


def test_who_gives_up_again_and_again_while_others_are_served_starves() -> None:
    crew = of("a", "b", "c")
    crew.acquire("b", "t", "table", "k0")
    for number in range(6):
        tries(crew, "a", f"t{number}")
        other = "cb"[number % 2]
        crew.acquire(other, "t", "table", f"k{number + 1}")
        crew.release("bc"[number % 2], f"k{number}")
    incident = only(crew, "starvation")
    assert incident.finding.agents[0] == "a"
    assert "'table'" in incident.finding.summary
    crew.acquire("a", "t", "table", "last")
    crew.release("b", "k6")
    assert incident.state == "resolved"


def test_who_waits_in_a_fair_line_does_not_starve() -> None:
    crew = of("a", "b", "c", watch=Watching(stall_s=0))
    for number in range(30):
        for agent in "abc":
            crew.acquire(agent, "t", "table", f"{agent}{number}")
    for number in range(30):
        for agent in "abc":
            crew.passes(10, step_s=5)
            crew.release(agent, f"{agent}{number}")
    assert crew.found() == []


def test_a_call_that_stays_in_the_queue_while_later_ones_are_started_starves() -> None:
    crew = of("a", "b", watch=Watching(stall_s=0))
    crew.call("a", "t", "old", "b")
    crew.call("a", "t", "next", "b")
    crew.passes(70, step_s=5)
    for number in range(8):
        crew.now_s += 1
        crew.call("a", "t", f"new{number}", "b")
        crew.begin_call("b", f"new{number}", f"h{number}")
        crew.passes(6)
        if number != 7:
            crew.reply("b", f"h{number}")
    incident = only(crew, "starvation")
    assert "b to start on its call" in incident.finding.summary
    crew.reply("b", "h7")
    crew.begin_call("b", "old", "ho")
    crew.begin_call("b", "next", "hn")
    crew.passes(6)
    assert incident.state == "resolved"


def test_a_ring_that_closes_and_is_given_up_again_and_again_is_a_livelock() -> None:
    crew = of("a", "b", watch=Watching(stall_s=0))
    for number in range(7):
        for agent in "ab":
            crew.acquire(agent, "t", f"fork-{agent}", f"{agent}{number}")
        for agent, other in ("ab", "ba"):
            ticket = f"{agent}{other}{number}"
            crew.acquire(agent, "t", f"fork-{other}", ticket)
            crew.wait(agent, "t", m.OnResource(resource=f"fork-{other}", ticket=ticket), deadline_s=1)
        crew.now_s += 1
        for agent in "ab":
            crew.wake(agent, "t", "timeout")
        for agent in "ab":
            crew.release(agent, f"{agent}{number}")
    [incident] = crew.found("livelock")
    assert set(incident.finding.agents) == {"a", "b"}


# --- growth ---


def test_a_task_that_asks_for_too_much_at_once_is_found() -> None:
    crew = of()
    for number in range(5):
        crew.call("a", "t", f"c{number}", "b")
    incident = only(crew, "fan_out")
    assert incident.finding.agents == ("a",)
    assert [crew.code(f"c{number}") for number in range(5)] == [""] * 5, "nothing is refused"
    for number in range(5):
        crew.cancel("a", f"c{number}")
    busy(crew, 10)
    assert incident.state == "resolved"


def test_a_tree_of_calls_that_grows_without_end_is_found_at_its_root() -> None:
    crew = of("a", "b", watch=Watching(stall_s=0, fan_out=150))
    crew.call("a", "t", "root", "b")
    crew.begin_call("b", "root", "h0")
    for number in range(160):
        crew.task("b", f"w{number}", slot=False)
        crew.call("b", "h0" if number < 100 else f"h{number - 99}", f"c{number}", "a")
        if number < 100:
            crew.begin_call("a", f"c{number}", f"x{number}")
        else:
            crew.end("b", f"w{number}")
    crew.passes(70, step_s=5)
    assert crew.found("fan_out") == []
    for number in range(100):
        crew.call("a", f"x{number}", f"y{number}", "b")
    crew.passes(70, step_s=5)
    [incident] = crew.found("fan_out")
    assert incident.finding.agents == ("a",)


def test_a_chain_of_calls_that_grows_is_told_to_all_in_it() -> None:
    crew = of("a", "b", watch=Watching(stall_s=0, depth=4))
    chain: tuple[str, ...] = ()
    task = "t"
    for number in range(6):
        agent, other = ("a", "b") if number % 2 == 0 else ("b", "a")
        crew.mirrors[agent].calls[f"c{number}"] = (other, task)
        crew.say(
            agent, m.Request, to=other, id_=f"c{number}", task=task, verb="ask", chain=chain, body=msgspec.Raw(b"{}")
        )
        chain, task = (*chain, f"c{number}"), f"h{number}"
        crew.begin_call(other, f"c{number}", task)
    incident = only(crew, "depth")
    assert (set(incident.finding.agents), incident.count) == ({"a", "b"}, 2)


def test_a_refused_call_is_told_to_its_caller_its_callee_and_whoever_is_above() -> None:
    crew = of("a", "b", "c", budget=Budget(depth=1))
    crew.call("a", "t", "c1", "b")
    crew.begin_call("b", "c1", "h1")
    given = crew.call("b", "h1", "c2", "c")
    assert {type(each).__name__ for each in given} >= {"CancelCall", "AnswerCall"}
    assert crew.code("c2") == "too_deep"
    assert only(crew, "depth").finding.agents == ("b", "c", "a")


# --- the final answer ---


def finishes(crew: Company, agent: str = "a", **fields: object) -> None:
    """An agent's main activity begins and ends, and the crew is done."""
    crew.task(agent, "m", name="main")
    del crew.mirrors[agent].tasks["m"]
    crew.say(agent, m.TaskEnded, task="m", **fields)
    for name in crew.mirrors:
        crew.end(name, "t")
    crew.passes(5)


RULES = {"must_mention": ("Lisbon", "900 EUR"), "never": ("TBD",)}


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ("Three days in Lisbon for 870 EUR of the 900 EUR", ""),
        ({"city": "lisbon", "cost": "900 eur"}, ""),
        ("Three days in Porto for 900 EUR", "does not mention 'Lisbon'"),
        ("Lisbon, 900 EUR, dinner TBD", "says 'TBD'"),
        (None, "given no answer"),
    ],
)
def test_the_final_answer_is_held_to_its_rules(result: object, said: str) -> None:
    crew = Company(company(outcome=Outcome(**RULES)))
    finishes(crew, **({} if result is None else {"result": raw(result)}))
    assert crew.core.state == "stopping"
    found = crew.found("outcome")
    assert len(found) == bool(said)
    if said:
        assert said in found[0].finding.summary


def test_the_final_answer_is_held_to_its_schema() -> None:
    schema = {"type": "object", "required": ["cost"], "properties": {"cost": {"type": "number", "maximum": 900}}}
    crew = Company(company(outcome=Outcome(schema=schema)))
    finishes(crew, result=raw({"cost": 1200}))
    [incident] = crew.found("outcome")
    assert "cost" in incident.finding.summary


def test_an_answer_to_somebody_outside_is_checked_as_it_is_given() -> None:
    agents = (Agent(name="a", concurrency=4), Agent(name="b", external=True, concurrency=4))
    crew = Company(company(agents=agents, outcome=Outcome(never=("TBD",))))
    crew.asks("b", "a", "What is the plan for today?", "Museum, then dinner TBD")
    crew.asks("b", "a", "What is the plan for tomorrow?", "Museum, then dinner at seven")
    crew.asks("a", "b", "Who pays for the tickets?", "TBD")
    [incident] = crew.found("outcome")
    assert incident.finding.agents == ("a",)


def test_whoever_folds_the_journal_finds_the_same() -> None:
    crew = of("a", "b", "c")
    for number in range(6):
        tries(crew, "a", f"t{number}")
    for number in range(6):
        crew.call("a", "t", f"c{number}", "b")
    busy(crew, 200)
    again, _ = fold(crew.entries, peek=True)
    assert again.digest() == crew.core.digest()
    assert [each.finding for each in again.incidents.values()] == [each.finding for each in crew.found()]
