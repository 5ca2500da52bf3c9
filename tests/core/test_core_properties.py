"""Properties of the core's fold over arbitrary journals: it never raises, is a function of its journal, and settles."""

import random
import string
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crewkeeper_bus import codec
from crewkeeper_bus import messages as m
from crewkeeper_bus.subjects import Kind
from crewkeeper_supervisor.core import events
from crewkeeper_supervisor.core.crew import Agent, Crew, Response, Responses, Webhook
from support.core_checks import check
from support.journal import BODY, RUN, Journal, fold, wire

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
AGENTS = ("a", "b", "c-1", "c-2", "out", "zed")
IDS = ("i1", "i2", "i3", "i4")


class Noise:
    """Arbitrary messages of a small world, so that ids collide, streams break and everything refers to everything.

    Args:
        rnd: The source of chance.
    """

    def __init__(self, rnd: random.Random) -> None:
        self.rnd = rnd
        self.seqs: dict[tuple[str, str], int] = {}

    def entry(self) -> tuple[str, bytes]:
        """One subject and payload."""
        rnd = self.rnd
        kind = rnd.random()
        if kind < 0.03:
            return self.junk_subject(), self.junk()
        if kind < 0.06:
            return f"crew.{RUN}.{rnd.choice(list(Kind))}.{rnd.choice((*AGENTS, '_', '_host', '_x'))}._.i1", self.junk()
        if kind < 0.25:
            return f"crew.{RUN}.op.{rnd.choice(('_', '_host'))}._.o", codec.encode(self.fact())
        if kind < 0.28:
            reply = m.SupervisorReply(id=rnd.choice(("3-0", "x")), body=BODY)
            return f"crew.{RUN}.rep._.{rnd.choice(AGENTS)}.{self.id()}", codec.encode(reply)
        sender = rnd.choice(AGENTS)
        to = rnd.choice((*AGENTS, "c", "_")) if rnd.random() < 0.95 else "nobody"
        message, subject_kind = self.said(sender)
        return f"crew.{RUN}.{subject_kind}.{sender}.{to}.{self.id()}", codec.encode(message)

    def id(self) -> str:
        return self.rnd.choice(IDS)

    def junk(self) -> bytes:
        rnd = self.rnd
        valid = codec.encode(self.said("a")[0])
        return rnd.choice(
            (b"", b"{}", b"[" * 100, b"\xff\xfe", b'{"inc":"i","seq":1}', valid[: rnd.randint(0, len(valid))])
        )

    def junk_subject(self) -> str:
        return "".join(self.rnd.choice(string.ascii_letters + "._ *>") for _ in range(self.rnd.randint(0, 20)))

    def sent(self, sender: str) -> dict[str, Any]:
        rnd = self.rnd
        inc = "j1" if rnd.random() < 0.9 else rnd.choice(("j2", "j3"))
        seq = self.seqs.get((sender, inc), 0) + 1
        if rnd.random() < 0.1:
            seq = rnd.randint(1, seq + 3)
        self.seqs[sender, inc] = max(seq, self.seqs.get((sender, inc), 0))
        return {"inc": inc, "seq": seq}

    def said(self, sender: str) -> tuple[Any, Kind]:
        rnd, sent = self.rnd, self.sent(sender)
        task = {**sent, "task": self.id()}
        makers: list[Any] = [
            lambda: (
                m.Joined(
                    **sent, role="c", concurrency=rnd.randint(1, 2), reentrant=rnd.choice(("none", "chain", "full"))
                ),
                Kind.NOTE,
            ),
            lambda: (m.TaskBegan(**task, name=rnd.choice(("main", "", "x")), slot=rnd.random() < 0.7), Kind.NOTE),
            lambda: (m.TaskEnded(**task), Kind.NOTE),
            lambda: (m.CallStarted(**task, call=self.id(), caller=rnd.choice(AGENTS)), Kind.NOTE),
            lambda: (m.CallStarted(**task, call=self.id(), caller=rnd.choice(AGENTS)), Kind.NOTE),
            lambda: (
                m.WaitBegan(
                    **task,
                    epoch=rnd.randint(1, 9),
                    condition=self.condition(),
                    deadline_s=rnd.choice((None, None, 3.0)),
                ),
                Kind.NOTE,
            ),
            lambda: (m.WaitBegan(**task, epoch=rnd.randint(1, 9), condition=m.OnCall(call=self.id())), Kind.NOTE),
            lambda: (m.WaitEnded(**task, epoch=rnd.randint(1, 9)), Kind.NOTE),
            lambda: (m.Taken(**task, sender=rnd.choice(AGENTS), message=self.id()), Kind.NOTE),
            lambda: (
                m.Acquire(
                    **task,
                    resource=self.id(),
                    ticket=self.id(),
                    mode=rnd.choice("xs"),
                    units=rnd.randint(1, 3),
                    capacity=rnd.randint(1, 3),
                ),
                Kind.NOTE,
            ),
            lambda: (m.Release(**task, resource=self.id(), ticket=self.id()), Kind.NOTE),
            lambda: (m.AskHuman(**task, question=self.id(), who="ops", text="?"), Kind.NOTE),
            lambda: (m.Usage(**task, input_tokens=rnd.randint(0, 2000), cost_microusd=5), Kind.NOTE),
            lambda: (m.Progress(**task, text="on"), Kind.NOTE),
            lambda: (m.Standing(**sent, state=rnd.choice(("paused", "running"))), Kind.NOTE),
            lambda: (m.Left(**sent, done=rnd.random() < 0.5), Kind.NOTE),
            lambda: (m.Request(**task, body=BODY, deadline_s=rnd.choice((None, None, 2.0))), Kind.REQ),
            lambda: (m.Request(**task, body=BODY), Kind.REQ),
            lambda: (m.Reply(**sent, body=BODY, early=rnd.random() < 0.3), Kind.REP),
            lambda: (m.Message(**task, body=BODY), Kind.MSG),
            lambda: (m.Cancel(**sent), Kind.CANCEL),
            lambda: (m.CallProgress(**sent, text="half"), Kind.PROG),
            lambda: (self.heartbeat(sent), Kind.HB),
            lambda: (self.heartbeat(sent), Kind.HB),
        ]
        return rnd.choice(makers)()  # type: ignore[no-any-return]

    def heartbeat(self, sent: dict[str, Any]) -> m.Heartbeat:
        rnd = self.rnd
        some = lambda: rnd.sample(IDS, rnd.randint(0, 2))  # noqa: E731
        return m.Heartbeat(
            **sent,
            nonce=rnd.choice(("", f"n{rnd.randint(1, 60)}-{rnd.randint(0, 2)}")),
            role="c",
            concurrency=rnd.randint(1, 2),
            tasks=tuple(
                m.TaskState(
                    task=task,
                    call=rnd.choice(("", self.id())),
                    caller=rnd.choice(AGENTS),
                    slot=rnd.random() < 0.7,
                    wait=m.OpenWait(epoch=rnd.randint(1, 9), condition=self.condition())
                    if rnd.random() < 0.7
                    else None,
                )
                for task in some()
            ),
            queued=tuple(some()),
            calls=tuple(m.OpenCall(call=c, to=rnd.choice(AGENTS), task=self.id()) for c in some()),
            unread=tuple((rnd.choice(AGENTS), message) for message in some()),
            held=tuple(m.Held(resource=self.id(), ticket=ticket, task=self.id()) for ticket in some()),
        )

    def condition(self, depth: int = 0) -> m.Condition:
        rnd = self.rnd
        kind = rnd.random()
        if depth < 2 and kind < 0.2:
            parts = tuple(self.condition(depth + 1) for _ in range(rnd.randint(0, 3)))
            return m.OnAll(of=parts) if rnd.random() < 0.5 else m.OnSome(k=rnd.randint(1, 4), of=parts)
        leaves: list[m.Condition] = [
            m.OnCall(call=self.id()),
            m.OnCall(call=self.id()),
            m.OnResource(resource=self.id(), ticket=self.id()),
            m.OnMessage(senders=tuple(rnd.sample((*AGENTS, "c", "nobody"), rnd.randint(0, 2)))),
            m.OnHuman(who="ops"),
            m.OnTimer(after_s=1.0),
        ]
        return rnd.choice(leaves)

    def fact(self) -> Any:
        rnd, agent = self.rnd, self.rnd.choice(AGENTS)
        ends = ("done", "failed", "stopped")
        facts: list[Any] = [m.Tick()] * 8 + [
            m.ProcessStarted(agent=agent, pid=rnd.randint(1, 3)),
            m.ProcessStarted(agent=agent, pid=rnd.randint(1, 3)),
            m.ProcessExited(
                agent=agent, pid=rnd.randint(1, 3), code=rnd.choice((0, 1, -9)), restart=rnd.random() < 0.5
            ),
            m.ProcessExited(
                agent=agent, pid=rnd.randint(1, 3), code=rnd.choice((0, 1, -9)), restart=rnd.random() < 0.5
            ),
            m.RestartsExhausted(agent=agent, intensity=3, period_s=60),
            m.OwnerChanged(term=rnd.randint(0, 3), owner="me"),
            m.OperatorAsked(
                action=rnd.choice(("pause", "resume", "kill")),
                agent=rnd.choice((agent, "")),
                why=rnd.choice(("", "w" * 2000)),
                by="b" * rnd.choice((0, 2000)),
            ),
            m.OperatorAsked(action="answer", question=self.id(), answer="yes"),
            m.Outcome(command=f"{rnd.randint(1, 60)}-0", ok=rnd.random() < 0.5),
        ]
        if rnd.random() < 0.03:
            facts = [m.OperatorAsked(action="stop_run"), m.RunEnded(state=rnd.choice(ends)), m.RunDeclared(crew={})]
        return rnd.choice(facts)


