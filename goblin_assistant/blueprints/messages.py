"""Anthropic's Messages API. Its SDK takes a base_url without /v1."""

from __future__ import annotations

from apiflask import APIBlueprint
from flask import Response

from goblin_assistant.schemas.messages import (
    CountTokensRequest,
    Message,
    MessagesRequest,
    TokenCount,
)
from goblin_assistant.web.auth import require_auth
from goblin_assistant.web.chat_response import count, respond
from goblin_assistant.web.json_requests import json_body
from goblin_assistant.web.openapi import CHAT_ERRORS, COUNT_ERRORS, describe
from goblin_assistant.web.request_body import parse_json
from goblin_assistant.web.request_info import request_info

bp = APIBlueprint("messages", __name__, tag="Chat")


@bp.post("/v1/messages")
@describe("Create a message", body=MessagesRequest, answer=Message, errors=CHAT_ERRORS, stream=True)
@require_auth(scope="chat")
def create_message() -> Response:
    """Anthropic's request and answer, for every model: passed on unchanged to Anthropic's own,
    translated for others. With `stream: true` the answer is Anthropic's event stream. It ends with
    `message_stop`, or with an `error` event when the provider broke off."""
    raw = json_body()
    body = parse_json(MessagesRequest, raw)
    return respond(body, raw, dialect="anthropic", operation="chat_completion")


@bp.post("/v1/messages/count_tokens")
@describe(
    "Count a message's tokens", body=CountTokensRequest, answer=TokenCount, errors=COUNT_ERRORS
)
@require_auth(scope="chat")
def count_tokens() -> Response:
    """How many tokens a request would have as its prompt: Anthropic's own count for its models.
    For others a 404 or, where the operator allows it, an estimate: then `X-Goblin-Token-Source`
    is `estimated`. Costs nothing."""
    raw = json_body()
    return count(parse_json(CountTokensRequest, raw), raw)


@bp.after_request
def name_request(response: Response) -> Response:
    """Anthropic's SDK reads the correlation id from `request-id`."""
    response.headers["request-id"] = request_info().correlation_id
    return response
