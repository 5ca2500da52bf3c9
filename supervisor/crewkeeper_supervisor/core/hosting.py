"""Hosting: which host gets which agent, and what becomes of agents whose host is gone.

Only for runs that were declared as spread over hosts; one that has a host of its own decides nothing here.

Theory of operation. The journal says which hosts there are (`HostsSeen`) and which are gone (`HostLost`). An agent that
has no host is given to one by `placement`, with an order that names host and incarnation; the id of the order names
the place, and what hosts report of processes carries it, so that nothing an earlier place reports is taken for the
newest. When a host is lost, every agent of it is first cut off: what that process logs in with becomes void and its
connections are closed, whether the process lives or not, and the lost host is told to end it, should it come back and
read its orders. Only the server's word that it is cut off lets the agent be started elsewhere, if its restart rule says
so: two processes of one agent can never both be heard. The run ends when no host has a process of it any more.
"""

from typing import Final

from crewkeeper_bus.messages import (
    AccessSet,
    HostLeaving,
    HostLost,
    HostsSeen,
    ProcessExited,
    ProcessStarted,
    RestartsExhausted,
    RunDeclared,
    StartProcess,
    StartRefused,
    StopProcess,
)
from crewkeeper_bus.subjects import TOOLS
from crewkeeper_bus.tool_messages import ToolsGone
from crewkeeper_supervisor.core import gate_facts
from crewkeeper_supervisor.core.crew import Restart
from crewkeeper_supervisor.core.hosting_state import HOSTS_MAX, NEVER, Host, Hosting, Ordered, Place
from crewkeeper_supervisor.core.lifecycle import gone, report
from crewkeeper_supervisor.core.placement import Candidate, choose
from crewkeeper_supervisor.core.response import note, resolve, stop_crew
from crewkeeper_supervisor.core.state import RunState

UNPLACED_S: Final = 10.0
"""An agent that has no host for this long is reported, with the reason."""
RETRY_S: Final = 0.5
"""Pause before the server is told again to cut an agent off; doubles each time."""
TRIES_MAX: Final = 10
IDLE_S: Final = 3.0
"""A run whose processes have all ended, and that nobody has ended, is ended after this time."""
END_S: Final = 60.0
"""Beyond the longest grace: how long hosts may take to report that a run's processes have ended."""
_NEED: Final = "hosting"
_TOOLS_RULE: Final = Restart(policy="permanent", intensity=30, elsewhere=True)


def declare(state: RunState, message: RunDeclared) -> None:
    """The run's first entry: its agents have no host yet, where they are to be spread."""
    if not message.spread or state.crew is None or state.hosting is not None:
        return
    hosting = state.hosting = Hosting()
    if any(not tool.inside for tool in state.crew.tools.values()):
        hosting.places[TOOLS] = Place(agent=TOOLS)
    for view in state.agents.values():
        if not view.external:
            hosting.places[view.name] = Place(agent=view.name)
    if hosting.places:  # nobody is late who has not been given to a host
        state.due_s.pop("begin", None)
        state.due_s.arm(_NEED, state.now_s + UNPLACED_S)


def stated(state: RunState, message: HostsSeen | HostLeaving | HostLost | StartRefused) -> None:
    """What the journal says of hosts."""
    match message:
        case HostsSeen():
            hosts_seen(state, message)
        case HostLeaving():
            host_leaving(state, message)
        case HostLost():
            host_lost(state, message)
        case StartRefused():
            refused(state, message)


# --- hosts ---


def hosts_seen(state: RunState, message: HostsSeen) -> None:
    """These hosts are registered now."""
    hosting = state.hosting
    if hosting is None:
        return
    named = {each.name: each for each in hosting.hosts.values() if not each.lost}
    for seen in message.hosts:
        other = named.get(seen.host)
        if other is not None and other.inc != seen.inc:
            _lose(state, hosting, other, "another process has registered under its name")
        host = hosting.hosts.setdefault(seen.inc, Host(name=seen.host, inc=seen.inc))
        host.labels, host.slots, host.taken = dict(seen.labels), seen.slots, seen.taken
        host.lost = host.leaving = False
    for place in hosting.places.values():
        place.refused = ()
    _forget_old(hosting)
    _place_all(state, hosting)