def noisy_crew(rnd: random.Random) -> Crew:
    actions = ("break", "pause", "kill", "stop", "escalate", "warn")
    response = lambda: Response(  # noqa: E731
        do=tuple(rnd.sample(actions, rnd.randint(0, 2))) if rnd.random() < 0.4 else ("break", "escalate"),
        confirm_s=rnd.choice((0.0, 0.25)),
        lasting_s=2.0,
        shadow=rnd.random() < 0.1,
    )
    return Crew(
        name="noisy",
        agents=(
            Agent(name="a", never_victim=rnd.random() < 0.2),
            Agent(name="b", concurrency=2),
            Agent(name="c", replicas=2, reentrant=rnd.choice(("none", "chain"))),
            Agent(name="out", external=True),
        ),
        responses=Responses(deadlock=response(), orphan=response(), crash=response(), budget_spent=response()),
        escalate=(Webhook(webhook="http://127.0.0.1/"),) if rnd.random() < 0.5 else (),
    )


def noisy_journal(seed: int, length: int = 60) -> Journal:
    rnd = random.Random(seed)
    journal = Journal(noisy_crew(rnd), obey=rnd.random() < 0.8)
    if rnd.random() < 0.8:
        journal.start()
    noise = Noise(rnd)
    for mirror in journal.mirrors.values():
        if mirror.alive:
            noise.seqs[mirror.name, "j1"] = 0
    for _ in range(length):
        journal.now_s += rnd.choice((0.0, 0.01, 0.3, 0.3, 3.0, -1.0))
        journal.store(*noise.entry())
        check(journal.core)
    return journal


