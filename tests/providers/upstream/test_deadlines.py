"""Deadlines: no lock blocks their thread, no exception ends it, and a gauge shows whether it
runs."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator

import pytest

from goblin_assistant.metrics import REGISTRY
from goblin_assistant.providers.base import Call, Timeout
from goblin_assistant.providers.upstream.client import Timeouts, UpstreamClient
from goblin_assistant.providers.upstream.deadlines import deadlines
from tests.conftest import ROOT, wait_until
from tests.support.fake_upstream import SILENCE, FakeUpstream, Reply
from tests.support.forking import fork


@pytest.fixture
def client(fake_upstream: FakeUpstream) -> Iterator[UpstreamClient]:
    client = UpstreamClient("up", fake_upstream.url, {}, Timeouts(2, 30, 30), 8)
    yield client
    client.close()
    wait_until(lambda: deadlines.active() == 0)


def run_python(script: str, *arguments: str, seconds: float = 30) -> str:
    """Run a script in its own process, which is killed when it hangs."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


DROP = """
import gc, sys
from goblin_assistant.providers.base import Call
from goblin_assistant.providers.upstream.client import Timeouts, UpstreamClient
from goblin_assistant.providers.upstream.deadlines import ownership

gc.disable()
client = UpstreamClient("up", sys.argv[1], {}, Timeouts(2, 30, 30), 4)

def drop():
    stream = client.post_sse("/", b"", Call())
    next(stream)
    cycle = [stream]
    cycle.append(cycle)
"""


def test_garbage_collection_under_the_lock_does_not_freeze_the_process(
    fake_upstream: FakeUpstream,
) -> None:
    fake_upstream.default = Reply.sse([b"data: 1\n\n", SILENCE])
    script = """
    drop()
    with ownership:
        gc.collect()  # as an allocation under the lock may
    print("went on")
    """
    assert run_python(DROP + textwrap.dedent(script), fake_upstream.url) == "went on\n"
    wait_until(lambda: fake_upstream.open_connections == 0)


def test_garbage_collection_at_every_allocation_freezes_no_call(
    fake_upstream: FakeUpstream,
) -> None:
    fake_upstream.default = Reply.sse([b"data: 1\n\n", SILENCE])
    script = """
    gc.enable()
    gc.set_threshold(1)
    for _ in range(20):
        drop()
    gc.collect()
    print("went on")
    """
    assert run_python(DROP + textwrap.dedent(script), fake_upstream.url, seconds=60) == "went on\n"


class Odd(Call):
    """A call whose deadline cannot be compared with a clock."""

    def __init__(self) -> None:
        super().__init__()
        self.deadline = None  # type: ignore[assignment]


def test_one_odd_exchange_leaves_the_deadlines_of_all_others_in_force(
    client: UpstreamClient, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.default = Reply.raw(SILENCE)
    odd = deadlines.watch(Odd())
    with pytest.raises(Timeout):
        run_bounded(lambda: client.post("/", b"", Call(deadline=time.monotonic() + 0.6)))
    deadlines.release(odd)


def test_an_exchange_that_cannot_be_checked_is_cut(
    client: UpstreamClient, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.default = Reply.sse([b"data: 1\n\n", SILENCE])
    stream = client.post_sse("/", b"", (call := Call()))
    next(stream)
    call.deadline = None  # type: ignore[assignment]
    with pytest.raises(Timeout, match="could not be watched"):
        run_bounded(lambda: next(stream))


def run_bounded(work: object, seconds: float = 10) -> None:
    """Run `work` in a thread. Raises what it raises, and fails when it does not end."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()  # type: ignore[operator]
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "the call hangs: nobody looks at its deadline"
    if raised:
        raise raised[0]


def kill(thread: threading.Thread) -> None:
    """End a thread with an exception that it does not handle."""
    assert thread.ident is not None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit)
    )
    wait_until(lambda: not thread.is_alive(), what="the thread to end")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_deadlines_thread_is_seen_and_started_again(
    client: UpstreamClient, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.default = Reply.raw(SILENCE)
    waiting = deadlines.watch(Call())
    (thread,) = (
        thread for thread in threading.enumerate() if thread.name == "goblin-upstream-deadlines"
    )
    kill(thread)
    wait_until(
        lambda: REGISTRY.get_sample_value("deadlines_thread_up") == 0,
        10,
        what="the gauge to say so",
    )
    assert REGISTRY.get_sample_value("deadlines_thread_up") == 1, "the scrape has started another"
    (thread,) = (
        thread for thread in threading.enumerate() if thread.name == "goblin-upstream-deadlines"
    )
    kill(thread)
    with pytest.raises(Timeout):
        run_bounded(lambda: client.post("/", b"", Call(deadline=time.monotonic() + 0.3)))
    deadlines.release(waiting)


def test_an_idle_connection_is_not_used_by_a_forked_process(
    client: UpstreamClient, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.default = Reply.plain(200, b"{}")
    client.post("/", b"", Call())
    child = fork()
    if child == 0:
        try:
            os._exit(7 if client.post("/", b"", Call()) == b"{}" else 1)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    client.post("/", b"", Call())
    assert fake_upstream.connections == 2, "one of the parent, one of the child"


def test_streams_dropped_in_cycles_give_their_connections_back(
    client: UpstreamClient, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.default = Reply.sse([b"data: 1\n\n", SILENCE])
    for _ in range(5):
        stream = client.post_sse("/", b"", Call())
        next(stream)
        cycle: list[object] = [stream]
        cycle.append(cycle)
        del stream, cycle
    gc.collect()
    wait_until(lambda: fake_upstream.open_connections == 0)
    assert deadlines.active() == 0
