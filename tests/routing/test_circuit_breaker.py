"""The breaker's states, driven by a clock that the test turns."""

from __future__ import annotations

import math

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from goblin_assistant.metrics import REGISTRY
from goblin_assistant.routing.circuit_breaker import SLICES, CircuitBreaker, State, Ticket


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
    return CircuitBreaker(
        "test", window=10, min_calls=4, failure_ratio=0.5, open_seconds=5, clock=clock
    )


def take(breaker: CircuitBreaker, *, streamed: bool = False) -> Ticket:
    ticket = breaker.acquire(streamed=streamed)
    assert ticket is not None
    return ticket


def fail(breaker: CircuitBreaker, times: int) -> None:
    for _ in range(times):
        take(breaker).failure()


def gauge() -> float | None:
    return REGISTRY.get_sample_value("provider_circuit_state", {"provider": "test"})


def test_it_stays_closed_below_the_minimum_of_calls(breaker: CircuitBreaker) -> None:
    fail(breaker, 3)
    assert breaker.state is State.CLOSED
    assert breaker.retry_after() == 0


def test_calls_of_a_window_are_counted_in_few_places(breaker: CircuitBreaker, clock: Clock) -> None:
    for _ in range(500):
        take(breaker).success()
        clock.now += 0.1
    assert len(breaker._slices) <= SLICES


