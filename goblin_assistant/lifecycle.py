"""What happens once between `create_app` and the first response, and at the end.

The start migrates the tables (in development), looks at them, imports the journals of killed
processes and starts the monitor. `goblin-assistant serve` calls `start` before it listens; under
another WSGI server the first request does. `create_app` does no I/O, so that commands and tests
can make an application without a database.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from flask import Flask
from sqlalchemy.exc import DBAPIError

from goblin_assistant.database.compatibility import IncompatibleSchema
from goblin_assistant.database.failures import does_not_answer, explain
from goblin_assistant.database.upgrade import upgrade
from goblin_assistant.runtime import Runtime

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

logger = logging.getLogger("goblin_assistant")


class _StartOnce:
    def __init__(self, app: Flask, inner: WSGIApplication) -> None:
        self._app = app
        self._inner = inner
        self._lock = threading.Lock()
        self._started = False

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if not self._started:
            self.start()
        return self._inner(environ, start_response)

    def start(self) -> None:
        with self._lock:
            if not self._started:
                self._started = True
                _start(self._app)


def init_app(app: Flask) -> None:
    """Start on the first request, under any WSGI server."""
    starter = _StartOnce(app, app.wsgi_app)
    app.extensions["goblin_start"] = starter
    app.wsgi_app = starter  # type: ignore[method-assign]


def start(app: Flask) -> None:
    """Start now, once."""
    starter: Any = app.extensions["goblin_start"]
    starter.start()


def _start(app: Flask) -> None:
    runtime: Runtime = app.extensions["goblin"]
    if not runtime.config.production:
        try:
            upgrade(runtime.engine)
        except IncompatibleSchema as error:
            logger.error("schema_not_served", extra={"reason": str(error)})
        except DBAPIError as error:
            if does_not_answer(error):
                raise
            logger.error("schema_not_served", extra={"reason": explain(error)})
    with contextlib.suppress(Exception):  # the monitor asks again, and reports it
        runtime.monitor.check_schema()
    if runtime.monitor.refusal is None:
        # With PostgreSQL a connection is a process, and takes a busy server long to make.
        with contextlib.suppress(Exception):
            runtime.accounts.warm()
            runtime.usage.warm()
    try:
        if runtime.monitor.refusal is None:
            runtime.usage.import_orphaned_journals()
    except Exception:
        # Without a database the instance starts all the same: the journals stay, and the monitor
        # imports them later.
        logger.exception("journal_import_failed")
    runtime.tracing.start()
    runtime.monitor.start()


def stop(app: Flask) -> None:
    """Stop the monitor and close everything. For the end of a process or a test."""
    runtime: Runtime = app.extensions["goblin"]
    runtime.monitor.stop()
    runtime.accounts.keys.flush_last_used()
    runtime.accounts.close()
    runtime.usage.close()
    runtime.registry.close()
    runtime.rate_limits.close()
    runtime.tracing.stop()
    runtime.engine.dispose()
