"""The wrapper around the application: ids, metrics and the request_completed line, however a
request ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import requests
from flask import Flask, Response, abort, request
from werkzeug.test import Client, EnvironBuilder

from goblin_assistant.config import Config
from goblin_assistant.metrics import REGISTRY
from goblin_assistant.tracing.tracing import Tracing
from goblin_assistant.web import metrics_endpoint, observability
from goblin_assistant.web.observability import request_info
from tests.conftest import Serve
from tests.support.threads import at_once

CONFIG = Config(env="development", secret_key="x" * 40)


def accept(*_: Any) -> Callable[[bytes], object]:
    """A start_response that takes every answer."""
    return lambda _: None


@pytest.fixture
def observed() -> Flask:
    """A small application with a route for each way in which a request can end."""
    app = Flask("observed")

    @app.get("/things/<int:thing>")
    def things(thing: int) -> str:
        request_info().principal = "key:7"
        return f"thing {thing}"

    @app.post("/refused")
    def refused() -> str:
        abort(429)

    @app.get("/boom")
    def boom() -> str:
        raise TimeoutError("no answer")

    @app.get("/stream/<how>")
    def stream(how: str) -> Response:
        info = request_info()

        def pieces() -> Iterator[bytes]:
            yield b"one"
            if how == "fails":
                raise ValueError("midway")
            if how == "marked":
                info.incomplete, info.error_type = True, "BadResponse"
            yield b"two"

        return Response(pieces())

    @app.before_request
    def early() -> tuple[str, int] | None:
        return ("no", 403) if request.args.get("early") else None

    @app.post("/body")
    def body() -> str:
        return str(len(request.get_data()))

    @app.get("/metrics-like")
    def metrics_like() -> str:
        return "x"

    metrics_endpoint.init_app(app, CONFIG)
    observability.init_app(app, Tracing({}, ""))
    return app


@pytest.fixture
def client(observed: Flask) -> Client:
    return Whole(observed)


class Whole(Client):
    """Reads every answer to its end and closes it, as a server does."""

    def open(self, *args: Any, **kwargs: Any) -> Any:
        return super().open(*args, buffered=True, **kwargs)


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def requests_total(method: str, endpoint: str, status: int) -> float:
    return value("http_requests_total", method=method, endpoint=endpoint, status_code=str(status))


def in_progress() -> float:
    family = next(f for f in REGISTRY.collect() if f.name == "http_requests_in_progress")
    return sum(sample.value for sample in family.samples)


class Lines(logging.Handler):
    """The request_completed records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "request_completed":
            self.records.append(record)


@pytest.fixture
def completed() -> Iterator[list[Any]]:
    handler = Lines()
    logger = logging.getLogger("goblin_assistant")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel("INFO")
    yield handler.records
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_a_request_is_counted_timed_and_logged(client: Client, completed: list[Any]) -> None:
    before = requests_total("GET", "/things/<int:thing>", 200)
    timed = value(
        "http_request_duration_seconds_count", method="GET", endpoint="/things/<int:thing>"
    )
    response = client.get(
        "/things/5",
        headers={"X-Correlation-ID": "abc-1"},
        environ_base={"REMOTE_ADDR": "127.0.0.1"},
    )
    assert requests_total("GET", "/things/<int:thing>", 200) == before + 1
    assert (
        value("http_request_duration_seconds_count", method="GET", endpoint="/things/<int:thing>")
        == timed + 1
    )
    assert response.headers["X-Correlation-ID"] == response.headers["x-request-id"] == "abc-1"
    (record,) = completed
    assert (record.method, record.path, record.status_code, record.bytes) == (
        "GET",
        "/things/5",
        200,
        7,
    )
    assert (record.correlation_id, record.principal, record.client) == (
        "abc-1",
        "key:7",
        "127.0.0.1",
    )
    assert record.duration_ms == round(record.duration_ms, 2) > 0
    assert not hasattr(record, "completed")


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "a\tb", "ü", "a/b", "{}", '"'])
def test_an_id_that_is_not_one_is_replaced(client: Client, given: str) -> None:
    response = client.get("/things/5", headers={"X-Correlation-ID": given})
    assert len(response.headers["X-Correlation-ID"]) == 36


@pytest.mark.parametrize(
    "given", ["a", "x" * 128, "550e8400-e29b-41d4-a716-446655440000", "A.b_c:d-1"]
)
def test_a_good_id_is_kept(client: Client, given: str) -> None:
    assert (
        client.get("/nowhere", headers={"X-Correlation-ID": given}).headers["X-Correlation-ID"]
        == given
    )


def test_an_unknown_path_is_unmatched(client: Client) -> None:
    before = requests_total("GET", "<unmatched>", 404)
    assert client.get("/made/up").status_code == 404
    assert requests_total("GET", "<unmatched>", 404) == before + 1


