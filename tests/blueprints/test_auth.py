"""Accounts and API keys over HTTP, also under brute force."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from goblin_assistant.runtime import Runtime
from tests.conftest import PASSWORD, MakeApp, register
from tests.support.accounts_fixtures import account_log, events, failures

__all__ = ["account_log"]

EMAIL = "ada@example.com"


def bearer(credential: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credential}"}


def login(client: FlaskClient, password: str = PASSWORD, email: str = EMAIL) -> Any:
    return client.post("/auth/login", json={"email": email, "password": password})


def parts(app: Flask) -> Runtime:
    found: Runtime = app.extensions["goblin"]
    return found


# -- registration ---------------------------------------------------------------------------------
def test_registering_answers_the_account_and_logging_in_the_tokens(client: FlaskClient) -> None:
    answer = client.post("/auth/register", json={"email": "Ada@Example.com", "password": PASSWORD})
    assert answer.status_code == 201
    body = answer.get_json()
    assert set(body) == {
        *("id", "email", "role", "created_at", "disabled_at"),
        *("requests_per_minute", "tokens_per_minute"),
    }
    assert (body["email"], body["role"]) == (EMAIL, "user")
    tokens = login(client).get_json()
    assert set(tokens) == {"access_token", "refresh_token", "token_type", "expires_in"}
    assert (tokens["token_type"], tokens["expires_in"]) == ("bearer", 900)
    assert client.get("/auth/me", headers=bearer(tokens["access_token"])).get_json() == body


def test_an_address_that_is_taken_is_a_409_and_a_bad_one_a_400_that_names_the_field(
    client: FlaskClient,
) -> None:
    register(client)
    again = client.post("/auth/register", json={"email": EMAIL, "password": PASSWORD})
    assert (again.status_code, again.get_json()["error"]) == (409, "conflict")
    bad = client.post("/auth/register", json={"email": "ada", "password": PASSWORD})
    assert (bad.status_code, bad.get_json()["param"]) == (400, "email")
    short = client.post("/auth/register", json={"email": "eve@example.com", "password": "short"})
    assert (short.status_code, short.get_json()["param"]) == (400, "password")
    assert "short" not in short.get_json()["message"]


@pytest.mark.parametrize(
    ("settings", "opened"),
    [
        ({"env": "development"}, True),
        ({"env": "development", "registration": "closed"}, False),
        ({"env": "production", "secret_key": "s" * 40}, False),
        ({"env": "production", "secret_key": "s" * 40, "registration": "open"}, True),
    ],
)
def test_registration_is_open_in_development_and_closed_in_production_unless_told(
    make_app: MakeApp, settings: dict[str, str], opened: bool
) -> None:
    from goblin_assistant.database import upgrade as migrations

    app = make_app(**settings)
    migrations.upgrade(app.extensions["goblin"].engine)
    answer = app.test_client().post("/auth/register", json={"email": EMAIL, "password": PASSWORD})
    assert answer.status_code == (201 if opened else 403)
    if not opened:
        assert answer.get_json()["error"] == "registration_closed"
        assert "operator" in answer.get_json()["message"]


# -- login ----------------------------------------------------------------------------------------
def test_the_guides_login_is_a_401_and_not_a_complaint_about_its_body(client: FlaskClient) -> None:
    before = failures("bad_credentials")
    answer = login(client, "test", "test@example.com")
    assert answer.status_code == 401
    assert answer.get_json()["error"] == "unauthorized"
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert failures("bad_credentials") == before + 1


def test_an_unknown_address_and_a_wrong_password_cannot_be_told_apart(client: FlaskClient) -> None:
    register(client)
    known, unknown = (
        login(client, "wrong password"),
        login(client, "wrong password", "nobody@example.com"),
    )
    volatile = {"correlation_id"}
    assert known.status_code == unknown.status_code == 401
    assert {k: v for k, v in known.get_json().items() if k not in volatile} == {
        k: v for k, v in unknown.get_json().items() if k not in volatile
    }
    assert {name for name, _ in known.headers} == {name for name, _ in unknown.headers}


def test_a_login_without_a_place_is_503_with_retry_after_and_no_failed_attempt(
    make_app: MakeApp,
) -> None:
    app = make_app(
        ratelimit_enabled=True, ratelimit_login_account="1 per 15 minutes", logins_at_once=1
    )
    client = app.test_client()
    register(client)
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with parts(app).accounts.passwords.place():
            inside.set()
            leave.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    inside.wait(30)
    refused = [login(client, "wrong password") for _ in range(3)]
    leave.set()
    holder.join()
    assert [
        (one.status_code, one.get_json()["error"], one.headers["Retry-After"]) for one in refused
    ] == [(503, "overloaded", "1")] * 3
    assert login(client).status_code == 200


def test_fifteen_logins_are_ten_refusals_and_five_429_in_the_guides_words(
    make_app: MakeApp,
) -> None:
    client = make_app(ratelimit_enabled=True).test_client()
    answers = [login(client, "test", "test@example.com") for _ in range(15)]
    assert [answer.status_code for answer in answers] == [401] * 10 + [429] * 5
    body = answers[-1].get_json()
    assert body["error"] == "rate_limit_exceeded"
    assert body["message"] == "Rate limit exceeded: 10 per 1 minute"
    assert body["retry_after"] >= 1
    assert answers[-1].headers["Retry-After"] == str(body["retry_after"])


def test_an_account_is_locked_for_a_while_however_many_addresses_try_and_whether_or_not_it_exists(
    make_app: MakeApp, account_log: pytest.LogCaptureFixture
) -> None:
    app = make_app(ratelimit_enabled=True, ratelimit_login_account="5 per 15 minutes")
    client = app.test_client()
    register(client)
    for email in (EMAIL, "nobody@example.com"):
        statuses = [
            client.post(
                "/auth/login",
                json={"email": email, "password": "wrong password"},
                environ_base={"REMOTE_ADDR": f"10.0.{len(email)}.{number}"},
            ).status_code
            for number in range(8)
        ]
        # The successful login within register() has reset the counter.
        assert statuses == [401] * 5 + [429] * 3
    # Also with the right password: else the lock would tell that it was guessed.
    locked = client.post(
        "/auth/login",
        json={"email": EMAIL.upper(), "password": PASSWORD},
        environ_base={"REMOTE_ADDR": "10.9.9.9"},
    )
    assert locked.status_code == 429
    assert 0 < int(locked.headers["Retry-After"]) <= 900
    assert len(events(account_log, "login_locked")) == 7


def test_the_right_password_clears_what_was_counted(make_app: MakeApp) -> None:
    app = make_app(
        ratelimit_enabled=True,
        ratelimit_auth="1000 per minute",
        ratelimit_login_account="5 per 15 minutes",
    )
    client = app.test_client()
    register(client)
    for _ in range(3):
        assert [login(client, "wrong password").status_code for _ in range(4)] == [401] * 4
        assert login(client).status_code == 200


def test_thirty_two_guesses_at_once_are_counted_before_any_is_checked(make_app: MakeApp) -> None:
    app = make_app(
        ratelimit_enabled=True,
        ratelimit_auth="1000 per minute",
        ratelimit_login_account="5 per 15 minutes",
    )
    register(app.test_client())
    with ThreadPoolExecutor(16) as pool:
        statuses = list(
            pool.map(lambda _: login(app.test_client(), "wrong password").status_code, range(32))
        )
    assert sorted(statuses) == [401] * 5 + [429] * 27


def test_a_stolen_access_token_is_no_way_to_guess_the_password(make_app: MakeApp) -> None:
    app = make_app(
        ratelimit_enabled=True,
        ratelimit_auth="1000 per minute",
        ratelimit_login_account="5 per 15 minutes",
    )
    client = app.test_client()
    headers = bearer(register(client)["access_token"])
    body = {"current_password": "a wild guess", "new_password": "another long password"}
    statuses = [
        client.post("/auth/password", json=body, headers=headers).status_code for _ in range(8)
    ]
    assert statuses == [401] * 5 + [429] * 3


# -- sessions -------------------------------------------------------------------------------------
def test_a_reused_refresh_token_logs_both_holders_out_and_is_logged_and_counted(
    client: FlaskClient, account_log: pytest.LogCaptureFixture
) -> None:
    owner = register(client)
    before = failures("refresh_reused")
    thief = client.post("/auth/refresh", json={"refresh_token": owner["refresh_token"]}).get_json()
    assert client.get("/auth/me", headers=bearer(thief["access_token"])).status_code == 200
    second = client.post("/auth/refresh", json={"refresh_token": owner["refresh_token"]})
    assert second.status_code == 401
    assert (
        client.post("/auth/refresh", json={"refresh_token": thief["refresh_token"]}).status_code
        == 401
    )
    for token in (owner["access_token"], thief["access_token"]):
        assert client.get("/auth/me", headers=bearer(token)).status_code == 401
    assert failures("refresh_reused") >= before + 1
    (record,) = events(account_log, "refresh_token_reused")
    assert owner["refresh_token"] not in str(record.__dict__)


def test_logout_ends_one_session_or_all(client: FlaskClient) -> None:
    first = register(client)
    second = login(client).get_json()
    headers = bearer(first["access_token"])
    one = client.post(
        "/auth/logout", json={"refresh_token": first["refresh_token"]}, headers=headers
    )
    assert (one.status_code, one.data) == (204, b"")
    assert (
        client.post("/auth/refresh", json={"refresh_token": first["refresh_token"]}).status_code
        == 401
    )
    assert client.get("/auth/me", headers=headers).status_code == 200, "other sessions live on"
    assert client.post("/auth/logout", json={}, headers=headers).status_code == 204
    assert client.get("/auth/me", headers=headers).status_code == 401
    assert (
        client.post("/auth/refresh", json={"refresh_token": second["refresh_token"]}).status_code
        == 401
    )


def test_a_changed_password_gives_the_caller_a_new_session_and_ends_the_rest(
    client: FlaskClient,
) -> None:
    old = register(client)
    headers = bearer(old["access_token"])
    new = client.post(
        "/auth/password",
        json={"current_password": PASSWORD, "new_password": "another long password"},
        headers=headers,
    )
    assert new.status_code == 200
    assert client.get("/auth/me", headers=bearer(new.get_json()["access_token"])).status_code == 200
    assert client.get("/auth/me", headers=headers).status_code == 401
    assert login(client).status_code == 401
    assert login(client, "another long password").status_code == 200


@pytest.mark.parametrize("revoke", [False, True])
def test_a_changed_password_says_how_many_keys_live_on_and_can_revoke_them(
    client: FlaskClient, revoke: bool
) -> None:
    headers = bearer(register(client)["access_token"])
    made = client.post("/auth/keys", json={"name": "robot"}, headers=headers).get_json()
    changed = client.post(
        "/auth/password",
        json={
            "current_password": PASSWORD,
            "new_password": "another long password",
            "revoke_keys": revoke,
        },
        headers=headers,
    ).get_json()
    assert changed["api_keys"] == (0 if revoke else 1)
    models = client.get("/v1/models", headers=bearer(made["key"]))
    assert models.status_code == (401 if revoke else 200)


@pytest.mark.parametrize("header", ["Authorization", "x-api-key"])
def test_a_key_of_another_kind_is_called_a_key(client: FlaskClient, header: str) -> None:
    value = "sk-proj-1234" if header == "x-api-key" else "Bearer sk-proj-1234"
    answer = client.get("/v1/models", headers={header: value})
    assert answer.status_code == 401
    message = answer.get_json()["error"]["message"]
    assert message == "the API key is not valid: keys of this server begin with gob_"


def test_a_token_in_the_wrong_place_is_told_its_own(client: FlaskClient) -> None:
    tokens = register(client)
    for header, value, where in [
        ("Authorization", f"Bearer {tokens['refresh_token']}", "/auth/refresh"),
        ("x-api-key", tokens["refresh_token"], "/auth/refresh"),
        ("x-api-key", tokens["access_token"], "Authorization: Bearer"),
        ("x-api-key", "sk-ant-1234", "begin with gob_"),
    ]:
        answer = client.get("/v1/models", headers={header: value})
        assert answer.status_code == 401
        assert where in answer.get_json()["error"]["message"], header
        assert value not in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic YWRhOmFkYQ=="},
        {"Authorization": "Bearer not.a.token"},
        {"Authorization": "Bearer gob_unknown"},
        {"x-api-key": "sk-something"},
        {"x-api-key": "gob_unknown"},
    ],
)
def test_a_bad_credential_is_a_401_that_names_its_scheme(
    client: FlaskClient, headers: dict[str, str]
) -> None:
    answer = client.get("/settings/", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_missing_credential_is_a_401_that_is_not_counted_as_a_failure(
    client: FlaskClient,
) -> None:
    from goblin_assistant.errors import AuthFailure

    before = sum(failures(reason) for reason in AuthFailure)
    assert client.get("/settings/").status_code == 401
    assert sum(failures(reason) for reason in AuthFailure) == before
    assert client.get("/settings/", headers=bearer("gob_unknown")).status_code == 401
    assert sum(failures(reason) for reason in AuthFailure) == before + 1


# -- API keys -------------------------------------------------------------------------------------
def make_key(client: FlaskClient, headers: dict[str, str], **body: Any) -> Any:
    return client.post("/auth/keys", json={"name": "test", **body}, headers=headers)


def test_a_key_is_shown_once_and_works_in_both_headers(
    client: FlaskClient, auth_headers: dict[str, str]
) -> None:
    made = make_key(client, auth_headers)
    assert made.status_code == 201
    key = made.get_json()["key"]
    listed = client.get("/auth/keys", headers=auth_headers)
    assert key not in listed.get_data(as_text=True)
    assert listed.get_json()["keys"][0]["prefix"] == key[:12]
    assert client.get("/settings/", headers=bearer(key)).status_code == 200
    assert client.get("/settings/", headers={"x-api-key": key}).status_code == 200


def test_a_revoked_key_is_refused_on_the_next_request(
    client: FlaskClient, auth_headers: dict[str, str]
) -> None:
    made = make_key(client, auth_headers).get_json()
    assert client.get("/settings/", headers=bearer(made["key"])).status_code == 200
    assert client.delete(f"/auth/keys/{made['id']}", headers=auth_headers).status_code == 204
    assert client.get("/settings/", headers=bearer(made["key"])).status_code == 401
    assert client.get("/auth/keys", headers=auth_headers).get_json()["keys"][0]["revoked_at"]


def test_a_rotated_key_is_answered_like_a_new_one(
    client: FlaskClient, auth_headers: dict[str, str]
) -> None:
    made = make_key(client, auth_headers, monthly_budget_usd="1.10", scopes=["chat"]).get_json()
    rotated = client.post(
        f"/auth/keys/{made['id']}/rotate", json={"grace_seconds": 60}, headers=auth_headers
    )
    assert rotated.status_code == 201
    new = rotated.get_json()
    assert (new["monthly_budget_usd"], new["scopes"]) == ("1.10", ["chat"])
    for key in (made["key"], new["key"]):
        assert client.get("/settings/", headers=bearer(key)).status_code == 200
    assert (
        client.post(f"/auth/keys/{made['id']}/rotate", json={}, headers=auth_headers).status_code
        == 409
    )


@pytest.mark.parametrize(
    ("amount", "micro", "shown"),
    [
        ("0", 0, "0.00"),
        ("1", 1_000_000, "1.00"),
        ("0.1", 100_000, "0.10"),
        ("0.000001", 1, "0.000001"),
        ("12.345678", 12_345_678, "12.345678"),
        ("999999999.999999", 999_999_999_999_999, "999999999.999999"),
    ],
)
def test_money_is_exact_to_the_micro_dollar(
    app: Flask,
    client: FlaskClient,
    auth_headers: dict[str, str],
    amount: str,
    micro: int,
    shown: str,
) -> None:
    made = make_key(client, auth_headers, monthly_budget_usd=amount).get_json()
    assert made["monthly_budget_usd"] == shown
    assert parts(app).accounts.keys.get(made["id"]).monthly_budget_microusd == micro


@pytest.mark.parametrize(
    "body",
    [
        {"name": ""},
        {"name": "a\nb"},
        {"scopes": []},
        {"scopes": ["root"]},
        {"allowed_models": []},
        {"requests_per_minute": 0},
        {"requests_per_minute": "3"},
        {"requests_per_minute": True},
        {"monthly_budget_usd": 1.1},
        {"monthly_budget_usd": "-1"},
        {"monthly_budget_usd": "1.0000001"},
        {"monthly_budget_usd": "1e3"},
        {"expires_at": "2020-01-01T00:00:00Z"},
        {"expires_at": "2030-01-01T00:00:00"},
        {"expires_at": 1_900_000_000},
        {"expires_at": "9999-12-31T23:59:59-12:00"},
        {"expires_in": 0},
        {"expires_in": 60, "expires_at": "2030-01-01T00:00:00Z"},
        {"no_such_field": 1},
    ],
)
def test_a_key_that_makes_no_sense_is_a_400(
    client: FlaskClient, auth_headers: dict[str, str], body: dict[str, Any]
) -> None:
    assert make_key(client, auth_headers, **body).status_code == 400


def test_a_keys_end_is_a_time_or_a_number_of_seconds(
    client: FlaskClient, auth_headers: dict[str, str]
) -> None:
    made = make_key(client, auth_headers, expires_at="2999-01-31T13:00:00+01:00").get_json()
    assert made["expires_at"] == "2999-01-31T12:00:00Z"
    assert (
        make_key(client, auth_headers, expires_in=3600).get_json()["expires_at"]
        > made["created_at"]
    )


def test_a_user_may_narrow_a_keys_rate_but_only_an_admin_may_widen_it(make_app: MakeApp) -> None:
    app = make_app(ratelimit_enabled=True, ratelimit_chat="30 per minute")
    client = app.test_client()
    headers = bearer(register(client)["access_token"])
    assert make_key(client, headers, requests_per_minute=30).status_code == 201
    refused = make_key(client, headers, requests_per_minute=31)
    assert refused.status_code == 403
    assert "at most 30" in refused.get_json()["message"]
    accounts = parts(app).accounts
    accounts.set_role(accounts.by_email(EMAIL).id, "admin")
    assert make_key(client, headers, requests_per_minute=3000).status_code == 201


def test_only_an_admin_can_make_a_key_with_the_admin_scope(
    client: FlaskClient, auth_headers: dict[str, str]
) -> None:
    assert make_key(client, auth_headers, scopes=["admin"]).status_code == 403


def test_keys_are_listed_in_pages(client: FlaskClient, auth_headers: dict[str, str]) -> None:
    ids = [make_key(client, auth_headers).get_json()["id"] for _ in range(5)]
    seen: list[int] = []
    after = 0
    while after is not None:
        page = client.get(f"/auth/keys?limit=2&after={after}", headers=auth_headers).get_json()
        seen += [key["id"] for key in page["keys"]]
        after = page["next_after"]
    assert seen == ids


# -- the database is unavailable ------------------------------------------------------------------
def test_a_login_while_the_database_is_away_is_a_503_with_retry_after_and_tells_nothing_of_it(
    make_app: MakeApp, account_log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy import create_engine

    app = make_app()
    client = app.test_client()
    register(client)
    unreachable = create_engine("sqlite:////no/such/folder/goblin.db")
    monkeypatch.setattr(parts(app).accounts.sessions, "_engine", unreachable)
    answer = login(client)
    assert (answer.status_code, answer.get_json()["error"]) == (503, "unavailable")
    assert answer.headers["Retry-After"]
    assert "sqlite" not in answer.get_data(as_text=True).lower()
    (record,) = events(account_log, "database_unavailable")
    assert EMAIL not in str(record.__dict__)


# -- sessions -------------------------------------------------------------------------------------
def test_a_person_lists_sessions_and_ends_one(client: FlaskClient) -> None:
    register(client)
    here, there = login(client).get_json(), login(client).get_json()
    listed = client.get("/auth/sessions", headers=bearer(here["access_token"])).get_json()
    assert listed["total"] == len(listed["sessions"]) == 3
    for one in listed["sessions"]:
        assert set(one) == {"id", "started_at", "renewed_at", "expires_at"}
        assert one["started_at"] <= one["renewed_at"] < one["expires_at"]
    renewed = client.post(
        "/auth/session",
        json={"refresh_token": there["refresh_token"]},
        headers={"Origin": "http://localhost"},
    ).get_json()
    ended = client.delete(
        f"/auth/sessions/{renewed['session_id']}", headers=bearer(here["access_token"])
    )
    assert ended.status_code == 204
    for token in (here["access_token"], renewed["access_token"]):
        assert client.get("/auth/sessions", headers=bearer(token)).status_code == 401
    body = {"refresh_token": here["refresh_token"]}
    again = client.post("/auth/refresh", json=body).get_json()["access_token"]
    left = client.get("/auth/sessions", headers=bearer(again)).get_json()
    assert left["total"] == 2
    assert renewed["session_id"] not in {one["id"] for one in left["sessions"]}
    gone = client.delete(f"/auth/sessions/{renewed['session_id']}", headers=bearer(again))
    assert (gone.status_code, gone.get_json()["error"]) == (404, "not_found")


def test_sessions_are_counted_as_general_by_user(make_app: MakeApp) -> None:
    client = make_app(
        ratelimit_enabled=True, ratelimit_default="3 per minute", ratelimit_auth="100 per minute"
    ).test_client()
    mine, other = (
        bearer(register(client, f"{name}@example.com")["access_token"]) for name in ("me", "you")
    )
    answers = [client.get("/auth/sessions", headers=mine) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert int(answers[-1].headers["Retry-After"]) > 0
    assert client.get("/auth/sessions", headers=other).status_code == 200
