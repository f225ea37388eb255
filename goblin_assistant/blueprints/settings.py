"""A user's defaults for chats."""

from __future__ import annotations

from typing import Any

from apiflask import APIBlueprint
from flask import request

from goblin_assistant.errors import UnknownModel, ValidationFailed
from goblin_assistant.runtime import runtime
from goblin_assistant.schemas.settings import SettingsIn, SettingsOut
from goblin_assistant.web.auth import current_principal, require_auth
from goblin_assistant.web.openapi import describe

bp = APIBlueprint("settings", __name__, url_prefix="/settings", tag="Settings")


@bp.get("/")
@describe("The caller's chat defaults", answer=SettingsOut)
@require_auth()
def get_settings() -> dict[str, Any]:
    """The caller's defaults, and all providers and models that there are for it."""
    return _answer(dict(current_principal().settings))


@bp.put("/")
@require_auth(scope="chat")
@bp.input(SettingsIn, arg_name="body")
@describe("Replace the caller's chat defaults", answer=SettingsOut, errors=(413, 415))
def put_settings(body: SettingsIn) -> dict[str, Any]:
    """All four are replaced: one that is left out or null is cleared. They count for all of the
    user's keys."""
    parts, caller = runtime(), current_principal()
    if body.model is not None:
        resolver = parts.router.resolver
        try:
            targets = resolver.resolve(body.model)
        except UnknownModel as error:
            raise ValidationFailed(f"model: {error.message}", param="model") from None
        # What a key may not use it may not make the default either.
        parts.chat.access.check(caller, body.model, targets, named=resolver.is_name(body.model))
    settings = {name: value for name, value in body.model_dump().items() if value is not None}
    parts.accounts.save_settings(caller.user_id, settings)
    return _answer(settings)


def _answer(settings: dict[str, Any]) -> dict[str, Any]:
    parts, caller = runtime(), current_principal()
    access, resolver = parts.chat.access, parts.router.resolver
    models: dict[str, list[str]] = {
        name: []
        for name, provider in parts.registry.providers.items()
        if provider.listed and access.lists_provider(caller, name)
    }
    for name, model in parts.registry.models():
        if name in models and access.lists_model(caller, name, model.id):
            models[name].append(model.id)
    return {
        "model": settings.get("model"),
        "temperature": settings.get("temperature"),
        "max_tokens": settings.get("max_tokens"),
        "system_prompt": settings.get("system_prompt"),
        "default_model": access.default_model or None,
        "providers": [{"name": name, "models": ids} for name, ids in models.items()],
        "aliases": [name for name in resolver.names() if access.lists_name(caller, name, resolver)],
        "client_address": request.remote_addr or "",
    }
