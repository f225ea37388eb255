"""What a storage must do, whether it counts in memory or in Redis."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from goblin_assistant.rate_limits.counts import Counts
from goblin_assistant.rate_limits.memory import MemoryStorage
from goblin_assistant.rate_limits.shared import SharedStorage


@pytest.fixture(params=["memory", "redis"])
def storage(request: pytest.FixtureRequest) -> Iterator[Counts]:
    """An empty storage of each kind."""
    made: Counts
    if request.param == "memory":
        made = MemoryStorage()
    else:
        made = SharedStorage("goblin+" + request.getfixturevalue("redis_server").url)
    yield made
    made.close()


def test_ten_of_fifteen_hits_are_admitted(storage: Counts) -> None:
    hits = [storage.hit("a", 10, 60) for _ in range(15)]
    assert [hit.allowed for hit in hits] == [True] * 10 + [False] * 5
    assert [hit.remaining for hit in hits[:3]] == [9, 8, 7]
    assert 55 < hits[-1].retry_after <= 60


def test_two_buckets_are_counted_together_or_not_at_all(storage: Counts) -> None:
    key, user = ("key:1", 3, 60), ("user:1", 5, 60)
    assert [[hit.remaining for hit in storage.hit_all([key, user])] for _ in range(3)] == [
        [2, 4],
        [1, 3],
        [0, 2],
    ]
    refused = storage.hit_all([key, user])
    assert [hit.allowed for hit in refused] == [False]
    assert 55 < refused[0].retry_after <= 60
    assert [storage.hit(*user).remaining for _ in range(2)] == [1, 0]
    other = storage.hit_all([("key:2", 3, 60), user])
    assert [hit.allowed for hit in other] == [True, False]
    assert storage.hit("key:2", 3, 60).remaining == 2


def test_tokens_are_admitted_up_to_the_limit_and_given_back(storage: Counts) -> None:
    assert storage.reserve("key:1", 1000, 60, 600, "h1") == 0
    assert storage.reserve("key:1", 1000, 60, 400, "h2") == 0
    assert 55 < storage.reserve("key:1", 1000, 60, 1, "h3") <= 60
    storage.settle("key:1", "h1", 100)
    assert storage.reserve("key:1", 1000, 60, 500, "h4") == 0
    assert storage.reserve("key:1", 1000, 60, 1, "h5") > 0
    storage.settle("key:1", "unknown", 100)


def test_a_forgotten_key_begins_anew(storage: Counts) -> None:
    storage.hit("a", 1, 60)
    storage.reserve("a", 10, 60, 10, "h1")
    storage.forget("a")
    assert storage.hit("a", 1, 60).allowed
    assert storage.reserve("a", 10, 60, 10, "h2") == 0
