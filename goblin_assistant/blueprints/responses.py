"""OpenAI's Responses API, without state."""

from __future__ import annotations

from apiflask import APIBlueprint
from flask import Response

from goblin_assistant.dialects.responses.state import refuse_state
from goblin_assistant.schemas.responses import ResponseBody, ResponsesRequest
from goblin_assistant.web.auth import require_auth
from goblin_assistant.web.chat_response import respond
from goblin_assistant.web.json_requests import json_body
from goblin_assistant.web.openapi import CHAT_ERRORS, describe
from goblin_assistant.web.request_body import parse_json

bp = APIBlueprint("responses", __name__, tag="Chat")


@bp.post("/v1/responses")
@describe(
    "Create a response",
    body=ResponsesRequest,
    answer=ResponseBody,
    errors=CHAT_ERRORS,
    stream=True,
)
@require_auth(scope="chat")
def create_response() -> Response:
    """OpenAI's request and answer, for every model: passed on to providers that have the Responses
    API, translated for others. No responses are kept: `store` is false in each answer, and what
    needs kept ones is refused. With `stream: true` the answer is OpenAI's event stream. It ends
    with `response.completed` or `response.incomplete`, or with `response.failed` and `error` when
    the provider broke off."""
    raw = json_body()
    body = parse_json(ResponsesRequest, raw)
    refuse_state(body)
    return respond(body, raw, dialect="responses", operation="chat_completion")
