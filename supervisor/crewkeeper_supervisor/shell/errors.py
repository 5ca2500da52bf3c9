"""Errors of the shell, grouped by who must act; nothing here reaches an agent."""

from collections.abc import Sequence


class ShellError(Exception):
    """Root of every error that the shell raises on purpose."""


# --- the operator must act ---


class NothingRuns(ShellError):  # noqa: N818 - what the operator reads
    """No server was found where one was looked for; the command line exits with 4."""


class RunNotFound(ShellError):  # noqa: N818
    """No run has this name, id or beginning of an id; the command line exits with 5."""


class RunAmbiguous(ShellError):  # noqa: N818
    """Several runs fit.

    Attributes:
        runs: Their ids.
    """

    def __init__(self, message: str, *, runs: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.runs = tuple(runs)


class ContextNotFound(ShellError):  # noqa: N818
    """No context has this name; the command line exits with 5."""


class RunExists(ShellError):  # noqa: N818
    """A journal of this run id is already there."""


class HostNameTaken(ShellError):  # noqa: N818
    """Another process is registered as a host under this name."""


class UnsafeServer(ShellError):  # noqa: N818
    """The settings of a server would lose decisions, so nothing is decided on it."""


class SettingMissing(ShellError):  # noqa: N818
    """A `${NAME}` in the crew file names an environment variable that is not set.

    Attributes:
        name: The variable.
    """

    def __init__(self, message: str, *, name: str) -> None:
        super().__init__(message)
        self.name = name


# --- another supervisor acts ---


class LeaseLost(ShellError):  # noqa: N818
    """This process no longer owns the run: stop acting on it at once."""


class Fenced(LeaseLost):
    """Another owner has written to the run's ledger: this one's decisions are refused for good."""


# --- the world ---


class RunStalled(ShellError):  # noqa: N818
    """A run does not get on here although it should: give it up, so that another controller may try."""


class JournalGap(ShellError):  # noqa: N818
    """The journal lacks entries that were stored: the store is damaged or was cut.

    Attributes:
        first: First missing sequence.
        last: Last missing sequence.
    """

    def __init__(self, message: str, *, first: int, last: int) -> None:
        super().__init__(message)
        self.first = first
        self.last = last


class LedgerDamaged(ShellError):  # noqa: N818
    """What is stored as a run's ledger cannot be read as one."""


class StoreUnavailable(ShellError):  # noqa: N818
    """The server did not answer a request to its store in time; `lasting`: and will not, as it is configured."""

    def __init__(self, message: str, *, lasting: bool = False) -> None:
        super().__init__(message)
        self.lasting = lasting


class ClaimsRefused(ShellError):  # noqa: N818
    """A server does not take what an account is changed to."""
