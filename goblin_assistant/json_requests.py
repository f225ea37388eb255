"""How this Flask application reads and writes JSON: strictly, and with orjson."""

from __future__ import annotations

from typing import Any

import orjson
from flask import Flask
from flask import Request as FlaskRequest
from flask.json.provider import JSONProvider

from goblin_assistant.errors import UnsupportedMediaType
from goblin_assistant.request_body import load_object


class OrjsonProvider(JSONProvider):
    """`jsonify` and friends. Keys keep their order: `error` comes before `message`."""

    def dumps(self, obj: Any, **kwargs: Any) -> str:
        """JSON text of `obj`."""
        return orjson.dumps(obj, default=str, option=orjson.OPT_NON_STR_KEYS).decode()

    def loads(self, s: str | bytes, **kwargs: Any) -> Any:
        """The value in `s`; ValueError when it is not JSON."""
        return orjson.loads(s)


class Request(FlaskRequest):
    """A request whose body, where a route asks for JSON, is one JSON object or an error in our words."""

    def get_json(self, force: bool = False, silent: bool = False, cache: bool = True) -> dict[str, Any]:  # type: ignore[override]
        """The body as an object; raises BadRequest or UnsupportedMediaType. The flags are Flask's and change nothing
        here."""
        require_json(self)
        return load_object(self.get_data(cache=cache))


def require_json(request: FlaskRequest) -> None:
    """Refuse a body that says it is something else. One that says nothing is taken for JSON, which it then has to
    be."""
    if request.environ.get("CONTENT_TYPE") == "application/json":  # nearly always; the parse below takes microseconds
        return
    kind = request.mimetype
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise UnsupportedMediaType("send the body as JSON, with Content-Type: application/json")


def init_app(app: Flask) -> None:
    """Use both."""
    app.request_class = Request
    app.json = OrjsonProvider(app)
