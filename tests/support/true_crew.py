"""A crew as it really is: random things happen to it one by one, and it tells them as the events of a wait case.

It keeps a state of its own and judges it by playing on: it shares no line with the production graph, its reduction or
the replay of cases. That makes it the oracle for generated cases.
"""

import random
from collections.abc import Iterable, Iterator
from typing import Any

Event = dict[str, Any]
LIVE, TIMER, EXTERNAL, DEAD, STUCK = range(5)


class Task:
    def __init__(self, name: str, agent: "Agent", parent: "Task | None" = None, call: "Call | None" = None) -> None:
        self.name, self.agent, self.parent, self.call = name, agent, parent, call
        self.root = call is None
        self.active = True
        self.wait: Event | None = None
        self.deadline = False
        self.since = 0

    def __repr__(self) -> str:
        return self.name


class Call:
    def __init__(self, name: str, caller: Task, to: str, deadline: bool) -> None:
        self.name, self.caller, self.to, self.deadline = name, caller, to, deadline
        self.state = "open"
        self.handler: Task | None = None


class Agent:
    def __init__(self, name: str, role: str, slots: int, reentrant: str, mailbox: int | None) -> None:
        self.name, self.role, self.slots, self.reentrant, self.mailbox = name, role, slots, reentrant, mailbox
        self.alive = True
        self.tasks: list[Task] = []
        self.unread: dict[str, str] = {}
        self.topics: dict[str, tuple[str, str]] = {}


class Hold:
    def __init__(self, task: Task, mode: str, units: int, lease: bool) -> None:
        self.task, self.mode, self.units, self.lease = task, mode, units, lease


class Res:
    def __init__(self, name: str, kind: str, units: int, fifo: bool) -> None:
        self.name, self.kind, self.units, self.fifo = name, kind, units, fifo
        self.holds: list[Hold] = []


