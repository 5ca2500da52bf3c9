"""`supervisor approvals` on a real run: what is shown, what a decision does, and what it does not."""

import json

import pytest
from approval_stage import RUN, Scene, controlled, crew, items, scene
from nats_process import until

from crewkeeper_bus.messages import OperatorAsked, SupervisorReply
from crewkeeper_bus.subjects import Kind
from crewkeeper_bus.tool_messages import ApprovalAsked, ApprovalDecided
from crewkeeper_supervisor.shell import journal

pytestmark = pytest.mark.live
EVIL = "\x1b[2J\u202e<img src=x onerror=alert(1)>\n</pre><script>alert(1)</script>"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("CREWKEEPER_STATE", str(tmp_path))
    monkeypatch.delenv("CREWKEEPER_NATS_URL", raising=False)
    monkeypatch.setenv("COLUMNS", "250")


async def told(made: Scene, call: str) -> list[SupervisorReply]:
    """The final answers that the payer got."""
    replies = []
    for entry in await journal.read_all(made.link, made.run):
        if f".{Kind.REP}._.payer.{call}" in entry.subject:
            reply = json.loads(entry.payload)
            replies += [reply] if reply.get("final", True) else []
    return replies


async def test_a_call_waits_is_shown_and_runs_once_approved(tmp_path, capsys):
    async with scene(tmp_path) as made, controlled(made):
        await made.begin()
        approval = await made.ask({"cents": 100, "api_key": "sk-proj-aB3dE5fG7hI9jK1lM3nO5pQ7rS9tU1vW3xY5z"})
        assert await made.ran() == []

        assert await made.act("approvals", "ls", "-o", "json") == 0
        (row,) = items(capsys.readouterr().out)
        assert (row["state"], row["tool"], row["who"], row["agent"]) == ("pending", "pay", "finance", "payer")
        assert row["name"] == f"{RUN}.{approval.id}"
        assert await made.act("approvals", "ls") == 0
        assert "finance" in capsys.readouterr().out

        assert await made.act("approvals", "show", approval.id) == 0
        shown = capsys.readouterr().out
        for fact in (
            approval.digest,
            approval.policy,
            "dear",
            "money leaves the house",
            "payer, task t",
            "finance",
            "$1.00",
        ):
            assert fact in shown
        assert '"cents": 100' in shown
        assert "sk-proj" not in shown
        assert "waiting" in shown

        assert await made.act("ps") == 0
        assert "finance 1" in capsys.readouterr().out
        assert await made.act("graph") == 0
        assert "waits for finance (a person)" in capsys.readouterr().out

        assert await made.act("approvals", "approve", approval.id, "--yes", "--reason", "go", "-o", "json") == 0
        result = json.loads(capsys.readouterr().out)
        assert (result["outcome"], result["ok"], result["why"]) == ("approved", True, "the call is let through")
        assert await made.ran() == [approval.call]
        assert await made.state(approval) == "approved"

        assert await made.act("events") == 0
        story = capsys.readouterr().out
        assert f"needs approval {approval.id}" in story
        assert f"approves {approval.id}: go" in story


async def test_a_second_decision_is_told_so_and_changes_nothing(tmp_path, capsys):
    async with scene(tmp_path) as made, controlled(made):
        await made.begin()
        approval = await made.ask()
        assert await made.act("approvals", "deny", approval.id, "--yes", "--reason", "too dear") == 0
        assert "too dear" in capsys.readouterr().out
        for again in ("approve", "deny"):
            assert await made.act("approvals", again, RUN, approval.id, "--yes") == 1
            assert "it was denied before by" in capsys.readouterr().err
        assert await made.ran() == []
        (answer,) = await told(made, approval.call)
        assert answer["error"]["code"] == "approval_denied"
        assert "too dear" in answer["error"]["text"]
        assert await made.act("approvals", "ls") == 0
        assert capsys.readouterr().out == ""
        assert await made.act("approvals", "ls", "--all", "-o", "name") == 0
        assert capsys.readouterr().out.strip() == f"{RUN}.{approval.id}"


async def test_of_two_who_decide_at_once_the_first_wins(tmp_path):
    async with scene(tmp_path) as made, controlled(made):
        await made.begin()
        approval = await made.ask()
        taken = {}

        async def decide(by: str, decision: str) -> None:
            desk = type(made.desk)(made.link, made.run)
            await desk.catch_up()
            taken[by] = await desk.decide(desk.approvals[approval.id], decision, by=by, via="cli")

        import anyio

        async with anyio.create_task_group() as group:
            group.start_soon(decide, "ann", "approve")
            group.start_soon(decide, "bob", "deny")
        assert await made.state(approval) in ("approved", "denied")
        winner = made.desk.approvals[approval.id].by
        loser = {"ann": "bob", "bob": "ann"}[winner]
        assert taken[winner].outcome == "decided"
        assert taken[winner].acted
        assert taken[loser].outcome == "late"
        assert winner in taken[loser].why
        assert await made.ran() == ([approval.call] if winner == "ann" else [])


