"""What the instruments count, read from the registry around one request."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from goblin_assistant.metrics import REGISTRY
from tests.conftest import MakeApp

CHAT = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def increase() -> Callable[..., float]:
    """`increase(name, **labels)`: by how much a sample has grown since the test began."""
    before = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
    }

    def since(name: str, **labels: str) -> float:
        now = REGISTRY.get_sample_value(name, labels) or 0.0
        return now - before.get((name, tuple(sorted(labels.items()))), 0.0)

    return since


def test_a_whole_answer_is_timed_and_a_stream_only_to_its_first_token(
    client: FlaskClient, auth_headers: dict[str, str], increase: Callable[..., float]
) -> None:
    client.post("/chat/completions", json=CHAT, headers=auth_headers)
    assert increase("chat_answer_duration_seconds_count", provider="echo") == 1
    client.post("/chat/completions", json=CHAT | {"stream": True}, headers=auth_headers)
    assert increase("chat_answer_duration_seconds_count", provider="echo") == 1
    assert increase("chat_time_to_first_token_seconds_count", provider="echo", model="echo") == 1


def test_a_failed_chat_is_no_fast_answer(
    client: FlaskClient, auth_headers: dict[str, str], increase: Callable[..., float]
) -> None:
    refused = client.post(
        "/chat/completions", json=CHAT | {"model": "absent"}, headers=auth_headers
    )
    assert refused.status_code == 404
    assert increase("chat_answer_duration_seconds_count", provider="echo") == 0


def test_the_last_backup_is_exported_once_it_is_noted_in_the_instance_folder(
    make_app: MakeApp, tmp_path: Path
) -> None:
    make_app(instance_dir=tmp_path)
    name = "backup_last_success_timestamp_seconds"
    assert REGISTRY.get_sample_value(name) is None
    (tmp_path / "backup_last_success").write_text("1764671445\n")
    assert REGISTRY.get_sample_value(name) == 1764671445
    (tmp_path / "backup_last_success").write_text("yesterday")
    assert REGISTRY.get_sample_value(name) is None


def test_a_disk_that_cannot_be_asked_leaves_the_scrape_whole(
    make_app: MakeApp, tmp_path: Path
) -> None:
    folder = tmp_path / "later" / "made"
    make_app(instance_dir=folder, database_url=f"sqlite:///{tmp_path}/goblin.db")
    shutil.rmtree(tmp_path / "later", ignore_errors=True)
    assert (REGISTRY.get_sample_value("instance_disk_free_bytes") or 0) > 0