class TrueCrew:
    """The crew, its past in words, and what follows.

    Args:
        rnd: The source of chance.
        restarts: Whether agents that are gone may come back.
    """

    def __init__(self, rnd: random.Random, *, restarts: bool = True) -> None:
        self.rnd, self.restarts = rnd, restarts
        self.events: list[Event] = []
        self.tasks: list[Task] = []
        self.calls: dict[str, Call] = {}
        self.agents: dict[str, Agent] = {}
        self.clock = 0
        for number in range(rnd.randint(2, 6)):
            role = "pool" if number >= 2 and rnd.random() < 0.4 else f"A{number}"
            name = f"P{number}" if role == "pool" else role
            reentrant = rnd.choice(("none", "none", "none", "chain", "full"))
            self.agents[name] = Agent(name, role, rnd.choice((1, 1, 1, 2)), reentrant, rnd.choice((None, None, 1, 2)))
        self.resources = {
            name: Res(name, kind, units, rnd.random() < 0.7)
            for name, kind, units in (("x", "lock", 1), ("y", "lock", 1), ("s", "sem", 3), ("one", "sem", 1))
        }
        self.targets = list(dict.fromkeys([*self.agents, *(a.role for a in self.agents.values())]))

    def case(self) -> Event:
        """The case, with what must follow."""
        agents: Event = {}
        for agent in self.agents.values():
            agents[agent.name] = {"concurrency": self.first_slots[agent.name], "reentrant": agent.reentrant}
            agents[agent.name] |= {"role": agent.role} if agent.role != agent.name else {}
            agents[agent.name] |= {"mailbox": agent.mailbox} if agent.mailbox is not None else {}
        resources = {
            r.name: {"kind": r.kind, "fifo": r.fifo} | ({"units": r.units} if r.kind == "sem" else {})
            for r in self.resources.values()
        }
        return {"id": "g", "agents": agents, "resources": resources, "events": self.events, "expect": self.judge()}

    # --- what happens ---

    def live(self, steps: int) -> "TrueCrew":
        """Let this many things happen, if that many can."""
        self.first_slots = {agent.name: agent.slots for agent in self.agents.values()}
        kinds = ["task"] * 3 + ["call"] * 4 + ["start"] * 3 + ["wait"] * 7 + ["acquire"] * 3 + ["grant", "wake", "recv"]
        kinds += ["send", "reply", "end", "release", "cancel", "config", "crash"]
        if self.rnd.random() < 0.5:  # who asks and waits, and does little else, gets stuck more often
            kinds = (
                ["task"] * 4 + ["ask"] * 6 + ["start"] * 2 + ["wait"] * 3 + ["acquire"] * 3 + ["send", "recv", "reply"]
            )
        for _ in range(20 * steps):
            if len(self.events) >= steps:
                break
            kind = self.rnd.choice(kinds)
            if kind in ("crash", "config", "wake", "end", "cancel") and self.rnd.random() < 0.5:
                continue
            getattr(self, f"_{kind}")()
        return self

    def _tell(self, kind: str, **fields: Any) -> None:
        self.events.append({"e": kind, **fields})

    def _number(self) -> int:
        self.clock += 1
        return self.clock

    def _runner(self) -> Task | None:
        running = [task for task in self.tasks if task.active and task.wait is None]
        return self.rnd.choice(running) if running else None

    def _task(self) -> None:
        agent = self.rnd.choice(list(self.agents.values()))
        if agent.alive and (self.has_slot(agent, ()) or agent.reentrant == "full"):
            task = Task(f"t{len(self.tasks)}", agent)
            self.tasks.append(task)
            agent.tasks.append(task)
            self._tell("task", task=task.name, agent=agent.name)

    def _call(self) -> None:
        task = self._runner()
        to = self.rnd.choice(self.targets)
        agent = self.agents.get(to)
        if task is None or (agent is not None and agent.mailbox is not None and self.queued(agent) >= agent.mailbox):
            return
        call = Call(f"c{len(self.calls)}", task, to, self.rnd.random() < 0.1)
        if not self.meant(to, alive=True):
            call.state = "lost"
        self.calls[call.name] = call
        self._tell("call", call=call.name, task=task.name, to=to, **({"deadline": 30} if call.deadline else {}))

    def _start(self) -> None:
        waiting = [call for call in self.calls.values() if call.state == "open"]
        if not waiting:
            return
        call = self.rnd.choice(waiting)
        agents = [a for a in self.meant(call.to, alive=True) if self.lets_in(a, call) or self.has_slot(a, ())]
        if agents:
            agent = self.rnd.choice(agents)
            task = Task(f"t{len(self.tasks)}", agent, call.caller, call)
            self.tasks.append(task)
            agent.tasks.append(task)
            call.state, call.handler = "started", task
            told = {"agent": agent.name} if len(self.meant(call.to)) > 1 or self.rnd.random() < 0.2 else {}
            self._tell("start", call=call.name, task=task.name, **told)

    def _reply(self) -> None:
        task = self._runner()
        if task is not None and task.call is not None and not task.root:
            early = self.rnd.random() < 0.3
            if task.call.state == "started":
                task.call.state = "answered"
            self._tell("reply", call=task.call.name, **({"early": True} if early else {}))
            task.root = early
            if not early:
                self._over(task)

    def _end(self) -> None:
        task = self._runner()
        if task is not None and task.root:
            self._over(task)
            self._tell("end", task=task.name)

    def _over(self, task: Task) -> None:
        task.active, task.wait = False, None
        task.agent.tasks.remove(task)

    def _wait(self) -> None:
        task = self._runner()
        if task is not None:
            task.wait, task.deadline, task.since = self._condition(task, 0), self.rnd.random() < 0.1, self._number()
            told = {"deadline": 5} if task.deadline else {}
            self._tell("wait", task=task.name, **{"for": task.wait}, ticket=task.since, **told)

    def _ask(self) -> None:
        before = len(self.calls)
        self._call()
        if len(self.calls) > before:
            call = self.calls[f"c{before}"]
            task = call.caller
            task.wait, task.deadline, task.since = {"call": call.name}, self.rnd.random() < 0.03, self._number()
            self._tell("wait", task=task.name, **{"for": task.wait}, **({"deadline": 5} if task.deadline else {}))

    def _condition(self, task: Task, depth: int) -> Event:
        rnd, kind = self.rnd, self.rnd.random()
        if depth < 2 and kind < 0.3:
            parts = [self._condition(task, depth + 1) for _ in range(rnd.randint(1, 3))]
            form = rnd.choice(("all", "any", "k"))
            return {"k": rnd.randint(1, len(parts)), "of": parts} if form == "k" else {form: parts}
        calls = [c.name for c in self.calls.values() if c.caller is task and c.state != "cancelled"]
        if calls and kind < 0.65:
            return {"call": rnd.choice(calls)}
        if kind < 0.8:
            name = rnd.choice(list(self.resources))
            if self.resources[name].kind == "sem":
                return {
                    "res": name,
                    "n": min(rnd.choice((1, 1, 1, 2, 2, 3)), self.resources[name].units + (rnd.random() < 0.05)),
                }
            return {"res": name, "mode": rnd.choice("xxs")}
        others = rnd.sample(self.targets, rnd.randint(1, 2))
        topic: Event = {"topic": rnd.choice(("plan", "news"))}
        space = {"space": rnd.choice(list(self.agents))}
        topics = [topic, topic | {"publishers": others}]
        forms: list[Event] = [{"msg_from": others}] * 5 + [{"human": "lead"}, {"timer": 9}, *topics, space, space]
        return rnd.choice(forms)

    def _wake(self) -> None:
        waiting = [task for task in self.tasks if task.active and task.wait is not None]
        if waiting:
            task = self.rnd.choice(waiting)
            task.wait = None
            self._tell("wake", task=task.name)

    def _cancel(self) -> None:
        calls = [c for c in self.calls.values() if c.caller.active and c.state in ("open", "started")]
        if calls:
            call = self.rnd.choice(calls)
            call.state = "cancelled"
            self._tell("cancel", call=call.name)

    def _acquire(self) -> None:
        task = self._runner()
        if task is None:
            return
        res = self.rnd.choice(list(self.resources.values()))
        mode, units = ("x", self.rnd.choice((1, 1, 2))) if res.kind == "sem" else (self.rnd.choice("xs"), 1)
        if self.fits(res, task, mode, units, res.holds) and (not res.fifo or not self.ahead(res, task, mode, 1 << 30)):
            self._granted(res, task, mode, units, self._number())

    def _grant(self) -> None:
        """The lock manager serves somebody who goes on waiting, for the rest of what it wants."""
        for task in self.tasks:
            for part in leaves(task.wait or {"human": ""}) if task.active else ():
                if "res" not in part or self.rnd.random() < 0.3:
                    continue
                res, mode, units = self.resources[part["res"]], part.get("mode", "x"), part.get("n", 1)
                if self.has(res, task, mode, units):
                    continue
                if self.fits(res, task, mode, units, res.holds) and not (
                    res.fifo and self.ahead(res, task, mode, task.since)
                ):
                    if (
                        sum(p == part for p in leaves(task.wait)) == 1
                        and sum("res" in p for p in leaves(task.wait)) == 1
                    ):
                        task.wait = replaced(task.wait, part)
                        self._granted(res, task, mode, units, task.since)
                    return

    def _granted(self, res: Res, task: Task, mode: str, units: int, asked: int) -> None:
        lease = self.rnd.random() < 0.1
        res.holds.append(Hold(task, mode, units, lease))
        how: Event = {"n": units} if res.kind == "sem" else {"mode": mode}
        how |= {"lease": 60} if lease else {}
        self._tell("acquire", task=task.name, res=res.name, req=asked, rev=self._number(), **how)

    def _release(self) -> None:
        held = [(res, hold) for res in self.resources.values() for hold in res.holds if hold.task.agent.alive]
        held = [(res, hold) for res, hold in held if hold.task.wait is None]
        if held:
            res, hold = self.rnd.choice(held)
            res.holds = [other for other in res.holds if other.task is not hold.task]
            self._tell("release", task=hold.task.name, res=res.name)

    def _send(self) -> None:
        task = self._runner()
        if task is None:
            return
        msg = f"m{len(self.events)}"
        if self.rnd.random() < 0.6:
            to = self.rnd.choice(list(self.agents.values()))
            if to.alive:
                to.unread[msg] = task.agent.name
                self._tell("send", task=task.name, to=to.name, msg=msg)
        elif all(agent.alive for agent in self.agents.values()):
            topic = self.rnd.choice(("plan", "news"))
            for agent in self.agents.values():
                agent.topics[msg] = (topic, task.agent.name)
            self._tell("send", task=task.name, topic=topic, msg=msg)

    def _recv(self) -> None:
        tasks = [t for t in self.tasks if t.active and (t.agent.unread or t.agent.topics)]
        if tasks:
            task = self.rnd.choice(tasks)
            msg = self.rnd.choice([*task.agent.unread, *task.agent.topics])
            task.agent.unread.pop(msg, None)
            task.agent.topics.pop(msg, None)
            self._tell("recv", task=task.name, msg=msg)

    def _config(self) -> None:
        agent = self.rnd.choice(list(self.agents.values()))
        agent.slots = self.rnd.randint(1, 3)
        self._tell("config", agent=agent.name, concurrency=agent.slots)

    def _crash(self) -> None:
        agent = self.rnd.choice(list(self.agents.values()))
        if not agent.alive:
            if self.restarts:
                agent.alive = True
                self._tell("restart", agent=agent.name)
            return
        agent.alive = False
        for task in list(agent.tasks):
            self._over(task)
        agent.unread, agent.topics = {}, {}
        for call in self.calls.values():
            gone = call.state == "open" and not self.meant(call.to, alive=True)
            if gone or (call.state == "started" and call.handler is not None and not call.handler.active):
                call.state = "lost"
        self._tell(self.rnd.choice(("crash", "exit")), agent=agent.name)

    # --- the rules ---

    def meant(self, name: str, *, alive: bool = False) -> list[Agent]:
        found = [a for a in self.agents.values() if a.role == name] or [self.agents[name]]
        return [agent for agent in found if agent.alive or not alive]

    def queued(self, agent: Agent) -> int:
        calls = [c for c in self.calls.values() if c.state == "open" and c.to == agent.name]
        return sum(not (agent.reentrant == "chain" and self.on_behalf(c.caller, agent)) for c in calls)

    def has_slot(self, agent: Agent, ended: Iterable[Task]) -> bool:
        return sum(task not in ended for task in agent.tasks) < agent.slots

    def on_behalf(self, task: Task | None, agent: Agent) -> bool:
        while task is not None:
            if task.active and task.agent is agent:
                return True
            task = task.parent
        return False

    def lets_in(self, agent: Agent, call: Call) -> bool:
        return agent.reentrant == "full" or (agent.reentrant == "chain" and self.on_behalf(call.caller, agent))

    def has(self, res: Res, task: Task, mode: str, units: int) -> bool:
        return res.kind == "lock" and any(h.task is task and h.mode in ("x", mode) for h in res.holds)

    def fits(self, res: Res, task: Task, mode: str, units: int, holds: list[Hold]) -> bool:
        if res.kind == "sem":
            return units + sum(hold.units for hold in holds) <= res.units
        return not any(hold.task is not task and "x" in (hold.mode, mode) for hold in holds)

    def ahead(self, res: Res, task: Task, mode: str, since: int) -> list[tuple[Task, int]]:
        """Who waits for it, has asked earlier, and may not be overtaken; with the units asked for."""
        found = []
        for other in self.tasks:
            if other is task or not other.active or other.wait is None or other.since >= since:
                continue
            for part in leaves(other.wait):
                if part.get("res") != res.name or self.has(res, other, part.get("mode", "x"), 1):
                    continue
                if res.kind == "sem" or "x" in (mode, part.get("mode", "x")):
                    found.append((other, part.get("n", 1)))
        return found

    # --- what follows ---

    def judge(self) -> Event:
        """The result object, found by playing on with more and more help."""
        waiting = [task for task in self.tasks if task.active and task.wait is not None]
        verdict = dict.fromkeys(waiting, STUCK)
        for help_ in (DEAD, EXTERNAL, TIMER, LIVE):
            out = self._play(help_, timers=help_ >= TIMER)
            verdict.update({task: help_ for task in waiting if task in out})
        timeless = self._play(DEAD, timers=False)
        stuck = [task for task in waiting if verdict[task] == STUCK]
        by = {v: sorted(t.name for t in waiting if verdict[t] == v) for v in range(5)}
        stalled = {t.name: "timer" if verdict[t] == TIMER else "external" for t in waiting if 0 < verdict[t] < DEAD}
        return {
            "verdict": "deadlock" if stuck else "orphan" if by[DEAD] else "stalled" if stalled else "none",
            "deadlocked": by[STUCK],
            "core": self._cores(stuck),
            "orphan": by[DEAD],
            "stalled": stalled,
            "timed_deadlock": sorted(t.name for t in waiting if verdict[t] == TIMER and t not in timeless),
        }

    def _play(self, help_: int, *, timers: bool) -> set[Task]:
        ended = {task for task in self.tasks if task.active and task.wait is None}
        while True:
            more = {
                task
                for task in self.tasks
                if task.active and task not in ended and task.wait is not None
                if (task.deadline and timers) or self._met(task.wait, task, ended, help_, timers)
            }
            if not more:
                return ended
            ended |= more

    def _met(self, part: Event, task: Task, ended: set[Task], help_: int, timers: bool) -> bool:
        match part:
            case {"granted": _}:
                return True
            case {"all": parts}:
                return all(self._met(p, task, ended, help_, timers) for p in parts)
            case {"any": parts}:
                return any(self._met(p, task, ended, help_, timers) for p in parts)
            case {"k": k, "of": parts}:
                return sum(self._met(p, task, ended, help_, timers) for p in parts) >= k
            case {"human": _}:
                return help_ >= EXTERNAL
            case {"timer": _}:
                return timers
            case {"call": name}:
                call = self.calls[name]
                if call.state in ("answered", "cancelled") or (call.deadline and timers):
                    return True
                if call.state == "lost":
                    return help_ >= DEAD
                return call.handler in ended if call.state == "started" else self._starts(call, ended, help_)
            case {"space": name}:
                agents = self.meant(name, alive=True)
                if not agents:
                    return help_ >= DEAD
                free = (a.mailbox is None or self.queued(a) < a.mailbox for a in agents)
                return any(free) or any(a.reentrant == "full" or self.has_slot(a, ended) for a in agents)
            case {"msg_from": names}:
                senders = [agent.name for name in names for agent in self.meant(name)]
                unread = task.agent.unread.values()
                return any(s in senders for s in unread) or self._could_send(senders, ended, help_)
            case {"topic": topic}:
                there = [sender for t, sender in task.agent.topics.values() if t == topic]
                if "publishers" not in part:
                    return bool(there) or help_ >= EXTERNAL
                senders = [agent.name for name in part["publishers"] for agent in self.meant(name)]
                return any(s in senders for s in there) or self._could_send(senders, ended, help_)
            case {"res": name}:
                return self._served(self.resources[name], part, task, ended, help_, timers)
        raise AssertionError(part)

    def _starts(self, call: Call, ended: set[Task], help_: int) -> bool:
        agents = self.meant(call.to, alive=True)
        return any(self.lets_in(a, call) or self.has_slot(a, ended) for a in agents) or (not agents and help_ >= DEAD)

    def _could_send(self, senders: list[str], ended: set[Task], help_: int) -> bool:
        for agent in (self.agents[sender] for sender in senders):
            if not agent.alive and help_ >= DEAD:
                return True
            if any(task in ended for task in agent.tasks) or (
                help_ >= EXTERNAL and self._could_begin(agent, ended, help_)
            ):
                return True
        return False

    def _could_begin(self, agent: Agent, ended: set[Task], help_: int) -> bool:
        if not agent.alive:
            return False
        if agent.reentrant == "full" or self.has_slot(agent, ()):
            return True
        if agent.reentrant != "chain":
            return False
        below = [t for t in self.tasks if t.active and t.agent is not agent and self.on_behalf(t, agent)]
        open_ = [
            c for c in self.calls.values() if c.state == "open" and c.caller.active and self.on_behalf(c.caller, agent)
        ]
        return any(task in ended for task in below) or any(self._starts(c, ended, help_) for c in open_)

    def _served(self, res: Res, part: Event, task: Task, ended: set[Task], help_: int, timers: bool) -> bool:
        mode, units = part.get("mode", "x"), part.get("n", 1)
        if self.has(res, task, mode, units):
            return True
        left = [hold for hold in res.holds if not self._given_back(hold, ended, help_, timers=timers)]
        before = self.ahead(res, task, mode, task.since) if res.fifo else []
        if res.kind == "lock":
            return self.fits(res, task, mode, units, left) and not any(other not in ended for other, _ in before)
        served = sum(n for other, n in before if other not in ended)
        first = [p for p in self._earlier(task, part) if p["n"] <= units or needed(task.wait or {}, p)]
        own = sum(p["n"] for p in first) if res.fifo else 0
        return units + own + served + sum(hold.units for hold in left) <= res.units

    def _earlier(self, task: Task, part: Event) -> list[Event]:
        """Units that the same wait asks for before this part."""
        assert task.wait is not None
        found = []
        for other in leaves(task.wait):
            if other is part:
                break
            if other.get("res") == part["res"]:
                found.append(other)
        return found

    def _given_back(self, hold: Hold, ended: set[Task], help_: int, *, timers: bool) -> bool:
        agent = hold.task.agent
        if hold.lease and timers:
            return True
        if hold.task.active:
            return hold.task in ended
        if not agent.alive:
            return help_ >= DEAD
        return any(t in ended for t in agent.tasks) or (help_ >= EXTERNAL and self._could_begin(agent, ended, help_))

    # --- who is to blame ---

    def _cores(self, stuck: list[Task]) -> list[list[str]]:
        free = {task for task in self.tasks if task.active and task not in stuck}
        on = {task: {t for t in self._blamed(task.wait or {}, task, free) if t in stuck} for task in stuck}
        reach = {task: set(on[task]) for task in stuck}
        for _ in stuck:
            for task in stuck:
                reach[task] |= {far for near in list(reach[task]) for far in reach[near]}
        cores = {frozenset(reach[t]) for t in stuck if t in reach[t] and all(t in reach[other] for other in reach[t])}
        return sorted(sorted(task.name for task in core) for core in cores)

    def _blamed(self, part: Event, task: Task, free: set[Task]) -> list[Task]:
        if self._met(part, task, free, DEAD, timers=True):
            return []
        found: list[Task] = []
        match part:
            case {"all": parts} | {"any": parts} | {"of": parts}:
                return [t for p in parts for t in self._blamed(p, task, free)]
            case {"call": name}:
                call = self.calls[name]
                if call.handler is not None:
                    return [call.handler]
                return [t for agent in self.meant(call.to, alive=True) for t in agent.tasks]
            case {"space": name}:
                return [t for agent in self.meant(name, alive=True) for t in agent.tasks]
            case {"msg_from": names} | {"publishers": names}:
                for agent in (agent for name in names for agent in self.meant(name, alive=True)):
                    found += [*agent.tasks, *self._callers(agent)]
            case {"res": name}:
                res, mode = self.resources[name], part.get("mode", "x")
                if part.get("n", 1) > res.units:
                    return []
                for hold in res.holds:
                    if hold.task is task or self._given_back(hold, free, DEAD, timers=True):
                        continue
                    if res.kind == "lock" and "x" not in (hold.mode, mode):
                        continue
                    if hold.task.active:
                        found.append(hold.task)
                    else:
                        found += [*hold.task.agent.tasks, *self._callers(hold.task.agent)]
                found += [other for other, _ in self.ahead(res, task, mode, task.since)] if res.fifo else []
        return found

    def _callers(self, agent: Agent) -> list[Task]:
        if agent.reentrant != "chain" or self.has_slot(agent, ()):
            return []
        found = [t for t in self.tasks if t.active and t.agent is not agent and self.on_behalf(t, agent)]
        for call in self.calls.values():
            if call.state == "open" and call.caller.active and self.on_behalf(call.caller, agent):
                found += [t for a in self.meant(call.to, alive=True) for t in a.tasks]
        return found


def leaves(part: Event) -> Iterator[Event]:
    """The parts of a condition that are no threshold."""
    inner = part.get("all") or part.get("any") or part.get("of")
    if inner is None:
        yield part
    for each in inner or ():
        yield from leaves(each)


def needed(part: Event, leaf: Event) -> bool:
    """Whether nothing makes a condition come true without this leaf."""
    inner = part.get("all") or part.get("any") or part.get("of") or []
    every = "all" in part or part.get("k", 1) == len(inner)
    return part is leaf or (every and any(needed(each, leaf) for each in inner))


def replaced(part: Event, leaf: Event) -> Event:
    """The condition with one leaf met."""
    if part is leaf or part == leaf:
        return {"granted": leaf["res"]}
    return {
        key: [replaced(p, leaf) for p in value]
        if isinstance(value, list) and key != "msg_from" and key != "publishers"
        else value
        for key, value in part.items()
    }
