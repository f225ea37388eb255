"""The OpenAPI 3.1 document at /openapi.json and a page at /docs that shows it without the network.

Routes say what they take and answer with `describe` (or APIFlask's own decorators); what follows from a route's other
properties, such as its errors and its security, is added here for all of them, so that no route can forget it.
"""

from __future__ import annotations

import gzip
import re
import threading
from collections.abc import Callable, Iterable
from functools import cache
from http import HTTPStatus
from importlib import resources
from typing import Any, TypeVar, cast

import orjson
from apiflask import APIBlueprint, APIFlask
from flask import Response, current_app, request
from pydantic import BaseModel

from goblin_assistant.schemas.errors import AnthropicErrorBody, ErrorBody, OpenAIErrorBody

View = TypeVar("View", bound=Callable[..., Any])

DESCRIPTION = """\
One chat API in front of many language-model providers, with accounts, API keys, limits, budgets and usage records.

Every response carries `X-Correlation-ID`: quote it when you report a problem. Errors of native routes are
`{"error": "<code>", "message", "correlation_id", "source"}`; under `/v1` they have OpenAI's shape and under
`/v1/messages` Anthropic's.
"""

TAGS: tuple[tuple[str, str], ...] = (
    (
        "Chat",
        "Completions, embeddings and models. Paths under /v1 are what an OpenAI or Anthropic SDK calls.",
    ),
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
# What a chat can meet beyond other routes: budgets, idempotency keys, providers.
CHAT_ERRORS = (400, 402, 404, 409, 413, 415, 422, 502, 503, 504)

TEXT: dict[str, Any] = {"type": "string"}
# No type: OpenAPI 3.1 cannot say whether a schema means the whole stream or each of its events.
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

RAPIDOC_VERSION = "9.3.8"

PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Goblin Assistant API</title>
<script type="module" src="docs/rapidoc.js?{RAPIDOC_VERSION}"></script>
</head>
<body>
<rapi-doc spec-url="openapi.json" load-fonts="false" render-style="read" theme="light" primary-color="#2e7d32"
  regular-font="system-ui, sans-serif" mono-font="ui-monospace, monospace" show-header="false"
  use-path-in-nav-bar="true" allow-spec-file-download="true" persist-auth="false"></rapi-doc>
<noscript>This page needs JavaScript; the document itself is <a href="openapi.json">openapi.json</a>.</noscript>
</body>
</html>
"""
# RapiDoc sets style attributes; everything else comes from this server.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

bp = APIBlueprint("docs", __name__, enable_openapi=False)


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
    """Document a view without wrapping it; costs nothing per request. APIFlask's `input` and `output` would parse,
    validate and serialise.

    `stream` adds text/event-stream to the answer, `text` lists media types of an answer that is no JSON. The view's
    docstring is the description unless one is given, its blueprint's tag is the tag.
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
    """Set the document's frame and add the routes that serve it."""
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
        # Added for all routes by `complete`, in the product's own shapes and statuses.
        AUTO_VALIDATION_ERROR_RESPONSE=False,
        AUTO_AUTH_ERROR_RESPONSE=False,
        AUTO_404_RESPONSE=False,
    )
    app.spec_processor(lambda spec: complete(app, cast(dict[str, Any], spec)))
    app.register_blueprint(bp)


def complete(app: APIFlask, spec: dict[str, Any]) -> dict[str, Any]:
    """Add to what APIFlask has gathered: errors, security, common headers, streams, operation ids."""
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
    # The path is part of the id: some endpoints have two.
    operation["operationId"] = f"{method.lower()}{re.sub(r'[^A-Za-z0-9]+', '_', path).rstrip('_')}"
    responses = operation["responses"]
    codes = {500, *notes.get("goblin_errors", ())}
    if (rule := getattr(view, "auth_rule", None)) is not None:
        scope, admin, keys = rule  # set by auth.require_auth
        operation["security"] = [{name: []} for name in (SECURITY_SCHEMES if keys else ("bearer",))]
        needs = (
            [f"scope `{scope}`"] * (scope is not None)
            + ["role admin"] * admin
            + ["no API key"] * (not keys)
        )
        if needs:
            operation["description"] = (
                f"{operation.get('description', '')}\n\nNeeds: {', '.join(needs)}.".strip()
            )
        codes |= {401, 403, 503}
    if "requestBody" in operation:
        operation["requestBody"]["required"] = True
        codes |= {400, 413, 415}
    if operation.get("parameters"):
        codes |= {400, 404} if "{" in path else {400}
    if path not in UNLIMITED:
        codes.add(429)
    schema = next(
        model.__name__
        for prefix, model in DIALECTS
        if path == prefix or path.startswith(prefix + "/")
    )
    for code in sorted(codes):
        response = responses.setdefault(str(code), {})
        response.setdefault("description", MEANINGS[code])
        response["content"] = {
            "application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}
        }
        if code in (429, 503):
            response.setdefault("headers", {})["Retry-After"] = {
                "$ref": "#/components/headers/RetryAfter"
            }
    if media := notes.get("goblin_text"):
        content = responses["200"].setdefault("content", {})
        if notes["response"]["schema"] == {}:
            content.clear()
        content.update(
            {kind: {"schema": EVENTS if kind == "text/event-stream" else TEXT} for kind in media}
        )
    for code in ("204", "304"):  # these have no body
        responses.get(code, {}).pop("content", None)
    for response in responses.values():
        response.setdefault("headers", {})["X-Correlation-ID"] = {
            "$ref": "#/components/headers/CorrelationID"
        }


_making = threading.Lock()
"""Only one thread makes the document: it takes a while, and sixty would take sixty times as long."""


# -- routes ---------------------------------------------------------------------------------------
@bp.get("/openapi.json")
def document() -> Response:
    """The document, made once: it says nothing that changes while the process runs."""
    app = cast(APIFlask, current_app._get_current_object())  # type: ignore[attr-defined]
    with _making:
        made = app.extensions.get("goblin_openapi")
        if made is None:
            made = app.extensions["goblin_openapi"] = orjson.dumps(
                app.spec, option=orjson.OPT_INDENT_2
            )
    return Response(made, content_type="application/json", headers={"Cache-Control": "no-cache"})


@bp.get(
    "/docs", strict_slashes=True
)  # its links are relative: under /docs/ they would lead nowhere
def page() -> Response:
    """The document, for people."""
    return Response(
        PAGE,
        content_type="text/html; charset=utf-8",
        headers={"Content-Security-Policy": PAGE_POLICY},
    )


@bp.get("/docs/rapidoc.js")
def script() -> Response:
    """RapiDoc, from this package and not from a CDN: the page works where there is no internet."""
    headers = {"Cache-Control": "public, max-age=86400", "Vary": "Accept-Encoding"}
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        headers["Content-Encoding"] = "gzip"
        return Response(_packed_script(), content_type="text/javascript", headers=headers)
    with _making:
        plain = _script()
    return Response(plain, content_type="text/javascript", headers=headers)


@cache
def _packed_script() -> bytes:
    return (
        resources.files("goblin_assistant")
        .joinpath("static/rapidoc/rapidoc-min.js.gz")
        .read_bytes()
    )


@cache
def _script() -> bytes:
    return gzip.decompress(_packed_script())
