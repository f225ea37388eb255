"""What the instruments count, read from the registry around one request."""

from __future__ import annotations

import gzip
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client.samples import Sample
from sqlalchemy import create_engine
from werkzeug.test import Client

from goblin_assistant.calls.idempotency import Claim
from goblin_assistant.calls.idempotency_redis import RedisIdempotencyStore
from goblin_assistant.database import pool
from goblin_assistant.errors import APP_ERRORS, NoFreeSlot
from goblin_assistant.metrics import REGISTRY
from goblin_assistant.providers.base import PROVIDER_ERRORS
from goblin_assistant.rate_limits.memory import MemoryStorage
from goblin_assistant.rate_limits.shared import SharedStorage
from goblin_assistant.routing.slots import ChatSlots
from goblin_assistant.threads.budget import ThreadBudget
from goblin_assistant.web import metrics_endpoint
from tests.conftest import MakeApp, Serve, free_port, wait_until
from tests.support.real_server import raw
from tests.support.services import RedisServer

Increase = Callable[..., float]

CHAT = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def increase() -> Increase:
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


def samples_of(name: str) -> list[Sample]:
    """The samples of one name, whatever their labels."""
    return [one for family in REGISTRY.collect() for one in family.samples if one.name == name]


def test_a_whole_answer_is_timed_and_a_stream_only_to_its_first_token(
    client: FlaskClient, auth_headers: dict[str, str], increase: Increase
) -> None:
    client.post("/chat/completions", json=CHAT, headers=auth_headers)
    assert increase("chat_answer_duration_seconds_count", provider="echo") == 1
    client.post("/chat/completions", json=CHAT | {"stream": True}, headers=auth_headers)
    assert increase("chat_answer_duration_seconds_count", provider="echo") == 1
    assert increase("chat_time_to_first_token_seconds_count", provider="echo", model="echo") == 1


def test_a_failed_chat_is_no_fast_answer(
    client: FlaskClient, auth_headers: dict[str, str], increase: Increase
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


def test_a_4xx_is_counted_by_its_code_and_every_code_starts_at_0(
    client: FlaskClient, increase: Increase
) -> None:
    name = "http_client_errors_total"
    codes = {kind.code for kind in (*APP_ERRORS, *PROVIDER_ERRORS) if kind.status < 500}
    started = {sample.labels["error_code"] for sample in samples_of(name)}
    assert codes <= started
    assert client.get("/absent").status_code == 404
    assert client.get("/auth/me").status_code == 401
    assert client.get("/health").status_code == 200
    assert increase(name, error_code="not_found") == 1
    assert increase(name, error_code="unauthorized") == 1
    assert sum(increase(name, error_code=code) for code in codes) == 2


def test_the_server_counts_what_it_refuses_and_how_long_a_request_waits_for_a_thread(
    serve: Serve,
) -> None:
    server = serve()
    raw(server, b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n")
    before = server.metrics()
    assert before['http_client_errors_total{error_code="invalid_request"}'] == 1
    waits = 'queue_wait_seconds_count{queue="server_thread"}'
    # A scrape is counted before it is answered.
    assert server.metrics()[waits] == before[waits] + 1


def test_every_chat_is_in_the_waits_for_a_slot_whether_it_waited_or_not(
    increase: Increase,
) -> None:
    slots = ChatSlots(1, 0.05, 1, ThreadBudget(5))
    count = "queue_wait_seconds_count"
    assert slots.acquire() == 0
    assert increase(count, queue="chat_slot") == 1
    with pytest.raises(NoFreeSlot):
        slots.acquire()
    assert increase(count, queue="chat_slot") == 2
    assert increase("queue_wait_seconds_sum", queue="chat_slot") >= 0.05


def test_who_waits_for_a_database_connection_is_counted(tmp_path: Path) -> None:
    options = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 30}
    engine = create_engine(f"sqlite:///{tmp_path}/x.db", **options)
    pool.export(engine, options)
    assert REGISTRY.get_sample_value("database_pool_connections_max") == 1
    with pool.connect(engine):
        assert REGISTRY.get_sample_value("database_pool_connections_in_use") == 1
        waiter = threading.Thread(target=lambda: pool.connect(engine).close())
        waiter.start()
        wait_until(lambda: REGISTRY.get_sample_value("database_pool_waiting") == 1)
    waiter.join(30)
    assert REGISTRY.get_sample_value("database_pool_waiting") == 0
    assert REGISTRY.get_sample_value("database_pool_connections_in_use") == 0
    engine.dispose()


def test_a_store_of_idempotency_keys_that_does_not_answer_is_counted(increase: Increase) -> None:
    store = RedisIdempotencyStore(60, 60, f"redis://127.0.0.1:{free_port()}", ["s" * 40])
    assert isinstance(store.begin("user:1", "k", "/chat/completions", b"{}"), Claim)
    assert increase("idempotency_store_failures_total") == 1


def test_operations_of_the_shared_limits_are_timed_and_those_in_memory_are_not(
    redis_server: RedisServer, increase: Increase
) -> None:
    count = "rate_limiter_storage_seconds_count"
    MemoryStorage().hit("a", 5, 60)
    assert increase(count) == 0
    storage = SharedStorage("goblin+" + redis_server.url)
    storage.hit("a", 5, 60)
    storage.close()
    assert increase(count) == 1


@pytest.mark.parametrize(
    ("accepted", "packed"),
    [
        ("gzip", True),
        ("deflate, gzip;q=0.5", True),
        ("gzip;q=0", False),
        ("br", False),
        (None, False),
    ],
)
def test_a_scraper_that_takes_gzip_gets_it(
    client: FlaskClient, accepted: str | None, packed: bool
) -> None:
    headers = {} if accepted is None else {"Accept-Encoding": accepted}
    answer = client.get("/metrics", headers=headers)
    assert answer.headers.get("Content-Encoding") == ("gzip" if packed else None)
    body = answer.get_data()
    assert int(answer.headers["Content-Length"]) == len(body)
    assert b"# TYPE app_ready gauge" in (gzip.decompress(body) if packed else body)


def test_the_metrics_port_answers_gzip_as_well(app: Flask) -> None:
    port = Client(metrics_endpoint.standalone(app.extensions["goblin"].config))
    packed = port.get("/metrics", headers={"Accept-Encoding": "gzip"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert b"# TYPE app_ready gauge" in gzip.decompress(packed.get_data())
    assert b"# TYPE app_ready gauge" in port.get("/metrics").get_data()


def test_five_hundred_models_have_no_series_before_their_first_chat(
    serve: Serve, tmp_path: Path
) -> None:
    rows = [
        f'[providers.p{n}]\nkind = "openai_compatible"\nbase_url = "http://127.0.0.1:9/v1"\n'
        f"models = [{', '.join(repr(f'm{n}-{m}') for m in range(50))}]\n"
        for n in range(10)
    ]
    path = tmp_path / "goblin.toml"
    path.write_text('[chains]\nboth = ["p1/m1-7", "p2/m2-7"]\n' + "".join(rows))
    server = serve(
        GOBLIN_CONFIG_FILE=str(path), GOBLIN_DEFAULT_MODEL="p0/m0-7", GOBLIN_FAULT_MODELS="false"
    )
    found = server.metrics()
    models = {label for name in found for label in re.findall(r'model="([^"]*)"', name)}
    assert models == {"m0-7", "m1-7", "m2-7", "other"}
    providers = {label for name in found for label in re.findall(r'provider="([^"]*)"', name)}
    assert providers == {"echo", *(f"p{n}" for n in range(10))}
    assert len(found) < 3500
