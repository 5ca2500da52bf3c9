"""Operator: what a scenario's action puts into the journal, as a person's commands would."""

from collections.abc import Sequence

from crewkeeper_bus import messages as m
from crewkeeper_bus.tool_messages import ApprovalDecided, BudgetChanged, PolicyChanged
from crewkeeper_supervisor.chaos.plan.scenario import Action


def fact_of(
    action: Action, questions: Sequence[str], approvals: Sequence[tuple[str, str]]
) -> m.OperatorAsked | ApprovalDecided | BudgetChanged | PolicyChanged:
    """The fact that an action states.

    Args:
        action: What is done.
        questions: Ids of the questions asked so far: the last one is answered.
        approvals: Ids and digests of the approvals asked so far: the last one is decided.
    """
    match action.do:
        case "stop":
            return m.OperatorAsked(action="stop_run", by="chaos")
        case "answer":
            question = questions[-1] if questions else "none"
            return m.OperatorAsked(action="answer", question=question, answer=action.text, by="chaos")
        case "approve" | "deny":
            approval, digest = approvals[-1] if approvals else ("none", "")
            return ApprovalDecided(approval=approval, decision=action.do, digest=digest, by="chaos", via="cli")
        case "budget":
            return BudgetChanged(dimension="microusd", add=action.add_microusd, by="chaos")
        case "policy":
            return PolicyChanged(rules=action.rules, default=action.default, version=action.version, by="chaos")
        case _:  # pause, resume, kill
            return m.OperatorAsked(action=action.do, agent=action.agent, grace_s=action.grace_s, by="chaos")
