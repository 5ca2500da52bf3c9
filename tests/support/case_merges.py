"""Merges of the streams of a wait case: every order that keeps each agent's own."""

import random
from collections.abc import Iterator
from itertools import pairwise, zip_longest
from typing import Any

Event = dict[str, Any]


def streams_of(case: Event) -> dict[str, list[Event]]:
    """The events of each agent, in its own order; what the monitor tells stands with the agent it is about."""
    calls = {event["call"]: event for event in case["events"] if event["e"] == "call"}
    agents: dict[str, str] = {}
    callee: dict[str, str] = {}
    found: dict[str, list[Event]] = {}
    for event in case["events"]:
        match event["e"]:
            case "task" | "crash" | "exit" | "restart" | "config":
                agent = event["agent"]
            case "start":
                agent = event.get("agent") or only(case, calls[event["call"]]["to"])
                callee[event["call"]] = agent
            case "reply":
                agent = callee.get(event["call"]) or only(case, calls[event["call"]]["to"])
            case "cancel":
                agent = agents[calls[event["call"]]["task"]]
            case _:
                agent = agents[event["task"]]
        if event["e"] in ("task", "start"):
            agents[event["task"]] = agent
        found.setdefault(agent, []).append(event)
    return found


def only(case: Event, name: str) -> str:
    return next((agent for agent, spec in case["agents"].items() if spec.get("role", agent) == name), name)


def merges(case: Event, rnd: random.Random, count: int) -> Iterator[list[Event]]:
    """All merges of the streams if they are few, else this many of them at random, and always the adversarial ones.

    Whether a call was made before its callee came back is told by nothing but its place: a restart stays where it is.
    """
    breaks = [number for number, event in enumerate(case["events"]) if event["e"] == "restart"]
    if breaks:
        parts = _parts(case, [0, *(end for number in breaks for end in (number, number + 1)), len(case["events"])])
        for _ in range(count):
            yield [event for part in parts for event in _random(part, rnd)]
        return
    streams = list(streams_of(case).values())
    yield from _adversarial(streams)
    if _number(streams) <= count:
        yield from _every(streams)
        return
    for _ in range(count):
        yield _random(streams, rnd)


def _parts(case: Event, ends: list[int]) -> list[list[list[Event]]]:
    """The streams, cut at these places of the case."""
    place = {id(event): number for number, event in enumerate(case["events"])}
    streams = streams_of(case).values()
    return [
        [[event for event in stream if start <= place[id(event)] < end] for stream in streams]
        for start, end in pairwise(ends)
    ]


def _adversarial(streams: list[list[Event]]) -> Iterator[list[Event]]:
    """One agent first or last, the others in turn or one after the other, from both ends."""
    for order in (streams, streams[::-1]):
        yield [event for stream in order for event in stream]
        yield [event for row in zip_longest(*order) for event in row if event is not None]
        for alone in order:
            rest = [event for row in zip_longest(*(s for s in order if s is not alone)) for event in row if event]
            yield alone + rest
            yield rest + alone


def _number(streams: list[list[Event]]) -> int:
    total, number = 0, 1
    for stream in streams:
        for place in range(1, len(stream) + 1):
            total += 1
            number = number * total // place
    return number


def _every(streams: list[list[Event]]) -> Iterator[list[Event]]:
    rest = [stream for stream in streams if stream]
    if not rest:
        yield []
    for number, stream in enumerate(rest):
        others = [*rest[:number], stream[1:], *rest[number + 1 :]]
        for merge in _every(others):
            yield [stream[0], *merge]


def _random(streams: list[list[Event]], rnd: random.Random) -> list[Event]:
    places = [number for number, stream in enumerate(streams) for _ in stream]
    rnd.shuffle(places)
    rows = [iter(stream) for stream in streams]
    return [next(rows[place]) for place in places]
