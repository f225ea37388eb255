"""Slots, caps and a key's own concurrency."""

from __future__ import annotations

import threading

import pytest

from goblin_assistant.errors import NoFreeSlot, RateLimitExceeded
from goblin_assistant.metrics import REGISTRY
from goblin_assistant.providers.base import CallCancelled
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
