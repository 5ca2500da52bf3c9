"""Approvals in the views of a run: rows, the live picture, and the story of those that nobody decided on."""

import io

import msgspec
from told_runs import RUN, Telling, crew

from crewkeeper_bus import messages as m
from crewkeeper_bus import tool_messages as t
from crewkeeper_bus.codec import encode
from crewkeeper_bus.subjects import SUPERVISOR, TOOLS, Kind
from crewkeeper_supervisor.core.commands import AnswerCall, AskApproval, TellService
from crewkeeper_supervisor.core.crew import Agent
from crewkeeper_supervisor.core.rules import Rule
from crewkeeper_supervisor.core.tools import Tool
from crewkeeper_supervisor.shell.effects import asked
from crewkeeper_supervisor.views.live import render
from crewkeeper_supervisor.views.snapshot import snapshot
from crewkeeper_supervisor.views.story import Story
from crewkeeper_supervisor.views.tables import new_console, plain_lines, runs_table

EVIL = "\x1b[31m\u202eboo"


class Asking(Telling):
    """A journal in which a call of the planner waits for a person."""

    def __init__(self, who: str = "ops", **fields: object) -> None:
        super().__init__()
        planner = Agent(name="planner", run=("true",), tools=("pay",))
        rules = (Rule(id="dear", do="approve", tools=("pay",)),)
        fields = {"tools": {"pay": Tool(function="m:pay")}, "rules": rules, "approval_who": who} | fields
        self.declare(crew(agents=(planner,), **fields))
        self.join("planner")
        self.note("planner", m.TaskBegan, task="main", name="main")
        told = t.ToolTold(declared="pay", schema={"type": "object"})
        self.op(t.ToolsReady(host="h1", tools={"pay": told}), TOOLS)
        call = {"task": "main", "tool": "pay", "args": msgspec.Raw(b"{}")}
        self.agent("planner", Kind.TOOL, t.ToolCall, call, id_="c1")
        self.note("planner", m.WaitBegan, task="main", epoch=1, condition=m.OnTool(call="c1", tool="pay"))
        self.act()

    def act(self) -> None:
        """Store what the gate has decided."""
        for command in list(self.commands):
            match command:
                case AskApproval():
                    self.op(asked(command))
                case AnswerCall(agent=agent, call=call, error=error, body=body, final=final):
                    reply = m.SupervisorReply(id=command.id, error=error, body=body or msgspec.UNSET, final=final)
                    self.put(Kind.REP, SUPERVISOR, agent, call, encode(reply))
                case TellService(to=to, message=message):
                    self.put(Kind.CTL, SUPERVISOR, to, command.id, encode(message))
            self.commands.remove(command)

    @property
    def approval(self):
        return next(iter(self.fold.supervisor.gate.approvals.values()))

    def decide(self, decision: str, by: str, **fields: object) -> None:
        said = {"approval": self.approval.id, "decision": decision, "digest": self.approval.digest, "by": by}
        self.op(t.ApprovalDecided(**(said | fields)))
        self.act()

    def story(self) -> str:
        story = Story(RUN)
        return "\n".join(line.text for entry in self.entries for line in story.feed(entry)[1])


def picture(view, now) -> str:
    out = io.StringIO()
    new_console(out, color=False).print(render([view], [], now))
    return out.getvalue()


def test_the_run_shows_who_is_asked():
    asking = Asking()
    view = snapshot(asking.fold)
    (row,) = view.approvals
    assert (row.state, row.who, row.agent, row.tool) == ("pending", "ops", "planner", "pay")
    assert "ops 1" in plain_lines(runs_table([view], view.last_at))[1]
    (edge,) = view.waits
    assert (edge.kind, edge.agents) == ("human", ("human:ops",))
    shown = picture(view, view.last_at)
    assert "planner wants to call 'pay': ops has " in shown
    assert f"supervisor approvals show {RUN} {row.id}" in shown


def test_what_is_decided_is_asked_of_nobody_any_more():
    asking = Asking()
    asking.decide("deny", "ann")
    view = snapshot(asking.fold)
    assert [row.state for row in view.approvals] == ["denied"]
    assert "ops" not in plain_lines(runs_table([view], view.last_at))[1]
    assert "wants to call" not in picture(view, view.last_at)


def test_without_a_controller_time_runs_out_all_the_same():
    asking = Asking(approval_s=60.0)
    before = snapshot(asking.fold, asking.approval.expires_at_s - 1)
    after = snapshot(asking.fold, asking.approval.expires_at_s + 1)
    assert [view.approvals[0].state for view in (before, after)] == ["pending", "expired"]


def test_the_story_tells_every_end_once():
    asking = Asking(approval_s=60.0)
    asking.wait_s(61)
    asking.op(m.Tick())
    asking.act()
    asking.decide("approve", "ann")
    story = asking.story()
    assert story.count("has expired: nobody decided in time on planner's call of 'pay'") == 1
    assert f"that decides nothing: {asking.approval.id} was expired before" in story

    asking = Asking()
    asking.decide("approve", "ann")
    asking.decide("deny", "bob")
    story = asking.story()
    assert "has expired" not in story
    assert story.count("that decides nothing") == 1
    assert "was approved before by ann" in story


def test_a_call_given_up_is_cancelled_and_not_denied():
    asking = Asking()
    asking.agent("planner", Kind.TOOL, t.CallGivenUp, {"why": EVIL}, id_="c1")
    asking.act()
    assert asking.approval.state == "cancelled"
    story = asking.story()
    assert f"{asking.approval.id} is cancelled, and with it planner's call of 'pay'" in story
    assert "\x1b" not in story
    assert "\u202e" not in story


def test_decisions_about_something_else_are_told_as_such():
    asking = Asking()
    asking.decide("approve", "ann", digest="0" * 64)
    asking.decide("approve", "ann", approval="A999-0")
    story = asking.story()
    assert "another action was asked about" in story
    assert "there is no approval A999-0" in story
    assert asking.approval.state == "pending"


def test_who_is_asked_is_shown_harmless():
    view = snapshot(Asking(who=EVIL).fold)
    for shown in (picture(view, view.last_at), plain_lines(runs_table([view], view.last_at))[1]):
        assert "\x1b" not in shown
        assert "\u202e" not in shown
