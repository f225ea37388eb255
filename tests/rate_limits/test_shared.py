"""Counts in Redis are exact across processes. When Redis is lost, each instance counts alone."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import redis

from goblin_assistant.metrics import rate_limiter_degraded
from goblin_assistant.rate_limits import shared
from goblin_assistant.rate_limits.shared import SharedStorage
from tests.conftest import ROOT, wait_until
from tests.support.services import RedisServer
from tests.support.threads import at_once


@pytest.fixture(autouse=True)
def _quick_return(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "RETRY_SECONDS", 0.05)


@pytest.fixture
def storage(redis_server: RedisServer) -> Iterator[SharedStorage]:
    storage = SharedStorage("goblin+" + redis_server.url)
    yield storage
    storage.close()


def degraded() -> float:
    return next(iter(next(iter(rate_limiter_degraded.collect())).samples)).value


def test_hits_leave_the_window(storage: SharedStorage) -> None:
    assert [storage.hit("a", 2, 3).allowed for _ in range(3)] == [True, True, False]
    wait_until(lambda: storage.hit("a", 2, 3).allowed)


def test_flask_limiter_sees_the_same_window(storage: SharedStorage) -> None:
    assert storage.get_moving_window("a", 3, 60)[1] == 0
    assert storage.acquire_entry("a", 3, 60)
    begun, count = storage.get_moving_window("a", 3, 60)
    assert count == 1
    assert begun == pytest.approx(time.time(), abs=1)


def test_reserved_tokens_leave_the_window(storage: SharedStorage) -> None:
    assert storage.reserve("key:1", 10, 3, 10, "h1") == 0
    assert storage.reserve("key:1", 10, 3, 10, "h2") > 0
    wait_until(lambda: storage.reserve("key:1", 10, 3, 10, "h3") == 0)


_WORKER = """
import sys, threading
from goblin_assistant.rate_limits.shared import SharedStorage
storage = SharedStorage("goblin+" + sys.argv[1])
sys.stdin.readline()
counts = [0] * 8
def work(n):
    for i in range(100):
        counts[n] += storage.hit("chat/key:1", 300, 60).allowed
        hold = f"{sys.argv[2]}-{n}-{i}"
        counts[n] += 1000 * (storage.reserve("tokens/key:1", 3000, 60, 10, hold) == 0)
threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
print(sum(counts))
"""


def test_processes_together_admit_exactly_the_limit(redis_server: RedisServer) -> None:
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _WORKER, redis_server.url, str(number)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    counts = [int(worker.communicate("go\n", timeout=60)[0]) for worker in workers]
    assert sum(count % 1000 for count in counts) == 300
    assert sum(count // 1000 for count in counts) == 300


def test_a_lost_redis_leaves_each_instance_its_share(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    storage = SharedStorage("goblin+" + redis_server.url, instances=2)
    assert storage.hit("a", 10, 60).allowed
    redis_server.stop()
    with caplog.at_level("INFO", "goblin_assistant.limits"):
        assert sum(storage.hit("a", 10, 60).allowed for _ in range(20)) == 5
        assert degraded() == 1
        assert storage.reserve("key:1", 100, 60, 50, "h1") == 0
        assert storage.reserve("key:1", 100, 60, 1, "h2") > 0
        storage.settle("key:1", "h1", 20)
        assert storage.reserve("key:1", 100, 60, 30, "h3") == 0
        storage.forget("a")
        redis_server.start()
        wait_until(lambda: not storage.degraded)
        assert degraded() == 0
        assert sum(storage.hit("a", 10, 60).allowed for _ in range(20)) == 10
    messages = [
        record.message for record in caplog.records if record.name == "goblin_assistant.limits"
    ]
    assert messages == ["rate_limiter_degraded", "rate_limiter_recovered"]
    storage.close()


def test_a_storage_that_is_closed_without_redis_leaves_nothing_degraded(
    redis_server: RedisServer,
) -> None:
    storage = SharedStorage("goblin+" + redis_server.url)
    redis_server.stop()
    storage.hit("a", 10, 60)
    assert degraded() == 1
    storage.close()
    assert degraded() == 0


def test_a_redis_that_hangs_costs_one_timeout_and_no_more(redis_server: RedisServer) -> None:
    storage = SharedStorage("goblin+" + redis_server.url)
    assert storage.hit("a", 10, 60).allowed
    redis_server.pause()
    try:
        begun = time.monotonic()
        for _ in range(200):
            storage.hit("a", 1000, 60)
        assert time.monotonic() - begun < 5 * shared.TIMEOUT_SECONDS
        assert storage.degraded
    finally:
        redis_server.resume()
    wait_until(lambda: not storage.degraded)
    storage.close()


def test_threads_that_lose_redis_together_start_one_return(redis_server: RedisServer) -> None:
    storage = SharedStorage("goblin+" + redis_server.url)
    redis_server.stop()
    at_once(lambda _: storage.hit("a", 10, 60), 20)
    assert sum(thread.name == "limits-redis" for thread in threading.enumerate()) == 1
    storage.close()


def test_a_redis_that_restarts_between_two_requests_is_not_a_loss(
    redis_server: RedisServer,
) -> None:
    storage = SharedStorage("goblin+" + redis_server.url)
    storage.hit("a", 10, 60)
    redis_server.stop()
    redis_server.start()
    assert storage.hit("a", 10, 60).allowed
    assert not storage.degraded
    storage.close()


@pytest.mark.parametrize("evicted", ["holds", "amounts"])
def test_an_evicted_key_of_a_pair_is_no_lost_server_and_counts_anew(
    storage: SharedStorage, redis_server: RedisServer, evicted: str
) -> None:
    client = redis.Redis.from_url(redis_server.url)
    assert storage.reserve("key:1", 1000, 60, 900, "h1") == 0
    assert client.delete(f"{shared.PREFIX}{{key:1}}:{evicted}") == 1
    assert storage.reserve("key:1", 1000, 60, 900, "h2") == 0
    assert storage.reserve("key:1", 1000, 60, 900, "h3") > 0
    storage.settle("key:1", "h2", 100)
    assert storage.reserve("key:1", 1000, 60, 900, "h4") == 0
    assert not storage.degraded
    client.close()


def test_a_hold_whose_amount_was_lost_ends_without_an_error(
    storage: SharedStorage, redis_server: RedisServer
) -> None:
    client = redis.Redis.from_url(redis_server.url)
    assert storage.reserve("key:1", 1000, 1, 900, "h1") == 0
    client.hdel(f"{shared.PREFIX}{{key:1}}:amounts", "h1")
    wait_until(lambda: storage.reserve("key:1", 2000, 1, 900, "h2") == 0)
    assert not storage.degraded
    client.close()


def test_a_key_of_another_type_is_deleted_and_no_lost_server(
    storage: SharedStorage, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    client = redis.Redis.from_url(redis_server.url)
    client.set(shared.PREFIX + "a", "text")
    with caplog.at_level("INFO", "goblin_assistant.limits"):
        assert storage.hit("a", 10, 60).allowed
        assert not storage.degraded
        assert [storage.hit("a", 2, 60).allowed for _ in range(3)] == [True, True, False]
    assert [record.message for record in caplog.records] == ["rate_limit_key_damaged"]
    client.close()


@pytest.mark.parametrize("setting", [("maxmemory", "1"), ("min-replicas-to-write", "3")])
def test_a_redis_that_answers_and_takes_no_writes_is_lost(
    storage: SharedStorage, redis_server: RedisServer, setting: tuple[str, str]
) -> None:
    client = redis.Redis.from_url(redis_server.url)
    storage.hit("a", 10, 60)
    client.config_set(*setting)
    assert storage.hit("a", 10, 60).allowed
    assert storage.degraded
    client.config_set(setting[0], "0")
    wait_until(lambda: not storage.degraded)
    client.close()
