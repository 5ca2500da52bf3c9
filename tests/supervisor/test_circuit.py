"""When an endpoint that fails is left alone."""

from crewkeeper_supervisor.shell.circuit import (
    ABREAST_MAX,
    BUSY_S,
    ENDPOINTS_MAX,
    FAILURES_MAX,
    PAUSE_MAX_S,
    PAUSE_S,
    Circuit,
    Circuits,
)


def failed(circuit, times, now_s=0.0):
    for _ in range(times):
        assert circuit.enter(now_s) == 0
        circuit.leave(now_s, ok=False)


def test_failures_in_a_row_open_it_and_one_success_closes_it():
    circuit = Circuit()
    failed(circuit, FAILURES_MAX - 1)
    assert circuit.enter(0) == 0
    circuit.leave(0, ok=True)
    failed(circuit, FAILURES_MAX)
    assert circuit.is_open
    wait_s = circuit.enter(0)
    assert PAUSE_S <= wait_s <= PAUSE_S * 1.2
    assert circuit.enter(wait_s) == 0
    assert circuit.enter(wait_s) == BUSY_S, "one alone tries it"
    circuit.leave(wait_s, ok=True)
    assert not circuit.is_open
    assert circuit.enter(wait_s) == 0


def test_the_pause_grows_to_its_limit():
    circuit, now_s, waits = Circuit(), 0.0, []
    failed(circuit, FAILURES_MAX)
    for _ in range(12):
        waits.append(circuit.enter(now_s))
        now_s += waits[-1]
        failed(circuit, 1, now_s)
    assert waits[1] > waits[0] * 1.5
    assert PAUSE_MAX_S <= waits[-1] <= PAUSE_MAX_S * 1.2


def test_a_receiver_that_asks_for_a_pause_gets_it_from_all():
    circuit = Circuit()
    assert circuit.enter(0) == 0
    circuit.leave(0, ok=False, retry_after_s=60)
    assert (circuit.is_open, circuit.enter(10)) == (False, 50)


def test_few_are_under_way_at_once():
    circuit = Circuit()
    assert [circuit.enter(0) for _ in range(ABREAST_MAX + 1)] == [0.0] * ABREAST_MAX + [BUSY_S]
    circuit.leave(0, ok=True)
    assert circuit.enter(0) == 0


def test_idle_endpoints_are_forgotten_and_busy_ones_are_not():
    circuits = Circuits()
    busy = circuits.of("busy")
    assert busy.enter(0) == 0
    for number in range(ENDPOINTS_MAX + 10):
        circuits.of(str(number))
    assert circuits.of("busy") is busy
    assert len(circuits._circuits) <= ENDPOINTS_MAX + 1
