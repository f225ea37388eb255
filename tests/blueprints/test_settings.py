"""A user's chat defaults: how they are stored, checked and used."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from goblin_assistant.config import GoblinFile, ProviderRow
from tests.conftest import MakeApp, register

EMPTY = {"model": None, "temperature": None, "max_tokens": None, "system_prompt": None}


def put(client: FlaskClient, headers: dict[str, str], **body: Any) -> Any:
    return client.put("/settings/", json=body, headers=headers)


def defaults(answer: Any) -> dict[str, Any]:
    return {name: answer.get_json()[name] for name in EMPTY}


def test_a_new_user_has_no_defaults_and_sees_what_can_be_chosen(
    client: FlaskClient, auth_headers: dict[str, str]
) -> None:
    answer = client.get("/settings/", headers=auth_headers)
    assert answer.status_code == 200
    assert defaults(answer) == EMPTY
    assert answer.get_json()["default_model"] == "echo"
    assert {"name": "echo", "models": ["echo"]} in answer.get_json()["providers"]


def test_put_replaces_all_four_and_null_clears(
    client: FlaskClient, auth_headers: dict[str, str]
) -> None:
    full = {"model": "echo", "temperature": 0.5, "max_tokens": 7, "system_prompt": "Sei kurz. äöü"}
    assert defaults(put(client, auth_headers, **full)) == full
    assert defaults(client.get("/settings/", headers=auth_headers)) == full
    assert defaults(put(client, auth_headers, model="echo/echo", max_tokens=None)) == {
        **EMPTY,
        "model": "echo/echo",
    }
    assert defaults(put(client, auth_headers)) == EMPTY
    assert defaults(client.get("/settings", headers=auth_headers)) == EMPTY


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "gpt-17"}, "model"),
        ({"model": ""}, "model"),
        ({"model": "a\u0000b"}, None),
        ({"model": 3}, "model"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"system_prompt": "x" * 32_769}, "system_prompt"),
        ({"top_p": 1}, "top_p"),
    ],
)
def test_a_default_that_makes_no_sense_is_a_400_that_names_it_and_changes_nothing(
    client: FlaskClient, auth_headers: dict[str, str], body: dict[str, Any], param: str | None
) -> None:
    put(client, auth_headers, model="echo")
    answer = put(client, auth_headers, **body)
    assert answer.status_code == 400
    assert answer.get_json().get("param") == param
    if body.get("model") == "gpt-17":
        assert "gpt-17" in answer.get_json()["message"]
    assert defaults(client.get("/settings/", headers=auth_headers)) == {**EMPTY, "model": "echo"}


def test_settings_belong_to_their_user(client: FlaskClient, auth_headers: dict[str, str]) -> None:
    put(client, auth_headers, model="echo")
    eve = {"Authorization": f"Bearer {register(client, 'eve@example.com')['access_token']}"}
    assert defaults(client.get("/settings/", headers=eve)) == EMPTY


def test_chats_that_leave_them_out_get_the_defaults(
    client: FlaskClient, auth_headers: dict[str, str]
) -> None:
    def chat(**body: Any) -> Any:
        answer = client.post(
            "/chat/completions",
            json={
                "messages": [{"role": "user", "content": "one two three four five six seven"}],
                **body,
            },
            headers=auth_headers,
        )
        assert answer.status_code == 200, answer.get_json()
        return answer.get_json()

    long = chat()
    put(client, auth_headers, model="echo/echo", max_tokens=2)
    short = chat()
    assert short["usage"]["completion_tokens"] == 2 < long["usage"]["completion_tokens"]
    assert chat(max_tokens=4)["usage"]["completion_tokens"] == 4
    put(client, auth_headers, system_prompt="You are a goblin. " * 20)
    assert chat()["usage"]["prompt_tokens"] > long["usage"]["prompt_tokens"]


def test_a_key_without_the_chat_scope_may_read_but_not_change_them(
    client: FlaskClient, auth_headers: dict[str, str]
) -> None:
    made = client.post(
        "/auth/keys", json={"name": "k", "scopes": ["embeddings"]}, headers=auth_headers
    ).get_json()
    headers = {"Authorization": f"Bearer {made['key']}"}
    assert client.get("/settings/", headers=headers).status_code == 200
    assert put(client, headers, model="echo").status_code == 403


def test_a_key_cannot_make_a_model_the_default_that_it_may_not_use(make_app: MakeApp) -> None:
    rows = {"other": ProviderRow(kind="echo", models=["m"])}
    client = make_app(file=GoblinFile(providers=rows)).test_client()
    headers = {"Authorization": f"Bearer {register(client)['access_token']}"}
    made = client.post(
        "/auth/keys", json={"name": "k", "allowed_models": ["echo"]}, headers=headers
    ).get_json()
    key = {"Authorization": f"Bearer {made['key']}"}
    assert put(client, key, model="other/m").status_code == 403
    assert put(client, key, model="m").status_code == 403  # the same one by its bare name
    assert put(client, key, model="echo").status_code == 200
    shown = client.get("/settings/", headers=key).get_json()
    assert [model for row in shown["providers"] for model in row["models"]] == ["echo"]

    made = client.post(
        "/auth/keys", json={"name": "b", "allowed_models": ["m"]}, headers=headers
    ).get_json()
    bare = {"Authorization": f"Bearer {made['key']}"}
    assert put(client, bare, model="other/m").status_code == 200
    assert put(client, headers, model="other/m").status_code == 200
