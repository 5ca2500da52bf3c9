"""What is told of hosts, and where agents find their folders on another machine."""

from pathlib import Path

from crewkeeper_bus import messages as m
from crewkeeper_bus.subjects import HOST
from crewkeeper_supervisor.core.crew import Agent, Crew, Restart
from crewkeeper_supervisor.core.scope import Login, Record, Refusal, Token, decide, is_void, voided
from crewkeeper_supervisor.core.tools import Tool
from crewkeeper_supervisor.shell.host_registry import HostInfo
from crewkeeper_supervisor.shell.journal import Entry
from crewkeeper_supervisor.shell.remote_run import localized
from crewkeeper_supervisor.views.hosts import rows, table
from crewkeeper_supervisor.views.story import Story
from crewkeeper_supervisor.views.wording import moment
from support.journal import RUN, Journal


def test_the_story_says_who_got_which_host_and_what_became_of_it() -> None:
    agent = Agent(name="a", run=("x",), restart=Restart(elsewhere=True))
    journal = Journal(Crew(name="trip", agents=(agent,)), spread=True)
    w1, w2 = (m.HostSeen(host=name, inc=name, slots=2, taken=1, labels={"zone": name}) for name in ("w1", "w2"))
    journal.op(m.HostsSeen(hosts=(w1,)))
    first = str(journal.core.hosting.places["a"].id) if journal.core.hosting else ""
    journal.op(m.StartRefused(agent="a", place=first, why="its slots are taken"), sender=HOST)
    journal.op(m.HostsSeen(hosts=(w1,)))
    lost = str(journal.core.hosting.places["a"].id) if journal.core.hosting else ""
    journal.op(m.HostsSeen(hosts=(w2,)))
    journal.op(m.HostLost(host="w1", inc="w1", why="it does not answer"))
    journal.op(m.ProcessExited(agent="a", pid=7, code=-9, place=lost), sender=HOST)
    story, told = Story(RUN), []
    for seq, entry in enumerate(journal.entries, start=1):
        told += [line.text for line in story.feed(Entry(seq, *entry))[1] if line.weight != "detail"]
    assert told[1:] == [
        "hosts: w1 (1 of 2 slots taken by others, zone=w1)",
        "gives a to host w1: the only host known that has a free slot; 1 of its 2 slots taken",
        "a host does not take a: its slots are taken",
        "hosts: w1 (1 of 2 slots taken by others, zone=w1)",
        "gives a to host w1: the only host known that has a free slot; 1 of its 2 slots taken",
        "hosts: w2 (1 of 2 slots taken by others, zone=w2)",
        "host w1 is gone: it does not answer",
        told[8],
        "the server has cut off the lost process of a (1 connections closed)",
        "gives a to host w2: the only host known that has a free slot; 1 of its 2 slots taken",
        "a lost process of a has ended",
    ]
    assert "host w1 is gone: it does not answer; a: to be started on another host" in told[8]


def test_folders_below_the_crew_files_are_below_the_hosts() -> None:
    agents = tuple(Agent(name=name, run=("x",), cwd=cwd) for name, cwd in (("a", "/c"), ("b", "/c/sub"), ("d", "/etc")))
    crew = Crew(name="t", agents=agents, folder="/c", tools={"t": Tool(command=("x",), cwd="/c/tools")})
    here = localized(crew, Path("/srv"))
    assert [agent.cwd for agent in here.agents] == ["/srv", "/srv/sub", "/etc"]
    assert here.tools["t"].cwd == "/srv/tools"


def test_what_a_lost_place_issued_is_void_and_it_issues_nothing_more() -> None:
    tokens = tuple(
        Token(id=f"token{by[-1]}xx", digest=by[-1] * 64, issued_at=1.0, expires_at=99.0, by=by)
        for by in ("place 1", "place 2")
    )
    ended = voided(tokens, "place 1", 5.0)
    assert [(each.by, each.in_force(6.0)) for each in ended] == [
        ("place 1", False),
        ("place 2", True),
        ("place 1", False),
    ]
    assert (is_void(ended, "place 1"), is_void(ended, "place 2"), is_void(tokens, "place 1")) == (True, False, False)
    assert voided(ended, "place 1", 7.0) == ended
    assert is_void(voided((), "place 3", 5.0), "place 3")  # also before it has issued anything
    record = Record(run="r", agent="a", role="a", tokens=ended)
    assert decide(record, Login(token="token1xx", digest="1" * 64), 6.0) == Refusal(reason="revoked", proven=True)
    assert decide(record, Login(token="void", digest=""), 6.0) == Refusal(reason="revoked", proven=True)
    assert not isinstance(decide(record, Login(token="token2xx", digest="2" * 64), 6.0), Refusal)


def test_hosts_are_listed_with_what_they_run() -> None:
    agents = tuple(("trip-1", f"a{number}") for number in range(6))
    infos = [
        HostInfo(name="w1", inc="i", slots=8, since_s=10.0, labels={"gpu": "yes"}, agents=agents, counts={"trip-1": 6})
    ]
    shown = table(rows(infos), moment(70.0), wide=False)
    cells = ("w1", "up", "6/8", "gpu=yes", "1m00s ago", "trip-1/a0, trip-1/a1, trip-1/a2, trip-1/a3 and 2 more")
    assert shown.rows == (cells,)
