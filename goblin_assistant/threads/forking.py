"""Clears, in a forked child, what belongs to its parent: queued lines and records, open sockets.

A server that forks after it has loaded the application (`gunicorn --preload`) copies all of them.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any

_methods: list[weakref.WeakMethod[Callable[[], Any]]] = []


def run_in_child(method: Callable[[], Any]) -> None:
    """Call a bound method in every child while its object lives. Python's own hooks are never
    removed."""
    _methods[:] = [known for known in _methods if known() is not None]
    _methods.append(weakref.WeakMethod(method))


def _in_child() -> None:
    for reference in list(_methods):
        method = reference()
        if method is not None:
            method()


os.register_at_fork(after_in_child=_in_child)
