"""Chat completions, embeddings and the list of models, each under its native path and under /v1 for OpenAI SDKs."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any

from apiflask import APIBlueprint
from flask import Response, after_this_request

from goblin_assistant.calls.idempotency import Claim, Recording, StoredResponse
from goblin_assistant.calls.request import Chat, may_use
from goblin_assistant.calls.stream import ChatStream
from goblin_assistant.errors import ClientGone, UnknownModel
from goblin_assistant.providers.base import Dialect
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
from goblin_assistant.web.json_requests import JsonBytes, body_of, require_json
from goblin_assistant.web.openapi import CHAT_ERRORS, describe
from goblin_assistant.web.request_body import parse_json
from goblin_assistant.web.request_info import RequestInfo, current_request, request_info

logger = logging.getLogger("goblin_assistant.chat")

bp = APIBlueprint("chat", __name__, tag="Chat")

_STREAM_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    # nginx and others hold a stream back unless they are told (https://nginx.org/en/docs/http/ngx_http_proxy_module.html#proxy_buffering).
    "X-Accel-Buffering": "no",
}


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
    """OpenAI's request and answer. With `stream: true` the answer is text/event-stream and ends with `data: [DONE]`, or with
    an error event when the provider broke off. Unknown fields go to an OpenAI-compatible provider as they are."""
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
    """Every model that the caller may name: providers' models as `provider/model`, then aliases, chains and weighted groups."""
    parts = runtime()
    rows = [
        _model(f"{provider}/{model.id}", provider) for provider, model in parts.registry.models()
    ]
    rows += [_model(name, "goblin-assistant") for name in parts.router.names()]
    allowed = current_principal().allowed_models
    if allowed is not None:
        rows = [row for row in rows if _allowed(row["id"], allowed)]
    return {"object": "list", "data": rows}


@bp.get("/v1/models/<path:model_id>")
@describe("Describe one model", answer=ModelItem, errors=(404,))
@require_auth()
def model(model_id: str) -> dict[str, Any]:
    """One model by its name; the names that /v1/models lists, and bare ids."""
    parts = runtime()
    if model_id in parts.router.names():
        return _model(model_id, "goblin-assistant")
    found = parts.registry.find(model_id)
    # An explicit provider/model may name one that no catalogue holds: only what is known is described.
    for provider, name in found:
        if any(known.id == name for known in provider.models()):
            return _model(model_id, provider.name)
    raise UnknownModel("there is no such model; GET /v1/models lists what there is", param="model")


def json_body() -> bytes:
    """The bytes of a body that does not say it is something other than JSON."""
    current = current_request()
    require_json(current)
    return body_of(current)


def respond(body: dict[str, Any], raw: bytes, *, dialect: Dialect, operation: str) -> Response:
    """Run a chat and make its HTTP response, streamed or not; shared by every route that ends in ChatService."""
    parts = runtime()
    current = current_request()
    info = request_info()
    principal = current_principal()
    streamed = body.get("stream") is True and operation == "chat_completion"
    after: list[Callable[[], None]] = []

    claim: Claim | None = None
    key = current.environ.get("HTTP_IDEMPOTENCY_KEY")
    if key is not None:
        held = parts.idempotency.begin(principal.label, key, current.path, raw)
        if isinstance(held, StoredResponse):
            return Response(
                held.body,
                content_type=held.content_type,
                headers={**held.headers, "Idempotent-Replayed": "true"},
            )
        claim = held

    _after_response(after)
    response: Response
    try:
        if claim is not None:
            after.append(claim.abandon)  # does nothing after finish()
        chat = Chat(
            principal=principal,
            body=body,
            raw=raw,
            correlation_id=info.correlation_id,
            stream=streamed,
            dialect=dialect,
            operation=operation,
            headers=current.headers,  # type: ignore[arg-type]
            client_gone=current.environ.get("waitress.client_disconnected"),
            limit=info.limit,
            started=info.started,
            defer=after.append,
        )
        if streamed:
            stream = parts.chat.stream(chat)
            after.append(stream.close)
            response = _streamed(stream, info, claim)
        else:
            result = parts.chat.complete(chat)
            response = JsonBytes(result.body)
            info.headers.extend(result.headers.items())
            if claim is not None:
                claim.finish(StoredResponse("application/json", result.body, result.headers))
    except BaseException as error:
        if isinstance(error, ClientGone):
            info.incomplete = True
        if not isinstance(error, Exception):  # no handler makes a response of it
            _end_all(after)
        elif claim is not None:
            claim.abandon()
        raise
    return response


def _after_response(ends: list[Callable[[], None]]) -> None:
    # Behind the last byte of whatever is sent: the answer, or the error that the handlers make of an exception. Flask
    # runs this for the second response too, when the first was lost to an exception on its way; each may end twice.
    @after_this_request
    def attach(response: Response) -> Response:
        if ends:
            response.call_on_close(functools.partial(_end_all, ends))
        return response


def _end_all(ends: list[Callable[[], None]]) -> None:
    for end in reversed(ends):
        try:
            end()
        except Exception:
            logger.exception("chat_end_failed")


def _streamed(stream: ChatStream, info: RequestInfo, claim: Claim | None) -> Response:
    def note(error_type: str) -> None:
        info.error_type = error_type
        info.incomplete = True

    stream.on_incomplete = note
    headers = {**_STREAM_HEADERS, **stream.headers}
    if claim is None:
        return Response(iter(stream), headers=headers)
    return Response(_recorded(stream, claim, headers, info), headers=headers)


def _recorded(
    stream: ChatStream, claim: Claim, headers: dict[str, str], info: RequestInfo
) -> Iterator[bytes]:
    recording = Recording()
    for piece in stream:
        recording.add(piece)
        yield piece
    # Too long to keep: the key is free again when the response is closed, and not while it is still being answered.
    if not info.incomplete and (body := recording.body()) is not None:
        claim.finish(StoredResponse(headers["Content-Type"], body, headers))


def _model(name: str, owner: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}


def _allowed(name: str, allowed: frozenset[str]) -> bool:
    return may_use(allowed, name) or may_use(allowed, name.split("/", 1)[-1])
