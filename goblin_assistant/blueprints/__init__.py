"""The views: parse, call, serialise."""

from __future__ import annotations

from apiflask import APIFlask


def register_blueprints(app: APIFlask) -> None:
    """Register every route."""
    from goblin_assistant.blueprints import admin, auth, chat, health, messages, settings, usage

    for module in (auth, chat, messages, settings, usage, health, admin):
        app.register_blueprint(module.bp)
