"""Who may use `echo` in production, and which model a chat gets that names none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from goblin_assistant.accounts.api_keys import KeySpec
from goblin_assistant.config import Config, ConfigError
from goblin_assistant.database import upgrade as migrations
from goblin_assistant.errors import NotFound
from tests.conftest import PASSWORD, MakeApp, register
from tests.support.fake_upstream import FakeUpstream, Reply

PRODUCTION: dict[str, Any] = {"env": "production", "secret_key": "s" * 40, "registration": "open"}
SAID = [{"role": "user", "content": "hello"}]
CHATS = ("/chat/completions", "/v1/chat/completions", "/v1/messages", "/v1/embeddings")


@pytest.fixture
def make_migrated(make_app: MakeApp) -> MakeApp:
    """`make_app`, with its tables from the start."""

    def make(**overrides: Any) -> Flask:
        app = make_app(**overrides)
        migrations.upgrade(app.extensions["goblin"].engine)
        return app

    return make


@pytest.fixture
def make_production(make_migrated: MakeApp) -> MakeApp:
    """The same in production."""
    return lambda **overrides: make_migrated(**{**PRODUCTION, **overrides})


def key_of(app: Flask, models: list[str] | None) -> dict[str, str]:
    """Headers of a new API key with this list of models."""
    accounts = app.extensions["goblin"].accounts
    try:
        user = accounts.by_email("key@example.com")
    except NotFound:
        user = accounts.create("key@example.com", PASSWORD)
    spec = KeySpec(name="test", scopes=["chat", "embeddings"], allowed_models=models)
    return {"Authorization": f"Bearer {accounts.keys.create(user.id, spec).secret}"}


def chat(client: FlaskClient, headers: dict[str, str], model: str | None, path: str = "") -> Any:
    """The answer to one request for `model`; None: it names none."""
    body: dict[str, Any] = {"messages": SAID, "max_tokens": 20}
    if path == "/v1/embeddings":
        body = {"input": "hello"}
    if model is not None:
        body["model"] = model
    return client.post(path or "/chat/completions", json=body, headers=headers)


def listed(client: FlaskClient, headers: dict[str, str]) -> list[str]:
    rows = client.get("/v1/models", headers=headers).get_json()["data"]
    return [row["id"] for row in rows]


def chains(tmp_path: Path, upstream: FakeUpstream) -> dict[str, Any]:
    """Settings with a provider `real`, and names that lead to it and to echo."""
    file = tmp_path / "goblin.toml"
    file.write_text(
        f'[providers.real]\nbase_url = "{upstream.url}/v1"\nmodels = ["gpt"]\n'
        '[aliases]\ntoy = "echo"\n[chains]\nsafe = ["real/gpt", "echo"]\n'
    )
    return {"config_file": file, "retries": 0}


# -- production: echo -----------------------------------------------------------------------------
@pytest.mark.parametrize("path", CHATS)
@pytest.mark.parametrize("model", ["echo", "echo/echo"])
def test_in_production_echo_is_refused_to_a_user_and_to_a_key_without_a_list(
    make_production: MakeApp, path: str, model: str
) -> None:
    app = make_production()
    client = app.test_client()
    user = {"Authorization": f"Bearer {register(client)['access_token']}"}
    for headers in (user, key_of(app, None)):
        answer = chat(client, headers, model, path)
        assert answer.status_code == 403, answer.get_data(as_text=True)
        said = answer.get_data(as_text=True)
        assert "whose model list names it" in said
        assert "--model echo" in said


@pytest.mark.parametrize("models", [["*"], ["*/*"], ["e*"], ["ech?"], ["real/*"], ["other"]])
def test_in_production_a_list_that_does_not_name_echo_does_not_cover_it(
    make_production: MakeApp, models: list[str]
) -> None:
    app = make_production()
    client, headers = app.test_client(), key_of(app, models)
    assert chat(client, headers, "echo").status_code == 403
    assert "echo/echo" not in listed(client, headers)


@pytest.mark.parametrize("models", [["echo"], ["echo/*"], ["echo/echo"], ["real/*", "echo"]])
@pytest.mark.parametrize("path", CHATS)
def test_in_production_a_key_whose_list_names_echo_may_use_it(
    make_production: MakeApp, models: list[str], path: str
) -> None:
    app = make_production()
    client, headers = app.test_client(), key_of(app, models)
    assert chat(client, headers, "echo", path).status_code == 200
    assert listed(client, headers) == ["echo/echo"]


def test_in_production_lists_show_echo_only_to_a_key_whose_list_names_it(
    make_production: MakeApp, tmp_path: Path, fake_upstream: FakeUpstream
) -> None:
    app = make_production(**chains(tmp_path, fake_upstream))
    client = app.test_client()
    plain, named = key_of(app, None), key_of(app, ["echo", "toy", "safe", "real/*"])
    assert listed(client, plain) == ["real/gpt", "safe"]
    assert listed(client, named) == ["echo/echo", "real/gpt", "safe", "toy"]
    for path in ("/v1/models/echo", "/v1/models/echo/echo", "/v1/models/toy"):
        assert client.get(path, headers=plain).status_code == 404
        assert client.get(path, headers=named).status_code == 200
    shown = {
        name: client.get("/settings/", headers=headers).get_json()
        for name, headers in (("plain", plain), ("named", named))
    }
    assert [row["name"] for row in shown["plain"]["providers"]] == ["real"]
    assert [row["name"] for row in shown["named"]["providers"]] == ["echo", "real"]
    assert shown["plain"]["aliases"] == ["safe"]
    assert shown["named"]["aliases"] == ["safe", "toy"]


def test_in_production_a_name_that_leads_to_echo_alone_is_refused_like_echo(
    make_production: MakeApp, tmp_path: Path, fake_upstream: FakeUpstream
) -> None:
    app = make_production(**chains(tmp_path, fake_upstream))
    client = app.test_client()
    assert chat(client, key_of(app, None), "toy").status_code == 403
    assert chat(client, key_of(app, ["toy"]), "toy").status_code == 403
    assert chat(client, key_of(app, ["toy", "echo"]), "toy").status_code == 200


def test_in_production_a_chain_does_not_fall_back_on_echo(
    make_production: MakeApp, tmp_path: Path, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.default = Reply.json(503, {"error": {"message": "busy"}})
    app = make_production(**chains(tmp_path, fake_upstream))
    client = app.test_client()
    assert chat(client, key_of(app, None), "safe").status_code == 503
    assert chat(client, key_of(app, ["safe"]), "safe").status_code == 503
    answer = chat(client, key_of(app, ["safe", "echo"]), "safe")
    assert answer.headers["X-Goblin-Provider"] == "echo"


def test_a_row_of_kind_echo_in_goblin_toml_is_for_everybody_as_the_operator_wrote_it(
    make_production: MakeApp, tmp_path: Path
) -> None:
    file = tmp_path / "goblin.toml"
    file.write_text('[providers.sim]\nkind = "echo"\n')
    app = make_production(config_file=file, default_model="sim/echo")
    client = app.test_client()
    for model in ("sim/echo", None):
        answer = chat(client, key_of(app, None), model)
        assert answer.headers["X-Goblin-Provider"] == "sim"


def test_in_production_a_user_may_not_make_echo_the_default_of_its_chats(
    make_production: MakeApp,
) -> None:
    app = make_production()
    client = app.test_client()
    user = {"Authorization": f"Bearer {register(client)['access_token']}"}
    answer = client.put("/settings/", json={"model": "echo"}, headers=user)
    assert answer.status_code == 403
    assert "whose model list names it" in answer.get_json()["message"]
    named = key_of(app, ["echo"])
    assert client.put("/settings/", json={"model": "echo"}, headers=named).status_code == 200
    assert chat(client, named, None).status_code == 200
    # The default belongs to the user, and each of the user's keys is still asked for its list.
    assert chat(client, key_of(app, None), None).status_code == 403


# -- production: the default ----------------------------------------------------------------------
@pytest.mark.parametrize("models", [None, ["echo"]])
@pytest.mark.parametrize("path", ["/chat/completions", "/v1/chat/completions"])
def test_in_production_a_chat_without_a_model_is_told_to_name_one(
    make_production: MakeApp, models: list[str] | None, path: str
) -> None:
    app = make_production()
    answer = chat(app.test_client(), key_of(app, models), None, path)
    assert answer.status_code == 400
    body = answer.get_json()
    error = body["error"] if path.startswith("/v1") else {**body, "code": body["error"]}
    assert (error["code"], error["param"], error["source"]) == (
        *("validation_failed", "model"),
        "client",
    )
    assert "GET /v1/models" in error["message"]
    assert "GOBLIN_DEFAULT_MODEL" in error["message"]


def test_in_production_there_is_no_default_model_until_one_is_set(
    make_production: MakeApp, tmp_path: Path, fake_upstream: FakeUpstream
) -> None:
    app = make_production()
    shown = app.test_client().get("/settings/", headers=key_of(app, None)).get_json()
    assert shown["default_model"] is None
    app = make_production(default_model="real/gpt", **chains(tmp_path, fake_upstream))
    shown = app.test_client().get("/settings/", headers=key_of(app, None)).get_json()
    assert shown["default_model"] == "real/gpt"


@pytest.mark.parametrize("model", ["echo", "echo/echo"])
def test_in_production_echo_cannot_be_set_as_the_default(tmp_path: Path, model: str) -> None:
    environ = {"SECRET_KEY": "s" * 40, "GOBLIN_DEFAULT_MODEL": model}
    with pytest.raises(ConfigError, match="GOBLIN_DEFAULT_MODEL: in production"):
        Config.load({}, environ=environ, dotenv=tmp_path / "absent.env")


# -- development ----------------------------------------------------------------------------------
def test_in_development_echo_is_for_everybody_and_the_default(make_migrated: MakeApp) -> None:
    app = make_migrated()
    client = app.test_client()
    for headers in (key_of(app, None), key_of(app, ["*"])):
        assert chat(client, headers, None).headers["X-Goblin-Provider"] == "echo"
        assert listed(client, headers) == ["echo/echo"]
        assert client.get("/settings/", headers=headers).get_json()["default_model"] == "echo"


def test_without_echo_there_is_no_default_in_development_either(make_migrated: MakeApp) -> None:
    app = make_migrated(echo_enabled=False)
    answer = chat(app.test_client(), key_of(app, None), None)
    assert (answer.status_code, answer.get_json()["param"]) == (400, "model")
