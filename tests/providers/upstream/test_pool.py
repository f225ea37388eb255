"""What the pool of connections to a provider promises to its callers."""

from __future__ import annotations

import sys
import threading
from types import FrameType
from typing import Any

from goblin_assistant.providers.upstream.connections import TrackedPool


def test_a_finaliser_may_give_a_connection_back_at_any_line_of_the_pool() -> None:
    # Garbage collection may close a forgotten stream while this thread is inside the pool.
    pool = TrackedPool("127.0.0.1", 1, maxsize=4)
    connections = pool.pool
    assert connections is not None
    connections.get(block=False)  # leaves a place for the one that is given back
    connections.get(block=False)
    given_back = 0

    def at_each_line(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal given_back
        if frame.f_code.co_name not in ("get", "put"):
            return None
        if event == "line":
            given_back += 1
            connections.put(None, block=False)
            connections.get(block=False)
        return at_each_line

    def use() -> None:
        sys.settrace(at_each_line)
        try:
            for _ in range(3):
                connections.put(connections.get(block=False), block=False)
        finally:
            sys.settrace(None)

    thread = threading.Thread(target=use, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert given_back > 0
