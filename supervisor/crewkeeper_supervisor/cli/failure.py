"""Failures of a command: what the user reads on stderr and the exit code, never a traceback."""

from typing import Final

import click

FAILED: Final = 1
"""The thing itself failed: the crew, the check, the kill."""
USAGE: Final = 2
INVALID: Final = 3
"""A file or setting is invalid."""
UNREACHABLE: Final = 4
"""No server, or it does not answer."""
NOT_FOUND: Final = 5
TIMED_OUT: Final = 124
INTERRUPTED: Final = 130


class Failure(Exception):  # noqa: N818 - what it is, not what went wrong in the program
    """A command cannot do what it was asked.

    Attributes:
        code: Exit code, one of this module's constants.
        remedy: What to do about it; may be empty.
    """

    def __init__(self, message: str, *, code: int = FAILED, remedy: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.remedy = remedy


_CODES: Final[tuple[tuple[str, int], ...]] = (
    # By name of the class: importing the classes here would load the bus and the shell for `--help`.
    ("NothingRuns", UNREACHABLE),
    ("StoreUnavailable", UNREACHABLE),
    ("ConnectionLost", UNREACHABLE),
    ("ServerError", UNREACHABLE),
    ("RunNotFound", NOT_FOUND),
    ("ContextNotFound", NOT_FOUND),
    ("RunAmbiguous", USAGE),
    ("SettingMissing", INVALID),
    ("HostNameTaken", FAILED),
    ("CrewFileError", INVALID),
    ("ConfigError", INVALID),
    ("CodecError", INVALID),
    ("SubjectError", USAGE),
    ("TimeoutError", TIMED_OUT),
    ("JournalGap", FAILED),
    ("ShellError", FAILED),
    ("BusError", FAILED),
)


def unwrap(error: BaseException) -> BaseException:
    """The first error of nested task groups: they fail together for its sake."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def report(error: BaseException) -> int:
    """Say on stderr what went wrong and return the exit code."""
    error = unwrap(error)
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else FAILED if error.code else 0
    if isinstance(error, KeyboardInterrupt | click.Abort):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    if type(error).__name__ == "NoArgsIsHelpError" and isinstance(error, click.UsageError):  # not in every click
        click.echo(error.format_message(), err=True)
        return USAGE
    if isinstance(error, click.ClickException):
        if isinstance(error, click.UsageError) and error.ctx is not None:
            click.echo(error.ctx.get_usage(), err=True)
        _say(error.format_message(), "" if error.exit_code != USAGE else _help(error))
        return error.exit_code
    if isinstance(error, Failure):
        _say(str(error), error.remedy)
        return error.code
    names = [each.__name__ for each in type(error).__mro__]
    for name, code in _CODES:
        if name in names:
            _say(str(error) or type(error).__name__, f"supervisor explain {name}")
            return code
    if isinstance(error, BrokenPipeError):
        return FAILED
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        _say(f"{error.strerror or error}{where}", "")
        return FAILED
    _say(f"unexpected {type(error).__name__}: {str(error)[:500]}", "run it again with CREWKEEPER_DEBUG=1 and report it")
    return FAILED


def _help(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return "" if context is None else f"{context.command_path} --help"


def _say(message: str, remedy: str) -> None:
    click.echo(f"error: {message}", err=True)
    if remedy:
        click.echo(f"  try: {remedy}", err=True)
