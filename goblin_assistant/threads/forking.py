"""What a forked child must not take from its parent: queued lines and records, and sockets that both would talk on.

A server that loads the application before it forks (`gunicorn --preload`) copies all of them.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any

_methods: list[weakref.WeakMethod[Callable[[], Any]]] = []


def run_in_child(method: Callable[[], Any]) -> None:
    """Call a bound method in every child, as long as its object lives: Python never forgets a hook."""
    _methods[:] = [known for known in _methods if known() is not None]
    _methods.append(weakref.WeakMethod(method))


def _in_child() -> None:
    for reference in list(_methods):
        method = reference()
        if method is not None:
            method()


os.register_at_fork(after_in_child=_in_child)
