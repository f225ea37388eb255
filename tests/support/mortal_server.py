"""`goblin-assistant serve` whose deadlines thread dies when the file MORTAL_ORDER appears.

From outside that thread cannot be killed, and the alert on its death has a runbook that is tried.
"""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path

from goblin_assistant.__main__ import main

_PAUSE = threading.Event()


def _obey(order: Path) -> None:
    """Kill the thread each time that the file is there, and remove the file then."""
    while not _PAUSE.wait(0.05):
        if not order.exists():
            continue
        for thread in threading.enumerate():
            if thread.name == "goblin-upstream-deadlines" and thread.ident is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(thread.ident), ctypes.py_object(RuntimeError)
                )
                order.unlink(missing_ok=True)


if __name__ == "__main__":
    threading.Thread(
        target=_obey, args=(Path(os.environ["MORTAL_ORDER"]),), name="obey", daemon=True
    ).start()
    main()
