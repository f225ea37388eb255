"""Lines about database, Redis and instances, with real ones."""

from __future__ import annotations

import subprocess

import pytest
from sqlalchemy import text

from goblin_assistant.commands.database import open_engine
from goblin_assistant.commands.doctor import storage
from goblin_assistant.database.upgrade import upgrade
from tests.commands.doctor.conftest import MakeContext, only, verdict
from tests.conftest import Serve, wait_until
from tests.support.services import RedisServer, find_binary, free_port


def migrate(made: object) -> None:
    engine = open_engine(made.config)  # type: ignore[attr-defined]
    upgrade(engine)
    engine.dispose()


def test_database_passes_when_it_is_migrated(context: MakeContext, postgres_url: str) -> None:
    for made in (context(), context(database_url=postgres_url, instances=3)):
        migrate(made)
        assert verdict(storage.database(made)) == "ok"
    assert abs(made.clocks[0][1]) < 2, "PostgreSQL tells its time"


def test_database_fails_when_it_is_not_migrated(context: MakeContext, postgres_url: str) -> None:
    for made in (context(), context(database_url=postgres_url)):
        found = only(storage.database(made))
        assert (found.verdict, found.fix) == ("failure", "Run: goblin-assistant db upgrade")


def test_database_fails_when_nobody_answers(context: MakeContext) -> None:
    address = f"postgresql://app:secretpassword@127.0.0.1:{free_port()}/goblin"
    found = only(storage.database(context(database_url=address)))
    assert found.verdict == "failure"
    assert "secretpassword" not in found.message + found.fix


def test_database_fails_when_the_file_is_none(context: MakeContext) -> None:
    made = context()
    made.config.instance_dir.mkdir()
    (made.config.instance_dir / "goblin.db").write_text("This is not a database. " * 100)
    assert "not an SQLite database" in only(storage.database(made)).message


def test_database_fails_when_several_instances_share_a_file(context: MakeContext) -> None:
    made = context(instances=3)
    migrate(made)
    found = only(storage.database(made))
    assert (found.verdict, found.fix) == (
        "failure", "Set DATABASE_URL to a PostgreSQL server.",
    )  # fmt: skip


def test_redis_server_passes_when_it_works(context: MakeContext, redis_server: RedisServer) -> None:
    made = context(redis_url=redis_server.url)
    found = only(storage.redis_server(made))
    assert found.verdict == "ok"
    assert "ms a command" in found.message
    assert abs(made.clocks[0][1]) < 2
    assert verdict(storage.redis_server(context())) == "ok", "one instance needs none"


def test_redis_server_fails_when_it_is_stopped_or_hangs(
    context: MakeContext, redis_server: RedisServer
) -> None:
    made = context(redis_url=redis_server.url)
    redis_server.pause()
    assert "no answer within 1 s" in only(storage.redis_server(made)).message
    redis_server.resume()
    redis_server.stop()
    assert "connection failed" in only(storage.redis_server(made)).message
    assert verdict(storage.redis_server(made)) == "failure"


@pytest.fixture
def full_redis(redis_server: RedisServer) -> RedisServer:
    """A Redis without memory for another value."""
    cli = find_binary("redis-cli")
    for setting in (("maxmemory-policy", "noeviction"), ("maxmemory", "1")):
        command = [cli, "-p", str(redis_server.port), "config", "set", *setting]
        subprocess.run(command, check=True, capture_output=True, timeout=10)
    return redis_server


def test_redis_server_fails_when_it_stores_nothing(
    context: MakeContext, full_redis: RedisServer
) -> None:
    found = only(storage.redis_server(context(redis_url=full_redis.url)))
    assert found.verdict == "failure"
    assert "its memory is full" in found.message


def test_redis_server_fails_when_several_instances_have_none(context: MakeContext) -> None:
    assert verdict(storage.redis_server(context(instances=2))) == "failure"


def test_instances_passes_when_as_many_run_as_are_configured(
    context: MakeContext, postgres_url: str, serve: Serve
) -> None:
    made = context(database_url=postgres_url)
    migrate(made)
    assert "none runs" in only(storage.instances(made)).message
    serve(DATABASE_URL=postgres_url)
    wait_until(lambda: "1 run" in only(storage.instances(made)).message, 30, "one instance")
    assert verdict(storage.instances(made)) == "ok"


def test_instances_fails_when_more_run_than_are_configured(
    context: MakeContext, postgres_url: str, serve: Serve
) -> None:
    made = context(database_url=postgres_url)
    migrate(made)
    for _ in range(2):
        serve(DATABASE_URL=postgres_url)
    wait_until(lambda: "2 run" in only(storage.instances(made)).message, 30, "two instances")
    found = only(storage.instances(made))
    assert found.verdict == "failure"
    assert "GOBLIN_INSTANCES=2" in found.fix
    assert only(storage.instances(context(database_url=postgres_url, instances=3))).verdict == (
        "warning"
    )


def test_a_connection_names_its_process(postgres_url: str, context: MakeContext) -> None:
    made = context(database_url=postgres_url)
    with made.database() as engine, engine.connect() as connection:
        name = str(connection.execute(text("SHOW application_name")).scalar())
    assert name.startswith("goblin-assistant ")
    assert len(name.encode()) <= 63
