"""Clears what a forked child copied from its parent: queued log lines and records, open sockets.

This matters for servers that fork after loading the application (`gunicorn --preload`).
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any

_methods: list[weakref.WeakMethod[Callable[[], Any]]] = []


def run_in_child(method: Callable[[], Any]) -> None:
    """Call a bound method in every forked child, as long as its object lives. os.register_at_fork
    would keep the object alive: its hooks cannot be removed."""
    _methods[:] = [known for known in _methods if known() is not None]
    _methods.append(weakref.WeakMethod(method))


def _in_child() -> None:
    for reference in list(_methods):
        method = reference()
        if method is not None:
            method()


os.register_at_fork(after_in_child=_in_child)
