"""The console script, and `python -m goblin_assistant`.

`serve` executes itself once more, to turn off glibc's caches of small blocks per thread: they can
only be set before a program starts. With 160 threads they hold 6 MB after load and save nothing,
because Python's lock lets one thread allocate at a time (measured: no more CPU with 32 connections,
less with 128).
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys

TUNABLES = "GLIBC_TUNABLES"
"""https://sourceware.org/glibc/manual/latest/html_node/Memory-Allocation-Tunables.html"""
NO_THREAD_CACHES = "glibc.malloc.tcache_count=0"


def main() -> None:
    """Run the command line. GLIBC_TUNABLES in the environment wins."""
    if "serve" in sys.argv[1:2]:
        # By default they would end the process. The server has a handler for SIGHUP once it runs.
        # What is ignored stays so in the program that is executed below.
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if (
        "serve" in sys.argv[1:2]
        and sys.platform == "linux"
        and TUNABLES not in os.environ
        and sys.executable
    ):
        os.environ[TUNABLES] = NO_THREAD_CACHES
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    if "serve" in sys.argv[1:2]:
        _serve()
    else:
        from goblin_assistant.cli import main as command_line

        command_line()


def _serve() -> None:
    """Serve. Whatever prevents the start becomes one line of JSON and exit code 1.

    For example: no memory for an import, no thread, no descriptor, a folder that is read-only.
    """
    try:
        # Until the server listens (server/process.py): what a start makes stays alive, and
        # collections would cost it 70 ms (measured).
        gc.disable()
        from goblin_assistant.cli import main as command_line

        command_line()
    except Exception as error:
        _report(error)
        # Not sys.exit: an orderly shutdown may fail as well, for lack of memory.
        os._exit(1)


def _report(error: Exception) -> None:
    line = b'{"level":"CRITICAL","logger":"goblin_assistant.server","message":"cannot_start"}\n'
    try:
        line = _described(error)
    except Exception:  # no memory for the details: the bare line is enough
        pass
    with contextlib.suppress(OSError):
        os.write(1, line)


def _described(error: Exception) -> bytes:
    import json
    import socket
    from datetime import UTC, datetime

    text = str(error)[:500]
    instance = socket.gethostname()
    logging = sys.modules.get("goblin_assistant.logs.json_logging")
    if logging is not None:
        logging.flush(1.0)
        text, instance = logging.redact(text), logging.instance()
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    fields = {
        "timestamp": now.replace("+00:00", "Z"),
        "level": "CRITICAL",
        "logger": "goblin_assistant.server",
        "message": "cannot_start",
        "error": text or type(error).__name__,
        "kind": type(error).__name__,
        "where": where,
        "instance": instance,
    }
    return json.dumps(fields).encode() + b"\n"


if __name__ == "__main__":
    main()
