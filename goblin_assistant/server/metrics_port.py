"""GOBLIN_METRICS_PORT: a second waitress with /metrics and nothing else."""

from __future__ import annotations

import logging
import threading

from waitress import create_server

from goblin_assistant.config import Config
from goblin_assistant.web.metrics_endpoint import standalone

logger = logging.getLogger("goblin_assistant.server")


def listen(config: Config) -> None:
    """Serve the metrics in a thread of their own, until the process ends. Raises OSError for a port
    that is taken."""
    if config.metrics_port is None:
        return
    server = create_server(
        standalone(config),
        host=config.host.strip("[]"),
        port=config.metrics_port,
        threads=2,
        max_request_body_size=64 * 1024,
        asyncore_use_poll=True,  # select() takes no descriptor above 1023
        log_socket_errors=False,
        ident="goblin-assistant",
    )
    threading.Thread(target=server.run, name="metrics", daemon=True).start()
    logger.info("metrics_listening", extra={"host": config.host, "port": config.metrics_port})