async def test_nobody_acts_without_a_controller_and_that_is_said(tmp_path, capsys):
    async with scene(tmp_path) as made:
        async with controlled(made):
            await made.begin()
            approval = await made.ask()
        assert await made.act("approvals", "approve", approval.id, "--yes", "--timeout", "2") == 1
        assert "no controller has passed it on" in capsys.readouterr().out
        async with controlled(made):  # what was decided counts all the same

            async def ran() -> bool:
                return await made.ran() == [approval.call]

            await until(ran)


async def test_what_expires_is_expired_and_never_denied(tmp_path, capsys):
    async with scene(tmp_path, crew(approval_s=0.3)) as made, controlled(made):
        await made.begin()
        approval = await made.ask()

        async def expired() -> bool:
            return await made.state(approval) == "expired"

        await until(expired)
        assert await made.act("approvals", "approve", approval.id, "--yes") == 1
        assert "it has expired" in capsys.readouterr().err
        (answer,) = await until(lambda: told(made, approval.call))
        assert answer["error"]["code"] == "approval_expired"
        assert await made.ran() == []
        assert await made.act("events") == 0
        assert f"{approval.id} has expired" in capsys.readouterr().out


async def test_a_late_decision_in_the_journal_counts_for_nothing(tmp_path, capsys):
    async with scene(tmp_path, crew(approval_s=0.3)) as made, controlled(made):
        await made.begin()
        approval = await made.ask()

        async def expired() -> bool:
            return await made.state(approval) == "expired"

        await until(expired)
        late = ApprovalDecided(approval=approval.id, decision="approve", digest=approval.digest, by="ann", via="cli")
        await journal.publish_op(made.link, made.run, late)
        await until(lambda: _seen(made))
        assert await made.state(approval) == "expired"
        assert await made.ran() == []
        assert await made.act("events") == 0
        assert f"that decides nothing: {approval.id} was expired before" in capsys.readouterr().out


async def _seen(made: Scene) -> bool:
    return bool(await made.heard(ApprovalDecided))


async def test_the_agent_cannot_decide_its_own_call(tmp_path):
    async with scene(tmp_path) as made, controlled(made):
        await made.begin()
        approval = await made.ask()
        decided = ApprovalDecided(approval=approval.id, decision="approve", digest=approval.digest, by="payer")
        # Where no server enforces anything, an agent may publish this; the core knows it for what it is.
        await journal.publish_op(made.link, made.run, decided, sender="payer")
        await journal.publish_op(made.link, made.run, OperatorAsked(action="resume", by="x"))

        async def taken_in() -> bool:
            return bool(await made.heard(OperatorAsked))

        await until(taken_in)
        assert await made.state(approval) == "pending"
        assert await made.ran() == []
        assert any(each.finding.kind == "forgery" for each in made.desk.core.incidents.values())


async def test_a_decision_about_another_action_decides_nothing(tmp_path):
    async with scene(tmp_path) as made, controlled(made):
        await made.begin()
        first, second = await made.ask({"cents": 1}), await made.ask({"cents": 2})
        swapped = ApprovalDecided(approval=second.id, decision="approve", digest=first.digest, by="ann", via="cli")
        await journal.publish_op(made.link, made.run, swapped)
        await until(lambda: _seen(made))
        assert await made.state(second) == "pending"
        assert await made.ran() == []


async def test_an_approval_survives_the_death_of_its_controller(tmp_path):
    async with scene(tmp_path) as made:
        async with controlled(made):
            await made.begin()
            approval = await made.ask()
        async with controlled(made):
            assert await made.act("approvals", "approve", approval.id, "--yes") == 0
            assert await made.ran() == [approval.call]
        assert len(await made.heard(ApprovalAsked)) == 1


async def test_hostile_arguments_are_inert_on_a_terminal(tmp_path, capsys):
    async with scene(tmp_path) as made, controlled(made):
        await made.begin()
        approval = await made.ask({EVIL: EVIL})
        for arguments in (
            ["show", approval.id],
            ["show", approval.id, "-o", "json"],
            ["ls"],
            ["approve", approval.id, "--dry-run"],
        ):
            assert await made.act("approvals", *arguments) == 0
            captured = capsys.readouterr()
            for bad in ("\x1b", "\u202e"):
                assert bad not in captured.out + captured.err
        assert await made.state(approval) == "pending"


async def test_a_wrong_name_is_not_found(tmp_path, capsys):
    async with scene(tmp_path) as made, controlled(made):
        await made.begin()
        await made.ask()
        assert await made.act("approvals", "approve", "A999-0", "--yes") == 5
        assert "supervisor approvals ls" in capsys.readouterr().err
        assert await made.act("approvals", "show", f"nobody.{'A1'}") == 5
        assert await made.act("approvals", "approve", "a", "b", "c") == 2
