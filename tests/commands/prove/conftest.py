"""A deployment of three instances for all tests of this folder, and what is wrong with others."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import requests
from click.testing import CliRunner

from goblin_assistant.cli import cli
from goblin_assistant.commands.prove.deployment import KEY_COMMAND, ROWS
from tests.conftest import PASSWORD, parse_metrics, wait_until
from tests.support.fleet import UNBUFFERED, Fleet, Instance, Proxy
from tests.support.services import PostgresServer, RedisServer

BUFFERED = "proxy_buffering on; proxy_ignore_headers X-Accel-Buffering;"
PROXIES = {
    "right": UNBUFFERED,
    "buffering": f"proxy_http_version 1.0; {BUFFERED}",
    "own_ids": 'proxy_set_header X-Correlation-ID "";' + UNBUFFERED,
    "no_ids": "proxy_hide_header X-Correlation-ID;" + UNBUFFERED,
    "no_limit_headers": "proxy_hide_header X-RateLimit-Limit;" + UNBUFFERED,
}
OTHER_PRICE = ROWS.replace("output = 2", "output = 3")


@dataclass
class Tried:
    """What the command did."""

    code: int
    output: str
    errors: str

    @property
    def report(self) -> dict[str, Any]:
        """The report as an object."""
        found: dict[str, Any] = json.loads(self.output)
        return found

    def verdict(self, name: str) -> str:
        """Of one promise."""
        (one,) = [line for line in self.report["promises"] if line["name"] == name]
        return f"{one['verdict']}: {one['seen']}"


def run(*arguments: str) -> Tried:
    """`goblin-assistant prove ARGUMENTS` in this process."""
    done = CliRunner().invoke(cli, ["prove", *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return Tried(done.exit_code, done.stdout, done.stderr)


@dataclass
class Deployments:
    """The right one, and one whose instances count for themselves."""

    fleet: Fleet
    alone: Fleet
    urls: dict[str, str]

    def new_key(self, command: str = KEY_COMMAND) -> str:
        """A key by the command that `prove` tells."""
        environment = {**self.fleet.environment, "GOBLIN_INSTANCE_DIR": str(self.fleet.folder)}
        done = CliRunner().invoke(cli, shlex.split(command)[1:], env=environment)
        assert done.exit_code == 0, done.output
        return done.stdout.strip()

    def disturbed(self) -> int:
        """How often an instance has had no answer from Redis in time, and counted alone."""
        logs = [one.log.read_text() for one in self.fleet.instances]
        lines = ("rate_limiter_degraded", "idempotency_store_unavailable")
        return sum(log.count(f'"{line}"') for log in logs for line in lines)

    def prove_undisturbed(self, proxy: str, *arguments: str) -> Tried:
        """As `prove`, begun again while Redis does not answer in time: what is promised of limits
        needs it."""
        for _ in range(5):
            before = self.disturbed()
            tried = self.prove(proxy, *arguments)
            if self.disturbed() == before:
                return tried
            wait_until(lambda: all(map(shared, self.fleet.instances)), 60, "limits in Redis")
        raise AssertionError("Redis never answers in time here")

    def prove(self, proxy: str, *arguments: str, key: str | None = None) -> Tried:
        """Through one of the proxies, with a key of its own."""
        return run(
            "--url", self.urls[proxy], "--key", key or self.new_key(), "--json", *arguments
        )  # fmt: skip


def shared(instance: Instance) -> bool:
    """Whether an instance counts in Redis now."""
    metrics = parse_metrics(requests.get(instance.url + "/metrics", timeout=30).text)
    return metrics["rate_limiter_degraded"] == 0


@pytest.fixture(scope="session")
def deployments(
    tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer
) -> Iterator[Deployments]:
    """Three instances behind nginx, with Redis and PostgreSQL; two more without Redis, of which
    one has other prices."""
    folder = tmp_path_factory.mktemp("prove")
    with ExitStack() as stack:
        (folder / "redis").mkdir()
        redis = RedisServer(folder / "redis")
        redis.start()
        stack.callback(redis.stop)
        shared = {
            "DATABASE_URL": postgres.create_database(),
            "RATELIMIT_DEFAULT": "100000 per minute",
        }
        fleet = Fleet(folder / "fleet", 3, ROWS, REDIS_URL=redis.url, **shared)
        alone = Fleet(folder / "alone", 2, ROWS, **shared)
        dearer = folder / "dearer.toml"
        dearer.write_text(OTHER_PRICE)
        alone.instances[0].environment["GOBLIN_CONFIG_FILE"] = str(dearer)
        fleet.command("db", "upgrade")
        for one in (fleet, alone):
            stack.callback(one.stop)
            one.start()
        proxy = Proxy(folder / "nginx", fleet.upstream(), PROXIES)
        other = Proxy(folder / "nginx-alone", alone.upstream(), {"alone": UNBUFFERED})
        for server in (proxy, other):
            stack.callback(server.stop)
            server.start()
        fleet.command("users", "create", "you@example.com", "--password-stdin", typed=PASSWORD)
        yield Deployments(fleet, alone, proxy.urls | other.urls)
