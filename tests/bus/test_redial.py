"""How fast and for how long a transport tries to connect, and when it changes over, by the clock alone."""

import itertools

import pytest
from nats.errors import Error as NatsError

from crewkeeper_bus.credentials import Credentials
from crewkeeper_bus.errors import ConnectionLost
from crewkeeper_bus.redial import (
    AT_ONCE_S,
    LOOK_MAX_S,
    LOOK_MIN_S,
    PAUSE_MIN_S,
    REFUSED_MAX_S,
    RENEW_AT,
    STEADY_S,
    Redial,
    Renewal,
)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def failure(cause: Exception) -> ConnectionLost:
    error = ConnectionLost("no")
    error.__cause__ = cause
    return error


NO = failure(NatsError("nats: 'Authorization Violation'"))
AWAY = failure(ConnectionRefusedError())


def attempts_in(redial: Redial, clock: Clock, seconds: float, outcome) -> list[float]:
    end, made = clock.now + seconds, []
    while True:
        clock.now += redial.pause_s()
        if clock.now >= end:
            return made
        made.append(clock.now)
        outcome()


@pytest.mark.parametrize("error", [NO, AWAY])
def test_attempts_never_come_faster_than_five_a_second(error):
    clock = Clock()
    redial = Redial(clock)
    made = attempts_in(redial, clock, 25.0, lambda: redial.failed(error, 0.001))
    gaps = [b - a for a, b in itertools.pairwise(made)]
    assert min(gaps) >= PAUSE_MIN_S
    assert max(gaps) > 1.0, "they do not slow down"
    assert len(made) > 5


def test_a_link_that_is_cut_at_once_again_and_again_is_made_ever_more_slowly():
    clock = Clock()
    redial = Redial(clock)

    def kicked():
        redial.linked()
        clock.now += 0.002
        redial.lost()

    made = attempts_in(redial, clock, 60.0, kicked)
    assert 20 < len(made) < 60


def test_a_link_that_lived_long_is_replaced_at_once():
    clock = Clock()
    redial = Redial(clock)
    assert redial.pause_s() == 0.0
    assert redial.pause_s() >= PAUSE_MIN_S
    redial.linked()
    clock.now += STEADY_S
    redial.lost()
    assert redial.pause_s() == 0.0


def test_only_refusals_that_come_at_once_and_last_are_final():
    clock = Clock()
    redial = Redial(clock)
    assert not redial.failed(NO, 0.01)
    clock.now += REFUSED_MAX_S + 1
    for not_decided in ((NO, AT_ONCE_S + 0.1), (AWAY, 0.01), (failure(NatsError("nats: empty response")), 0.01)):
        assert not redial.failed(*not_decided)
    assert redial.failed(NO, 0.01)


def test_a_link_between_refusals_begins_the_count_anew():
    clock = Clock()
    redial = Redial(clock)
    redial.failed(NO, 0.01)
    clock.now += REFUSED_MAX_S - 1
    redial.linked()
    redial.lost()
    clock.now += 2
    assert not redial.failed(NO, 0.01)
    clock.now += REFUSED_MAX_S
    assert redial.failed(NO, 0.01)


def renewal(clock: Clock, **fields: float) -> Renewal:
    return Renewal(Credentials(url="", **fields), clock=clock, now=lambda: clock.now)


def test_plain_credentials_are_never_renewed():
    clock = Clock()
    each = renewal(clock)
    assert each.due_s() is None
    assert not each.is_session_due


def test_whichever_ends_first_is_renewed_at_three_fifths_at_the_latest():
    clock = Clock()
    low, high = RENEW_AT
    for fields, life_s in (
        ({"session_s": 600.0}, 600),
        ({"expires_at": clock.now + 60}, 60),
        ({"session_s": 600.0, "expires_at": clock.now + 60}, 60),
        ({"session_s": 60.0, "expires_at": clock.now + 600}, 60),
    ):
        due_s = renewal(clock, **fields).due_s()
        assert low * life_s <= due_s <= high * life_s, fields


def test_a_session_is_due_whatever_the_credentials():
    clock = Clock()
    each = renewal(clock, session_s=100.0, expires_at=clock.now + 40)
    clock.now += 30
    assert not each.is_session_due
    clock.now += 31
    assert each.is_session_due


def test_a_look_that_brought_nothing_is_repeated_ever_more_slowly():
    clock = Clock()
    each = renewal(clock, session_s=100.0)
    clock.now += 70
    pauses = []
    for _ in range(10):
        each.put_off()
        pauses.append(each.due_s())
        clock.now += pauses[-1]
    assert pauses[0] == LOOK_MIN_S
    assert pauses == sorted(pauses)
    assert pauses[-1] == LOOK_MAX_S
