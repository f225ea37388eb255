"""How the application reads and writes JSON: strictly, and with orjson."""

from __future__ import annotations

import zlib
from typing import Any

import orjson
from flask import Flask, request
from flask import Request as FlaskRequest
from flask.json.provider import JSONProvider
from werkzeug.exceptions import ClientDisconnected

from goblin_assistant.errors import BadRequest, PayloadTooLarge, UnsupportedMediaType
from goblin_assistant.web.request_body import load_object


class OrjsonProvider(JSONProvider):
    """For `jsonify` and the like. Keys keep their order: `error` comes before `message`."""

    def dumps(self, obj: Any, **kwargs: Any) -> str:
        """JSON text of `obj`."""
        return orjson.dumps(obj, default=str, option=orjson.OPT_NON_STR_KEYS).decode()

    def loads(self, s: str | bytes, **kwargs: Any) -> Any:
        """The value in `s`; ValueError when it is not JSON."""
        return orjson.loads(s)


class Request(FlaskRequest):
    """A request whose JSON body is an object; anything else is an error of ours."""

    def get_json(
        self, force: bool = False, silent: bool = False, cache: bool = True
    ) -> dict[str, Any]:  # type: ignore[override]
        """The body as an object. Raises BadRequest or UnsupportedMediaType. Flask's flags have no
        effect, except `cache`."""
        require_json(self)
        return load_object(_plain(self, self.get_data(cache=cache)))


def require_json(request: FlaskRequest) -> None:
    """Refuse a body with another Content-Type. A body without one has to be JSON too."""
    # Nearly always. Parsing the media type takes microseconds.
    if request.environ.get("CONTENT_TYPE") == "application/json":
        return
    kind = request.mimetype
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise UnsupportedMediaType("send the body as JSON, with Content-Type: application/json")


def body_of(request: FlaskRequest) -> bytes:
    """The whole body, decompressed. With a Content-Length it is read directly; werkzeug's streams
    handle the rest."""
    body = _bytes_of(request)
    return body if "HTTP_CONTENT_ENCODING" not in request.environ else _plain(request, body)


def _plain(request: FlaskRequest, body: bytes) -> bytes:
    """The body without its Content-Encoding (RFC 9110, section 8.4). Raises UnsupportedMediaType
    for any but gzip, and PayloadTooLarge as if it had been sent plain."""
    coding = request.environ.get("HTTP_CONTENT_ENCODING", "").strip().lower()
    if coding in ("", "identity"):
        return body
    if coding not in ("gzip", "x-gzip"):
        raise UnsupportedMediaType(
            "the body's Content-Encoding is not known here; accepted: gzip",
            headers={"Accept-Encoding": "gzip"},
        )
    most = request.max_content_length
    return gunzip(body, most if most is not None else len(body))


MOST_MEMBERS = 1000
"""Members of a gzip file. Tools write one, or one for each 64 KB; a million empty ones in 20 MB
would take minutes."""
_PIECE = 64 * 1024


def gunzip(body: bytes, most: int) -> bytes:
    """The content of a gzip file of at most `most` bytes. A small file may hold gigabytes, so no
    more is decompressed. Raises BadRequest or PayloadTooLarge."""
    pieces: list[bytes] = []
    size = position = 0
    view = memoryview(body)
    for _ in range(MOST_MEMBERS):  # a file may have several members (RFC 1952, section 2.2)
        if position == len(body):
            return b"".join(pieces)
        member = zlib.decompressobj(wbits=31)
        while not member.eof:
            # In pieces: zlib copies all that is behind a member.
            sent = view[position : position + _PIECE]
            if not sent:
                raise BadRequest("the gzip body is incomplete")
            try:
                piece = member.decompress(sent, most - size + 1)
            except zlib.error:
                raise BadRequest("the body is not valid gzip") from None
            pieces.append(piece)
            size += len(piece)
            if size > most:
                raise PayloadTooLarge(f"the body is too large; this route takes {most} bytes")
            position += len(sent) - len(member.unused_data)
    if position < len(body):
        raise BadRequest("the gzip body has too many members")
    return b"".join(pieces)


def _bytes_of(request: FlaskRequest) -> bytes:
    environ = request.environ
    announced = environ.get("CONTENT_LENGTH", "")
    most = request.max_content_length
    if announced.isdigit() and len(announced) < 12 and "HTTP_TRANSFER_ENCODING" not in environ:
        length = int(announced)
        if most is None or length <= most:
            data: bytes = environ["wsgi.input"].read(length)
            if len(data) != length:
                raise ClientDisconnected
            return data
    return request.get_data(cache=False)


def json_body() -> bytes:
    """The bytes of the request at hand. Raises UnsupportedMediaType for what is not JSON."""
    require_json(request)
    return body_of(request)


def init_app(app: Flask) -> None:
    """Use OrjsonProvider and Request."""
    app.request_class = Request
    app.json = OrjsonProvider(app)
