"""What a developer is told whose base URL is wrong, or who asks for an API that is not offered."""

from __future__ import annotations

import pytest
from flask import Flask

NOT_HERE = {
    "/v1/completions": "use POST /v1/chat/completions",
    "/v1/complete": "use POST /v1/messages",
    "/v1/files": "send their content within the request",
    "/v1/files/file-1/content": "send their content within the request",
    "/v1/batches": "one by one",
    "/v1/messages/batches": "one by one",
    "/v1/messages/batches/batch_1": "one by one",
    "/v1/responses/resp_1": "send the whole conversation",
    "/v1/responses/input_tokens": "POST /v1/messages/count_tokens",
    "/v1/responses/compact": "a shorter conversation",
    "/v1/responses/resp_1/input_items": "send the whole conversation",
    "/v1/chat/completions/c_1/messages": "send the whole conversation",
    "/v1/images/generations": "not offered here; /docs lists what is",
    "/v1/audio/speech": "not offered here; /docs lists what is",
    "/v1/moderations": "not offered here; /docs lists what is",
}
LACKS = {
    "/embeddings": "/v1/embeddings",
    "/responses": "/v1/responses",
    "/models": "/v1/models",
    "/models/echo/echo": "/v1/models/{model_id}",
    "/messages": "/v1/messages",
    "/messages/count_tokens": "/v1/messages/count_tokens",
}
WRONG = {
    "/v1/v1/messages": "/v1/messages",
    "/v1/v1/messages/count_tokens": "/v1/messages/count_tokens",
    "/v1//chat/completions": "/v1/chat/completions",
    "/api/v1/chat/completions": "/v1/chat/completions",
    "/anthropic/v1/messages": "/v1/messages",
    "/openai/deployments/echo/chat/completions": "/v1/chat/completions",
    "/v1/chat/completions/chat/completions": "/v1/chat/completions",
    "/v1/responses/responses": "/v1/responses",
    "/v1/messages/v1/messages": "/v1/messages",
    "/V1/Chat/Completions": "/v1/chat/completions",
}


def message(app: Flask, path: str) -> str:
    answer = app.test_client().post(path, json={})
    assert answer.status_code == 404, path
    body = answer.get_json()
    return str(body["message"] if isinstance(body["error"], str) else body["error"]["message"])


@pytest.mark.parametrize(("path", "told"), NOT_HERE.items())
def test_an_api_that_is_not_offered_says_what_to_do(app: Flask, path: str, told: str) -> None:
    assert told in message(app, path)


@pytest.mark.parametrize(("path", "meant"), [*LACKS.items(), *WRONG.items()])
def test_a_wrong_base_url_is_told_the_route_that_it_means(
    app: Flask, path: str, meant: str
) -> None:
    wrong = "lacks /v1 at its end" if path in LACKS else "has a wrong path"
    told = f"there is no such route; {meant} may be meant: the base URL {wrong}"
    assert message(app, path) == told


def test_it_is_told_in_the_dialect_of_the_client_whose_base_url_is_wrong(app: Flask) -> None:
    client = app.test_client()
    for path in ("/embeddings", "/models", "/responses", "/api/v1/chat/completions"):
        assert client.post(path, json={}).get_json()["error"]["type"] == "invalid_request_error"
    for path in ("/v1/v1/messages", "/anthropic/v1/messages", "/messages/count_tokens"):
        answer = client.post(path, json={})
        assert answer.get_json()["error"]["type"] == "not_found_error"
        assert answer.headers["request-id"] == answer.get_json()["request_id"]
    assert client.post("/nothing", json={}).get_json()["error"] == "not_found"


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/conversations/no-number/messages",
        "/auth/models",
        "/usage/responses",
        "/v1/nothing",
        "/v1",
        "/a" * 5000,
        "/v1/" + "x" * 300,
        "/a" * 60,
        "/%00",
    ],
)
def test_any_other_path_is_told_where_the_routes_are_listed(app: Flask, path: str) -> None:
    assert message(app, path) == "there is no such route; /docs lists all routes"


def test_a_wrong_method_is_told_those_that_the_route_takes(app: Flask) -> None:
    answer = app.test_client().get("/v1/chat/completions")
    assert answer.status_code == 405
    told = answer.get_json()["error"]["message"]
    assert told == "this route does not take this method; accepted: OPTIONS, POST"
