"""What `serve` sets up in the process: CPU, scheduling, malloc, file descriptors, garbage
collector."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

# https://man7.org/linux/man-pages/man3/mallopt.3.html
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8


def limit_malloc() -> bool:
    """Use two malloc arenas, and return large blocks when freed. False without glibc.

    Measured: threads that hash passwords leave 53 to 90 MB in arenas, and 376 MB without this. A
    setting in the environment wins.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    done = True
    if "MALLOC_ARENA_MAX" not in os.environ:
        done = mallopt(_M_ARENA_MAX, 2) == 1
    if "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        done = mallopt(_M_MMAP_THRESHOLD, 1024 * 1024) == 1 and done
    return done


def pin_to_cpu(cpu: int) -> None:
    """Keep every thread, present and future, on one core. Raises OSError for a core that does not
    exist.

    Threads that share the GIL gain nothing from a second core. On one core a request takes half
    the CPU (measured).
    """
    if not hasattr(os, "sched_setaffinity"):
        raise OSError("pinning needs Linux")
    _for_each_thread(lambda thread: os.sched_setaffinity(thread, {cpu}))


def finish_before_switching() -> bool:
    """On one core, let a running thread finish before another that wakes up. Returns whether it is
    set.

    A thread that preempts another waits for the GIL at once. Measured with 32 chats at once: three
    thread switches per chat instead of five, and a 95th percentile that is a fifth lower. An
    operator's scheduling policy stays. https://man7.org/linux/man-pages/man7/sched.7.html,
    SCHED_BATCH
    """
    if not hasattr(os, "SCHED_BATCH") or len(os.sched_getaffinity(0)) > 1:
        return False
    try:
        if os.sched_getscheduler(0) != os.SCHED_OTHER:
            return False
        _for_each_thread(
            lambda thread: os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))
        )
    except OSError:  # a sandbox may forbid it; the server works without
        return False
    return True


def _for_each_thread(do: Callable[[int], None]) -> None:
    """For every thread that runs already, such as the log's writer. New threads inherit."""
    do(0)
    for task in Path("/proc/self/task").iterdir():
        try:
            do(int(task.name))
        except ProcessLookupError:
            continue


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one, at most 65,536, and return it. A chat
    takes two sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return wanted if soft == resource.RLIM_INFINITY else soft


NEW_OBJECTS = 10_000
"""How many more objects than before start a collection. Python's 700 are a few messages: reading
and translating 90,000 of them took two thirds of its time in collections that found nothing."""


def freeze_startup_objects() -> None:
    """Exempt every live object from collection, and start collecting (`__main__` stopped it).

    Without a collection before: it took 75 ms to find 0.1 MB.
    """
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS)
    gc.enable()
