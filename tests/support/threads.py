"""Threads that begin together."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def at_once(work: Callable[[int], T], count: int) -> list[T]:
    """Call `work` with 0 to `count - 1`, each in a thread of its own, all at the same moment.

    Returns the results. Raises what a call raised.
    """
    start = threading.Barrier(count)

    def begin(number: int) -> T:
        start.wait(60)
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(begin, n) for n in range(count)]]
