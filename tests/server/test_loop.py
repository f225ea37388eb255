"""The main loop tracks interest by socket, and threads are woken in reverse order."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from waitress import wasyncore

from goblin_assistant.server.loop import ChannelServer, WatchedMap
from goblin_assistant.server.workers import WorkerPool
from tests.conftest import wait_until


class Thing(wasyncore.dispatcher):  # type: ignore[misc]
    """One end of a socket pair that counts the loop's calls."""

    def __init__(self, sock: socket.socket, watched: WatchedMap) -> None:
        self.wants_read, self.wants_write = True, False
        self.asked = self.read = self.written = 0
        super().__init__(sock, watched)
        self.connected = True

    def readable(self) -> bool:
        self.asked += 1
        return self.wants_read

    def writable(self) -> bool:
        return self.wants_write

    def handle_read(self) -> None:
        self.read += 1
        self.recv(1024)

    def handle_write(self) -> None:
        self.written += 1
        self.wants_write = False

    def handle_close(self) -> None:
        self.close()


@pytest.fixture
def pair() -> Iterator[tuple[WatchedMap, Thing, socket.socket]]:
    """A map, a watched end, and the other end."""
    ours, theirs = socket.socketpair()
    watched = WatchedMap()
    thing = Thing(ours, watched)
    yield watched, thing, theirs
    thing.close()
    theirs.close()
    watched._epoll.close()


def test_bytes_that_arrive_are_read(pair: tuple[WatchedMap, Thing, socket.socket]) -> None:
    watched, thing, theirs = pair
    theirs.sendall(b"x")
    watched.turn(1.0)
    assert thing.read == 1


def test_a_connection_to_which_nothing_happens_is_not_asked_again(
    pair: tuple[WatchedMap, Thing, socket.socket],
) -> None:
    watched, thing, _ = pair
    watched.turn(0)
    before = thing.asked
    for _ in range(10):
        watched.turn(0)
    assert thing.asked == before


def test_a_change_is_seen_when_it_is_told(pair: tuple[WatchedMap, Thing, socket.socket]) -> None:
    watched, thing, _ = pair
    watched.turn(0)
    thing.wants_write = True
    watched.turn(0)
    assert thing.written == 0
    watched.tell(thing)
    watched.turn(0)
    assert thing.written == 1


def test_who_wants_nothing_is_left_alone_until_it_tells(
    pair: tuple[WatchedMap, Thing, socket.socket],
) -> None:
    watched, thing, theirs = pair
    thing.wants_read = False
    theirs.sendall(b"x")
    watched.turn(0)
    assert thing.read == 0
    thing.wants_read = True
    watched.tell(thing)
    watched.turn(0)
    assert thing.read == 1


def test_a_closed_connection_is_forgotten_even_with_a_change_to_tell(
    pair: tuple[WatchedMap, Thing, socket.socket],
) -> None:
    watched, thing, theirs = pair
    watched.turn(0)
    theirs.close()
    watched.turn(1.0)
    assert not watched
    watched.tell(thing)
    watched.turn(0)
    assert thing.interest == 0


class FakeListener:
    """Counts its wake-ups."""

    name = "listener"
    keep_alive_seconds = 0.0
    add_task = adj = application = effective_port = server_name = body_limits = bodies = (
        None  # of a real one
    )

    def __init__(self, watched: WatchedMap) -> None:
        self.watched = watched
        self.woken = 0

    def pull_trigger(self) -> None:
        self.woken += 1


def test_the_loop_is_woken_only_for_something_new(
    pair: tuple[WatchedMap, Thing, socket.socket],
) -> None:
    watched, thing, _ = pair
    watched.turn(0)
    listener = FakeListener(watched)
    server = ChannelServer(listener, thing)
    server.pull_trigger()
    assert listener.woken == 0
    thing.wants_write = True
    server.pull_trigger()
    assert listener.woken == 1
    watched.turn(0)
    assert thing.written == 1
    assert server.name == "listener"


def test_events_of_listeners_come_last() -> None:
    watched = WatchedMap()
    order: list[str] = []

    class Noted(Thing):
        def handle_read_event(self) -> None:
            order.append("connection")

        def handle_accept(self) -> None:
            order.append("listener")

    server = socket.create_server(("127.0.0.1", 0))
    listener = Noted(server, watched)
    listener.handle_read_event = listener.handle_accept  # type: ignore[method-assign]
    listener.accepting = True
    ours, theirs = socket.socketpair()
    connection = Noted(ours, watched)
    theirs.sendall(b"x")
    client = socket.create_connection(server.getsockname())
    poller = select.poll()
    poller.register(server, select.POLLIN)
    assert poller.poll(5000)
    watched.turn(1.0)
    assert order == ["connection", "listener"]
    for closing in (listener, connection, theirs, client):
        closing.close()
    watched._epoll.close()


