"""Final answer: what a crew hands out in the end, held to the hard rules of its crew file (`outcome`).

An answer of the crew is a reply to an agent that was started elsewhere, and is checked as it is given. Where nobody
outside is answered it is the last result that a main activity ended with, and is checked when the work is done; a crew
that is done and has given none has broken every rule that asks for something.
"""

from typing import Any, Final

import msgspec
from msgspec import Raw

from crewkeeper_supervisor.core import ladder
from crewkeeper_supervisor.core.outcome import Outcome, broken
from crewkeeper_supervisor.core.state import RunState

_DEPTH_MAX: Final = 30
_TEXTS_MAX: Final = 100_000


class FinalAnswer:
    """The answers of one run.

    Args:
        state: The run.
        rules: What they must be like.
    """

    def __init__(self, state: RunState, rules: Outcome) -> None:
        self._state = state
        self._rules = rules
        self._result: tuple[str, Raw] | None = None
        self._given = 0
        self._done = False

    def concluded(self, agent: str, result: Raw) -> None:
        """A main activity ended with a result."""
        self._result = (agent, result)

    def replied(self, agent: str, to: str, body: Raw) -> None:
        """An agent of the crew has answered somebody outside of it."""
        self._given += 1
        self._check(agent, body, f"the answer of {agent} to {to}", f"answer {self._state.seq}")

    def finished(self) -> None:
        """The work is done."""
        if self._done:
            return
        self._done = True
        if self._result is not None:
            agent, body = self._result
            self._check(agent, body, f"the final answer, the result of {agent}", "result")
        elif not self._given and (self._rules.must_mention or self._rules.schema is not None):
            text = "the work is done, and the crew has given no answer: no main activity had a result"
            ladder.found(self._state, "outcome", text, [], key="result", evidence={})

    def _check(self, agent: str, body: Raw, what: str, key: str) -> None:
        try:
            document = msgspec.json.decode(bytes(body) or b"null")
        except (msgspec.MsgspecError, RecursionError, ValueError):
            document = None
        problems = broken(self._rules, " \n".join(_texts(document, 0, [])), document, self._problems)
        if problems:
            evidence = {"problems": "; ".join(problems)[:2000], "bytes": str(len(body))}
            text = f"{what} {problems[0]}" + (f", and {len(problems) - 1} more" if len(problems) > 1 else "")
            ladder.found(self._state, "outcome", text, [agent], key=key, evidence=evidence)

    def _problems(self, schema: dict[str, Any], document: Any) -> list[str]:
        rules = self._state.gate.prepared()
        if rules is None:
            return [f"cannot be held to its schema: {self._state.gate.closed}"]
        return rules.misfits(schema, document)

    def facts(self) -> list[Any]:
        """What is remembered, for the state's digest."""
        return [self._result, self._given, self._done]


def _texts(value: Any, depth: int, found: list[str]) -> list[str]:
    """Every text and number in a document, in order."""
    if isinstance(value, str):
        found.append(value)
    elif isinstance(value, dict | list) and depth < _DEPTH_MAX:
        for part in value.values() if isinstance(value, dict) else value:
            if len(found) >= _TEXTS_MAX:
                break
            _texts(part, depth + 1, found)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        found.append(str(value))
    return found
