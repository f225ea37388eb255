"""How the application reads and writes JSON: strictly, and with orjson."""

from __future__ import annotations

from typing import Any

import orjson
from flask import Flask, request
from flask import Request as FlaskRequest
from flask.json.provider import JSONProvider
from werkzeug.exceptions import ClientDisconnected

from goblin_assistant.errors import UnsupportedMediaType
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
        return load_object(self.get_data(cache=cache))


def require_json(request: FlaskRequest) -> None:
    """Refuse a body with another Content-Type. A body without one has to be JSON too."""
    # Nearly always. Parsing the media type takes microseconds.
    if request.environ.get("CONTENT_TYPE") == "application/json":
        return
    kind = request.mimetype
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise UnsupportedMediaType("send the body as JSON, with Content-Type: application/json")


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
    require_json(request)
    return body_of(request)


def init_app(app: Flask) -> None:
    """Use OrjsonProvider and Request."""
    app.request_class = Request
    app.json = OrjsonProvider(app)
