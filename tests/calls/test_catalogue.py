"""The facts about models that GET /v1/models gives besides OpenAI's: window, abilities, price."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from goblin_assistant.providers.openai.models import learned, model_of
from tests.conftest import MakeApp, register

TOML = """
[providers.up]
kind = "openai_compatible"
base_url = "http://127.0.0.1:9/v1"
models = [
  { id = "seer", capabilities = ["chat", "vision"], context_window = 128000 },
  { id = "plain" },
]

[aliases]
nick = "up/seer"

[chains]
careful = ["up/plain", "up/seer"]

[weighted]
heavy = [{ model = "up/plain", weight = 1 }, { model = "nick", weight = 2 }]
even = [{ model = "up/seer", weight = 1 }, { model = "up/plain", weight = 1 }]

[prices."up/seer"]
input = 2.5
output = 10
"""


@pytest.fixture
def client(make_app: MakeApp, tmp_path: Any) -> FlaskClient:
    path = tmp_path / "goblin.toml"
    path.write_text(TOML)
    return make_app(config_file=str(path)).test_client()


def listed(client: FlaskClient) -> dict[str, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {register(client)['access_token']}"}
    rows = client.get("/v1/models", headers=headers).get_json()["data"]
    for row in rows:
        assert client.get(f"/v1/models/{row['id']}", headers=headers).get_json() == row
    return {row["id"]: row for row in rows}


def test_a_model_says_its_window_its_abilities_and_its_price(client: FlaskClient) -> None:
    row = listed(client)["up/seer"]
    assert row["context_window"] == 128000
    assert row["capabilities"] == ["chat", "vision"]
    assert row["price_per_million"] == {"input": "2.5", "output": "10"}


def test_what_is_not_known_is_null(client: FlaskClient) -> None:
    row = listed(client)["up/plain"]
    assert row["context_window"] is None
    assert row["capabilities"] == ["chat"]
    assert row["price_per_million"] is None


def test_a_name_is_described_by_the_first_model_behind_it(client: FlaskClient) -> None:
    rows = listed(client)
    for name, model in (("nick", "up/seer"), ("careful", "up/plain")):
        facts = ("context_window", "capabilities", "price_per_million")
        assert [rows[name][fact] for fact in facts] == [rows[model][fact] for fact in facts]
        assert rows[name]["owned_by"] == "goblin-assistant"


def test_a_weighted_group_is_described_by_its_largest_weight(client: FlaskClient) -> None:
    headers = {"Authorization": f"Bearer {register(client)['access_token']}"}
    for name in ["heavy", "even"] * 20:  # a draw would find the other at times
        row = client.get(f"/v1/models/{name}", headers=headers).get_json()
        assert row["context_window"] == 128000
        assert row["price_per_million"] == {"input": "2.5", "output": "10"}


def test_echo_is_free(client: FlaskClient) -> None:
    assert listed(client)["echo/echo"]["price_per_million"] == {"input": "0", "output": "0"}


@pytest.mark.parametrize(
    ("name", "sees"),
    [
        ("gpt-4o", True), ("gpt-4o-mini", True), ("gpt-4.1-nano", True), ("gpt-5.4", True),
        ("o3", True), ("o3-mini", False), ("o1-mini", False), ("gpt-4", False),
        ("gpt-3.5-turbo", False), ("gemini-2.5-pro", True), ("anthropic/claude-sonnet-4-5", True),
        ("llama-3.3-70b", False), ("meta-llama/llama-4-scout", True), ("qwen2.5-vl-7b", True),
        ("pixtral-12b", True), ("gpt-4o-audio-preview", False), ("deepseek-chat", False),
    ],
)  # fmt: skip
def test_families_that_take_images_are_known_by_their_names(name: str, sees: bool) -> None:
    assert ("vision" in model_of(name).capabilities) is sees


def test_what_a_server_says_of_images_is_believed_over_the_name() -> None:
    rows = [
        {"id": "a-text-gpt-4o", "architecture": {"input_modalities": ["text"]}},
        {"id": "new", "architecture": {"input_modalities": ["text", "image"]}},
        {"id": "mistral", "capabilities": {"vision": True}},
        {"id": "pixtral", "capabilities": {"vision": False}},
    ]
    seen = ["vision" in model.capabilities for model in learned(rows, "")]
    assert seen == [False, True, True, False]
