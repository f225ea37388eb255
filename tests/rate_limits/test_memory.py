"""Counts in memory are exact and bounded, and no other caller can reset them."""

from __future__ import annotations

import tracemalloc

import pytest

from goblin_assistant.rate_limits import memory
from goblin_assistant.rate_limits.memory import MemoryStorage
from tests.support.threads import at_once


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now + 1.7e9


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(memory, "time", clock)
    return clock


def admitted(
    storage: MemoryStorage, key: str, times: int, limit: int = 10, window: int = 60
) -> int:
    return sum(storage.hit(key, limit, window).allowed for _ in range(times))


def test_a_burst_around_the_edge_of_a_minute_does_not_double_the_limit(clock: Clock) -> None:
    storage = MemoryStorage()
    clock.now = 1019.9
    assert admitted(storage, "a", 10) == 10
    clock.now = 1020.1
    assert admitted(storage, "a", 10) == 0


def test_no_minute_ever_holds_more_than_the_limit(clock: Clock) -> None:
    storage = MemoryStorage()
    passed = []
    for _ in range(2000):
        clock.now += 0.37
        if storage.hit("a", 10, 60).allowed:
            passed.append(clock.now)
    assert all(later - earlier >= 60 for earlier, later in zip(passed, passed[10:], strict=False))
    assert len(passed) > 100


def test_refused_hits_are_not_held_against_the_caller(clock: Clock) -> None:
    storage = MemoryStorage()
    admitted(storage, "a", 10)
    for _ in range(59):
        clock.now += 1
        assert not storage.hit("a", 10, 60).allowed
    clock.now += 1.1
    assert storage.hit("a", 10, 60).allowed


def test_the_wait_that_is_told_is_the_wait_that_helps(clock: Clock) -> None:
    storage = MemoryStorage()
    storage.hit("a", 2, 60)
    clock.now += 20
    storage.hit("a", 2, 60)
    clock.now += 5
    refused = storage.hit("a", 2, 60)
    assert not refused.allowed
    assert refused.retry_after == pytest.approx(35)
    clock.now += 34.9
    assert not storage.hit("a", 2, 60).allowed
    clock.now += 0.2
    assert storage.hit("a", 2, 60).allowed


def test_remaining_counts_down_and_reset_points_at_the_oldest_hit(clock: Clock) -> None:
    storage = MemoryStorage()
    assert storage.hit("a", 3, 60)[1:3] == (2, 60)
    clock.now += 10
    assert storage.hit("a", 3, 60)[1:3] == (1, 50)


def test_flask_limiter_sees_the_same_window(clock: Clock) -> None:
    storage, clock.now = MemoryStorage(), 3.0
    assert storage.get_moving_window("a", 3, 60) == (clock.time(), 0)
    assert storage.acquire_entry("a", 3, 60)
    begun = clock.time()
    clock.now += 7
    assert storage.get_moving_window("a", 3, 60) == (begun, 1)
    clock.now += 60
    assert storage.get_moving_window("a", 3, 60)[1] == 0


def test_threads_together_are_admitted_exactly_the_limit() -> None:
    storage = MemoryStorage()
    results = at_once(lambda _: admitted(storage, "a", 100, limit=500), 16)
    assert sum(results) == 500


def test_a_million_addresses_leave_a_bounded_number_of_keys_and_bytes() -> None:
    storage = MemoryStorage(max_keys=2000)
    tracemalloc.start()
    try:
        for number in range(20_000):
            storage.hit(f"general/100/60/ip:{number}", 100, 60)
        first, _ = tracemalloc.get_traced_memory()
        for number in range(20_000, 60_000):
            storage.hit(f"general/100/60/ip:{number}", 100, 60)
        second, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(storage) == 2000
    assert second < first * 1.2
    assert second < 2000 * 1000


def test_idle_keys_are_dropped_as_new_ones_come(clock: Clock) -> None:
    storage = MemoryStorage()
    for number in range(1000):
        storage.hit(f"ip:{number}", 10, 60)
    clock.now += 61
    for number in range(600):
        storage.hit(f"ip:new{number}", 10, 60)
    assert len(storage) == 600


