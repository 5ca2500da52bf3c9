"""Errors of the bus, grouped by who must act: the caller, the peer or supervisor, the sender of bad bytes, the world.

Every error carries its facts as attributes and says what happened, the value, the limit and the remedy.
"""

from collections.abc import Sequence


class BusError(Exception):
    """Root of every error that the bus raises on purpose."""


# --- the caller must act ---


class SubjectError(BusError, ValueError):
    """A name cannot be a subject token, or a subject does not follow the grammar."""


class ConfigError(BusError, ValueError):
    """A connection setting is missing or out of range."""


class Refused(BusError):  # noqa: N818 - the protocol's word, and what the author reads in `except`
    """The peer or the supervisor refused the request.

    Attributes:
        reason: Machine-readable code, e.g. `queue_full`, `no_handler`, `policy`, `handler_failed`.
        peer: Who refused.
    """

    def __init__(self, message: str, *, reason: str = "refused", peer: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.peer = peer


# --- the gate refused, or the tool did ---


class ToolRefused(Refused):
    """A call of a tool or a model came to nothing; the text is written for a model to read and correct itself by.

    Attributes:
        reason: The code, e.g. `unknown_tool`, `rate_limited`, `circuit_open`, `cancelled`, `call_id_reused`.
        tool: The tool, as the caller named it; a model's name for a model call.
        call: The call id: asking again under it asks about the same call.
    """

    def __init__(self, message: str, *, reason: str = "refused", tool: str = "", call: str = "") -> None:
        super().__init__(message, reason=reason, peer="_")
        self.tool = tool
        self.call = call

    @property
    def code(self) -> str:
        """The code, as `reason`."""
        return self.reason

    @property
    def text(self) -> str:
        """What to give to a model."""
        return str(self)


class UnknownTool(ToolRefused):
    """There is no such tool for this agent; nothing was executed. The text says what there is."""


class BadArguments(ToolRefused):
    """The arguments do not fit the tool's schema, or are too large; nothing was executed. The text has all errors."""


class PolicyDenied(ToolRefused):
    """A rule forbids this call; nothing was executed."""


class BudgetSpent(ToolRefused):
    """The call could cost more than is left; nothing was executed."""


class ApprovalDenied(ToolRefused):
    """A person said no; nothing was executed."""


class ApprovalExpired(ToolRefused):
    """Nobody decided in time; nothing was executed."""


class Pending(ToolRefused):
    """A person has not decided yet; nothing was executed so far. Asking again under the same call id resumes the wait.

    Attributes:
        approval: Id of the approval, for `supervisor approvals show`.
    """

    def __init__(self, message: str, *, approval: str, tool: str = "", call: str = "") -> None:
        super().__init__(message, reason="pending", tool=tool, call=call)
        self.approval = approval


class ToolFailed(ToolRefused):
    """The tool ran and raised an error, or its result is too large."""


class ToolTimeout(ToolRefused):
    """The tool ran longer than it may and was cut; what it did until then is done."""


class ToolLost(ToolRefused):
    """Whoever ran the tool is gone: it may have run, or not. It is charged, and never run again under this id."""


class GateClosed(ToolRefused):
    """Nobody may call anything now: the run ends, or its gate cannot decide."""


# --- the supervisor acted ---


class WouldDeadlock(BusError):  # noqa: N818
    """This wait was failed because it could never have ended: it closed a ring of waits.

    Attributes:
        path: The ring, one sentence an edge, in waiting order: who waits for whom and for what.
        finding: Id of the supervisor's finding, for `supervisor incidents show`.
        retry_after_s: Do not ask again sooner, seconds; the ring would close again.
    """

    def __init__(
        self, message: str, *, path: Sequence[str] = (), finding: str = "", retry_after_s: float = 0.0
    ) -> None:
        super().__init__(message)
        self.path = tuple(path)
        self.finding = finding
        self.retry_after_s = retry_after_s


class Repeated(BusError):  # noqa: N818
    """This wait was failed because it repeats what has led nowhere: do something else, or finish.

    Attributes:
        finding: Id of the supervisor's finding, for `supervisor incidents show`.
    """

    def __init__(self, message: str, *, finding: str = "") -> None:
        super().__init__(message)
        self.finding = finding


class PeerGone(BusError):  # noqa: N818
    """The peer that owed the answer is not there: crashed, exited, or never joined.

    Attributes:
        peer: Who is gone.
    """

    def __init__(self, message: str, *, peer: str = "") -> None:
        super().__init__(message)
        self.peer = peer


class Paused(BusError):  # noqa: N818
    """The supervisor holds this agent and the caller chose not to wait for the resume."""


class Killed(BusError):  # noqa: N818
    """The supervisor ends this agent: every wait fails, nothing more may be started."""


class Cancelled(BusError):  # noqa: N818
    """The wait or call was cancelled by its own side, or the caller of this handler gave up."""


class Timeout(BusError, TimeoutError):  # noqa: N818
    """The deadline of a wait passed.

    Attributes:
        limit_s: The limit that passed, seconds.
    """

    def __init__(self, message: str, *, limit_s: float = 0.0) -> None:
        super().__init__(message)
        self.limit_s = limit_s


# --- the sender of bad bytes ---


class CodecError(BusError, ValueError):
    """A payload is too large, too deep, not JSON, or not of the message's schema."""


class PayloadTooLarge(CodecError):  # noqa: N818
    """A payload has more bytes than may be sent."""


# --- the world ---


class ConnectionLost(BusError):  # noqa: N818
    """The connection to the server is gone or could not be made."""


class ServerError(BusError):
    """The embedded nats-server is missing, too old, or did not start."""
