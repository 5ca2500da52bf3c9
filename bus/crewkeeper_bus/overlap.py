"""Overlap: what came over two links at once, put in order and freed of doubles; links are for `nats_transport`."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from crewkeeper_bus.transport import Deliver

_SEQUENCE: Final = re.compile(rb"\r\nNats-Sequence: *(\d{1,20})(?=\r\n)")
_STREAM: Final = re.compile(rb"\r\nNats-Stream: *([^\r\n]{1,256})(?=\r\n)")


class Subscription(NamedTuple):
    """One subscription, whatever link it is on."""

    subject: str
    queue: str
    deliver: Deliver


class Arrival(NamedTuple):
    """One message that came over one of the links."""

    link: object
    subscription: Subscription
    subject: str
    payload: bytes
    headers: bytes


def in_order(arrivals: Sequence[Arrival], new: object) -> list[tuple[Subscription, str, bytes]]:
    """What came over two links, each message once per subscription, in the order of its stream.

    Messages without a stream's mark come first; of those, the ones on the new link that also came on the old are left
    out.
    """
    plain: list[Arrival] = []
    doubles: Counter[tuple[int, str, bytes, bytes]] = Counter()
    marked: dict[tuple[bytes, int, int], Arrival] = {}
    for each in sorted(arrivals, key=lambda arrival: arrival.link is new):
        # The server appends its own marks, so where a sender has forged some the last ones are true.
        sequences, streams = _SEQUENCE.findall(each.headers), _STREAM.findall(each.headers)
        if sequences and streams:
            marked.setdefault((streams[-1], int(sequences[-1]), id(each.subscription)), each)
            continue
        key = (id(each.subscription), each.subject, each.payload, each.headers)
        if each.link is not new:
            doubles[key] += 1
        elif doubles[key] > 0:
            doubles[key] -= 1
            continue
        plain.append(each)
    ordered = plain + [marked[key] for key in sorted(marked, key=lambda key: key[:2])]
    return [(each.subscription, each.subject, each.payload) for each in ordered]
