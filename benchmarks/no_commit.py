"""The `supervisor` command with a ledger that stores nothing: what a commit costs is the difference to it."""

from collections.abc import Iterable

from crewkeeper_supervisor.cli.main import main
from crewkeeper_supervisor.core.commands import Command
from crewkeeper_supervisor.shell.ledger import Ledger


async def _commit(self: Ledger, commands: Iterable[Command]) -> None:
    self._ids.update(command.id for command in commands)


if __name__ == "__main__":
    Ledger.commit = _commit  # type: ignore[method-assign]
    main()
