"""Loads the policy of a file: of a crew file, or of a file that has `rules` and `policy` alone."""

from pathlib import Path as FilePath
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from crewkeeper_supervisor.core.rules import Rule
from crewkeeper_supervisor.gate.call import Call
from crewkeeper_supervisor.gate.policy import Hooks, Policy
from crewkeeper_supervisor.gate.trial import Trial
from crewkeeper_supervisor.shell import crewfile
from crewkeeper_supervisor.shell.crew_gate import GateChecks, rules_of, trials_of
from crewkeeper_supervisor.shell.crew_gate_format import POLICY_FILE
from crewkeeper_supervisor.shell.crew_problems import CrewFileError, Problem
from crewkeeper_supervisor.shell.crew_reading import INVALID, Reading
from crewkeeper_supervisor.shell.yaml_nodes import Mapping, Node, compose, decode


class PolicyFile(Struct, frozen=True, kw_only=True):
    """Rules with their tests, checked but for their hooks."""

    path: str
    folder: FilePath
    """Where modules of hooks are looked for first."""
    rules: tuple[Rule, ...]
    default: Literal["allow", "deny"] = "allow"
    trials: tuple[Trial, ...] = ()
    warnings: tuple[Problem, ...] = ()
    crew: str = ""
    """Name of the crew; empty for a file of rules alone."""
    roles: dict[str, str] = {}
    """Role of each instance of the crew."""

    def policy(self, hooks: Hooks | None = None) -> Policy:
        """The compiled policy; hooks that nobody runs deny."""
        return Policy(self.rules, default=self.default, hooks=hooks)

    def placed(self, call: Call) -> Call:
        """The call with the roles of caller and recipient, where the crew knows them and the call does not say."""
        role, to_role = call.role or self.roles.get(call.agent, ""), call.to_role or self.roles.get(call.to, "")
        return replace(call, role=role, to_role=to_role)


def read_policy(path: str | FilePath) -> PolicyFile:
    """The policy of the file at `path`.

    Raises:
        CrewFileError: The file cannot be read or breaks a rule; `.problems` has everything wrong with it.
    """
    file = FilePath(path)
    data = crewfile.read_bytes(file)
    folder = file.resolve().parent
    text, found = decode(data, str(path))
    document = compose(text, found)
    if document.root is None or _is_crew(document.root):
        whole = crewfile.parse(data, str(path), folder)
        crew = whole.crew
        policy = PolicyFile(
            path=str(path),
            folder=folder,
            rules=crew.rules,
            default=crew.policy_default,
            roles={name: agent.name for agent in crew.agents for name in agent.instances},
            warnings=whole.warnings,
            crew=crew.name,
        )
        return replace(policy, trials=tuple(replace(each, call=policy.placed(each.call)) for each in whole.trials))
    reading = Reading(found, complete=document.complete)
    surface = reading.read(document.root, POLICY_FILE)
    if surface is not INVALID and document.complete:
        GateChecks(reading, surface, text, None).run()
    found.raise_if_any()
    return PolicyFile(
        path=str(path),
        folder=folder,
        rules=rules_of(surface),
        default=surface.get("policy", {}).get("default", "allow"),
        trials=trials_of(surface, reading),
        warnings=tuple(found.warnings),
    )


def _is_crew(root: Node) -> bool:
    """Whether the file means to be a crew file: whatever names agents or a crew does."""
    return not isinstance(root, Mapping) or any(name.value in ("crew", "agents") for name, _ in root.entries)


__all__ = ["CrewFileError", "PolicyFile", "read_policy"]
