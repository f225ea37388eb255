"""Refuses every request while this release may not serve with the database's newer tables.

Health and metrics still answer: they say what is wrong.
"""

from __future__ import annotations

from flask import Flask, request

from goblin_assistant.errors import Unavailable
from goblin_assistant.runtime import Runtime

RETRY_SECONDS = 30


def init_app(app: Flask) -> None:
    """Refuse before credentials are looked up: that reads the tables."""

    def refuse() -> None:
        runtime: Runtime = app.extensions["goblin"]
        reason = runtime.monitor.refusal
        if reason is not None and not _answers_always(request.path):
            raise Unavailable(reason, retry_after=RETRY_SECONDS)

    app.before_request(refuse)


def _answers_always(path: str) -> bool:
    return path in ("/health", "/metrics") or path.startswith("/health/")