def host_leaving(state: RunState, message: HostLeaving) -> None:
    """A host is about to end its agents: what they leave undone is not the end of their work, if they may move."""
    hosting = state.hosting
    host = hosting.hosts.get(message.inc) if hosting is not None else None
    if hosting is None or host is None:
        return
    host.leaving = True
    for place in hosting.places.values():
        if place.inc == host.inc and place.step in ("ordered", "running"):
            place.main = place.agent in state.mains and _may_ever_move(state, place)


def host_lost(state: RunState, message: HostLost) -> None:
    """An incarnation of a host is gone, with what it was running."""
    hosting = state.hosting
    host = hosting.hosts.get(message.inc) if hosting is not None else None
    if hosting is not None and host is not None:
        _lose(state, hosting, host, message.why or "it is gone")
        _place_all(state, hosting)


def _lose(state: RunState, hosting: Hosting, host: Host, why: str) -> None:
    if host.lost:
        return
    host.lost = True
    state.stirred = True
    held = [each for each in hosting.places.values() if each.inc == host.inc and each.step in ("ordered", "running")]
    if not held:
        return
    moves = {place.agent: _may_move(state, place) for place in held}
    names = [place.agent for place in held if place.agent in state.agents]
    summary = f"host {host.name} is gone: {why}; {_what_becomes(moves)}"
    host.incident = report(state, "crash", summary, names, key=f"host {host.inc}").id
    for place in held:
        _lost(state, place, moves=moves[place.agent], why=f"its host {host.name} is gone")


def _named(agent: str) -> str:
    return "the tool host" if agent == TOOLS else agent


def _what_becomes(moves: dict[str, bool]) -> str:
    moving = [_named(name) for name in moves if moves[name]]
    staying = [_named(name) for name in moves if not moves[name]]
    said = [f"{', '.join(moving)}: to be started on another host"] if moving else []
    said += [f"{', '.join(staying)}: not started again"] if staying else []
    return "; ".join(said)


def _may_move(state: RunState, place: Place) -> bool:
    """Whether an agent is started on another host, by its restart rule; counts that it was lost."""
    rule = _rule(state, place)
    if not _may_ever_move(state, place):
        return False
    recent = tuple(at_s for at_s in place.moved_at_s if state.now_s - at_s <= rule.period_s)
    if len(recent) >= rule.intensity:
        return False
    place.moved_at_s = (*recent, state.now_s)
    return True


def _may_ever_move(state: RunState, place: Place) -> bool:
    view, rule = state.agents.get(place.agent), _rule(state, place)
    stays_away = view is not None and (view.ending is not None or view.told_to_stop)
    is_over = state.phase not in ("starting", "running")
    return not is_over and not stays_away and rule.elsewhere and rule.policy != "temporary"


def _rule(state: RunState, place: Place) -> Restart:
    view = state.agents.get(place.agent)
    return _TOOLS_RULE if view is None else view.spec.restart


def _lost(state: RunState, place: Place, *, moves: bool, why: str) -> None:
    """One agent was on a host that is gone."""
    state.ask_host(StopProcess, agent=place.agent, grace_s=0.0, place=place.id)  # should the host come back
    place.moves, place.step, place.tries = moves, "cutting", 0
    view = state.agents.get(place.agent)
    if view is None:
        gate_facts.stated(state, ToolsGone(host=state.gate.host, why=why))
    else:
        view.runs = False
        host = state.hosting.hosts.get(place.inc) if state.hosting is not None else None
        was_main = place.main = place.main or place.agent in state.mains
        gone(state, view, "crashed", why, returning=moves)
        if moves:
            view.status = "starting"
            state.due_s.pop("quiet", None)  # it takes as long as it takes
        elif was_main or view.cut_short or not (view.told_to_stop or (host is not None and host.leaving)):
            state.main_over(view.name, done=False)
    place.failed = not moves
    _cut_off(state, place, why)


# --- cutting off ---


def _cut_off(state: RunState, place: Place, why: str) -> None:
    place.tries += 1
    place.due_s = NEVER
    place.cut = state.set_access(place.agent, "revoked", why, place=place.id)