def test_an_exhausted_key_stays_exhausted_while_a_flood_of_others_passes(clock: Clock) -> None:
    storage = MemoryStorage(max_keys=100)
    admitted(storage, "ip:attacker", 10)
    for number in range(5000):
        storage.hit(f"ip:{number}", 10, 60)
    assert not storage.hit("ip:attacker", 10, 60).allowed
    assert len(storage) <= 100


def test_a_flood_of_addresses_pushes_out_no_account(clock: Clock) -> None:
    storage = MemoryStorage(max_keys=100)
    storage.hit("login/account:victim", 1, 60)
    for number in range(5000):
        storage.hit(f"general/ip:{number}", 10, 60)
    assert not storage.hit("login/account:victim", 1, 60).allowed


def test_tokens_are_admitted_up_to_the_limit_and_no_further(clock: Clock) -> None:
    storage = MemoryStorage()
    assert storage.reserve("key:1", 1000, 60, 600, "h1") == 0
    clock.now += 10
    assert storage.reserve("key:1", 1000, 60, 400, "h2") == 0
    assert storage.reserve("key:1", 1000, 60, 1, "h3") == pytest.approx(50)


def test_what_was_reserved_and_not_used_is_given_back(clock: Clock) -> None:
    storage = MemoryStorage()
    storage.reserve("key:1", 1000, 60, 1000, "h1")
    storage.settle("key:1", "h1", 100)
    assert storage.reserve("key:1", 1000, 60, 900, "h2") == 0
    assert storage.reserve("key:1", 1000, 60, 1, "h3") > 0


def test_what_was_used_beyond_the_reservation_counts(clock: Clock) -> None:
    storage = MemoryStorage()
    storage.reserve("key:1", 1000, 60, 100, "h1")
    storage.settle("key:1", "h1", 1500)
    assert storage.reserve("key:1", 1000, 60, 1, "h2") > 0
    clock.now += 60.1
    assert storage.reserve("key:1", 1000, 60, 1000, "h3") == 0


def test_settling_after_the_window_changes_nothing(clock: Clock) -> None:
    storage = MemoryStorage()
    storage.reserve("key:1", 1000, 60, 500, "h1")
    clock.now += 61
    assert storage.reserve("key:1", 1000, 60, 1000, "h2") == 0
    storage.settle("key:1", "h1", 5000)
    storage.settle("key:2", "h1", 5000)
    clock.now += 61
    assert storage.reserve("key:1", 1000, 60, 1000, "h3") == 0


def test_the_wait_for_tokens_is_as_long_as_it_takes_for_enough_to_leave(clock: Clock) -> None:
    storage = MemoryStorage()
    storage.reserve("key:1", 100, 60, 30, "h1")
    clock.now += 10
    storage.reserve("key:1", 100, 60, 70, "h2")
    assert storage.reserve("key:1", 100, 60, 30, "h3") == pytest.approx(50)
    assert storage.reserve("key:1", 100, 60, 31, "h3") == pytest.approx(60)
    clock.now += 49.5
    assert storage.reserve("key:1", 100, 60, 30, "h3") == 0.5


def test_several_hits_at_once_are_counted_together_or_not_at_all(clock: Clock) -> None:
    storage = MemoryStorage()
    assert storage.hit("a", 10, 60, amount=4) == (True, 6, 60, 0)
    clock.now += 10
    assert storage.hit("a", 10, 60, amount=6) == (True, 0, 50, 0)
    assert storage.hit("a", 10, 60) == (False, 0, 50, 50)
    clock.now += 50
    assert storage.hit("a", 10, 60, amount=5) == (False, 4, 10, 10)
    assert storage.hit("a", 10, 60, amount=4) == (True, 0, 10, 0)
    assert not storage.acquire_entry("a", 10, 60, 1)


def test_a_wait_is_until_enough_hits_have_left(clock: Clock) -> None:
    storage = MemoryStorage()
    for _ in range(4):
        storage.hit("a", 4, 60)
        clock.now += 10
    assert storage.hit("a", 4, 60, amount=3) == (False, 0, 20, 40)
    assert storage.hit("a", 4, 60, amount=9) == (False, 0, 20, 50)
    assert storage.hit("a", 6, 60, amount=3) == (False, 2, 20, 20)


