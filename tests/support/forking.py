"""Forking in a process that runs threads, as a server does that loads the application first."""

from __future__ import annotations

import os
import signal
import warnings


def fork() -> int:
    """os.fork(). Python 3.12 and later warn when threads run; any other warning fails the test.

    A child that never returns is ended by a signal after a minute.
    """
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        child = os.fork()
    if not child:
        signal.alarm(60)
    else:
        others = [one for one in seen if "use of fork() may lead to deadlocks" not in str(one)]
        assert not others, [str(one) for one in others]
    return child