def access_set(state: RunState, message: AccessSet) -> None:
    """The server was told to make void what a lost process logs in with: how that went."""
    hosting = state.hosting
    place = hosting.places.get(message.agent) if hosting is not None else None
    if hosting is None or place is None or place.step != "cutting" or message.command != place.cut:
        return
    if not message.ok and message.enforced and place.tries < TRIES_MAX:
        place.due_s = state.now_s + min(32.0, RETRY_S * 2 ** (place.tries - 1))
        state.due_s.arm(_NEED, place.due_s)
        return
    if message.ok and place.moves and state.phase in ("starting", "running"):
        place.step = "wanted"
        state.due_s.arm(_NEED, state.now_s + UNPLACED_S)
        _place_all(state, hosting)
        return
    if not message.ok and place.moves:
        place.failed = True
        reason = "nobody here has power over the server" if not message.enforced else message.detail[:200]
        said = f"{place.agent} is not started elsewhere: its lost process could not be cut off ({reason})"
        report(state, "crash", said, [place.agent], key=place.agent)
        view = state.agents.get(place.agent)
        if view is not None:
            view.status = "crashed"
            state.main_over(place.agent, done=False)
    _over(state, place)


def is_cut_off(state: RunState, agent: str) -> bool:
    """Whether a process of an agent was made void, so that its logins are refused as they should be."""
    place = state.hosting.places.get(agent) if state.hosting is not None else None
    return place is not None and bool(place.cut)


# --- processes ---


def started(state: RunState, message: ProcessStarted) -> bool:
    """A host started a process; returns whether that is of interest: not of a place that has been given up."""
    if state.hosting is None:
        return True
    place = state.hosting.found(message.agent, message.place)
    if place is None or place.step not in ("ordered", "running"):
        return False
    place.step, place.main = "running", False
    return True


def exited(state: RunState, message: ProcessExited) -> bool:
    """A process ended; returns as `started`."""
    if state.hosting is None:
        return True
    place = state.hosting.found(message.agent, message.place)
    if place is None or place.step not in ("ordered", "running"):
        return False
    if not message.restart:
        view = state.agents.get(message.agent)
        asked = state.phase not in ("starting", "running") or (view is not None and view.told_to_stop)
        place.failed = message.code != 0 and not asked
        _over(state, place)
    return True


def exhausted(state: RunState, message: RestartsExhausted) -> bool:
    """A host gives up on a process; returns as `started`."""
    return state.hosting is None or state.hosting.found(message.agent, message.place) is not None


def refused(state: RunState, message: StartRefused) -> None:
    """A host would not take an agent: another one is asked."""
    hosting = state.hosting
    place = hosting.found(message.agent, message.place) if hosting is not None else None
    if hosting is None or place is None or place.step != "ordered":
        return
    place.refused = (*place.refused, place.inc)
    place.step = "wanted"
    state.due_s.arm(_NEED, state.now_s + UNPLACED_S)
    _place_all(state, hosting)


def _over(state: RunState, place: Place) -> None:
    place.step = "over"
    state.stirred = True
    hosting = state.hosting
    if hosting is not None and all(each.step == "over" for each in hosting.places.values() if each.agent != TOOLS):
        hosting.idle_s = state.now_s + IDLE_S
        state.due_s.arm(_NEED, hosting.idle_s)


# --- placing ---


def _place_all(state: RunState, hosting: Hosting) -> None:
    """Give every agent that has no host to one, in the order of the crew file, as far as there are hosts."""
    if state.phase not in ("starting", "running"):
        return
    ordered, loads = False, hosting.loads() if hosting.waits else {}
    for place in hosting.places.values():
        if place.step == "wanted":
            ordered = _place(state, hosting, place, loads) or ordered
    if ordered and state.phase == "starting" and state.crew is not None and not hosting.waits:
        state.due_s["begin"] = state.now_s + state.crew.start_timeout_s


