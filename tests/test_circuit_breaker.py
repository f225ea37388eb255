"""The breaker's states, driven by a clock that the test turns."""

from __future__ import annotations

import pytest

from goblin_assistant.circuit_breaker import CircuitBreaker, State
from goblin_assistant.metrics import REGISTRY


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker("test", window=10, min_calls=4, failure_ratio=0.5, open_seconds=5, clock=clock)


def fail(breaker: CircuitBreaker, times: int) -> None:
    for _ in range(times):
        assert breaker.acquire()
        breaker.failure()


def gauge() -> float | None:
    return REGISTRY.get_sample_value("provider_circuit_state", {"provider": "test"})


def test_it_stays_closed_below_the_minimum_of_calls(breaker: CircuitBreaker) -> None:
    fail(breaker, 3)
    assert breaker.state is State.CLOSED
    assert breaker.retry_after() == 0


def test_it_opens_when_the_share_of_failures_is_reached_and_says_when_to_come_back(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    fail(breaker, 4)
    assert breaker.state is State.OPEN
    assert gauge() == 2
    assert not breaker.acquire()
    assert breaker.retry_after() == 5
    clock.now += 2
    assert breaker.retry_after() == 3


def test_failures_below_the_share_do_not_open_it(breaker: CircuitBreaker) -> None:
    for _ in range(10):
        breaker.acquire()
        breaker.success()
    fail(breaker, 9)
    assert breaker.state is State.CLOSED
    fail(breaker, 1)
    assert breaker.state is State.OPEN


def test_failures_older_than_the_window_are_forgotten(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 11
    fail(breaker, 1)
    assert breaker.state is State.CLOSED


def test_half_open_lets_one_trial_through_and_closes_on_success(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 4)
    clock.now += 5
    assert breaker.acquire()
    assert breaker.state is State.HALF_OPEN
    assert gauge() == 1
    assert not breaker.acquire(), "a second call while the trial runs"
    breaker.success()
    assert breaker.state is State.CLOSED
    assert gauge() == 0
    fail(breaker, 3)
    assert breaker.state is State.CLOSED, "the old failures are forgotten"


def test_a_failed_trial_opens_it_for_the_whole_time_again(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 4)
    clock.now += 5
    assert breaker.acquire()
    breaker.failure()
    assert breaker.state is State.OPEN
    assert breaker.retry_after() == 5


def test_an_abandoned_trial_makes_room_for_the_next(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 4)
    clock.now += 5
    assert breaker.acquire()
    breaker.abandon()
    assert breaker.acquire()


def test_each_change_is_logged_once(breaker: CircuitBreaker, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="goblin_assistant.routing"):
        fail(breaker, 4)
        breaker.acquire()
    changes = [record for record in caplog.records if record.message == "circuit_state_changed"]
    assert [(record.from_state, record.to_state) for record in changes] == [("closed", "open")]  # type: ignore[attr-defined]
