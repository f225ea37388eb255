"""Chat completions, embeddings and the models: native paths, and /v1 for OpenAI's SDKs."""

from __future__ import annotations

from typing import Any

from apiflask import APIBlueprint
from flask import Response, request

from goblin_assistant.calls.access import may_use
from goblin_assistant.dialects.anthropic.models import ModelRow, anthropic_model, page_of
from goblin_assistant.errors import UnknownModel
from goblin_assistant.runtime import runtime
from goblin_assistant.schemas.chat import (
    ChatCompletion,
    ChatCompletionRequest,
    Embeddings,
    EmbeddingsRequest,
    ModelItem,
    ModelList,
)
from goblin_assistant.web.auth import current_principal, require_auth
from goblin_assistant.web.chat_response import respond
from goblin_assistant.web.json_requests import json_body
from goblin_assistant.web.openapi import CHAT_ERRORS, describe
from goblin_assistant.web.request_body import parse_json

bp = APIBlueprint("chat", __name__, tag="Chat")

OWN = "goblin-assistant"
"""The owner of aliases, chains and weighted groups."""


@bp.post("/chat/completions")
@bp.post("/v1/chat/completions", endpoint="v1_completions")
@describe(
    "Create a chat completion",
    body=ChatCompletionRequest,
    answer=ChatCompletion,
    errors=CHAT_ERRORS,
    stream=True,
)
@require_auth(scope="chat")
def completions() -> Response:
    """OpenAI's request and answer. With `stream: true` the answer is text/event-stream; its end is
    `data: [DONE]`, or an error event if the provider broke off. Unknown fields go unchanged to
    an OpenAI-compatible provider."""
    raw = json_body()
    body = parse_json(ChatCompletionRequest, raw)
    return respond(body, raw, dialect="openai", operation="chat_completion")


@bp.post("/v1/embeddings")
@describe("Create embeddings", body=EmbeddingsRequest, answer=Embeddings, errors=CHAT_ERRORS)
@require_auth(scope="embeddings")
def embeddings() -> Response:
    """OpenAI's request and answer, for providers that offer embeddings."""
    raw = json_body()
    body = parse_json(EmbeddingsRequest, raw)
    return respond(body, raw, dialect="openai", operation="embeddings")


@bp.get("/chat/models")
@bp.get("/v1/models", endpoint="v1_models")
@describe("List the models", answer=ModelList)
@require_auth()
def models() -> dict[str, Any]:
    """Every model that the caller may use: providers' models as `provider/model`, then aliases,
    chains and weighted groups. With the header `anthropic-version`, /v1/models answers in
    Anthropic's shape, in pages (`limit`, `after_id`, `before_id`)."""
    rows = _rows()
    if _for_anthropic():
        return page_of(rows, request.args)
    return {"object": "list", "data": [_model(*row[:2]) for row in rows]}


def _rows() -> list[ModelRow]:
    parts, caller = runtime(), current_principal()
    access, allowed = parts.chat.access, caller.allowed_models
    rows = [
        ModelRow(f"{provider}/{model.id}", provider, model.context_window)
        for provider, model in parts.registry.models()
        if access.lists_model(caller, provider, model.id)
    ]
    rows += [
        ModelRow(name, OWN, None)
        for name in parts.router.names()
        if (allowed is None or may_use(allowed, name))
        and access.lists_name(caller, name, parts.router.resolver)
    ]
    return rows


def _for_anthropic() -> bool:
    return "anthropic-version" in request.headers and request.path.startswith("/v1/")


@bp.get("/v1/models/<path:model_id>")
@describe("Describe one model", answer=ModelItem, errors=(404,))
@require_auth()
def model(model_id: str) -> dict[str, Any]:
    """One model, by a name that /v1/models lists or by its bare id."""
    parts, caller = runtime(), current_principal()
    access, resolver = parts.chat.access, parts.router.resolver
    row = None
    if resolver.is_name(model_id) and access.lists_name(caller, model_id, resolver):
        row = ModelRow(model_id, OWN, None)
    # A provider/model that is in no catalogue can be called, but not described.
    for provider, name in () if row is not None else parts.registry.find(model_id):
        known = next((known for known in provider.models() if known.id == name), None)
        if known is not None and access.lists_provider(caller, provider.name):
            row = ModelRow(model_id, provider.name, known.context_window)
            break
    if row is not None:
        return anthropic_model(row) if _for_anthropic() else _model(*row[:2])
    raise UnknownModel("there is no such model; GET /v1/models lists what there is", param="model")


def _model(name: str, owner: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}
