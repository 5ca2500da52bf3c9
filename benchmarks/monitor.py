"""Monitor path: CPU that the supervisor spends on one message, by stage, over a journal of real shape."""

import gc
import time

from msgspec import to_builtins

from benchmarks.ground import median, report
from crewkeeper_bus import codec, messages, subjects
from crewkeeper_bus.subjects import Kind
from crewkeeper_supervisor.core import events
from crewkeeper_supervisor.core.crew import Agent, Crew
from crewkeeper_supervisor.core.supervisor import Supervisor

AGENTS = 100
CALLS = 5000
ROUNDS = 5

Entries = list[tuple[int, float, str, bytes]]


def journal() -> Entries:
    """A journal of one crew in which agents call each other, start, wait and answer: seven entries a call."""
    entries: Entries = []
    seqs = [0] * AGENTS

    def write(kind: Kind, sender: str, to: str, id_: str, message: object) -> None:
        subject = subjects.build("bench", kind, sender, to, id_)
        entries.append((len(entries) + 1, 1e9 + len(entries) / 1000, subject, codec.encode(message)))

    def said(number: int) -> dict[str, object]:
        seqs[number] += 1
        return {"inc": f"i{number}", "seq": seqs[number]}

    crew = Crew(name="bench", agents=tuple(Agent(name=f"a{n}", external=True) for n in range(AGENTS)))
    write(Kind.OP, "_", "_", "x", messages.RunDeclared(crew=to_builtins(crew)))
    for n in range(AGENTS):
        write(Kind.NOTE, f"a{n}", "_", f"j{n}", messages.Joined(role=f"a{n}", concurrency=4, **said(n)))
        write(Kind.NOTE, f"a{n}", "_", f"t{n}", messages.TaskBegan(task="root", slot=False, **said(n)))
    body = codec.encode_body({"text": "x" * 200})
    for c in range(CALLS):
        n, m = c % AGENTS, (c * 7 + 1) % AGENTS
        me, peer, call = f"a{n}", f"a{m}", f"c{c}"
        write(Kind.REQ, me, peer, call, messages.Request(task="root", body=body, **said(n)))
        on = messages.OnCall(call=call)
        write(Kind.NOTE, me, "_", f"w{c}", messages.WaitBegan(task="root", epoch=c + 1, condition=on, **said(n)))
        started = messages.CallStarted(call=call, caller=me, task=f"h{c}", **said(m))
        write(Kind.NOTE, peer, "_", f"s{c}", started)
        write(Kind.REP, peer, me, call, messages.Reply(body=body, **said(m)))
        write(Kind.NOTE, me, "_", f"e{c}", messages.WaitEnded(task="root", epoch=c + 1, **said(n)))
    return entries


def run() -> None:
    """Measure and print."""
    entries = journal()
    reading, folding = [], []
    gc.collect()
    gc.disable()
    for _ in range(ROUNDS):
        begun = time.process_time()
        read = [events.read(*entry) for entry in entries]
        middle = time.process_time()
        core = Supervisor("bench")
        for event in read:
            core.handle(event)
        reading.append(1e6 * (middle - begun) / len(entries))
        folding.append(1e6 * (time.process_time() - middle) / len(entries))
    gc.enable()
    whole = median(reading) + median(folding)
    report(
        f"Monitor path, CPU of one message ({len(entries)} entries, {AGENTS} agents, {ROUNDS} rounds)",
        [
            ("subject and payload to event", f"{median(reading):6.2f} µs   {median(reading) / whole:4.0%}"),
            ("event through the core", f"{median(folding):6.2f} µs   {median(folding) / whole:4.0%}"),
            ("together", f"{whole:6.2f} µs   {1e6 / whole:,.0f} messages/s of one core"),
        ],
    )
