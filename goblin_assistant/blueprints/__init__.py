"""The views: parse, call, serialise."""

from __future__ import annotations

from apiflask import APIFlask

from goblin_assistant.config import Config


def register_blueprints(app: APIFlask, config: Config) -> None:
    """Register every route that is switched on."""
    from goblin_assistant.blueprints import (
        admin,
        auth,
        chat,
        health,
        messages,
        responses,
        settings,
        usage,
    )

    for module in (auth, chat, responses, messages, settings, usage, health, admin):
        app.register_blueprint(module.bp)
    if config.conversations:
        from goblin_assistant.blueprints import conversations

        app.register_blueprint(conversations.bp)
    if config.page:
        from goblin_assistant.blueprints import page_session, pages

        app.register_blueprint(page_session.bp)
        app.register_blueprint(pages.bp)
