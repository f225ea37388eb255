"""The admin's routes: users, the keys of others, the limits in force."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.conftest import PASSWORD, MakeApp, register

EVE = "eve@example.com"


def bearer(credential: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credential}"}


@pytest.fixture
def admin(app: Flask) -> dict[str, str]:
    """Headers of an admin, created as by the command line."""
    accounts = app.extensions["goblin"].accounts
    client = app.test_client()
    client.get("/health")  # the first request migrates
    accounts.create("root@example.com", PASSWORD, "admin")
    return bearer(accounts.sessions.login("root@example.com", PASSWORD).access_token)


@pytest.fixture
def eve(client: FlaskClient, admin: dict[str, str]) -> dict[str, Any]:
    """A user whom the admin created."""
    answer = client.post("/admin/users", json={"email": EVE, "password": PASSWORD}, headers=admin)
    assert answer.status_code == 201
    found: dict[str, Any] = answer.get_json()
    return found


def login(client: FlaskClient, password: str = PASSWORD) -> Any:
    return client.post("/auth/login", json={"email": EVE, "password": password})


def patch_user(client: FlaskClient, admin: dict[str, str], user_id: int, **changes: Any) -> Any:
    return client.patch(f"/admin/users/{user_id}", json=changes, headers=admin)


def test_an_admin_makes_users_and_admins_also_while_registration_is_closed(
    make_app: MakeApp,
) -> None:
    app = make_app(registration="closed")
    client = app.test_client()
    client.get("/health")
    accounts = app.extensions["goblin"].accounts
    accounts.create("root@example.com", PASSWORD, "admin")
    admin = bearer(accounts.sessions.login("root@example.com", PASSWORD).access_token)
    for role in ("user", "admin"):
        body = {"email": f"{role}@example.com", "password": PASSWORD, "role": role}
        answer = client.post("/admin/users", json=body, headers=admin)
        assert (answer.status_code, answer.get_json()["role"]) == (201, role)
    assert client.post("/admin/users", json=body, headers=admin).status_code == 409
    assert (
        client.post("/admin/users", json={**body, "role": "root"}, headers=admin).status_code == 400
    )


def test_users_are_listed_in_pages_without_anything_secret(
    client: FlaskClient, admin: dict[str, str], eve: dict[str, Any]
) -> None:
    first = client.get("/admin/users?limit=1", headers=admin).get_json()
    second = client.get(
        f"/admin/users?limit=1&after={first['next_after']}", headers=admin
    ).get_json()
    assert [first["users"][0]["email"], second["users"][0]["email"]] == ["root@example.com", EVE]
    assert set(first["users"][0]) == {
        *("id", "email", "role", "created_at", "disabled_at"),
        *("requests_per_minute", "tokens_per_minute"),
    }
    assert client.get("/admin/users?limit=0", headers=admin).status_code == 400
    assert client.get("/admin/users?limit=201", headers=admin).status_code == 400


def test_a_disabled_user_is_out_with_all_tokens_and_keys_at_once(
    client: FlaskClient, admin: dict[str, str], eve: dict[str, Any]
) -> None:
    tokens = login(client).get_json()
    key = client.post(
        "/auth/keys", json={"name": "k"}, headers=bearer(tokens["access_token"])
    ).get_json()["key"]
    assert patch_user(client, admin, eve["id"], disabled=True).get_json()["disabled_at"]
    for credential in (tokens["access_token"], key):
        assert client.get("/settings/", headers=bearer(credential)).status_code == 401
    assert (
        client.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]}).status_code
        == 401
    )
    assert login(client).status_code == 401
    assert patch_user(client, admin, eve["id"], disabled=False).get_json()["disabled_at"] is None
    assert login(client).status_code == 200
    assert client.get("/settings/", headers=bearer(key)).status_code == 200


def test_a_reset_password_ends_the_users_sessions(
    client: FlaskClient, admin: dict[str, str], eve: dict[str, Any]
) -> None:
    tokens = login(client).get_json()
    assert patch_user(client, admin, eve["id"], password="an entirely new one").status_code == 200
    assert client.get("/auth/me", headers=bearer(tokens["access_token"])).status_code == 401
    assert login(client).status_code == 401
    assert login(client, "an entirely new one").status_code == 200
    assert patch_user(client, admin, eve["id"], password="short").status_code == 400


@pytest.mark.parametrize("revoke", [False, True, None])
def test_a_reset_password_leaves_the_users_keys_unless_told(
    client: FlaskClient, admin: dict[str, str], eve: dict[str, Any], revoke: bool | None
) -> None:
    headers = bearer(login(client).get_json()["access_token"])
    made = client.post("/auth/keys", json={"name": "k"}, headers=headers).get_json()
    asked = {} if revoke is None else {"revoke_keys": revoke}
    changed = patch_user(client, admin, eve["id"], password="an entirely new one", **asked)
    assert changed.status_code == 200
    expected = 401 if revoke else 200
    assert client.get("/v1/models", headers=bearer(made["key"])).status_code == expected
    for wrong in ("true", 1, None):
        assert patch_user(client, admin, eve["id"], revoke_keys=wrong).status_code == 400


def test_a_user_made_admin_may_at_once_and_no_longer_when_the_role_is_gone(
    client: FlaskClient, admin: dict[str, str], eve: dict[str, Any]
) -> None:
    headers = bearer(login(client).get_json()["access_token"])
    assert client.get("/admin/users", headers=headers).status_code == 403
    patch_user(client, admin, eve["id"], role="admin")
    assert client.get("/admin/users", headers=headers).status_code == 200
    patch_user(client, admin, eve["id"], role="user")
    assert client.get("/admin/users", headers=headers).status_code == 403


def test_admins_cannot_lock_themselves_out(client: FlaskClient, admin: dict[str, str]) -> None:
    own = client.get("/auth/me", headers=admin).get_json()["id"]
    for changes in ({"disabled": True}, {"role": "user"}):
        assert patch_user(client, admin, own, **changes).status_code == 409
    assert client.get("/admin/users", headers=admin).status_code == 200


def test_an_unknown_user_or_key_is_a_404_however_large_its_number(
    client: FlaskClient, admin: dict[str, str]
) -> None:
    for number in ("999", str(2**63), "9" * 60):
        assert client.get(f"/admin/users/{number}", headers=admin).status_code == 404
        assert (
            client.patch(f"/admin/users/{number}", json={"role": "user"}, headers=admin).status_code
            == 404
        )
        assert client.get(f"/admin/users/{number}/keys", headers=admin).status_code == 404
        assert (
            client.post(
                f"/admin/users/{number}/keys", json={"name": "k"}, headers=admin
            ).status_code
            == 404
        )
        assert client.get(f"/admin/keys/{number}", headers=admin).status_code == 404
        assert client.delete(f"/admin/keys/{number}", headers=admin).status_code == 404


def test_an_admin_gives_changes_rotates_and_revokes_keys_of_others(
    client: FlaskClient, admin: dict[str, str], eve: dict[str, Any]
) -> None:
    body = {"name": "team", "monthly_budget_usd": "25", "requests_per_minute": 500}
    made = client.post(f"/admin/users/{eve['id']}/keys", json=body, headers=admin)
    assert made.status_code == 201
    key = made.get_json()
    assert (key["user_id"], key["monthly_budget_usd"]) == (eve["id"], "25.00")

    mine = bearer(login(client).get_json()["access_token"])
    assert client.get("/auth/keys", headers=mine).get_json()["keys"][0]["id"] == key["id"]
    assert (
        client.patch(
            f"/admin/keys/{key['id']}", json={"monthly_budget_usd": None}, headers=mine
        ).status_code
        == 403
    )

    changed = client.patch(
        f"/admin/keys/{key['id']}",
        json={
            "monthly_budget_usd": "10.50",
            "requests_per_minute": None,
            "allowed_models": ["echo"],
            "scopes": ["chat"],
        },
        headers=admin,
    ).get_json()
    assert (changed["monthly_budget_usd"], changed["requests_per_minute"]) == ("10.50", None)
    assert (changed["allowed_models"], changed["scopes"], changed["name"]) == (
        ["echo"],
        ["chat"],
        "team",
    )

    rotated = client.post(
        f"/admin/keys/{key['id']}/rotate", json={"grace_seconds": 0}, headers=admin
    ).get_json()
    assert rotated["monthly_budget_usd"] == "10.50"
    assert client.get("/settings/", headers=bearer(key["key"])).status_code == 401
    assert client.get("/settings/", headers=bearer(rotated["key"])).status_code == 200
    assert client.delete(f"/admin/keys/{rotated['id']}", headers=admin).status_code == 204
    assert client.get("/settings/", headers=bearer(rotated["key"])).status_code == 401
    listed = client.get(f"/admin/users/{eve['id']}/keys", headers=admin)
    assert [row["id"] for row in listed.get_json()["keys"]] == [key["id"], rotated["id"]]
    assert rotated["key"] not in listed.get_data(as_text=True)


def test_an_admin_widens_a_user_and_takes_it_back(
    client: FlaskClient, admin: dict[str, str], eve: dict[str, Any]
) -> None:
    path = f"/admin/users/{eve['id']}"
    assert (eve["requests_per_minute"], eve["tokens_per_minute"]) == (None, None)
    wide = {"requests_per_minute": 500, "tokens_per_minute": 9000}
    assert wide.items() <= client.patch(path, json=wide, headers=admin).get_json().items()
    client.patch(path, json={"role": "user"}, headers=admin)
    assert wide.items() <= client.get(path, headers=admin).get_json().items()
    back = client.patch(path, json={"requests_per_minute": None}, headers=admin).get_json()
    assert (back["requests_per_minute"], back["tokens_per_minute"]) == (None, 9000)


@pytest.mark.parametrize(
    "change",
    [{"requests_per_minute": 0}, {"requests_per_minute": "9"}, {"tokens_per_minute": 10**10}],
)
def test_a_limit_of_a_user_that_makes_no_sense_is_refused(
    client: FlaskClient, admin: dict[str, str], eve: dict[str, Any], change: dict[str, Any]
) -> None:
    refused = client.patch(f"/admin/users/{eve['id']}", json=change, headers=admin)
    assert refused.status_code == 400
    mine = bearer(login(client).get_json()["access_token"])
    path = f"/admin/users/{eve['id']}"
    assert client.patch(path, json={"requests_per_minute": 9}, headers=mine).status_code == 403


def test_a_widened_user_chats_more_often_at_once(make_app: MakeApp) -> None:
    client = make_app(ratelimit_enabled=True, ratelimit_chat="2 per minute").test_client()
    mine = bearer(register(client)["access_token"])
    body = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}

    def statuses(times: int) -> list[int]:
        answers = [client.post("/chat/completions", json=body, headers=mine) for _ in range(times)]
        return [answer.status_code for answer in answers]

    assert statuses(3) == [200, 200, 429]
    accounts = client.application.extensions["goblin"].accounts
    accounts.set_limits(accounts.by_email("ada@example.com").id, {"requests_per_minute": 3})
    assert statuses(4) == [200, 200, 200, 429]


def test_a_chat_by_access_token_is_held_to_its_users_tokens(make_app: MakeApp) -> None:
    client = make_app().test_client()
    mine = bearer(register(client)["access_token"])
    accounts = client.application.extensions["goblin"].accounts
    accounts.set_limits(accounts.by_email("ada@example.com").id, {"tokens_per_minute": 40})
    body = {"model": "echo", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 99}
    refused = client.post("/chat/completions", json=body, headers=mine)
    assert refused.status_code == 429
    assert "40 tokens per 1 minute" in refused.get_json()["message"]
    body["max_tokens"] = 5
    assert client.post("/chat/completions", json=body, headers=mine).status_code == 200


def test_a_user_cannot_be_given_the_admin_scope(
    client: FlaskClient, admin: dict[str, str], eve: dict[str, Any]
) -> None:
    path = f"/admin/users/{eve['id']}/keys"
    assert (
        client.post(path, json={"name": "k", "scopes": ["admin"]}, headers=admin).status_code == 403
    )


def test_an_admins_key_opens_admin_routes_only_with_the_admin_scope(
    client: FlaskClient, admin: dict[str, str]
) -> None:
    for scopes, status in ((["chat"], 403), (["admin"], 200)):
        made = client.post(
            "/auth/keys", json={"name": "k", "scopes": scopes}, headers=admin
        ).get_json()
        assert client.get("/admin/users", headers=bearer(made["key"])).status_code == status


def test_the_limits_in_force_are_told(make_app: MakeApp) -> None:
    app = make_app(ratelimit_enabled=True, ratelimit_chat="7 per minute", threads=16)
    client = app.test_client()
    user = bearer(register(client)["access_token"])
    accounts = app.extensions["goblin"].accounts
    accounts.set_role(1, "admin")
    found = client.get("/admin/limits", headers=user).get_json()
    assert found["enabled"] is True
    assert found["storage"] == "memory"
    assert found["degraded"] is False
    assert found["groups"]["chat"] == "7 per minute"
    assert set(found["groups"]) == {"auth", "chat", "health", "general", "login_account"}
    assert (found["threads"], found["chat_slots"]) == (16, 13)
    app.extensions["goblin"].chat.slots.lower(5, 1)  # few files may be open
    assert client.get("/admin/limits", headers=user).get_json()["chat_slots"] == 5
