"""The deployment that is played on: three instances, what they need, and what watches them."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import yaml

from gameday.pages import Pages, watch_everything
from tests.support.alert_rules import PROMETHEUS
from tests.support.fake_upstream import FakeUpstream, Reply
from tests.support.fleet import Fleet
from tests.support.monitoring import (
    Prometheus,
    alertmanager_config,
    running_alertmanager,
    running_prometheus,
    shortened,
)
from tests.support.proxies import NginxProxy, made_certificate
from tests.support.sentinel import SentinelServers
from tests.support.services import PostgresServer
from tests.support.webhook import WebhookReceiver

INSTANCES = 3
SLOTS = 8
"""Chat slots of an instance."""

DISK = "48m"
PASSWORD = "correct horse battery staple"
ANSWER = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4o",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    "data": [],
}
"""Of a chat, and (`data`) of the list of models that the health check asks for."""
WELL = Reply.json(200, ANSWER)
KEY = (
    "keys create you@example.com --name {name} --scope chat --model echo --model openai/gpt-4o "
    "--requests-per-minute {limit}"
)


@dataclass
class Stack:
    """All parts, running. `own_disk` says whether the last instance's folder is a file system of
    its own. `excused` is the time whose usage records a fault may lose."""

    folder: Path
    postgres: PostgresServer
    redis: SentinelServers
    provider: FakeUpstream
    fleet: Fleet
    proxy: NginxProxy
    key: str
    database: str
    prometheus: Prometheus
    pages: Pages
    own_disk: bool
    excused: tuple[float, float] = (0.0, 0.0)

    @property
    def certificate(self) -> Path:
        """What a caller of the proxy trusts."""
        return self.proxy.certificate / "fullchain.pem"

    def new_key(self, name: str, limit: int) -> str:
        """An API key with this limit a minute."""
        command = KEY.format(name=name, limit=limit)
        return self.fleet.command(*shlex.split(command)).strip()

    def target(self, number: int) -> str:
        """An instance's name in Prometheus."""
        return f"127.0.0.1:{self.fleet.instances[number].port}"

    def firing(self) -> list[str]:
        """The names of alerts that fire in Prometheus, but Watchdog."""
        found = self.prometheus.query('ALERTS{alertstate="firing",alertname!="Watchdog"}')
        return sorted({series["metric"]["alertname"] for series in found})

    def rows(self, ids: list[str]) -> dict[str, int]:
        """How many usage records each correlation id has; those without any are left out."""
        with psycopg.connect(self.database) as connection:
            return dict(
                connection.execute(
                    "SELECT correlation_id, count(*) FROM usage_records "
                    "WHERE correlation_id = ANY(%s) GROUP BY 1",
                    (ids,),
                ).fetchall()
            )

    def rows_when_written(self, ids: list[str], seconds: float = 90.0) -> dict[str, int]:
        """As `rows`, when all have one. Records may be up to half a minute late after a fault of
        the database."""
        end = time.monotonic() + seconds
        while len(found := self.rows(ids)) < len(set(ids)) and time.monotonic() < end:
            time.sleep(0.5)
        return found

    def lines_of(self, correlation_id: str) -> list[str]:
        """What instances and proxy logged of a request."""
        logs = [one.log for one in self.fleet.instances] + [self.proxy.folder / "access.log"]
        return [
            f"{log.parent.name}: {line}"
            for log in logs
            for line in log.read_text(errors="replace").splitlines()
            if correlation_id in line
        ]


@contextmanager
def running(folder: Path, factor: float, *, small_disk: bool = False) -> Iterator[Stack]:
    """Start everything. Times of rules and routes are divided by `factor`. With `small_disk` the
    last instance's folder is a file system of its own, where mounting is allowed."""
    with ExitStack() as stack:
        postgres = PostgresServer(folder / "postgres")
        stack.callback(postgres.stop)
        postgres.start()
        redis = SentinelServers(folder / "redis")
        stack.callback(redis.stop)
        redis.start()
        provider = FakeUpstream(default=WELL)
        stack.callback(provider.close)
        database = postgres.create_database()
        last = folder / "fleet" / f"instance{INSTANCES - 1}"
        own_disk = small_disk and stack.enter_context(_small_disk(last))
        fleet = Fleet(
            folder / "fleet",
            INSTANCES,
            DATABASE_URL=database,
            REDIS_URL=redis.url,
            OPENAI_API_KEY="sk-gameday",
            OPENAI_BASE_URL=provider.url + "/v1",
            GOBLIN_CHAT_SLOTS=str(SLOTS),
            GOBLIN_HEALTH_INTERVAL="1",
            GOBLIN_RETRIES="0",
            GOBLIN_TIMEOUT_TOTAL="10",
            GOBLIN_BREAKER_OPEN_SECONDS="2",
        )
        stack.callback(fleet.stop)
        fleet.command("db", "upgrade")
        fleet.start()
        fleet.command("users", "create", "you@example.com", "--password-stdin", typed=PASSWORD)
        key = fleet.command(*shlex.split(KEY.format(name="load", limit=1_000_000))).strip()
        proxy = NginxProxy(
            folder / "nginx",
            made_certificate(folder / "certificate"),
            [one.port for one in fleet.instances],
        )
        stack.callback(proxy.stop)
        proxy.start()
        webhook = stack.enter_context(WebhookReceiver())
        prometheus = stack.enter_context(_watched(fleet, webhook, folder, factor))
        yield Stack(
            folder, postgres, redis, provider, fleet, proxy, key, database, prometheus,
            Pages(webhook), own_disk,
        )  # fmt: skip


@contextmanager
def _small_disk(folder: Path) -> Iterator[bool]:
    """Make the folder a small file system, where mounting is allowed."""
    folder.mkdir(parents=True)
    mounted = os.geteuid() == 0 and shutil.which("mount") is not None
    if mounted:
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)


@contextmanager
def _watched(
    fleet: Fleet, webhook: WebhookReceiver, folder: Path, factor: float
) -> Iterator[Prometheus]:
    with ExitStack() as stack:
        (folder / "secrets").mkdir()
        config = alertmanager_config(webhook.url, folder / "secrets", factor)
        watch_everything(config, webhook.url)
        alertmanager = stack.enter_context(running_alertmanager(config, folder / "alertmanager"))
        rules = _prometheus_config(fleet, alertmanager, folder, factor)
        yield stack.enter_context(running_prometheus(rules, folder / "prometheus"))


def _prometheus_config(
    fleet: Fleet, alertmanager: str, folder: Path, factor: float
) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    rules = folder / "short.rules.yml"
    rules.write_text(yaml.safe_dump({"groups": shortened(factor)}))
    config["global"] |= {"scrape_interval": "1s", "scrape_timeout": "1s"}
    config["rule_files"] = [str(rules)]
    config["alerting"]["alertmanagers"] = [
        {"static_configs": [{"targets": [alertmanager.removeprefix("http://")]}]}
    ]
    targets = [f"127.0.0.1:{one.port}" for one in fleet.instances]
    config["scrape_configs"] = [
        {"job_name": "goblin-assistant", "static_configs": [{"targets": targets}]}
    ]
    return config


def fill(folder: Path) -> Path:
    """Take all that is left of the file system that holds `folder`; the file that does."""
    path = folder / "everything"
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 65536)
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
        while True:
            file.write(b"\0")
    return path