@QUICK
@given(st.integers(0, 2**32))
def test_whatever_is_stored_the_core_takes_it_and_stays_sound(seed: int) -> None:
    for number in range(5):
        noisy_journal(seed * 5 + number)


@QUICK
@given(st.integers(0, 2**32))
def test_equal_journals_give_equal_commands_and_states_however_they_are_read(seed: int) -> None:
    journal = noisy_journal(seed)
    for peek in (False, True):
        core, commands = fold(journal.entries, peek=peek)
        assert commands == journal.commands
        assert core.digest() == journal.core.digest()
        assert list(core.pending.values()) == list(journal.core.pending.values())


@QUICK
@given(st.integers(0, 2**32))
def test_time_never_steps_back_and_every_trace_ends_a_pending_command(seed: int) -> None:
    journal = noisy_journal(seed)
    journal.obey = True
    last_s = 0.0
    for at_s, _, _ in journal.entries:
        last_s = max(last_s, at_s)
    assert journal.core.now_s == last_s
    for command in list(journal.core.pending.values()):
        journal.store(*wire(command))
    assert journal.core.pending == {}


@QUICK
@given(st.binary(max_size=300), st.text(max_size=60))
def test_arbitrary_bytes_on_arbitrary_subjects_are_events(payload: bytes, subject: str) -> None:
    journal = Journal(Crew(name="bytes", agents=(Agent(name="a"),)))
    journal.start()
    for place in (subject, f"crew.{RUN}.note.a._.x", f"crew.{RUN}.hb.a._.x", f"crew.{RUN}.op._._.x"):
        assert isinstance(events.read(99, 0.0, place, payload), events.Recorded | events.Rejected)
        journal.store(place, payload)
        check(journal.core)


def test_a_knot_that_grows_is_one_suspicion_and_one_incident() -> None:
    """Each agent that joins a ring of ALL-waits makes a larger core; what it was before is forgotten."""
    size = 30
    journal = Journal(Crew(name="knot", agents=tuple(Agent(name=f"a{n}") for n in range(size))))
    journal.start()
    names = list(journal.mirrors)
    for name in names:
        journal.task(name, "t")
    for number, name in enumerate(names):  # each waits for the one before and for the one after
        for side in (number - 1, number + 1):
            journal.call(name, "t", f"c{number}-{side + 1}", names[side % size])
        calls = tuple(m.OnCall(call=call) for call in journal.mirrors[name].calls)
        journal.wait(name, "t", m.OnAll(of=calls))
    assert len(journal.core._detector._suspicions) == 1
    for name in names:
        journal.affirm(name)
    journal.tick(0.3)
    assert [len(each.finding.core[0]) for each in journal.core.incidents.values()] == [size]
