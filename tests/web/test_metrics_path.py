"""/metrics answers to exactly this spelling, so that a proxy's rule against it cannot be
bypassed."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from werkzeug.serving import make_server

from tests.conftest import MakeApp, Serve, free_port
from tests.support.real_server import raw

SPELLINGS = [
    "/metrics/",
    "/metrics//",
    "/metrics%2f",
    "/metrics%2F",
    "//metrics",
    "///metrics",
    "/%6detrics",
    "/%6Detrics",
    "/metric%73",
    "/metrics%20",
    "/metrics%00",
    "/metrics;a",
    "/metrics;",
    "/metrics/;a",
    "/METRICS",
    "/Metrics",
    "/./metrics",
    "/x/../metrics",
    "/metrics/.",
    "/metrics/x/..",
    "/metrics%3f",
    "/metrics%23",
    "/metrics#x",
    "http://a/metrics",
    "http://a//metrics",
    "http://a/metrics?x",
    "HTTP://a/metrics",
    "x:/metrics",
    "metrics",
    "/\\metrics",
]
EXACT = ["/metrics", "/metrics?", "/metrics?x=/y", "/metrics?name[]=up"]


def status(server: Any, target: str, method: str = "GET") -> int:
    request = f"{method} {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    return int(raw(server, request.encode()).split()[1])


def test_only_the_exact_path_is_served(serve: Serve) -> None:
    server = serve()
    for method in ("GET", "HEAD"):
        served = [
            target for target in SPELLINGS if status(server, target, method) not in (400, 404)
        ]
        assert served == []
        assert [status(server, target, method) for target in EXACT] == [200] * len(EXACT)
    answer = raw(server, b"GET //metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"] == "not_found"


def test_only_the_exact_path_is_served_on_a_port_of_its_own(serve: Serve) -> None:
    port = free_port()
    serve(GOBLIN_METRICS_PORT=str(port))
    own = SimpleNamespace(port=port)
    assert [target for target in SPELLINGS if status(own, target) not in (400, 404)] == []
    assert [status(own, target) for target in EXACT] == [200] * len(EXACT)


REQUEST_LINES = [
    b"GET /metrics\x85 HTTP/1.1",
    b"GET /metrics\xa0 HTTP/1.1",
    b"GET /metrics\t HTTP/1.1",
    b"GET /metrics\x0b HTTP/1.1",
    b"GET /metrics\x1c HTTP/1.1",
    b"GET \xa0/metrics HTTP/1.1",
    b"GET\t/metrics HTTP/1.1",
    b"GET\xa0/metrics\xa0HTTP/1.1",
    b"GET /metrics HTTP/1.1\x85",
    b"GET  /metrics HTTP/1.1",
    b"GET /metrics  HTTP/1.1",
    b"GET //metrics",
]


def test_a_request_line_has_one_space_between_its_words(serve: Serve) -> None:
    port = free_port()
    serve(GOBLIN_METRICS_PORT=str(port))
    own = SimpleNamespace(port=port)
    for line in REQUEST_LINES:
        answer = raw(own, line + b"\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert answer
        assert b"app_build_info" not in answer, line


@pytest.fixture
def development(make_app: MakeApp) -> Iterator[SimpleNamespace]:
    """An application under werkzeug's server, as with `flask run`."""
    server = make_server("127.0.0.1", 0, make_app(), threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield SimpleNamespace(port=server.server_port)
    server.shutdown()
    thread.join(30)
    server.server_close()


def test_only_the_exact_path_is_served_under_another_server(development: SimpleNamespace) -> None:
    # Python's http.server, on which werkzeug's is built, merges slashes before the application sees
    # them.
    told = [target for target in SPELLINGS if not target.startswith("//")]
    assert [target for target in told if status(development, target) not in (400, 404)] == []
    assert [status(development, target) for target in EXACT] == [200] * len(EXACT)


def test_under_a_server_that_does_not_tell_the_target_the_decoded_path_decides(
    make_app: MakeApp,
) -> None:
    client = make_app().test_client()
    unknown = {"REQUEST_URI": None, "RAW_URI": None}
    for path, expected in (("/metrics", 200), ("/metrics/", 404)):
        assert client.get(path, environ_overrides=unknown).status_code == expected
