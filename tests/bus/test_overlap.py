"""Overlap: a message that came over both links is delivered once, in the order of its stream."""

import random

from hypothesis import given
from hypothesis import strategies as st

from crewkeeper_bus.overlap import Arrival, Subscription, in_order

OLD, NEW = object(), object()
ONE = Subscription("out.>", "", lambda _subject, _payload: None)
TWO = Subscription("out.x", "q", lambda _subject, _payload: None)


def marked(link, sequence, subscription=ONE, forged=b""):
    headers = b"NATS/1.0\r\n%bNats-Stream: S\r\nNats-Sequence: %d\r\nNats-Last-Sequence: 7\r\n\r\n" % (forged, sequence)
    return Arrival(link, subscription, "out.x", b"%d" % sequence, headers)


def plain(link, payload):
    return Arrival(link, ONE, "x", payload, b"")


def numbers(arrivals):
    return [int(payload) for _, _, payload in in_order(arrivals, NEW)]


@given(st.integers(0, 40), st.integers(0, 40), st.randoms(use_true_random=False))
def test_overlapping_ranges_come_out_once_and_in_order(first_new, last_old, chance):
    arrivals = [marked(OLD, each) for each in range(last_old)] + [marked(NEW, each) for each in range(first_new, 40)]
    halves = [chance.random() for _ in arrivals]
    mixed = [each for _, each in sorted(zip(halves, arrivals, strict=True), key=lambda pair: pair[0])]
    assert numbers(mixed) == sorted({*range(last_old), *range(first_new, 40)})


def test_a_message_that_two_subscriptions_take_is_delivered_to_both():
    arrivals = [marked(link, 1, subscription) for link in (OLD, NEW) for subscription in (ONE, TWO)]
    assert [each for each, _, _ in in_order(arrivals, NEW)] == [ONE, TWO]


def test_a_forged_sequence_is_not_believed():
    forged = b"Nats-Stream: S\r\nNats-Sequence: 1\r\n"
    arrivals = [marked(OLD, 5, forged=forged), marked(OLD, 6, forged=forged), marked(NEW, 6, forged=forged)]
    assert numbers(arrivals) == [5, 6]


def test_two_streams_do_not_hide_each_other():
    other = Arrival(NEW, ONE, "y", b"100", b"NATS/1.0\r\nNats-Stream: T\r\nNats-Sequence: 1\r\n\r\n")
    assert numbers([marked(OLD, 1), other]) == [1, 100]


def test_messages_without_a_mark_keep_their_number_and_order():
    old = [plain(OLD, each) for each in (b"a", b"b", b"b")]
    new = [plain(NEW, each) for each in (b"b", b"b", b"b", b"c")]
    assert [payload for _, _, payload in in_order(old + new, NEW)] == [b"a", b"b", b"b", b"b", b"c"]


def test_any_header_bytes_are_taken():
    chance = random.Random(1)
    for _ in range(200):
        headers = chance.randbytes(30) + b"\r\nNats-Sequence: 9\r\nNats-Stream: \xff\r\n" + chance.randbytes(5)
        assert len(in_order([Arrival(OLD, ONE, "x", b"", headers)], NEW)) == 1
