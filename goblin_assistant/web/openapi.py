"""The contents of the OpenAPI 3.1 document.

Routes say what they take and answer with `describe`. What follows from a route's other properties,
such as its errors and its security, is added here for all routes, so that none can forget it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, TypeVar, cast

from apiflask import APIFlask
from pydantic import BaseModel

from goblin_assistant.schemas.errors import AnthropicErrorBody, ErrorBody, OpenAIErrorBody
from goblin_assistant.web import docs_page

View = TypeVar("View", bound=Callable[..., Any])

DESCRIPTION = """\
One chat API in front of many language-model providers, with accounts, API keys, \
limits, budgets and usage records.

Every response carries `X-Correlation-ID`: quote it when you report a problem. Errors of native \
routes are
`{"error": "<code>", "message", "correlation_id", "source"}`; under `/v1` they have OpenAI's \
shape and under
`/v1/messages` Anthropic's.
"""

TAGS: tuple[tuple[str, str], ...] = (
    (
        "Chat",
        "Completions, embeddings and models. "
        "Paths under /v1 are what an OpenAI or Anthropic SDK calls.",
    ),
    ("Accounts", "Register, log in, refresh, log out."),
    ("API keys", "Keys for programs, with scopes, limits and budgets of their own."),
    ("Conversations", "A person's own conversations, as the page keeps them."),
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
    "apiKey": {
        "type": "apiKey",
        "in": "header",
        "name": "x-api-key",
        "description": "An API key, as Anthropic's SDK sends it.",
    },
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
# The errors of chats besides those of every route: budgets, idempotency keys, providers.
CHAT_ERRORS = (400, 402, 404, 409, 413, 415, 422, 502, 503, 504)
COUNT_ERRORS = (400, 404, 413, 415, 502, 503, 504)

TEXT: dict[str, Any] = {"type": "string"}
# Without a type: in OpenAPI 3.1 it could mean the whole stream or each event.
EVENTS: dict[str, Any] = {
    "description": "Server-sent events, one JSON object in each `data`; see the description."
}

UNLIMITED = frozenset({"/health/live", "/health/ready", "/metrics"})

HEADERS: dict[str, Any] = {
    "CorrelationID": {
        "description": "Names this request in logs and usage records",
        "schema": {"type": "string"},
    },
    "RetryAfter": {
        "description": "Seconds to wait before trying again",
        "schema": {"type": "integer", "minimum": 1},
        "required": True,
    },
}


def describe(
    summary: str,
    *,
    body: type[BaseModel] | None = None,
    answer: type[BaseModel] | None = None,
    status: int = 200,
    errors: Iterable[int] = (),
    stream: bool = False,
    text: Iterable[str] = (),
    tag: str | None = None,
    description: str | None = None,
) -> Callable[[View], View]:
    """Document a view without wrapping it, at no cost per request. APIFlask's `input` and `output`
    would parse, validate and serialise.

    `stream` adds text/event-stream to the answer; `text` lists the media types of an answer that is
    not JSON. Without `description` the view's docstring is used, without `tag` its blueprint's.
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
        spec["goblin_text"] = ("text/event-stream",) if stream else tuple(text)
        return view

    return decorate


def init_app(app: APIFlask) -> None:
    """Set what is not about single routes, and add the routes that serve the document."""
    app.config.update(
        INFO={
            "summary": "A chat backend in front of many language-model providers",
            "description": DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        TAGS=[{"name": name, "description": text} for name, text in TAGS],
        SECURITY_SCHEMES=SECURITY_SCHEMES,
        AUTO_SERVERS=False,
        AUTO_OPERATION_ID=False,
        # `complete` adds these in our own shapes and statuses.
        AUTO_VALIDATION_ERROR_RESPONSE=False,
        AUTO_AUTH_ERROR_RESPONSE=False,
        AUTO_404_RESPONSE=False,
    )
    app.spec_processor(lambda spec: complete(app, cast(dict[str, Any], spec)))
    app.register_blueprint(docs_page.bp)


def complete(app: APIFlask, spec: dict[str, Any]) -> dict[str, Any]:
    """Add errors, security, common headers, streams and operation ids to APIFlask's document."""
    components = spec.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for _, model in DIALECTS:
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        for name, nested in schema.pop("$defs", {}).items():
            schemas.setdefault(name, nested)
        schemas[model.__name__] = schema
    components["headers"] = HEADERS
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:[^<:>]+:)?([^<>]+)>", r"{\1}", rule.rule)
        operations = spec["paths"].get(path, {})
        for method in (rule.methods or set()) & {name.upper() for name in operations}:
            operation = operations[method.lower()]
            blueprint = app.blueprints.get(rule.endpoint.rpartition(".")[0])
            if not operation.get("tags") and (tag := getattr(blueprint, "tag", None)) is not None:
                operation["tags"] = [tag]
            _complete_operation(operation, path, method, app.view_functions[rule.endpoint])
    return spec


def _complete_operation(
    operation: dict[str, Any], path: str, method: str, view: Callable[..., Any]
) -> None:
    notes = getattr(view, "_spec", {})
    rule = getattr(view, "auth_rule", None)  # set by auth.require_auth
    # The path is part of the id: some endpoints have two.
    operation["operationId"] = f"{method.lower()}{re.sub(r'[^A-Za-z0-9]+', '_', path).rstrip('_')}"
    if "requestBody" in operation:
        operation["requestBody"]["required"] = True
    if rule is not None:
        _add_security(operation, *rule)
    responses = operation["responses"]
    for error in sorted(_error_codes(operation, path, notes, rule is not None)):
        _add_error(responses, error, path)
    if media := notes.get("goblin_text"):
        content = responses["200"].setdefault("content", {})
        if notes["response"]["schema"] == {}:
            content.clear()
        for kind in media:
            content[kind] = {"schema": EVENTS if kind == "text/event-stream" else TEXT}
    for code in ("204", "304"):  # these have no body
        responses.get(code, {}).pop("content", None)
    for response in responses.values():
        response.setdefault("headers", {})["X-Correlation-ID"] = {
            "$ref": "#/components/headers/CorrelationID"
        }


def _add_security(operation: dict[str, Any], scope: str | None, admin: bool, keys: bool) -> None:
    schemes = SECURITY_SCHEMES if keys else ("bearer",)
    operation["security"] = [{name: []} for name in schemes]
    needs = [f"scope `{scope}`"] if scope is not None else []
    if admin:
        needs.append("role admin")
    if not keys:
        needs.append("no API key")
    if needs:
        described = operation.get("description", "")
        operation["description"] = f"{described}\n\nNeeds: {', '.join(needs)}.".strip()


def _error_codes(
    operation: dict[str, Any], path: str, notes: dict[str, Any], secured: bool
) -> set[int]:
    codes = {500, *notes.get("goblin_errors", ())}
    if secured:
        codes |= {401, 403, 503}
    if "requestBody" in operation:
        codes |= {400, 413, 415}
    if operation.get("parameters"):
        codes |= {400, 404} if "{" in path else {400}
    if path not in UNLIMITED:
        codes.add(429)
    return codes


def _add_error(responses: dict[str, Any], code: int, path: str) -> None:
    schema = next(
        model.__name__
        for prefix, model in DIALECTS
        if path == prefix or path.startswith(prefix + "/")
    )
    response = responses.setdefault(str(code), {})
    response.setdefault("description", MEANINGS[code])
    response["content"] = {
        "application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}
    }
    if code in (429, 503):
        response.setdefault("headers", {})["Retry-After"] = {
            "$ref": "#/components/headers/RetryAfter"
        }
