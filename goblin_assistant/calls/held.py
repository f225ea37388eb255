"""What a chat holds while it runs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("goblin_assistant.chat")


class Held:
    """Gives back in reverse order what was taken, whatever fails. Used by one thread.

    Not a contextlib.ExitStack: it costs a chat 2 us more, and about 5 us with a key's limits.
    """

    __slots__ = ("_correlation_id", "_releases")

    def __init__(self, correlation_id: str) -> None:
        self._correlation_id = correlation_id
        self._releases: list[tuple[Callable[..., None], tuple[Any, ...]]] = []

    def callback(self, release: Callable[..., None], *args: Any) -> None:
        """Remember to call `release(*args)`."""
        self._releases.append((release, args))

    def close(self) -> None:
        """Give everything back. Later calls do nothing."""
        while self._releases:
            release, args = self._releases.pop()
            try:
                release(*args)
            except Exception:  # the others are given back all the same
                logger.exception("release_failed", extra={"correlation_id": self._correlation_id})
