"""Goblin Assistant: a chat backend that an operator can trust in production."""

from __future__ import annotations

from goblin_assistant.version import __version__

# Type checkers take it for true. `serve` imports this module twice (__main__.py), and would pay
# for the module `typing` twice.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from apiflask import APIFlask

    from goblin_assistant.config import Config as _Config

__all__ = ["__version__", "create_app"]


def create_app(config: _Config | dict[str, Any] | None = None) -> APIFlask:
    """Make an application.

    `config` is a Config, or a dict of settings by attribute or variable name, which override the
    environment and `.env`. Raises ConfigError, which lists every problem.
    """
    # Imported here: a plug-in that imports `goblin_assistant.metrics` does not load Flask.
    from goblin_assistant import lifecycle
    from goblin_assistant.assembly import assemble, make_app
    from goblin_assistant.blueprints import register_blueprints
    from goblin_assistant.config import Config
    from goblin_assistant.extensions import cors, cors_options, exporter, make_limiter
    from goblin_assistant.logs import json_logging
    from goblin_assistant.web import (
        body_limits,
        error_handlers,
        metrics_endpoint,
        observability,
        openapi,
        rate_limits,
        refusal,
        security_headers,
    )

    settings = config if isinstance(config, Config) else Config.load(config)
    json_logging.configure(
        settings.log_level,
        settings.secret_values(),
        instance=settings.instance_label,
        path=settings.log_file,
    )
    app = make_app(settings)

    limiter = make_limiter(settings)
    limiter.init_app(app)
    cors.init_app(app, **cors_options(settings.cors_origins))
    exporter.init_app(app)

    security_headers.init_app(app)
    body_limits.init_app(app, settings)
    refusal.init_app(app)
    limits = rate_limits.init_app(app, settings, limiter)
    error_handlers.init_app(app)
    openapi.init_app(app)

    runtime = assemble(app, settings, limits)
    register_blueprints(app, settings)
    metrics_endpoint.init_app(app, settings)
    lifecycle.init_app(app)
    observability.init_app(app, runtime.tracing)
    return app
