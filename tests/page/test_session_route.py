"""POST and DELETE /auth/session: the page's refresh token, in a cookie of that route."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import update
from werkzeug.test import TestResponse

from goblin_assistant.accounts.sessions import REPEAT_SECONDS
from goblin_assistant.accounts.users import Accounts
from goblin_assistant.database.models import refresh_tokens
from goblin_assistant.errors import Unauthorized
from tests.conftest import MakeApp, register
from tests.support.accounts_fixtures import PASSWORD, accounts, database_url, engine, user_id_of

__all__ = ["accounts", "database_url", "engine"]

HERE = {"Origin": "http://localhost"}
ROUTE = "/auth/session"


def renew(client: FlaskClient, headers: dict[str, str] = HERE, **body: Any) -> TestResponse:
    return client.post(ROUTE, json=body, headers=headers)


def sign_in(client: FlaskClient) -> TestResponse:
    answer = renew(client, refresh_token=register(client)["refresh_token"])
    assert answer.status_code == 200, answer.get_data(as_text=True)
    return answer


def cookie_of(client: FlaskClient) -> str:
    cookie = client.get_cookie("goblin_session", path=ROUTE)
    assert cookie is not None
    return cookie.value


def test_a_login_is_taken_over_by_the_cookie_and_goes_on_by_it(client: FlaskClient) -> None:
    first = sign_in(client)
    assert first.get_json()["user"]["email"] == "ada@example.com"
    assert "refresh_token" not in first.get_json()
    again = renew(client)
    assert again.status_code == 200
    token = again.get_json()["access_token"]
    me = client.get("/auth/me", headers={"Authorization": f"Bearer {token}"})
    assert me.get_json()["email"] == "ada@example.com"


def test_the_cookie_is_for_this_route_and_no_script(client: FlaskClient) -> None:
    set_cookie = sign_in(client).headers["Set-Cookie"]
    name, *attributes = set_cookie.split("; ")
    assert name.startswith("goblin_session=gor_")
    assert {"HttpOnly", "Path=/auth/session", "SameSite=Strict", "Max-Age=2592000"} <= set(
        attributes
    )
    assert "Secure" not in attributes


@pytest.mark.parametrize("known", [True, False], ids=["the server knows", "only the browser does"])
def test_behind_tls_the_cookie_is_secure(client: FlaskClient, known: bool) -> None:
    pair = register(client)
    answer = client.post(
        ROUTE,
        json={"refresh_token": pair["refresh_token"]},
        headers={"Origin": "https://localhost"},
        base_url="https://localhost" if known else None,
    )
    assert answer.status_code == 200
    assert "Secure" in answer.headers["Set-Cookie"].split("; ")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "null"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "http://localhost:8080"},
        {"Origin": "http://localhost:x"},
        {"Origin": "http://localhost", "Sec-Fetch-Site": "same-site"},
        {"Origin": "http://localhost", "Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-origin"},
    ],
    ids=str,
)
def test_a_request_that_is_not_from_the_page_is_refused(
    client: FlaskClient, headers: dict[str, str]
) -> None:
    sign_in(client)
    before = cookie_of(client)
    assert renew(client, headers).status_code == 403
    assert client.delete(ROUTE, headers=headers).status_code == 403
    assert cookie_of(client) == before
    assert renew(client).status_code == 200


def test_behind_a_proxy_that_changes_the_host_the_browser_says_whose_page_asks(
    client: FlaskClient,
) -> None:
    pair = register(client)
    headers = {"Origin": "https://chat.example.com", "Sec-Fetch-Site": "same-origin"}
    assert renew(client, headers, refresh_token=pair["refresh_token"]).status_code == 200


def test_without_a_cookie_nobody_is_signed_in_and_that_is_no_error(client: FlaskClient) -> None:
    answer = renew(client)
    assert answer.status_code == 204
    assert "Set-Cookie" not in answer.headers


def test_a_cookie_that_is_not_good_is_taken_away(client: FlaskClient) -> None:
    client.set_cookie("goblin_session", "gor_unknown", path=ROUTE)
    assert renew(client).status_code == 401
    assert client.get_cookie("goblin_session", path=ROUTE) is None
    assert renew(client).status_code == 204


def test_signing_out_ends_the_session_and_takes_the_cookie_away(client: FlaskClient) -> None:
    sign_in(client)
    token = cookie_of(client)
    answer = client.delete(ROUTE, headers=HERE)
    assert answer.status_code == 204
    assert client.get_cookie("goblin_session", path=ROUTE) is None
    assert renew(client, refresh_token=token).status_code == 401
    assert client.delete(ROUTE, headers=HERE).status_code == 204


def test_the_cookie_opens_no_other_route(client: FlaskClient) -> None:
    sign_in(client)
    client.set_cookie("goblin_session", cookie_of(client), path="/")
    for method, path in (("GET", "/auth/me"), ("POST", "/auth/logout"), ("GET", "/auth/keys")):
        assert client.open(path, method=method, json={}).status_code == 401


def test_a_neighbours_cookie_of_the_same_name_does_not_stand_before_the_right_one(
    client: FlaskClient,
) -> None:
    token = register(client)["refresh_token"]
    other = client.application.test_client(use_cookies=False)
    headers = {**HERE, "Cookie": f"goblin_session=gor_planted; goblin_session={token}"}
    assert renew(other, headers).status_code == 200


# -- a token that was just used -------------------------------------------------------------------
def test_a_token_just_used_gives_the_same_next_token(accounts: Accounts) -> None:
    user = accounts.create("ada@example.com", PASSWORD)
    first = accounts.sessions.login(user.email, PASSWORD).refresh_token
    one, _ = accounts.sessions.renew(first)
    two, again = accounts.sessions.renew(first)
    assert one.refresh_token == two.refresh_token != first
    assert again.id == user.id
    assert user_id_of(accounts, two) == user.id


def test_a_late_answer_leads_to_the_newest_token(accounts: Accounts) -> None:
    user = accounts.create("ada@example.com", PASSWORD)
    first = accounts.sessions.login(user.email, PASSWORD).refresh_token
    second = accounts.sessions.renew(first)[0].refresh_token
    third = accounts.sessions.renew(second)[0].refresh_token
    assert accounts.sessions.renew(first)[0].refresh_token == third


def age(accounts: Accounts, engine: Any, milliseconds: int) -> None:
    """Let every use be so much longer ago."""
    with engine.begin() as connection:
        connection.execute(
            update(refresh_tokens).values(used_at=refresh_tokens.c.used_at - milliseconds)
        )


def test_seconds_later_a_second_use_ends_the_session(accounts: Accounts, engine: Any) -> None:
    user = accounts.create("ada@example.com", PASSWORD)
    first = accounts.sessions.login(user.email, PASSWORD).refresh_token
    second = accounts.sessions.renew(first)[0].refresh_token
    age(accounts, engine, REPEAT_SECONDS * 1000 + 1)
    with pytest.raises(Unauthorized, match="used before"):
        accounts.sessions.renew(first)
    with pytest.raises(Unauthorized):
        accounts.sessions.renew(second)


def test_a_session_that_has_ended_is_not_given_again(accounts: Accounts) -> None:
    user = accounts.create("ada@example.com", PASSWORD)
    first = accounts.sessions.login(user.email, PASSWORD).refresh_token
    second = accounts.sessions.renew(first)[0].refresh_token
    accounts.sessions.end(second)
    for token in (first, second):
        with pytest.raises(Unauthorized):
            accounts.sessions.renew(token)


def test_the_api_goes_on_refusing_every_second_use(accounts: Accounts) -> None:
    user = accounts.create("ada@example.com", PASSWORD)
    first = accounts.sessions.login(user.email, PASSWORD).refresh_token
    accounts.sessions.refresh(first)
    with pytest.raises(Unauthorized, match="used before"):
        accounts.sessions.refresh(first)


def test_a_token_that_the_api_has_used_is_not_repeated_for_the_page(accounts: Accounts) -> None:
    user = accounts.create("ada@example.com", PASSWORD)
    first = accounts.sessions.login(user.email, PASSWORD).refresh_token
    accounts.sessions.refresh(first)
    with pytest.raises(Unauthorized, match="used before"):
        accounts.sessions.renew(first)


def test_sixteen_tabs_at_once_stay_signed_in(accounts: Accounts) -> None:
    user = accounts.create("ada@example.com", PASSWORD)
    first = accounts.sessions.login(user.email, PASSWORD).refresh_token
    together = threading.Barrier(16, timeout=60)
    given: list[str] = []

    def tab() -> None:
        together.wait()
        given.append(accounts.sessions.renew(first)[0].refresh_token)

    tabs = [threading.Thread(target=tab) for _ in range(16)]
    for one in tabs:
        one.start()
    for one in tabs:
        one.join(60)
    assert len(given) == 16
    assert len(set(given)) == 1
    assert accounts.sessions.renew(given[0])[0].refresh_token != given[0]


def test_a_disabled_user_gets_nothing_again(accounts: Accounts) -> None:
    user = accounts.create("ada@example.com", PASSWORD)
    first = accounts.sessions.login(user.email, PASSWORD).refresh_token
    accounts.sessions.renew(first)
    accounts.disable(user.id)
    with pytest.raises(Unauthorized):
        accounts.sessions.renew(first)


# -- limits ---------------------------------------------------------------------------------------
def test_an_office_behind_one_address_is_counted_by_session(make_app: MakeApp) -> None:
    app: Flask = make_app(
        ratelimit_enabled=True, ratelimit_default="3 per minute", ratelimit_auth="100 per minute"
    )
    colleagues = []
    for number in range(3):
        client = app.test_client()
        email = f"colleague{number}@example.com"
        client.set_cookie("goblin_session", register(client, email)["refresh_token"], path=ROUTE)
        colleagues.append(client)
    for client in colleagues:
        for _ in range(3):
            assert renew(client).status_code == 200
    refused = renew(colleagues[0])
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) > 0


def test_cookies_that_are_made_up_are_counted_by_address(make_app: MakeApp) -> None:
    app = make_app(ratelimit_enabled=True, ratelimit_default="3 per minute")
    statuses = []
    for number in range(5):
        client = app.test_client()
        client.set_cookie("goblin_session", f"gor_made_up_{number}", path=ROUTE)
        statuses.append(renew(client).status_code)
    assert statuses == [401, 401, 401, 429, 429]
