"""The sentences about hosts, where the agents of a run are spread over them."""

from typing import Final, Literal

from crewkeeper_bus import messages as m
from crewkeeper_bus.subjects import TOOLS
from crewkeeper_supervisor.core.hosting_state import Hosting
from crewkeeper_supervisor.views.wording import safe

_SHOWN: Final = 6
Weight = Literal["good", "bad", "normal", "detail"]


def stated(message: m.HostsSeen | m.HostLeaving | m.HostLost | m.StartRefused) -> tuple[str, Weight]:
    """What the journal says of hosts."""
    match message:
        case m.HostsSeen(hosts=hosts):
            shown = ", ".join(_host(host) for host in hosts[:_SHOWN])
            more = f" and {len(hosts) - _SHOWN} more" if hosts[_SHOWN:] else ""
            return f"hosts: {shown or 'none'}{more}", "normal"
        case m.HostLeaving(host=host):
            return f"host {safe(host)} is about to end, and ends its agents first", "normal"
        case m.HostLost(host=host, why=why):
            return f"host {safe(host)} is gone: {safe(why)}", "bad"
        case m.StartRefused(agent=agent, why=why):
            return f"a host does not take {_who(agent)}: {safe(why)}", "normal"


def given(message: m.StartProcess) -> str:
    """Who got which host, and why."""
    why = f": {safe(message.why)}" if message.why else ""
    return f"gives {_who(message.agent)} to host {safe(message.host)}{why}"


def late(hosting: Hosting | None, message: m.ProcessExited) -> tuple[str, Weight] | None:
    """The end of a process that had been given up as lost with its host; None for any other."""
    if hosting is None or hosting.found(message.agent, message.place) is not None:
        return None
    return f"a lost process of {_who(message.agent)} has ended", "normal"


def _host(host: m.HostSeen) -> str:
    labels = "".join(f", {safe(key)}={safe(value)}" for key, value in host.labels.items())
    return f"{safe(host.host)} ({host.taken} of {host.slots} slots taken by others{labels})"


def _who(agent: str) -> str:
    return "the tool host" if agent == TOOLS else safe(agent)
