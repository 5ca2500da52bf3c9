"""Options: everything a simulated run is made from besides its seed; equal options and seeds give equal runs."""

from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from crewkeeper_supervisor.chaos.chance import Stream
from crewkeeper_supervisor.core.crew import Agent, Crew, Response, Responses, Webhook

Mode = Literal["safety", "liveness", "swarm"]

RATES: Final[dict[str, float]] = {
    "lose_note": 0.012,
    "lose_heartbeat": 0.03,
    "lose_request": 0.004,
    "lose_delivery": 0.006,
    "lose_probe": 0.06,
    "lose_break": 0.06,
    "double_store": 0.02,
    "double_delivery": 0.03,
    "late": 0.03,
    "crash": 0.004,
    "disconnect": 0.006,
    "owner_crash": 0.02,
    "command_lost": 0.03,
    "zombie": 0.3,
    "pause": 0.003,
}
"""Probability of each kind of fault: for each message, or for each agent and second of virtual time (`crash`,
`disconnect`, `owner_crash`, `pause`), or for each command in hand when its owner dies (`zombie`)."""

FEATURES: Final[dict[str, float]] = {
    "work": 2.0,
    "ask": 5.0,
    "ask_all": 1.6,
    "ask_any": 1.0,
    "gather": 0.8,
    "nested": 0.6,
    "lock": 2.2,
    "shared": 0.8,
    "semaphore": 1.0,
    "tell": 1.0,
    "receive": 0.9,
    "human": 0.2,
    "sleep": 0.3,
    "early": 0.4,
}
"""Relative frequency of each thing an agent may do."""


class Options(Struct, frozen=True, kw_only=True):
    """How a run is made.

    Swarm testing (Groce et al. 2012): in mode `swarm` each seed switches features and faults on and off.
    """

    agents: int = 6
    events: int = 1500
    """Journal entries after which the world calms down."""
    mode: Mode = "safety"
    activity_s: float = 1.5
    """Mean virtual time between two activities of one agent."""
    depth: int = 3
    """How many calls deep a request may lead to further ones."""
    patience_s: float = 30.0
    """How long a true deadlock may last unreported while everybody concerned can talk."""
    wire: bool | None = None
    """Whether messages are encoded and read back; None: every fourth seed."""
    rates: dict[str, float] = msgspec.field(default_factory=lambda: dict(RATES))
    features: dict[str, float] = msgspec.field(default_factory=lambda: dict(FEATURES))


def expanded(options: Options, seed: int) -> Options:
    """The options of this seed, with every choice that the mode leaves to the seed made."""
    wire = seed % 4 == 0 if options.wire is None else options.wire
    options = msgspec.structs.replace(options, wire=wire)
    if options.mode != "swarm":
        return options
    stream = Stream(seed, "swarm")
    features = {name: weight if stream.fraction(name) < 0.6 else 0.0 for name, weight in options.features.items()}
    features["ask"] = features["ask"] or 1.0
    rates = {name: rate * (0.0, 1.0, 2.5)[int(3 * stream.fraction(name))] for name, rate in options.rates.items()}
    return msgspec.structs.replace(
        options,
        agents=2 + int(stream.fraction("agents") * (2 * options.agents - 2)),
        activity_s=options.activity_s * (0.5 + 2 * stream.fraction("pace")),
        features=features,
        rates=rates,
    )


def crew(options: Options, seed: int) -> Crew:
    """A crew of about so many agents: roles with one or more instances, slots, and manners of re-entry."""
    stream = Stream(seed, "crew")
    agents: list[Agent] = []
    left = options.agents
    while left > 0:
        name = f"a{len(agents)}"
        replicas = 2 if left >= 3 and len(agents) > 0 and stream.fraction(f"replicas {name}") < 0.2 else 1
        slots = stream.fraction(f"slots {name}")
        manner = stream.fraction(f"manner {name}")
        fields: dict[str, Any] = {
            "concurrency": 1 if slots < 0.65 else 2 if slots < 0.9 else 3,
            "reentrant": "none" if manner < 0.7 else "chain" if manner < 0.88 else "full",
        }
        agents.append(Agent(name=name, run=("simulated",), replicas=replicas, **fields))
        left -= replicas
    return Crew(
        name="simulated",
        agents=tuple(agents),
        responses=Responses(deadlock=Response(do=("break", "escalate"), lasting_s=4.0)),
        escalate=(Webhook(webhook="http://127.0.0.1/"),),
    )