def test_hits_that_have_left_the_window_are_no_part_of_a_wait(clock: Clock) -> None:
    storage = MemoryStorage()
    for seconds in (10, 10, 10, 31):
        storage.hit("a", 9, 60)
        clock.now += seconds
    # Of hits 61, 51, 41 and 31 seconds ago the first has left, and is not dropped yet.
    assert storage.hit("a", 3, 60) == (False, 0, 9, 9)
    assert storage.hit("a", 2, 60) == (False, 0, 9, 19)
    assert storage.hit_all([("a", 2, 60)]) == [(False, 0, 9, 19)]
    assert storage.hit_all([("a", 1, 60)]) == [(False, 0, 9, 29)]
    assert storage.hit("a", 9, 60) == (True, 5, 9, 0)


def test_more_hits_than_the_limit_never_fit(clock: Clock) -> None:
    storage = MemoryStorage()
    assert storage.hit("a", 3, 60, amount=4) == (False, 0, 0, 60)
    assert storage.hit("a", 3, 60, amount=3).allowed


def test_buckets_counted_together_tell_each_its_own_time(clock: Clock) -> None:
    storage = MemoryStorage()
    key, user = ("key:1", 3, 60), ("user:1", 2, 30)
    assert storage.hit_all([key, user]) == [(True, 2, 60, 0), (True, 1, 30, 0)]
    clock.now += 10
    assert storage.hit_all([key, user]) == [(True, 1, 50, 0), (True, 0, 20, 0)]
    clock.now += 5
    assert storage.hit_all([key, user]) == [(True, 0, 45, 0), (False, 0, 15, 15)]
    assert storage.hit_all([("key:1", 1, 60)]) == [(False, 0, 45, 55)]
    assert storage.hit_all([("other", 0, 60)]) == [(False, 0, 60, 60)]


def test_a_reset_forgets_hits_and_tokens_and_says_how_many_keys_there_were(clock: Clock) -> None:
    storage = MemoryStorage()
    assert storage, "empty, and still a storage"
    storage.hit("a", 1, 60)
    storage.hit("a", 1, 30)
    storage.hit("ip:1", 1, 60)
    storage.reserve("b", 1, 60, 1, "h")
    assert len(storage) == 4
    assert storage.reset() == 4
    assert (len(storage), storage.reset()) == (0, 0)
    assert storage.hit("a", 1, 60).allowed
    assert storage.reserve("b", 1, 60, 1, "h") == 0


def test_a_forgotten_key_leaves_the_others(clock: Clock) -> None:
    storage = MemoryStorage()
    for key in ("a", "b"):
        storage.hit(key, 1, 60)
        storage.hit(key, 1, 30)
        storage.reserve(key, 10, 60, 10, "h")
    storage.clear("a")
    assert storage.hit("a", 1, 60).allowed
    assert storage.hit("a", 1, 30).allowed
    assert storage.reserve("a", 10, 60, 10, "h2") == 0
    assert not storage.hit("b", 1, 60).allowed
    assert storage.reserve("b", 10, 60, 1, "h2") == 60


def test_flask_limiter_is_told_that_the_storage_is_there_and_raises_nothing_of_its_own() -> None:
    storage = MemoryStorage()
    assert storage.check() is True
    assert storage.base_exceptions is ValueError


def test_more_tokens_than_the_limit_wait_for_the_whole_window(clock: Clock) -> None:
    storage = MemoryStorage()
    assert storage.reserve("key:1", 100, 60, 101, "h1") == 60
    storage.reserve("key:1", 100, 60, 100, "h2")
    clock.now += 20
    assert storage.reserve("key:1", 100, 60, 100, "h3") == 40
    assert storage.reserve("key:1", 100, 60, 101, "h3") == 60


def test_a_settled_hold_leaves_the_window_with_what_it_used(clock: Clock) -> None:
    storage = MemoryStorage()
    storage.reserve("key:1", 100, 60, 50, "h1")
    storage.settle("key:1", "h1", 80)
    storage.settle("key:1", "h1", 30)
    clock.now += 30
    assert storage.reserve("key:1", 100, 60, 70, "h2") == 0
    clock.now += 30
    assert storage.reserve("key:1", 100, 60, 30, "h3") == 0
    assert storage.reserve("key:1", 100, 60, 1, "h4") == 30