class Task:
    """A task that records its thread and waits until it may end."""

    def __init__(self) -> None:
        self.thread = ""
        self.started = threading.Event()
        self.may_end = threading.Event()

    def service(self) -> None:
        self.thread = threading.current_thread().name
        self.started.set()
        self.may_end.wait(30)


@pytest.fixture
def threads() -> Iterator[WorkerPool]:
    """Four threads, all asleep."""
    dispatcher = WorkerPool()
    dispatcher.set_thread_count(4)
    wait_until(lambda: len(dispatcher._asleep) == 4)
    yield dispatcher
    dispatcher.shutdown(timeout=5)
    assert not dispatcher.threads


def do(dispatcher: WorkerPool) -> Task:
    """Start a task and wait until a thread has it."""
    task = Task()
    dispatcher.add_task(task)
    assert task.started.wait(30)
    return task


def test_one_task_after_the_other_stays_on_one_thread(threads: WorkerPool) -> None:
    names = set()
    for _ in range(10):
        task = do(threads)
        names.add(task.thread)
        task.may_end.set()
        wait_until(lambda: len(threads._asleep) == 4)
    assert len(names) == 1


def test_tasks_at_once_have_threads_of_their_own_and_the_rest_wait(threads: WorkerPool) -> None:
    running = [do(threads) for _ in range(4)]
    assert len({task.thread for task in running}) == 4
    assert threads.active_count == 4
    waiting = Task()
    threads.add_task(waiting)
    assert not waiting.started.is_set()
    running[0].may_end.set()
    assert waiting.started.wait(30)
    for task in (*running, waiting):
        task.may_end.set()
    wait_until(lambda: threads.active_count == 0)


def test_a_task_that_raises_does_not_cost_a_thread(
    threads: WorkerPool, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def service(self) -> None:
            raise SystemExit

    for _ in range(8):
        threads.add_task(Broken())
    wait_until(lambda: threads.active_count == 0 and not threads.queue)
    assert len(threads.threads) == 4
    task: Any = do(threads)
    task.may_end.set()


class Noted:
    """A task that records that it ran."""

    def __init__(self, name: str, done: list[str], *, urgent: bool = False) -> None:
        self.name, self.done, self.urgent = name, done, urgent

    def service(self) -> None:
        self.done.append(self.name)


def test_an_urgent_task_is_done_before_two_hundred_that_came_earlier(threads: WorkerPool) -> None:
    done: list[str] = []
    running = [do(threads) for _ in range(4)]
    threads.collect(200)
    for _ in range(200):
        threads.add_task(Noted("refusal", done))
    threads.add_task(Noted("health", done, urgent=True))
    running[0].may_end.set()
    wait_until(lambda: done)
    wait_until(lambda: not threads.hand_out() and len(done) == 201)
    assert done[0] == "health"
    for task in running:
        task.may_end.set()


def test_a_flood_of_urgent_tasks_leaves_every_other_turn_to_the_rest(threads: WorkerPool) -> None:
    done: list[str] = []
    running = [do(threads) for _ in range(4)]
    for number in range(20):
        threads.add_task(Noted(f"health {number}", done, urgent=True))
    threads.add_task(Noted("chat 1", done))
    threads.add_task(Noted("chat 2", done))
    running[0].may_end.set()
    wait_until(lambda: len(done) == 22)
    assert done[:4] == ["health 0", "chat 1", "health 1", "chat 2"]
    for task in running:
        task.may_end.set()


def test_a_burst_wakes_few_threads_at_once_and_all_of_it_is_done(threads: WorkerPool) -> None:
    threads.collect(200)
    tasks = [Task() for _ in range(4)]
    for task in tasks:
        threads.add_task(task)
    assert not any(task.started.is_set() for task in tasks)
    assert len(threads._asleep) == 4
    wait_until(lambda: not threads.hand_out())
    assert all(task.started.wait(30) for task in tasks)
    for task in tasks:
        task.may_end.set()


def test_what_is_left_when_the_threads_stop_is_cancelled_urgent_or_not() -> None:
    dispatcher = WorkerPool()
    cancelled = []

    class Left:
        urgent = False

        def cancel(self) -> None:
            cancelled.append(self.urgent)

    class LeftUrgent(Left):
        urgent = True

    dispatcher.set_thread_count(1)
    wait_until(lambda: len(dispatcher._asleep) == 1)
    running = do(dispatcher)
    for task in (Left(), LeftUrgent()):
        dispatcher.add_task(task)
    dispatcher.shutdown(timeout=0)
    assert sorted(cancelled) == [False, True]
    running.may_end.set()
    wait_until(lambda: not dispatcher.threads)
