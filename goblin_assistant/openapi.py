"""The OpenAPI 3.1 document at /openapi.json and a page at /docs that shows it without the network.

Routes say what they take and answer with `describe` (or APIFlask's own decorators); what follows from a route's other properties, such as
its errors and its security, is added here for all of them, so that no route can forget it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from importlib import resources
from typing import Any, TypeVar

import orjson
from apiflask import APIBlueprint, APIFlask
from flask import Response, current_app, request
from pydantic import BaseModel

from goblin_assistant.errors import NotFound
from goblin_assistant.schemas import AnthropicErrorBody, ErrorBody, OpenAIErrorBody

View = TypeVar("View", bound=Callable[..., Any])

DESCRIPTION = """\
One chat API in front of many language-model providers, with accounts, API keys, limits, budgets and usage records.

Every response carries `X-Correlation-ID`: quote it when you report a problem. Errors of native routes are
`{"error": "<code>", "message", "correlation_id", "source"}`; under `/v1` they have OpenAI's shape and under `/v1/messages` Anthropic's.
"""

TAGS: tuple[tuple[str, str], ...] = (
    ("Chat", "Completions, embeddings and models. Paths under /v1 are what an OpenAI or Anthropic SDK calls."),
    ("Accounts", "Register, log in, refresh, log out."),
    ("API keys", "Keys for programs, with scopes, limits and budgets of their own."),
    ("Settings", "A user's defaults for chats."),
    ("Usage", "What was used, and what it cost."),
    ("Health", "Whether the instance and the services it depends on are well."),
    ("Admin", "Users, keys of others, limits in force."),
    ("Operations", "For the machines around the product."),
)

SECURITY_SCHEMES: dict[str, Any] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An access token from POST /auth/login, or an API key (`gob_...`).",
    },
    "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "An API key, as Anthropic's SDK sends it."},
}

DIALECTS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("/v1/messages", AnthropicErrorBody),
    ("/v1", OpenAIErrorBody),
    ("", ErrorBody),
)

MEANINGS: dict[int, str] = {
    400: "The request is not valid; `message` says what is wrong with it",
    401: "No credential, or one that is not good",
    402: "The key's monthly budget does not cover this request",
    403: "The credential may not do this",
    404: "No such thing",
    409: "The request collides with the state of things",
    413: "The body is too large",
    415: "The body is not JSON",
    422: "The Idempotency-Key was used with another body",
    429: "A limit of this product",
    500: "An error of ours; the log has it under the correlation id",
    502: "The provider failed or its answer could not be used",
    503: "Overloaded, shutting down, or something that is needed is away",
    504: "The provider did not answer in time",
}
# What a chat can meet beyond other routes: budgets, idempotency keys, providers.
CHAT_ERRORS = (400, 402, 404, 409, 413, 415, 422, 502, 503, 504)

_page = APIBlueprint("docs", __name__, enable_openapi=False)


def describe(
    summary: str,
    *,
    body: type[BaseModel] | None = None,
    answer: type[BaseModel] | None = None,
    status: int = 200,
    errors: Iterable[int] = (),
    stream: bool = False,
    tag: str | None = None,
    description: str | None = None,
) -> Callable[[View], View]:
    """Document a view without wrapping it; costs nothing per request. APIFlask's `input` and `output` would parse, validate and serialise.

    `stream` adds text/event-stream to the answer. The view's docstring is the description unless one is given.
    """

    def decorate(view: View) -> View:
        spec: dict[str, Any] = view.__dict__.setdefault("_spec", {})
        spec["summary"] = summary
        spec["description"] = description or " ".join((view.__doc__ or "").split())
        if tag is not None:
            spec["tags"] = [tag]
        if body is not None:
            spec["body"] = body
            spec["content_type"] = "application/json"
        spec["response"] = {
            "schema": answer if answer is not None else {},
            "status_code": status,
            "description": HTTPStatus(status).phrase,
            "example": None,
            "examples": None,
            "links": None,
            "content_type": "application/json",
            "headers": None,
        }
        spec["goblin_errors"] = tuple(errors)
        spec["goblin_stream"] = stream
        return view

    return decorate


def init_app(app: APIFlask) -> None:
    """Set the document's frame and add the routes that serve it."""
    app.config.update(
        INFO={
            "description": DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
            "summary": "A chat backend in front of many language-model providers",
        },
        TAGS=[{"name": name, "description": text} for name, text in TAGS],
        SECURITY_SCHEMES=SECURITY_SCHEMES,
        AUTO_SERVERS=False,
        AUTO_OPERATION_ID=True,
        # Added for all routes below, in the product's own shapes and statuses.
        AUTO_VALIDATION_ERROR_RESPONSE=False,
        AUTO_AUTH_ERROR_RESPONSE=False,
        AUTO_404_RESPONSE=False,
    )
    app.spec_processor(lambda spec: complete(app, spec))
    app.register_blueprint(_page)


def complete(app: APIFlask, spec: dict[str, Any]) -> dict[str, Any]:
    """Add errors, security, common headers and streams to what APIFlask has gathered."""
    schemas = spec.setdefault("components", {}).setdefault("schemas", {})
    for _, model in DIALECTS:
        _add_schema(schemas, model)
    spec["components"]["headers"] = _headers()
    return spec


def _headers() -> dict[str, Any]:
    return {
        "CorrelationID": {"description": "Names this request in logs and usage records", "schema": {"type": "string"}},
        "RetryAfter": {"description": "Seconds to wait before trying again", "schema": {"type": "integer", "minimum": 1}},
    }


def _add_schema(schemas: dict[str, Any], model: type[BaseModel]) -> None:
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    for name, nested in schema.pop("$defs", {}).items():
        schemas.setdefault(name, nested)
    schemas.setdefault(model.__name__, schema)
