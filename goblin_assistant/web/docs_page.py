"""The OpenAPI document at /openapi.json, and a page at /docs that shows it without the internet."""

from __future__ import annotations

import gzip
import threading
from functools import cache
from importlib import resources
from typing import cast

import orjson
from apiflask import APIBlueprint, APIFlask
from flask import Response, current_app, request

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
<rapi-doc spec-url="openapi.json" load-fonts="false" render-style="read" theme="light"
  primary-color="#2e7d32" regular-font="system-ui, sans-serif" mono-font="ui-monospace, monospace"
  show-header="false" use-path-in-nav-bar="true" allow-spec-file-download="true"
  persist-auth="false"></rapi-doc>
<noscript>This page needs JavaScript; the document itself is
<a href="openapi.json">openapi.json</a>.</noscript>
</body>
</html>
"""
# unsafe-inline, because RapiDoc sets style attributes. Everything else comes from this server.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

bp = APIBlueprint("docs", __name__, enable_openapi=False)

_making = threading.Lock()
"""Held while the document is made: sixty threads at once would take sixty times as long."""


@bp.get("/openapi.json")
def document() -> Response:
    """The document. It is made once, because nothing in it changes while the process runs."""
    app = cast(APIFlask, current_app)
    with _making:
        made = app.extensions.get("goblin_openapi")
        if made is None:
            made = app.extensions["goblin_openapi"] = orjson.dumps(
                app.spec, option=orjson.OPT_INDENT_2
            )
    return Response(made, content_type="application/json", headers={"Cache-Control": "no-cache"})


# strict_slashes, because the page's links are relative and would be wrong under /docs/.
@bp.get("/docs", strict_slashes=True)
def page() -> Response:
    """The page, which shows the document with RapiDoc."""
    return Response(
        PAGE,
        content_type="text/html; charset=utf-8",
        headers={"Content-Security-Policy": PAGE_POLICY},
    )


@bp.get("/docs/rapidoc.js")
def script() -> Response:
    """RapiDoc. Not from a CDN, so that the page works without the internet."""
    headers = {"Cache-Control": "public, max-age=86400", "Vary": "Accept-Encoding"}
    if request.accept_encodings["gzip"] > 0:
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
