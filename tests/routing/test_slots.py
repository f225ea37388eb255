"""Slots, caps and a key's own concurrency."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from goblin_assistant.errors import NoFreeSlot, RateLimitExceeded
from goblin_assistant.metrics import REGISTRY
from goblin_assistant.providers.base import CallCancelled
from goblin_assistant.routing import slots as slots_module
from goblin_assistant.routing.slots import Caps, ChatSlots, KeyConcurrency
from goblin_assistant.threads.budget import ThreadBudget
from tests.conftest import wait_until
from tests.support.threads import at_once


def pool(limit: int, wait: float, waiting: int = 100, threads: int = 100) -> ChatSlots:
    return ChatSlots(limit, wait, waiting, ThreadBudget(threads))


def test_a_chat_beyond_the_slots_is_refused_with_retry_after() -> None:
    slots = pool(2, wait=0.01)
    slots.acquire()
    slots.acquire()
    with pytest.raises(NoFreeSlot) as refused:
        slots.acquire()
    assert refused.value.retry_after == 1
    assert REGISTRY.get_sample_value("chat_slots_in_use") == 2
    slots.release()
    slots.acquire()
    slots.release()
    slots.release()
    assert REGISTRY.get_sample_value("chat_slots_in_use") == 0


def test_a_waiting_chat_gets_the_slot_that_becomes_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "goblin_assistant.routing.slots._POLL_SECONDS", 60.0
    )  # so it is woken, and does not poll
    slots = pool(1, wait=120)
    slots.acquire()
    got = threading.Event()
    waiter = threading.Thread(target=lambda: (slots.acquire(), got.set()))
    waiter.start()
    wait_until(lambda: slots._waiting == 1)
    assert not got.is_set()
    slots.release()
    assert got.wait(30)
    waiter.join()


def test_many_threads_never_hold_more_than_there_are_and_leave_none_taken() -> None:
    slots = pool(3, wait=30)
    holders: set[int] = set()
    most: list[int] = []

    def chats(_: int) -> None:
        for _ in range(300):
            slots.acquire()
            holders.add(threading.get_ident())
            most.append(len(holders))
            holders.discard(threading.get_ident())
            slots.release()

    at_once(chats, 12)
    assert len(most) == 3600
    assert max(most) <= 3
    assert REGISTRY.get_sample_value("chat_slots_in_use") == 0
    assert slots._waiting == 0


def test_a_waiting_chat_whose_client_has_gone_takes_no_slot() -> None:
    slots = pool(1, wait=10)
    slots.acquire()
    with pytest.raises(CallCancelled):
        slots.acquire(client_gone=lambda: True)
    slots.release()
    assert slots.acquire() == 0.0


def test_a_cap_holds_under_threads_and_forgets_free_names() -> None:
    caps = Caps()
    assert sum(at_once(lambda _: caps.acquire("a", 5), 16)) == 5
    for _ in range(5):
        caps.release("a")
    assert caps.held("a") == 0
    assert caps._held == {}


def test_a_key_beyond_its_own_concurrency_gets_429() -> None:
    keys = KeyConcurrency()
    keys.acquire("key:1", 1)
    with pytest.raises(RateLimitExceeded, match="1 at once"):
        keys.acquire("key:1", 1)
    keys.acquire("key:2", 1)
    keys.release("key:1")
    keys.acquire("key:1", 1)


def test_those_who_wait_for_a_slot_are_counted_and_the_next_one_is_refused_at_once() -> None:
    threads = ThreadBudget(10)
    slots = ChatSlots(1, 60, 2, threads)
    slots.acquire()
    waiters = [threading.Thread(target=slots.acquire) for _ in range(2)]
    for waiter in waiters:
        waiter.start()
    wait_until(lambda: REGISTRY.get_sample_value("chat_slots_waiting") == 2)
    assert threads.held == 3
    with pytest.raises(NoFreeSlot) as refused:
        slots.acquire(client_gone=lambda: pytest.fail("it has waited"))
    assert refused.value.retry_after
    for _ in range(2):
        slots.release()
    for waiter in waiters:
        waiter.join(30)
    slots.release()
    assert (threads.held, slots._taken, slots._waiting) == (0, 0, 0)


def test_a_chat_takes_none_of_the_last_threads_though_a_slot_is_free() -> None:
    threads = ThreadBudget(2)
    slots = ChatSlots(2, 60, 2, threads)
    assert threads.take()  # a login
    slots.acquire()
    with pytest.raises(NoFreeSlot, match="threads"):
        slots.acquire()
    threads.give_back()
    slots.acquire()


def test_a_chat_that_waited_in_vain_gives_its_thread_back() -> None:
    threads = ThreadBudget(5)
    slots = ChatSlots(1, 0.01, 1, threads)
    slots.acquire()
    with pytest.raises(NoFreeSlot):
        slots.acquire()
    assert threads.held == 1


def waited() -> tuple[float, float]:
    """How many waits for a slot were observed, and how long they were together."""
    labels = {"queue": "chat_slot"}
    count = REGISTRY.get_sample_value("queue_wait_seconds_count", labels)
    total = REGISTRY.get_sample_value("queue_wait_seconds_sum", labels)
    assert count is not None
    assert total is not None
    return count, total


def test_a_chat_that_waited_takes_one_slot_and_tells_how_long_it_waited() -> None:
    threads = ThreadBudget(5)
    slots = ChatSlots(2, 60, 5, threads)
    slots.acquire()
    slots.acquire()
    count, total = waited()
    told: list[float] = []
    waiter = threading.Thread(target=lambda: told.append(slots.acquire()))
    waiter.start()
    wait_until(lambda: slots.waiting == 1)
    assert (slots.in_use, slots.full) == (2, True)
    slots.release()
    waiter.join(60)
    assert (slots.in_use, slots.waiting, threads.held) == (2, 0, 2)
    assert told[0] > 0
    assert waited()[0] == count + 1
    assert waited()[1] > total
    slots.release()
    assert (slots.in_use, slots.full, threads.held) == (1, False, 1)


def test_a_pool_of_many_slots_is_full_when_all_are_taken() -> None:
    slots = pool(300, wait=0, threads=400)
    for _ in range(299):
        slots.acquire()
    assert not slots.full
    slots.acquire()
    assert slots.full
    with pytest.raises(NoFreeSlot):
        slots.acquire()


def test_a_queue_of_many_is_full_when_as_many_wait() -> None:
    slots = pool(1, wait=60, waiting=int("300"))
    slots.acquire()
    slots._waiting = int("300")
    with pytest.raises(NoFreeSlot):
        slots.acquire(client_gone=lambda: pytest.fail("it has waited"))


def test_a_name_has_no_more_than_its_cap_however_large_it_is() -> None:
    caps = Caps()
    assert [caps.acquire("a", 300) for _ in range(301)] == [True] * 300 + [False]


class Waiting:
    """A chat that waits on a clock that its test turns, each time when it looks for its client."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, wait: float, *steps: float) -> None:
        self.now = 4.0
        self.looks = 0
        self.steps = steps
        monkeypatch.setattr(slots_module, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(slots_module, "_POLL_SECONDS", 0.001)
        self.slots = pool(int("300"), wait, threads=400)
        for _ in range(300):
            self.slots.acquire()

    def look(self) -> bool:
        """Whether the client has gone: it never has."""
        if self.looks == len(self.steps):
            pytest.fail("it waits longer than it should")
        self.now += self.steps[self.looks]
        self.looks += 1
        return False


def test_the_time_that_a_chat_waited_is_told_and_observed_exactly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chat = Waiting(monkeypatch, 60, 2.0, 3.5)

    def look() -> bool:
        gone = chat.look()
        if chat.looks == 2:
            chat.slots.release()
        return gone

    count, total = waited()
    assert chat.slots.acquire(client_gone=look) == 5.5
    assert waited() == (count + 1, pytest.approx(total + 5.5))
    assert (chat.slots.in_use, chat.slots.waiting) == (300, 0)


@pytest.mark.parametrize("steps", [(59.0, 1.0), (61.0,)])
def test_a_chat_waits_until_its_time_is_over_and_no_longer(
    monkeypatch: pytest.MonkeyPatch, steps: tuple[float, ...]
) -> None:
    chat = Waiting(monkeypatch, 60, *steps)
    with pytest.raises(NoFreeSlot):
        chat.slots.acquire(client_gone=chat.look)
    assert chat.looks == len(steps)


def test_a_chat_that_finds_a_free_slot_is_observed_as_one_that_did_not_wait() -> None:
    count, total = waited()
    pool(1, wait=10).acquire()
    assert waited() == (count + 1, total)


def test_a_refused_chat_is_told_to_come_back_after_the_time_that_others_wait() -> None:
    slots = pool(1, wait=5, waiting=0)
    assert REGISTRY.get_sample_value("chat_slots_max") == 1
    slots.acquire()
    with pytest.raises(NoFreeSlot, match="all 1 chat slots are busy") as refused:
        slots.acquire()
    assert refused.value.retry_after == 5


def test_where_chats_do_not_wait_they_are_refused_at_once() -> None:
    slots = pool(1, wait=0)
    slots.acquire()
    count, _ = waited()
    with pytest.raises(NoFreeSlot):
        slots.acquire(client_gone=lambda: pytest.fail("it has waited"))
    assert waited()[0] == count


def test_a_place_given_back_leaves_the_others_taken() -> None:
    caps = Caps()
    assert [caps.acquire("a", 2) for _ in range(3)] == [True, True, False]
    assert caps.acquire("b", 1)
    caps.release("a")
    assert (caps.held("a"), caps.held("b"), caps.held("c")) == (1, 1, 0)


def test_a_refusal_for_a_keys_own_concurrency_is_counted_and_says_when_to_come_back() -> None:
    labels = {"group": "concurrency", "scope": "key"}
    before = REGISTRY.get_sample_value("rate_limit_rejections_total", labels) or 0
    keys = KeyConcurrency()
    keys.acquire("key:1", 1)
    with pytest.raises(RateLimitExceeded) as refused:
        keys.acquire("key:1", 1)
    assert refused.value.retry_after == 1
    assert refused.value.param is None
    assert REGISTRY.get_sample_value("rate_limit_rejections_total", labels) == before + 1


def test_slots_are_only_ever_lowered() -> None:
    slots = pool(3, wait=1, waiting=2)
    slots.lower(5, 5)
    assert (slots.limit, slots._most_waiting) == (3, 2)
    slots.lower(1, 0)
    slots.acquire()
    assert slots.full
    with pytest.raises(NoFreeSlot):  # at once
        slots.acquire()
