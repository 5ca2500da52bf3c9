"""The language every member of a crew speaks: subjects, messages, client, embedded server.

Names are imported when they are first used, so that pure submodules never pull in the event loop or the network.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from crewkeeper_bus.activity import Activity as Activity
    from crewkeeper_bus.calls import Call as Call
    from crewkeeper_bus.client import Client as Client
    from crewkeeper_bus.client import connect as connect
    from crewkeeper_bus.errors import ApprovalDenied as ApprovalDenied
    from crewkeeper_bus.errors import ApprovalExpired as ApprovalExpired
    from crewkeeper_bus.errors import BadArguments as BadArguments
    from crewkeeper_bus.errors import BudgetSpent as BudgetSpent
    from crewkeeper_bus.errors import BusError as BusError
    from crewkeeper_bus.errors import Cancelled as Cancelled
    from crewkeeper_bus.errors import CodecError as CodecError
    from crewkeeper_bus.errors import ConfigError as ConfigError
    from crewkeeper_bus.errors import ConnectionLost as ConnectionLost
    from crewkeeper_bus.errors import GateClosed as GateClosed
    from crewkeeper_bus.errors import Killed as Killed
    from crewkeeper_bus.errors import Paused as Paused
    from crewkeeper_bus.errors import PeerGone as PeerGone
    from crewkeeper_bus.errors import Pending as Pending
    from crewkeeper_bus.errors import PolicyDenied as PolicyDenied
    from crewkeeper_bus.errors import Refused as Refused
    from crewkeeper_bus.errors import Repeated as Repeated
    from crewkeeper_bus.errors import ServerError as ServerError
    from crewkeeper_bus.errors import SubjectError as SubjectError
    from crewkeeper_bus.errors import Timeout as Timeout
    from crewkeeper_bus.errors import ToolFailed as ToolFailed
    from crewkeeper_bus.errors import ToolLost as ToolLost
    from crewkeeper_bus.errors import ToolRefused as ToolRefused
    from crewkeeper_bus.errors import ToolTimeout as ToolTimeout
    from crewkeeper_bus.errors import UnknownTool as UnknownTool
    from crewkeeper_bus.errors import WouldDeadlock as WouldDeadlock
    from crewkeeper_bus.grants import Grant as Grant
    from crewkeeper_bus.grants import Hold as Hold
    from crewkeeper_bus.mailbox import Message as Message
    from crewkeeper_bus.nudges import Nudge as Nudge
    from crewkeeper_bus.serving import Request as Request

_HOMES: Final = {
    "activity": ("Activity",),
    "calls": ("Call",),
    "client": ("Client", "connect"),
    "errors": (
        "ApprovalDenied",
        "ApprovalExpired",
        "BadArguments",
        "BudgetSpent",
        "BusError",
        "Cancelled",
        "CodecError",
        "ConfigError",
        "ConnectionLost",
        "GateClosed",
        "Killed",
        "Paused",
        "PeerGone",
        "Pending",
        "PolicyDenied",
        "Refused",
        "Repeated",
        "ServerError",
        "SubjectError",
        "Timeout",
        "ToolFailed",
        "ToolLost",
        "ToolRefused",
        "ToolTimeout",
        "UnknownTool",
        "WouldDeadlock",
    ),
    "grants": ("Grant", "Hold"),
    "mailbox": ("Message",),
    "nudges": ("Nudge",),
    "serving": ("Request",),
}
_HOME_OF: Final = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)  # noqa: PLE0605 - made of the same table as the lookup


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
