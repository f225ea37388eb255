"""The document is valid, complete and true; the page that shows it needs no network."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from openapi_spec_validator import OpenAPIV31SpecValidator

from goblin_assistant.web import openapi
from goblin_assistant.web.openapi import UNLIMITED
from tests.conftest import Serve

NOT_DESCRIBED = {
    "/openapi.json", "/docs", "/docs/rapidoc.js", "/", "/static/{files_hash}/{name}"
}  # fmt: skip
ORDINARY = {"get", "post", "put", "patch", "delete"}


@pytest.fixture
def document(client: FlaskClient) -> dict[str, Any]:
    answer = client.get("/openapi.json")
    assert answer.status_code == 200
    assert answer.content_type == "application/json"
    found: dict[str, Any] = answer.get_json()
    return found


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Every (path, method, operation)."""
    return [
        (path, method, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in ORDINARY
    ]


def test_the_document_is_valid_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    OpenAPIV31SpecValidator(document).validate()


def test_every_route_is_in_the_document(app: Flask, document: dict[str, Any]) -> None:
    described = {(path, method.upper()) for path, method, _ in operations(document)}
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:[^<:>]+:)?([^<>]+)>", r"{\1}", rule.rule)
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            assert path in NOT_DESCRIBED or (path, method) in described, f"{method} {path}"


def test_every_operation_says_what_it_does_and_has_an_id_of_its_own(
    document: dict[str, Any],
) -> None:
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(ids) == len(set(ids))
    known = {tag["name"] for tag in document["tags"]}
    for path, method, operation in operations(document):
        assert operation.get("summary"), f"{method} {path}"
        assert operation.get("description"), f"{method} {path}"
        assert set(operation.get("tags", ())) <= known, f"{method} {path}: {operation.get('tags')}"
        assert operation.get("tags"), f"{method} {path}"


def test_every_operation_lists_its_errors_in_its_dialect(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        responses = operation["responses"]
        assert "500" in responses
        assert ("429" in responses) == (path not in UNLIMITED), f"{method} {path}"
        if operation.get("security"):
            assert {"401", "403"} <= set(responses), f"{method} {path}"
        if "requestBody" in operation:
            assert {"400", "413", "415"} <= set(responses), f"{method} {path}"
        expected = (
            "AnthropicErrorBody"
            if path.startswith("/v1/messages")
            else "OpenAIErrorBody"
            if path.startswith("/v1/")
            else "ErrorBody"
        )
        for status, response in responses.items():
            assert response["description"], f"{method} {path} {status}"
            assert "X-Correlation-ID" in response["headers"]
            if int(status) >= 400:
                assert response["content"]["application/json"]["schema"]["$ref"].endswith(
                    f"/{expected}"
                ), f"{method} {path} {status}"
            assert ("Retry-After" in response["headers"]) == (status in ("429", "503"))


def test_chat_is_described_with_its_stream_and_both_ways_to_authenticate(
    document: dict[str, Any],
) -> None:
    for path in ("/chat/completions", "/v1/chat/completions"):
        operation = document["paths"][path]["post"]
        assert set(operation["responses"]["200"]["content"]) == {
            "application/json",
            "text/event-stream",
        }
        assert {name for entry in operation["security"] for name in entry} == {"bearer", "apiKey"}
        assert {"402", "502", "504"} <= set(operation["responses"])
    assert set(document["components"]["securitySchemes"]) == {"bearer", "apiKey"}


def test_routes_that_need_credentials_say_so_and_others_do_not(
    client: FlaskClient, document: dict[str, Any]
) -> None:
    for path, method, operation in operations(document):
        url = re.sub(r"\{[^}]+\}", "1", path)
        status = client.open(
            url, method=method.upper(), json={} if "requestBody" in operation else None
        ).status_code
        assert (status == 401) == bool(operation.get("security")), f"{method} {path}: {status}"


def test_examples_and_descriptions_hold_no_secret_of_the_configuration(
    app: Flask, client: FlaskClient
) -> None:
    assert app.config["SECRET_KEY"] not in client.get("/openapi.json").get_data(as_text=True)


def test_the_page_loads_nothing_from_elsewhere(client: FlaskClient) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    html = page.get_data(as_text=True)
    assert not re.findall(r"(?:https?:)?//[a-z]", html)
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "http" not in policy
    script = client.get("/docs/rapidoc.js", headers={"Accept-Encoding": "gzip"})
    assert script.headers["Content-Encoding"] == "gzip"
    plain = client.get("/docs/rapidoc.js", headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers
    assert b"rapi-doc" in plain.data
    assert len(script.data) < len(plain.data) / 3


def test_the_page_has_one_address_because_its_links_are_relative(client: FlaskClient) -> None:
    assert client.get("/docs/").status_code == 404


def test_a_browser_without_network_shows_the_routes(serve: Serve, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("chromium is not installed")
    server = serve()
    shown = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu",
            f"--user-data-dir={tmp_path}/profile",
            "--virtual-time-budget=15000",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            f"--screenshot={tmp_path}/docs.png", "--window-size=1200,900",
            "--enable-logging=stderr", "--v=0",
            server.url + "/docs",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )  # fmt: skip
    assert "Content Security Policy" not in shown.stderr
    for path in ("/docs", "/docs/rapidoc.js", "/openapi.json"):
        server.wait_for_line("request_completed", path=path)


def test_a_first_burst_makes_the_document_once(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    complete = openapi.complete

    def noted(*given: Any) -> dict[str, Any]:
        made.append(1)
        return complete(*given)

    monkeypatch.setattr(openapi, "complete", noted)
    together = threading.Barrier(8)

    def ask(_: int) -> int:
        together.wait(30)
        return app.test_client().get("/openapi.json").status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(8))) == {200}
    assert len(made) == 1
