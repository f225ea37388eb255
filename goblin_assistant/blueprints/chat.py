"""Chat completions, embeddings and the models: native paths, and /v1 for OpenAI's SDKs."""

from __future__ import annotations

from typing import Any

from apiflask import APIBlueprint
from flask import Response, request

from goblin_assistant.calls.catalogue import OWN, Catalogue, Offer, list_price
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
from goblin_assistant.web.request_info import request_info

bp = APIBlueprint("chat", __name__, tag="Chat")


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
    chains and weighted groups, described by the first model behind them. With the header
    `anthropic-version`, /v1/models answers in Anthropic's shape, in pages (`limit`, `after_id`,
    `before_id`)."""
    offers = _catalogue().offers(current_principal())
    if _for_anthropic():
        page = page_of([_row(offer) for offer in offers], request.args)
        _name_request()
        return page
    return {"object": "list", "data": [_model(offer) for offer in offers]}


def _catalogue() -> Catalogue:
    parts = runtime()
    return Catalogue(parts.registry, parts.router.resolver, parts.chat.access)


def _for_anthropic() -> bool:
    return "anthropic-version" in request.headers and request.path.startswith("/v1/")


def _name_request() -> None:
    # Anthropic's SDK reads the correlation id there. Errors get it in web/error_handlers.py.
    info = request_info()
    info.headers.append(("request-id", info.correlation_id))


@bp.get("/v1/models/<path:model_id>")
@describe("Describe one model", answer=ModelItem, errors=(404,))
@require_auth()
def model(model_id: str) -> dict[str, Any]:
    """One model, by a name that /v1/models lists or by its bare id."""
    offer = _catalogue().offer(current_principal(), model_id)
    if offer is None:
        raise UnknownModel(
            "there is no such model; GET /v1/models lists what there is", param="model"
        )
    if not _for_anthropic():
        return _model(offer)
    _name_request()
    return anthropic_model(_row(offer))


def _row(offer: Offer) -> ModelRow:
    window = None if offer.owner == OWN or offer.model is None else offer.model.context_window
    return ModelRow(offer.name, offer.owner, window)


def _model(offer: Offer) -> dict[str, Any]:
    known = offer.model
    return {
        "id": offer.name,
        "object": "model",
        "created": 0,
        "owned_by": offer.owner,
        "context_window": known.context_window if known is not None else None,
        "capabilities": sorted(known.capabilities) if known is not None else None,
        "price_per_million": list_price(runtime().usage.prices, offer),
    }