def test_a_wrong_method_is_unmatched(client: Client) -> None:
    before = requests_total("DELETE", "<unmatched>", 405)
    assert client.delete("/things/5").status_code == 405
    assert requests_total("DELETE", "<unmatched>", 405) == before + 1


def test_a_made_up_method_is_other(client: Client, completed: list[Any]) -> None:
    before = requests_total("OTHER", "<unmatched>", 405)
    assert client.open("/things/5", method="BREW").status_code == 405
    assert requests_total("OTHER", "<unmatched>", 405) == before + 1
    assert completed[0].method == "BREW"


def test_options_and_head_are_counted_under_their_route(client: Client) -> None:
    options = requests_total("OPTIONS", "/things/<int:thing>", 200)
    head = requests_total("HEAD", "/things/<int:thing>", 200)
    client.options("/things/5")
    client.head("/things/5")
    assert requests_total("OPTIONS", "/things/<int:thing>", 200) == options + 1
    assert requests_total("HEAD", "/things/<int:thing>", 200) == head + 1
    assert in_progress() == 0


def test_a_request_that_a_hook_ended_is_counted_under_its_route(client: Client) -> None:
    before = requests_total("GET", "/things/<int:thing>", 403)
    client.get("/things/5?early=1")
    assert requests_total("GET", "/things/<int:thing>", 403) == before + 1


def test_a_4xx_is_no_error_of_ours(client: Client) -> None:
    before = value("http_errors_total", method="POST", endpoint="/refused", error_type="HTTP429")
    assert client.post("/refused").status_code == 429
    assert (
        value("http_errors_total", method="POST", endpoint="/refused", error_type="HTTP429")
        == before
    )


def test_an_exception_is_counted_by_its_type_and_logged_as_a_warning(
    client: Client, completed: list[Any]
) -> None:
    labels = {"method": "GET", "endpoint": "/boom", "error_type": "TimeoutError"}
    before = value("http_errors_total", **labels)
    assert client.get("/boom").status_code == 500
    assert value("http_errors_total", **labels) == before + 1
    assert completed[0].levelname == "WARNING"
    assert completed[0].error_type == "TimeoutError"


def test_a_stream_is_in_progress_until_its_last_byte(observed: Flask, completed: list[Any]) -> None:
    iterable = run(observed, "/stream/whole")
    pieces = iter(iterable)
    assert next(pieces) == b"one"
    assert in_progress() == 1
    assert completed == []
    assert list(pieces) == [b"two"]
    close(iterable)
    assert in_progress() == 0
    assert completed[0].bytes == 6
    assert not hasattr(completed[0], "completed")


def run(app: Flask, path: str) -> Iterable[bytes]:
    return app.wsgi_app(EnvironBuilder(path).get_environ(), accept)  # type: ignore[return-value]


def close(iterable: Iterable[bytes]) -> None:
    iterable.close()  # type: ignore[attr-defined]


def test_a_stream_that_the_client_cut_did_not_complete(
    observed: Flask, completed: list[Any]
) -> None:
    iterable = run(observed, "/stream/whole")
    next(iter(iterable))
    close(iterable)
    close(iterable)
    assert in_progress() == 0
    (record,) = completed
    assert record.completed is False
    assert record.bytes == 3
    assert not hasattr(record, "error_type")


def test_an_answer_that_nobody_waited_for_did_not_complete(
    observed: Flask, completed: list[Any]
) -> None:
    environ = EnvironBuilder("/things/5").get_environ()
    environ["waitress.client_disconnected"] = lambda: True
    iterable = observed.wsgi_app(environ, accept)
    list(iterable)
    close(iterable)
    assert completed[0].completed is False


def test_a_stream_that_fails_midway_is_an_error(observed: Flask, completed: list[Any]) -> None:
    labels = {"method": "GET", "endpoint": "/stream/<how>", "error_type": "ValueError"}
    before = value("http_errors_total", **labels)
    iterable = run(observed, "/stream/fails")
    with pytest.raises(ValueError, match="midway"):
        list(iterable)
    close(iterable)
    assert value("http_errors_total", **labels) == before + 1
    assert completed[0].completed is False
    assert completed[0].status_code == 200
    assert in_progress() == 0


def test_a_stream_that_was_marked_incomplete_is_an_error(
    client: Client, completed: list[Any]
) -> None:
    labels = {"method": "GET", "endpoint": "/stream/<how>", "error_type": "BadResponse"}
    before = value("http_errors_total", **labels)
    assert client.get("/stream/marked").data == b"onetwo"
    assert value("http_errors_total", **labels) == before + 1
    assert completed[0].completed is False


