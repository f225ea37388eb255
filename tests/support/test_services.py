"""The services that other tests use really run."""

from __future__ import annotations

import psycopg
import redis
import requests

from tests.conftest import LONG, ROOT
from tests.support.services import Nginx, PostgresServer, RedisServer, free_port


def test_redis_starts_hangs_and_comes_back(redis_server: RedisServer) -> None:
    client = redis.Redis.from_url(redis_server.url, socket_timeout=0.3)
    assert client.ping()
    client.close()


def test_each_test_gets_an_empty_database(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        count = connection.execute(
            "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        ).fetchone()
    assert count == (0,)


def test_a_stopped_postgres_keeps_its_data(own_postgres: PostgresServer) -> None:
    url = own_postgres.create_database()
    own_postgres.stop()
    own_postgres.start()
    psycopg.connect(url).close()


def test_nginx_serves_the_configuration_of_the_test(nginx: Nginx) -> None:
    nginx.start("server { listen 127.0.0.1:{port}; location / { return 204; } }")
    assert requests.get(nginx.url, timeout=60).status_code == 204


def test_no_port_is_given_twice() -> None:
    ports = [free_port() for _ in range(300)]
    assert len(set(ports)) == 300


def test_the_files_that_begin_exist() -> None:
    assert [name for name in LONG if not (ROOT / "tests" / name).is_file()] == []