def test_it_opens_when_the_share_of_failures_is_reached_and_says_when_to_come_back(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    fail(breaker, 4)
    assert breaker.state is State.OPEN
    assert gauge() == 2
    assert not breaker.acquire(streamed=False)
    assert breaker.retry_after() == 5
    clock.now += 2
    assert breaker.retry_after() == 3


def test_failures_below_the_share_do_not_open_it(breaker: CircuitBreaker) -> None:
    for _ in range(10):
        take(breaker).success()
    fail(breaker, 9)
    assert breaker.state is State.CLOSED
    fail(breaker, 1)
    assert breaker.state is State.OPEN


def test_failures_older_than_the_window_are_forgotten(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    fail(breaker, 3)
    clock.now += 11
    fail(breaker, 1)
    assert breaker.state is State.CLOSED


def test_half_open_lets_one_trial_through_and_closes_on_success(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    fail(breaker, 4)
    clock.now += 5
    trial = take(breaker)
    assert breaker.state is State.HALF_OPEN
    assert gauge() == 1
    assert not breaker.acquire(streamed=False), "a second call while the trial runs"
    trial.success()
    assert breaker.state is State.CLOSED
    assert gauge() == 0
    fail(breaker, 3)
    assert breaker.state is State.CLOSED, "the old failures are forgotten"


def test_a_failed_trial_opens_it_for_the_whole_time_again(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    fail(breaker, 4)
    clock.now += 5
    take(breaker).failure()
    assert breaker.state is State.OPEN
    assert breaker.retry_after() == 5


def test_an_abandoned_trial_makes_room_for_the_next(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 4)
    clock.now += 5
    take(breaker).abandon()
    assert breaker.acquire(streamed=False)


def test_each_change_is_logged_once(
    breaker: CircuitBreaker, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="goblin_assistant.routing"):
        fail(breaker, 4)
        breaker.acquire(streamed=False)
    changes = [record for record in caplog.records if record.message == "circuit_state_changed"]
    assert [(record.__dict__["from_state"], record.__dict__["to_state"]) for record in changes] == [
        ("closed", "open")
    ]


# -- one verdict a call -------------------------------------------------------------------------
def test_a_second_verdict_on_a_ticket_does_nothing(breaker: CircuitBreaker) -> None:
    for _ in range(3):
        ticket = take(breaker)
        ticket.failure()
        ticket.failure()
        ticket.success()
    assert breaker.state is State.CLOSED, "three failures, not six"
    assert breaker.in_flight() == 0
    fail(breaker, 1)
    assert breaker.state is State.OPEN


def test_a_call_begun_before_it_opened_is_no_trial(breaker: CircuitBreaker, clock: Clock) -> None:
    stragglers = [take(breaker) for _ in range(4)]
    fail(breaker, 4)
    clock.now += 5
    assert breaker.state is State.HALF_OPEN
    stragglers[0].success()
    assert breaker.state is State.HALF_OPEN, "an old success does not close it"
    trial = take(breaker)
    stragglers[1].failure()
    stragglers[2].abandon()
    assert breaker.state is State.HALF_OPEN, "an old failure does not open it"
    assert breaker.acquire(streamed=False) is None, "the end of an old call admits no second trial"
    trial.success()
    stragglers[3].failure()
    fail(breaker, 3)
    assert breaker.state is State.CLOSED, "the old failure is not counted"


def test_a_trials_first_token_makes_room_and_its_end_decides(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    fail(breaker, 4)
    clock.now += 5
    first = take(breaker, streamed=True)
    first.first_token()
    assert breaker.state is State.HALF_OPEN
    second = take(breaker, streamed=True)
    first.failure()
    assert breaker.state is State.OPEN
    second.success()
    assert breaker.state is State.OPEN


def test_an_open_breaker_is_half_open_when_its_time_is_over_though_nobody_tries(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    fail(breaker, 4)
    assert gauge() == 2
    clock.now += 5
    assert gauge() == 1


# -- slow calls ---------------------------------------------------------------------------------
@pytest.fixture
def impatient(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(
        "test",
        window=10,
        min_calls=4,
        failure_ratio=0.5,
        open_seconds=5,
        slow_first_token=2,
        slow_answer=6,
        clock=clock,
    )


def test_calls_that_hang_open_it_while_they_hang(impatient: CircuitBreaker, clock: Clock) -> None:
    hanging = [take(impatient, streamed=True) for _ in range(4)]
    clock.now += 1.9
    assert impatient.state is State.CLOSED
    clock.now += 0.2
    assert impatient.acquire(streamed=True) is None
    assert impatient.state is State.OPEN
    assert impatient.in_flight() == 4
    assert impatient.oldest_age() == pytest.approx(2.1)
    for ticket in hanging:
        ticket.failure()
    assert impatient.retry_after() == 5
    assert impatient.in_flight() == 0


def test_an_answer_in_one_piece_has_its_own_limit(impatient: CircuitBreaker, clock: Clock) -> None:
    for _ in range(4):
        take(impatient)
    clock.now += 5.9
    assert impatient.state is State.CLOSED
    clock.now += 0.2
    assert impatient.state is State.OPEN


@pytest.mark.parametrize("verdict", ["success", "failure", "abandon"])
def test_a_slow_call_counts_as_failed_once_however_it_ends(
    impatient: CircuitBreaker, clock: Clock, verdict: str
) -> None:
    for _ in range(3):
        ticket = take(impatient, streamed=True)
        clock.now += 2.1  # the state is not read before it ends
        getattr(ticket, verdict)()
    assert impatient.state is State.CLOSED, "three failures"
    fail(impatient, 1)
    assert impatient.state is State.OPEN


def test_a_stream_that_has_begun_and_one_that_shows_signs_of_life_are_not_slow(
    impatient: CircuitBreaker, clock: Clock
) -> None:
    begun = [take(impatient, streamed=True) for _ in range(4)]
    commenting = [take(impatient, streamed=True) for _ in range(4)]
    for ticket in begun:
        ticket.first_token()
    for _ in range(10):
        clock.now += 1.5
        for ticket in commenting:
            ticket.alive()
        assert impatient.state is State.CLOSED
    assert impatient.oldest_age() == 15, "a comment is no answer"
    clock.now += 2.1
    assert impatient.state is State.OPEN


def test_a_slow_trial_opens_it_again(impatient: CircuitBreaker, clock: Clock) -> None:
    fail(impatient, 4)
    clock.now += 5
    trial = take(impatient, streamed=True)
    clock.now += 2.1
    assert impatient.state is State.OPEN
    trial.success()
    assert impatient.state is State.OPEN


def test_without_a_limit_no_call_is_slow(breaker: CircuitBreaker, clock: Clock) -> None:
    for _ in range(10):
        take(breaker)
    clock.now += 80_000
    assert breaker.state is State.CLOSED


def sample(name: str) -> float | None:
    return REGISTRY.get_sample_value(name, {"provider": "test"})


@pytest.mark.parametrize("window", [10, 40, 5])
def test_a_failure_counts_until_the_window_is_over_and_no_longer(
    clock: Clock, window: float
) -> None:
    for waited, state in ((window - 0.125, State.OPEN), (window, State.CLOSED)):
        clock.now = 1000.0
        breaker = CircuitBreaker(
            "test", window=window, min_calls=4, failure_ratio=0.5, open_seconds=5, clock=clock
        )
        fail(breaker, 3)
        clock.now += waited
        fail(breaker, 1)
        assert breaker.state is state


def test_failures_of_all_the_window_count_together(breaker: CircuitBreaker, clock: Clock) -> None:
    for _ in range(3):
        fail(breaker, 1)
        clock.now += 3
    assert breaker.state is State.CLOSED
    fail(breaker, 1)
    assert breaker.state is State.OPEN, "four calls, in four slices of it"


def test_successes_that_are_older_than_the_window_do_not_hide_failures(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    for _ in range(20):
        take(breaker).success()
    clock.now += 10
    fail(breaker, 4)
    assert breaker.state is State.OPEN


def test_the_oldest_failures_leave_the_window_first(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 1)
    clock.now += 6
    fail(breaker, 2)
    clock.now += 5
    fail(breaker, 1)
    assert breaker.state is State.CLOSED, "three of the last ten seconds, and one before"
    fail(breaker, 1)
    assert breaker.state is State.OPEN


def test_in_the_last_second_of_its_pause_it_says_how_much_is_left(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    fail(breaker, 4)
    clock.now += 4.75
    assert breaker.retry_after() == 0.25


def test_it_is_half_open_however_long_nobody_has_looked(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    fail(breaker, 4)
    clock.now += 500
    assert breaker.state is State.HALF_OPEN
    assert breaker.available()


def test_a_machine_that_has_just_started_has_no_pause_to_wait_for(clock: Clock) -> None:
    clock.now = 1.0
    breaker = CircuitBreaker(
        "test", window=10, min_calls=4, failure_ratio=0.5, open_seconds=5, clock=clock
    )
    assert (breaker.retry_after(), breaker.available()) == (0, True)


def test_a_trial_of_an_earlier_pause_does_not_keep_the_next_one_out(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    fail(breaker, 4)
    clock.now += 5
    first = take(breaker, streamed=True)
    first.first_token()
    take(breaker)  # it never ends
    first.failure()
    clock.now += 5
    assert breaker.available()
    take(breaker).success()
    assert breaker.state is State.CLOSED


def test_during_a_trial_a_call_is_told_to_come_back_in_a_second(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    assert breaker.available()
    fail(breaker, 4)
    assert not breaker.available()
    clock.now += 5
    assert (breaker.retry_after(), breaker.available()) == (0, True)
    trial = take(breaker)
    assert (breaker.retry_after(), breaker.available()) == (1, False)
    trial.first_token()
    assert (breaker.retry_after(), breaker.available()) == (0, True)
    trial.success()
    assert (breaker.retry_after(), breaker.available()) == (0, True)


def test_a_call_counts_as_slow_at_its_very_limit_and_is_counted_once(
    impatient: CircuitBreaker, clock: Clock
) -> None:
    before = sample("provider_slow_calls_total")
    assert before is not None
    tickets = [take(impatient, streamed=True) for _ in range(3)]
    clock.now += 1.75
    assert impatient.state is State.CLOSED
    assert not any(ticket.slow for ticket in tickets)
    late = take(impatient, streamed=True)
    clock.now += 0.25
    assert impatient.state is State.CLOSED, "three slow calls, and a minimum of four"
    assert [ticket.slow for ticket in tickets] == [True] * 3
    assert sample("provider_slow_calls_total") == before + 3
    clock.now += 1.5
    assert impatient.state is State.CLOSED
    clock.now += 0.25
    assert impatient.state is State.OPEN
    assert late.slow
    assert sample("provider_slow_calls_total") == before + 4


@pytest.mark.parametrize("waited", [2, 2.5])
def test_a_sign_of_life_that_comes_too_late_does_not_save_a_call(
    impatient: CircuitBreaker, clock: Clock, waited: float
) -> None:
    tickets = [take(impatient, streamed=True) for _ in range(4)]
    clock.now += waited
    for ticket in tickets[:2]:
        ticket.alive()
    for ticket in tickets[2:]:
        ticket.first_token()
    assert [ticket.slow for ticket in tickets] == [True] * 4
    assert impatient.state is State.OPEN


@pytest.mark.parametrize("waited", [2, 2.5])
def test_from_the_moment_on_that_calls_are_slow_no_other_is_admitted(
    impatient: CircuitBreaker, clock: Clock, waited: float
) -> None:
    before = sample("provider_slow_calls_total")
    for _ in range(4):
        take(impatient, streamed=True)
    clock.now += waited
    assert impatient.acquire(streamed=True) is None
    assert not impatient.available()
    assert sample("provider_slow_calls_total") == (before or 0) + 4


def test_what_is_available_takes_slow_calls_into_account(
    impatient: CircuitBreaker, clock: Clock
) -> None:
    for waited in (2, 2.5):
        fresh = CircuitBreaker(
            "test", window=10, min_calls=1, failure_ratio=0.5, open_seconds=5,
            slow_first_token=2, slow_answer=6, clock=clock,
        )  # fmt: skip
        take(fresh, streamed=True)
        clock.now += waited
        assert not fresh.available()


def test_a_call_that_hangs_from_before_it_opened_does_not_prolong_the_pause(
    impatient: CircuitBreaker, clock: Clock
) -> None:
    hanging = take(impatient, streamed=True)
    fail(impatient, 4)
    clock.now += 5
    assert impatient.state is State.HALF_OPEN
    assert hanging.slow
    take(impatient).success()
    assert impatient.state is State.CLOSED


class CountedLock:
    """A lock that counts how often it is taken."""

    def __init__(self) -> None:
        self.taken = 0

    def __enter__(self) -> None:
        self.taken += 1

    def __exit__(self, *_: object) -> None:
        pass


def test_while_no_call_can_be_slow_a_call_begins_and_lives_without_the_lock(
    impatient: CircuitBreaker, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = CountedLock()
    monkeypatch.setattr(impatient, "_lock", lock)
    ticket = take(impatient, streamed=True)
    assert impatient.available()
    clock.now += 1.5
    ticket.alive()
    assert lock.taken == 0
    clock.now += 1
    take(impatient)
    assert lock.taken == 1, "the first call was due"
    take(impatient)
    assert impatient.available()
    assert lock.taken == 1


def test_a_sign_of_life_begins_the_time_again_for_a_trial_too(
    impatient: CircuitBreaker, clock: Clock
) -> None:
    fail(impatient, 4)
    clock.now += 5
    trial = take(impatient, streamed=True)
    for _ in range(3):
        clock.now += 1.5
        trial.alive()
        assert impatient.acquire(streamed=True) is None
    assert impatient.state is State.HALF_OPEN
    clock.now += 2
    assert impatient.state is State.OPEN


def test_the_oldest_call_without_an_answer_is_exported(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    age, flying = "provider_oldest_call_age_seconds", "provider_calls_in_flight"
    assert (sample(age), sample(flying)) == (0, 0)
    first = take(breaker, streamed=True)
    assert (sample(age), sample(flying)) == (0, 1)
    clock.now += 3
    second = take(breaker)
    clock.now += 4
    assert (sample(age), sample(flying)) == (7, 2)
    first.first_token()
    assert (sample(age), sample(flying)) == (4, 2)
    second.success()
    assert (sample(age), sample(flying)) == (0, 1)
    first.success()
    first.alive()
    first.first_token()
    assert (sample(age), sample(flying)) == (0, 0)


def test_an_open_circuit_is_a_warning_and_the_other_changes_are_none(
    breaker: CircuitBreaker, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="goblin_assistant.routing")
    fail(breaker, 4)
    clock.now += 5
    take(breaker).success()
    changes = [record for record in caplog.records if record.message == "circuit_state_changed"]
    assert {record.__dict__["provider"] for record in changes} == {"test"}
    assert [(record.levelname, record.__dict__["to_state"]) for record in changes] == [
        ("WARNING", "open"),
        ("INFO", "half_open"),
        ("INFO", "closed"),
    ]


# -- any order of things ------------------------------------------------------------------------
class Interleaving(RuleBasedStateMachine):
    """Calls begin, answer and end (once or twice, early or late) while time passes, in any
    order."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = CircuitBreaker(
            "any", window=10, min_calls=2, failure_ratio=0.5, open_seconds=5,
            slow_first_token=7, slow_answer=7, clock=self.clock,
        )  # fmt: skip
        self.tickets: list[Ticket] = []
        self.over: set[Ticket] = set()
        self.trials: list[Ticket] = []

    @rule(streamed=st.booleans())
    def begin(self, streamed: bool) -> None:
        state = self.breaker.state
        available = self.breaker.available()
        ticket = self.breaker.acquire(streamed=streamed)
        assert (ticket is not None) == available
        assert state is not State.OPEN or ticket is None
        if ticket is not None:
            self.tickets.append(ticket)
            if state is State.HALF_OPEN:
                assert not self.trials_that_wait(), "two trials at once"
                self.trials.append(ticket)

    def trials_that_wait(self) -> list[Ticket]:
        """Trials of this half-open time that have neither answered nor ended."""
        period = max((trial.period for trial in self.trials), default=0)
        return [
            trial for trial in self.trials
            if trial.period == period
            and trial not in self.over
            and not trial.answering
            and not trial.slow
        ]  # fmt: skip

    @rule(
        number=st.integers(0, 30),
        verdict=st.sampled_from(["success", "failure", "abandon", "first_token", "alive"]),
    )
    def tell(self, number: int, verdict: str) -> None:
        if self.tickets:
            ticket = self.tickets[number % len(self.tickets)]
            state = self.breaker.state
            trial = ticket in self.trials
            getattr(ticket, verdict)()
            if ticket in self.over or (state is not State.CLOSED and not trial):
                assert self.breaker.state is state, "a late or second verdict changed the state"
            if verdict in ("success", "failure", "abandon"):
                self.over.add(ticket)

    @rule(seconds=st.sampled_from([0.1, 1.0, 4.9, 5.0, 7.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def calls_in_flight_are_those_not_ended(self) -> None:
        assert self.breaker.in_flight() == len(self.tickets) - len(self.over)
        assert 0 <= self.breaker.oldest_age() < math.inf

    @invariant()
    def it_is_never_stuck(self) -> None:
        if self.breaker.state is State.HALF_OPEN and not self.trials_that_wait():
            assert self.breaker.available(), "half open without a trial, but no call is admitted"
        assert self.breaker.retry_after() < 5 + 1e-9  # seconds are floats

    @invariant()
    def counts_are_never_negative(self) -> None:
        for _, (calls, failures) in self.breaker._slices:
            assert 0 <= failures <= calls


TestInterleaving = Interleaving.TestCase
