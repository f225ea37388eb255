"""Limits as a client meets them."""

from __future__ import annotations

import time
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from goblin_assistant.errors import RateLimitExceeded
from goblin_assistant.web.rate_limits import group_of
from tests.conftest import MakeApp, Serve, register
from tests.support.services import RedisServer

LOGIN = {"email": "test@example.com", "password": "test-password-1"}
CHAT = {"model": "echo", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def limited(make_app: MakeApp) -> FlaskClient:
    return make_app(ratelimit_enabled=True).test_client()


def statuses(
    client: FlaskClient, count: int, path: str, method: str = "GET", **kwargs: Any
) -> list[int]:
    return [client.open(path, method=method, **kwargs).status_code for _ in range(count)]


def test_fifteen_logins_give_five_refusals_in_the_guides_words(limited: FlaskClient) -> None:
    answers = [limited.post("/auth/login", json=LOGIN) for _ in range(15)]
    assert [answer.status_code for answer in answers] == [401] * 10 + [429] * 5
    for answer in answers[10:]:
        body = answer.get_json()
        assert body["error"] == "rate_limit_exceeded"
        assert body["message"] == "Rate limit exceeded: 10 per 1 minute"
        assert 1 <= body["retry_after"] <= 60
        assert answer.headers["Retry-After"] == str(body["retry_after"])
        assert body["source"] == "limit"
        assert answer.headers["X-Correlation-ID"] == body["correlation_id"]


def test_the_auth_routes_share_one_bucket(limited: FlaskClient) -> None:
    for _ in range(5):
        limited.post("/auth/login", json=LOGIN)
        limited.post("/auth/register", json={})
    assert limited.post("/auth/refresh", json={}).status_code == 429
    assert limited.post("/auth/logout", json={}).status_code == 429


def test_other_groups_have_buckets_of_their_own(limited: FlaskClient) -> None:
    statuses(limited, 12, "/auth/login", "POST", json=LOGIN)
    assert limited.get("/health").status_code == 200
    assert limited.get("/openapi.json").status_code == 200


def test_health_has_sixty_and_probes_and_metrics_are_never_counted(limited: FlaskClient) -> None:
    assert statuses(limited, 65, "/health") == [200] * 60 + [429] * 5
    assert set(statuses(limited, 150, "/health/live")) == {200}
    assert 429 not in statuses(limited, 150, "/health/ready")
    assert set(statuses(limited, 150, "/metrics")) == {200}


def test_unknown_paths_and_methods_are_counted_together(limited: FlaskClient) -> None:
    found = [limited.get(f"/made/up/{number}").status_code for number in range(99)]
    assert set(found) == {404}
    assert limited.delete("/auth/login").status_code == 405
    assert limited.get("/made/up").status_code == 429


def test_preflights_are_never_counted_and_other_options_are(make_app: MakeApp) -> None:
    client = make_app(
        ratelimit_enabled=True, cors_origins=["https://app.example.com"]
    ).test_client()
    preflight = {"Origin": "https://app.example.com", "Access-Control-Request-Method": "POST"}
    assert 429 not in statuses(client, 150, "/auth/login", "OPTIONS", headers=preflight)
    assert 429 in statuses(client, 150, "/auth/login", "OPTIONS")


def test_headers_say_where_the_caller_stands(limited: FlaskClient) -> None:
    first = limited.post("/auth/login", json=LOGIN)
    second = limited.post("/auth/login", json=LOGIN)
    assert (first.headers["X-RateLimit-Limit"], first.headers["X-RateLimit-Remaining"]) == (
        "10",
        "9",
    )
    assert second.headers["X-RateLimit-Remaining"] == "8"
    assert abs(int(second.headers["X-RateLimit-Reset"]) - time.time() - 60) < 3
    assert "Retry-After" not in second.headers
    assert "X-RateLimit-Limit" not in limited.get("/health/live").headers
    refused = [limited.post("/auth/login", json=LOGIN) for _ in range(9)][-1]
    assert refused.headers["X-RateLimit-Remaining"] == "0"
    assert refused.headers["X-RateLimit-Limit"] == "10"


def test_a_caller_has_thirty_chats_whatever_its_address(limited: FlaskClient) -> None:
    headers = {"Authorization": f"Bearer {register(limited)['access_token']}"}
    first = limited.post("/chat/completions", json=CHAT, headers=headers)
    assert first.status_code == 200
    assert (first.headers["X-RateLimit-Limit"], first.headers["X-RateLimit-Remaining"]) == (
        "30",
        "29",
    )
    for number in range(29):
        answer = limited.post(
            "/v1/chat/completions",
            json=CHAT,
            headers=headers,
            environ_base={"REMOTE_ADDR": f"10.0.0.{number}"},
        )
        assert answer.status_code == 200
    refused = limited.post("/v1/chat/completions", json=CHAT, headers=headers)
    assert refused.status_code == 429
    error = refused.get_json()["error"]
    assert error["type"] == "rate_limit_error"
    assert error["message"] == "Rate limit exceeded: 30 per 1 minute"
    assert int(refused.headers["Retry-After"]) >= 1
    # The same address, without the credential: another caller.
    assert limited.post("/v1/chat/completions", json=CHAT).status_code == 401


def test_bad_credentials_are_counted_before_they_are_refused(limited: FlaskClient) -> None:
    headers = {"Authorization": "Bearer gob_wrong"}
    assert (
        statuses(limited, 32, "/chat/completions", "POST", json=CHAT, headers=headers)
        == [401] * 30 + [429] * 2
    )
    assert statuses(limited, 102, "/settings/", headers=headers) == [401] * 100 + [429] * 2


def test_two_users_behind_one_address_are_two_callers(limited: FlaskClient) -> None:
    ada = {"Authorization": f"Bearer {register(limited, 'ada@example.com')['access_token']}"}
    eve = {"Authorization": f"Bearer {register(limited, 'eve@example.com')['access_token']}"}
    assert statuses(limited, 101, "/settings/", headers=ada) == [200] * 100 + [429]
    assert limited.get("/settings/", headers=eve).status_code == 200


def test_a_locked_account_is_locked_from_every_address(make_app: MakeApp) -> None:
    client = make_app(ratelimit_enabled=True, ratelimit_auth="1000 per minute").test_client()
    register(client, "ada@example.com")
    wrong = {"email": "ada@example.com", "password": "wrong-password-1"}
    found = [
        client.post(
            "/auth/login", json=wrong, environ_base={"REMOTE_ADDR": f"10.0.0.{n}"}
        ).status_code
        for n in range(12)
    ]
    assert found[:9] == [401] * 9
    assert found[10:] == [429] * 2


def test_limits_can_be_switched_off(make_app: MakeApp) -> None:
    client = make_app(ratelimit_enabled="false").test_client()
    assert set(statuses(client, 30, "/auth/login", "POST", json=LOGIN)) == {401}
    assert "X-RateLimit-Limit" not in client.get("/health").headers


def test_two_applications_in_one_process_have_limits_of_their_own(make_app: MakeApp) -> None:
    limited, unlimited = make_app(ratelimit_enabled=True), make_app(ratelimit_enabled=False)
    assert 429 not in statuses(unlimited.test_client(), 70, "/health")
    assert 429 in statuses(limited.test_client(), 70, "/health")
    assert 429 not in statuses(make_app(ratelimit_enabled=True).test_client(), 50, "/health")


def test_limits_can_be_set(make_app: MakeApp) -> None:
    client = make_app(ratelimit_enabled=True, ratelimit_health="3 per hour").test_client()
    answers = [client.get("/health") for _ in range(4)]
    assert answers[-1].get_json()["message"] == "Rate limit exceeded: 3 per 1 hour"
    assert answers[-1].get_json()["retry_after"] > 3500


def test_every_route_has_a_group(app: Flask) -> None:
    groups = {rule.rule: group_of(rule) for rule in app.url_map.iter_rules()}
    assert {path for path, group in groups.items() if group == ""} == {
        "/health/live",
        "/health/ready",
        "/metrics",
        "/",
        "/static/<files_hash>/<path:name>",
    }
    assert {path for path, group in groups.items() if group == "auth"} == {
        "/auth/register", "/auth/login", "/auth/refresh", "/auth/logout", "/auth/password",
    }  # fmt: skip
    assert {path for path, group in groups.items() if group == "chat"} == {
        "/chat/completions", "/v1/chat/completions", "/v1/messages", "/v1/embeddings",
        "/v1/responses",
    }  # fmt: skip
    assert all(path.startswith("/health") for path, group in groups.items() if group == "health")


def test_instances_that_share_a_redis_are_one(make_app: MakeApp, redis_server: RedisServer) -> None:
    clients = [
        make_app(
            ratelimit_enabled=True, ratelimit_storage_uri=redis_server.url, instances=2
        ).test_client()
        for _ in range(2)
    ]
    found = [
        clients[number % 2].post("/auth/login", json=LOGIN).status_code for number in range(15)
    ]
    assert found == [401] * 10 + [429] * 5
    redis_server.stop()
    # Now each instance counts alone, with half the limit. There is no 500.
    assert [clients[0].post("/auth/login", json=LOGIN).status_code for _ in range(7)] == [
        401
    ] * 5 + [429] * 2
    assert clients[1].get("/health").status_code == 200


def test_the_guides_loop_works_against_the_real_server(serve: Serve) -> None:
    import requests

    server = serve(RATELIMIT_ENABLED="true")
    answers = [
        requests.post(
            server.url + "/auth/login",
            json={"email": "test@example.com", "password": "test"},
            timeout=60,
        )
        for _ in range(15)
    ]
    assert [answer.status_code == 429 for answer in answers] == [False] * 10 + [True] * 5
    metrics = server.metrics()
    assert metrics['rate_limit_rejections_total{group="auth",scope="ip"}'] == 5
    assert (
        metrics['http_requests_total{endpoint="/auth/login",method="POST",status_code="429"}'] == 5
    )


def test_the_refusal_is_one_of_ours() -> None:
    assert RateLimitExceeded("x").status == 429
