"""The console script, and `python -m goblin_assistant`.

`serve` begins anew once, in the same process, with glibc's caches of small blocks for each thread turned off: they can
only be set before a program starts. With 160 threads they hold 6 MB after load, for nothing: Python's lock lets one
thread at a time allocate anyway (measured: no more CPU with 32 connections, less with 128).
"""

from __future__ import annotations

import os
import sys

TUNABLES = "GLIBC_TUNABLES"
"""https://sourceware.org/glibc/manual/latest/html_node/Memory-Allocation-Tunables.html"""
NO_THREAD_CACHES = "glibc.malloc.tcache_count=0"


def main() -> None:
    """Run the command line. GLIBC_TUNABLES in the environment wins."""
    if "serve" in sys.argv[1:2] and sys.platform == "linux" and TUNABLES not in os.environ and sys.executable:
        os.environ[TUNABLES] = NO_THREAD_CACHES
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    from goblin_assistant.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