def _place(state: RunState, hosting: Hosting, place: Place, loads: dict[str, int]) -> bool:
    view = state.agents.get(place.agent)
    if view is not None and view.ending is not None:
        _over(state, place)
        return False
    labels = {} if view is None else view.spec.host
    candidates = [Candidate(host, loads[host.inc]) for host in hosting.hosts.values() if _takes(host)]
    host, why = choose(candidates, labels, place.refused)
    if host is None:
        place.said = why
        return False
    lost = hosting.hosts.get(place.inc)
    place.step, place.host, place.inc = "ordered", host.name, host.inc
    loads[host.inc] += 1
    place.said = why
    place.id = state.ask_host(StartProcess, agent=place.agent, host=host.name, inc=host.inc, why=why)
    incident = state.incidents.get(lost.incident) if lost is not None and lost.incident else None
    if incident is not None:
        note(state, incident, f"{_named(place.agent)} is started on host {host.name}: {why}")
    waited = state.incidents.get(place.incident)
    if waited is not None and waited.state != "resolved":
        resolve(state, waited, f"host {host.name} takes it: {why}")
    return True


def _takes(host: Host) -> bool:
    return not (host.lost or host.leaving)


# --- the clock, and the end ---


def watch(state: RunState) -> None:
    """What only time brings: trying again, telling of those without a host, and the end."""
    hosting = state.hosting
    if hosting is None or state.phase in ("done", "failed", "stopped"):
        return
    if state.phase == "stopping":
        _watch_end(state, hosting)
    if not state.is_due(_NEED):
        return
    del state.due_s[_NEED]
    for place in hosting.places.values():
        if place.step == "cutting" and place.due_s <= state.now_s:
            _cut_off(state, place, f"its host {place.host} is gone")
    if state.phase in ("starting", "running"):
        _tell_unplaced(state, hosting)
        if hosting.idle_s <= state.now_s:
            _idle(state, hosting)
    dues = [place.due_s for place in hosting.places.values() if place.step == "cutting"]
    dues += [hosting.idle_s] if hosting.idle_s > state.now_s else []
    dues += [hosting.end.limit_s] if hosting.end is not None and not hosting.ended else []
    due_s = min((due_s for due_s in dues if due_s > state.now_s), default=NEVER)
    if due_s != NEVER:
        state.due_s.arm(_NEED, due_s)


def _tell_unplaced(state: RunState, hosting: Hosting) -> None:
    for place in hosting.places.values():
        if place.step == "wanted":
            who = _named(place.agent)
            names = [place.agent] if place.agent in state.agents else []
            said = f"{who} has no host: {place.said or 'no host is known'}"
            place.incident = report(state, "crash", said, names, key=f"{place.agent}:place").id


def _idle(state: RunState, hosting: Hosting) -> None:
    """Every process has ended, and nobody has said how the run is to be read."""
    hosting.idle_s = NEVER
    failed = [place.agent for place in hosting.places.values() if place.failed]
    if any(place.step != "over" for place in hosting.places.values() if place.agent != TOOLS):
        return
    if failed:
        stop_crew(state, "failed", f"every process has ended, {', '.join(failed[:5])} not in order")
    else:
        stop_crew(state, "done", "every process has ended in order")


def _watch_end(state: RunState, hosting: Hosting) -> None:
    if hosting.end is None or hosting.ended:
        return
    if hosting.end.limit_s == NEVER:
        graces = [view.spec.restart.shutdown_s for view in state.agents.values() if not view.external]
        limit_s = state.now_s + max(graces, default=0.0) + END_S
        hosting.end = Ordered(state=hosting.end.state, why=hosting.end.why, limit_s=limit_s)
        state.due_s.arm(_NEED, limit_s)
    left = [place for place in hosting.places.values() if place.step in ("ordered", "running", "cutting")]
    why = hosting.end.why
    if left and state.now_s < hosting.end.limit_s:
        return
    if left:
        names = ", ".join(f"{place.agent} on {place.host}" for place in left[:5])
        why = f"{why}; not reported to have ended: {names}"
    hosting.ended = state.end_run(hosting.end.state, why[:2000])


def _forget_old(hosting: Hosting) -> None:
    lost = [inc for inc, host in hosting.hosts.items() if host.lost]
    for inc in lost[: max(0, len(hosting.hosts) - HOSTS_MAX)]:
        del hosting.hosts[inc]
