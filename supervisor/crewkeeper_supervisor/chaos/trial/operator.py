"""Operator: what a scenario's actions put into the journal, as a person's commands would, and what keeps them from it.

An action that nobody could notice proves nothing, so it is not done: a person decides what was asked and not decided
yet, and speaks to agents that are there.
"""

from collections.abc import Mapping
from typing import Final

from crewkeeper_bus import messages as m
from crewkeeper_bus.tool_messages import ApprovalAsked, ApprovalDecided, BudgetChanged, PolicyChanged
from crewkeeper_supervisor.chaos.plan.scenario import Action
from crewkeeper_supervisor.core.events import Event, Recorded
from crewkeeper_supervisor.core.supervisor import Supervisor

Fact = m.OperatorAsked | ApprovalDecided | BudgetChanged | PolicyChanged
OVER: Final = ("done", "failed", "stopped")
"""States of a run in which nothing that people do changes anything."""
_ENDED: Final = ("gone", "gave_up")
_BY: Final = "chaos"


class CannotAct(Exception):  # noqa: N818 - what it is
    """An action would change nothing now. `later`: it may, when somebody has asked for it."""

    def __init__(self, why: str, *, later: bool = False) -> None:
        super().__init__(why)
        self.later = later


class Operator:
    """The one person of a run.

    Args:
        instances: Every agent by name, with its role.

    Attributes:
        undone: Why actions have not been done, by their numbers.
    """

    def __init__(self, instances: Mapping[str, str]) -> None:
        self._instances = instances
        self._approvals: list[tuple[str, str]] = []
        self._questions: list[str] = []
        self.undone: dict[int, str] = {}

    def saw(self, event: Event) -> bool:
        """Look at a journal entry; whether it asks people for something."""
        if not isinstance(event, Recorded):
            return False
        match event.message:
            case ApprovalAsked():
                self._approvals.append((event.message.approval, event.message.digest))
            case m.AskHuman():
                self._questions.append(event.message.question)
            case _:
                return False
        return True

    def facts(self, action: Action, core: Supervisor) -> list[Fact]:
        """What an action states; an approval or question that it decides counts as decided from then on.

        Args:
            action: What is done.
            core: The fold of the journal.

        Raises:
            CannotAct: It would change nothing; the reason is kept in `undone`.
        """
        before = self.undone.pop(action.index, "")
        try:
            if core.state in OVER:
                raise CannotAct(before or "the run was over before it was due")
            return self._facts(action, core)
        except CannotAct as error:
            self.undone[action.index] = str(error)
            raise

    def _facts(self, action: Action, core: Supervisor) -> list[Fact]:
        match action.do:
            case "stop":
                return [m.OperatorAsked(action="stop_run", by=_BY)]
            case "answer":
                if not self._questions:
                    raise CannotAct("no agent had asked a person anything that was not answered", later=True)
                question = self._questions.pop()
                return [m.OperatorAsked(action="answer", question=question, answer=action.text, by=_BY)]
            case "approve" | "deny":
                if not self._approvals:
                    raise CannotAct("no approval had been asked for that was not decided", later=True)
                approval, digest = self._approvals.pop()
                return [ApprovalDecided(approval=approval, decision=action.do, digest=digest, by=_BY, via="cli")]
            case "budget":
                return [BudgetChanged(dimension="microusd", add=action.add_microusd, by=_BY)]
            case "policy":
                return [PolicyChanged(rules=action.rules, default=action.default, version=action.version, by=_BY)]
            case _:  # pause, resume, kill
                names = self._present(action.agent, core)
                return [m.OperatorAsked(action=action.do, agent=each, grace_s=action.grace_s, by=_BY) for each in names]

    def _present(self, agent: str, core: Supervisor) -> list[str]:
        """The instances that a name stands for and that are there; nobody in particular where it is empty."""
        if not agent:
            return [""]
        named = [name for name, role in self._instances.items() if agent in (name, role)]
        if not named:
            raise CannotAct(f"there is no agent {agent}")
        there = [name for name in named if name in core.agents and core.agents[name].status not in _ENDED]
        if not there:
            raise CannotAct(f"{agent} had ended")
        return there
