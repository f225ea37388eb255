"""Whether an instance is ready: whether it can serve chats.

A database that does not answer does not end readiness while callers that were seen lately go on.
All instances lose a database at the same moment: a balancer that takes them all out turns an outage
that few notice into a complete one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from goblin_assistant.health.services import REQUIRED, Services

logger = logging.getLogger("goblin_assistant.health")


class Readiness:
    """The answer of /health/ready, and a log line when it changes.

    `ask_schema` says why this version may not serve with the database's tables. It is asked until
    it returns None once: in a rolling upgrade, the next version's migration must not take this
    version's instances out of service. `serves_callers` says whether some caller would be served
    without the database.
    """

    def __init__(
        self,
        services: Services,
        ask_schema: Callable[[], str | None] | None,
        serves_callers: Callable[[], bool],
    ) -> None:
        self.draining = False
        self._services = services
        self._ask_schema = ask_schema
        self._serves_callers = serves_callers
        self._schema_problem = None if ask_schema is None else "tables not looked at yet"
        self._lock = threading.Lock()
        self._logged: list[str] | None = None

    def reasons(self) -> list[str]:
        """Why the instance cannot serve chats; empty when it can."""
        reasons = ["shutting down"] if self.draining else []
        required = self._services.state(REQUIRED)
        if required is not None:
            status, error = required
            if status == "unknown":
                reasons.append(f"{REQUIRED}: not checked yet")
            elif status == "unhealthy" and not self._goes_on():
                reasons.append(f"{REQUIRED}: {error}")
            elif status == "healthy" and self._schema_problem is not None:
                reasons.append(f"{REQUIRED}: {self._schema_problem}")
        return reasons

    def _goes_on(self) -> bool:
        return self._schema_problem is None and self._serves_callers()

    def check_schema(self) -> None:
        """Look at the tables, unless this version was found to serve with them."""
        if self._schema_problem is not None and self._ask_schema is not None:
            self._schema_problem = self._ask_schema()

    def note(self) -> None:
        """Log a change: ready, not ready, or not ready for another reason. At the start it waits
        for the first check of the database."""
        required = self._services.state(REQUIRED)
        if required is not None and required[0] == "unknown":
            return
        reasons = self.reasons()
        with self._lock:
            if reasons == self._logged:
                return
            self._logged = reasons
        if not reasons:
            logger.info("ready")
            return
        level = logging.INFO if self.draining else logging.WARNING
        logger.log(level, "not_ready", extra={"reasons": reasons})
