"""Ahead: which answers of the gate are delivered before the journal has stored them; `effects` sends them.

What the gate decides follows from the journal and is in the ledger before anybody hears of it. So the answer itself
need not wait until it is stored, which takes about as long as the decision; it follows into the journal as its trace.
"""

from collections.abc import Container

from crewkeeper_supervisor.core.commands import AnswerCall, Command
from crewkeeper_supervisor.shell import effects


class Ahead:
    """Remembers what is on its way to each agent, so that nothing overtakes it."""

    def __init__(self) -> None:
        self._on_its_way: dict[str, str] = {}
        """By agent: the last command to it, or about it, that goes through the journal."""

    def admits(self, command: Command, pending: Container[str], *, fresh: bool) -> bool:
        """Whether a command that is about to be carried out may be delivered ahead of the journal.

        Only an answer of the gate, and only while the journal shows a trace of everything that was sent to the agent
        before: so it hears things in the order in which they were decided, and nothing is granted to it behind a pause
        that it has not heard of.

        Args:
            command: The command.
            pending: Ids of the commands without a trace.
            fresh: Whether it is sent for the first time, by the owner that has decided it. Later, the agent may be
                another incarnation, and whoever owned the run before may have sent what nobody knows of.
        """
        agent = effects.target(command)
        before = self._on_its_way.get(agent, "")
        if isinstance(command, AnswerCall) and command.booking is not None and fresh and before not in pending:
            return True
        self._on_its_way[agent] = command.id
        return False