def test_an_application_that_fails_outside_flask_is_counted(
    observed: Flask, completed: list[Any]
) -> None:
    def broken(environ: Any, start_response: Any) -> Iterable[bytes]:
        raise MemoryError

    app = observability._Observed(broken, Tracing({}, ""))
    with pytest.raises(MemoryError):
        app(EnvironBuilder("/x").get_environ(), accept)
    assert in_progress() == 0
    assert completed[0].status_code == 500
    assert completed[0].error_type == "MemoryError"


def test_the_count_is_there_before_the_client_can_have_read_the_answer(observed: Flask) -> None:
    before = requests_total("GET", "/things/<int:thing>", 200)
    iterable = run(observed, "/things/5")
    next(iter(iterable))  # with this piece the client has Content-Length bytes
    assert requests_total("GET", "/things/<int:thing>", 200) == before + 1
    assert in_progress() == 0
    close(iterable)


def test_paths_are_logged_readable_and_short(client: Client, completed: list[Any]) -> None:
    client.get("/caf%C3%A9")
    client.get("/%ff%fe")
    client.get("/" + "x" * 5000)
    assert completed[0].path == "/café"
    assert completed[1].path == "/\ufffd\ufffd"
    assert len(completed[2].path) == observability.MAX_LOGGED_PATH + 3


def test_threads_count_exactly_and_leave_nothing_in_progress(observed: Flask) -> None:
    before = requests_total("GET", "/things/<int:thing>", 200)
    unmatched = requests_total("GET", "<unmatched>", 404)

    def work(_: int) -> None:
        client = Whole(observed)
        for number in range(50):
            client.get(f"/things/{number}")
            client.get(f"/nowhere/{number}")
            cut = run(observed, "/stream/whole")
            next(iter(cut))
            close(cut)

    at_once(work, 16)
    assert requests_total("GET", "/things/<int:thing>", 200) == before + 800
    assert requests_total("GET", "<unmatched>", 404) == unmatched + 800
    assert in_progress() == 0


def test_series_of_known_routes_start_at_zero(observed: Flask) -> None:
    assert (
        REGISTRY.get_sample_value(
            "http_errors_total",
            {"method": "POST", "endpoint": "/body", "error_type": "InternalError"},
        )
        == 0.0
    )
    assert (
        REGISTRY.get_sample_value(
            "http_requests_total", {"method": "POST", "endpoint": "/body", "status_code": "500"}
        )
        == 0.0
    )


def test_metrics_are_served_as_text_and_as_openmetrics(client: Client) -> None:
    response = client.get("/metrics")
    assert response.headers["Content-Type"].startswith("text/plain; version=")
    assert b"# TYPE http_requests_total counter" in response.data
    openmetrics = client.get(
        "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
    )
    assert openmetrics.headers["Content-Type"].startswith("application/openmetrics-text")
    assert openmetrics.data.endswith(b"# EOF\n")
    only = client.get("/metrics?name[]=http_requests_in_progress")
    assert b"http_requests_in_progress" in only.data
    assert b"http_requests_total" not in only.data


def paths_logged(server: Any, message: str) -> list[str]:
    return [line["path"] for line in server.log_lines(message)]


def test_probes_and_scrapes_are_logged_for_debugging_only(serve: Serve) -> None:
    server = serve()
    for path in ("/health/live", "/health/ready", "/metrics", "/health", "/nothing"):
        requests.get(server.url + path, timeout=60)
    server.wait_for_line("request_completed", path="/nothing")
    assert paths_logged(server, "request_completed") == ["/health", "/nothing"]
    assert paths_logged(server, "request_started") == []


def test_a_probe_that_fails_is_logged_as_any_failure(serve: Serve) -> None:
    server = serve(GOBLIN_ENV="production", SECRET_KEY="x" * 40)  # without tables
    assert requests.get(server.url + "/health/ready", timeout=60).status_code == 503
    line = server.wait_for_line("request_completed", path="/health/ready")
    assert (line["level"], line["status_code"]) == ("WARNING", 503)


def test_at_debug_each_request_has_a_line_when_it_starts_and_when_it_ends(serve: Serve) -> None:
    server = serve(LOG_LEVEL="DEBUG")
    requests.get(
        server.url + "/health/live?secret=1", headers={"X-Correlation-ID": "abc-1"}, timeout=10
    )
    ended = server.wait_for_line("request_completed", correlation_id="abc-1")
    started = server.wait_for_line("request_started", correlation_id="abc-1")
    lines = server.log_lines()
    assert lines.index(started) < lines.index(ended)
    assert {key: started[key] for key in ("level", "method", "path", "client")} == {
        "level": "DEBUG",
        "method": "GET",
        "path": "/health/live",
        "client": "127.0.0.1",
    }
    assert ended["level"] == "DEBUG"
