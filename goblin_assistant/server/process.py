"""What `serve` arranges with the operating system: one core and few switches on it, few malloc arenas, enough file descriptors, a quiet
garbage collector."""

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
    """Two arenas, and large blocks given back when freed; False where the C library is not glibc.

    Measured: threads that hash passwords leave 376 MB in arenas otherwise, 53 to 90 MB like this. A setting in the
    environment wins.
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
    """Keep every thread of this process, those to come too, on one core. Raises OSError for a core that there is not.

    Threads that share Python's lock gain nothing from a second core and lose by being handed to and fro: measured, half
    the CPU per request.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise OSError("pinning needs Linux")
    _for_each_thread(lambda thread: os.sched_setaffinity(thread, {cpu}))


def finish_before_switching() -> bool:
    """Where this process has one core: a thread that wakes up waits until the one that runs gives way, instead of pushing
    it off the core. Returns whether that was arranged; a scheduling policy that the operator chose stays.

    It would be pushed back a moment later: the one that runs holds Python's lock, or is about to take it again. Measured,
    32 chats at once: two switches of threads a chat fewer (of five), and the 95th percentile a fifth lower.
    https://man7.org/linux/man-pages/man7/sched.7.html, SCHED_BATCH
    """
    if not hasattr(os, "SCHED_BATCH") or len(os.sched_getaffinity(0)) > 1:
        return False
    try:
        if os.sched_getscheduler(0) != os.SCHED_OTHER:
            return False
        _for_each_thread(
            lambda thread: os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))
        )
    except OSError:  # a sandbox may forbid it, and the server works without
        return False
    return True


def _for_each_thread(do: Callable[[int], None]) -> None:
    """Threads to come inherit it from the one that starts them; the log's writer and others run already."""
    do(0)
    for task in Path("/proc/self/task").iterdir():
        try:
            do(int(task.name))
        except ProcessLookupError:
            continue


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one (at most 65,536) and return it: each chat takes two
    sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return wanted if soft == resource.RLIM_INFINITY else soft


def pause_garbage_collector() -> None:
    """No collections until `freeze_startup_objects`: what starting makes stays alive, and looking it through again and
    again is a tenth of a second (measured)."""
    gc.disable()


def freeze_startup_objects() -> None:
    """Everything alive now stays: the collector need not look at it again. From now on it runs.

    Without a collection before: it took 75 ms to find 0.1 MB.
    """
    gc.freeze()
    gc.enable()
