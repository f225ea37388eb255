"""The page at `/`, and its files. The page itself is in static/page; docs/page.md describes it."""

from __future__ import annotations

from functools import cache
from html import escape

from apiflask import APIBlueprint
from flask import Response, request

from goblin_assistant.errors import NotFound
from goblin_assistant.runtime import runtime
from goblin_assistant.version import __version__
from goblin_assistant.web.page_files import PageFile, packed, page_files

# No remote image: its address can carry a chat's content away. Trusted Types: a script cannot turn
# text into HTML, but by the two policies that are named.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; font-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types dompurify goblin"
)
YEAR = "public, max-age=31536000, immutable"

bp = APIBlueprint("pages", __name__, enable_openapi=False)


@bp.get("/")
def index() -> Response:
    """The page. It says what this instance offers, so that the page need not ask."""
    config = runtime().config
    response = _answer(_index_file(config.conversations, config.registration_open))
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["Cache-Control"] = "no-cache"
    response.add_etag()
    response.make_conditional(request)
    return response


@bp.get("/static/<files_hash>/<path:name>")
def static_file(files_hash: str, name: str) -> Response:
    """One file. Its address changes with the content, so that it may be kept for a year.

    Under another release's hash the answer is this release's file, not to be kept: while releases
    are replaced, a page by one may ask the other.
    """
    files = page_files()
    found = files.files.get(name)
    if found is None:
        raise NotFound("there is no such file")
    response = _answer(found)
    response.headers["Cache-Control"] = YEAR if files_hash == files.hash else "no-store"
    return response


@cache
def _index_file(conversations: bool, registration_open: bool) -> PageFile:
    values = {
        "conversations": "on" if conversations else "off",
        "registration": "open" if registration_open else "closed",
        "version": escape(__version__),
    }
    plain = page_files().index_with(values).encode()
    return PageFile(plain, packed(plain), "text/html; charset=utf-8")


def _answer(file: PageFile) -> Response:
    headers = {"Vary": "Accept-Encoding"}
    body = file.plain
    if request.accept_encodings["gzip"] > 0:
        headers["Content-Encoding"] = "gzip"
        body = file.packed
    return Response(body, content_type=file.content_type, headers=headers)
