"""How the application reads and writes JSON: strictly, and with orjson."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import orjson
from flask import Flask, Response
from flask import Request as FlaskRequest
from flask.json.provider import JSONProvider
from werkzeug.datastructures import Headers
from werkzeug.exceptions import ClientDisconnected

from goblin_assistant.errors import UnsupportedMediaType
from goblin_assistant.web.request_body import load_object
from goblin_assistant.web.request_info import current_request

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


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
        return load_object(self.get_data(cache=cache))


def require_json(request: FlaskRequest) -> None:
    """Refuse a body with another Content-Type. A body without one has to be JSON too."""
    # Nearly always. Parsing the media type takes microseconds.
    if request.environ.get("CONTENT_TYPE") == "application/json":
        return
    kind = request.mimetype
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise UnsupportedMediaType("send the body as JSON, with Content-Type: application/json")


class JsonBytes(Response):
    """A response of finished JSON. It skips werkzeug's second pass over the headers."""

    def __init__(self, body: bytes) -> None:
        headers = Headers()
        headers.add("Content-Type", "application/json")
        headers.add("Content-Length", str(len(body)))
        super().__init__([body], headers=headers)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """The WSGI response. Not for HEAD: the body is always sent."""
        start_response(self.status, list(self.headers))
        return _Written(self.response, self.close)  # type: ignore[arg-type]


class _Written:
    """The body's pieces, and what `close` does. werkzeug's own class costs a call more per
    piece."""

    __slots__ = ("_pieces", "close")

    def __init__(self, pieces: Iterable[bytes], close: Callable[[], None]) -> None:
        self._pieces = pieces
        self.close = close

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._pieces)


def body_of(request: FlaskRequest) -> bytes:
    """The whole body. With a Content-Length it is read directly; werkzeug's streams handle the
    rest."""
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
    current = current_request()
    require_json(current)
    return body_of(current)


def init_app(app: Flask) -> None:
    """Use OrjsonProvider and Request."""
    app.request_class = Request
    app.json = OrjsonProvider(app)
