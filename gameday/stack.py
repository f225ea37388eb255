"""The deployment that is played on: three instances, what they need, and what watches them."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import yaml

from tests.support.alert_rules import PROMETHEUS
from tests.support.fake_upstream import FakeUpstream, Reply
from tests.support.fleet import UNBUFFERED, Fleet, Proxy
from tests.support.monitoring import (
    Prometheus,
    alertmanager_config,
    running_alertmanager,
    running_prometheus,
    shortened,
)
from tests.support.services import PostgresServer, RedisServer, shared_servers
from tests.support.webhook import WebhookReceiver

INSTANCES = 3
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
    "keys create you@example.com --name gameday --scope chat --model echo --model openai/gpt-4o "
    "--requests-per-minute 1000000"
)


@dataclass
class Stack:
    """All parts, running."""

    folder: Path
    postgres: PostgresServer
    redis: RedisServer
    provider: FakeUpstream
    fleet: Fleet
    url: str
    key: str
    database: str
    prometheus: Prometheus
    webhook: WebhookReceiver

    def alerts(self, since: int = 0) -> list[str]:
        """The titles of the chat's messages, which gets every alert, from the `since`th on."""
        titles = [
            str(attachment["title"])
            for one in self.webhook.to("/chat")
            for attachment in one.body["attachments"]
        ]
        return titles[since:]

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

    def rows_when_written(self, ids: list[str], seconds: float = 60.0) -> dict[str, int]:
        """As `rows`, when all have one. Records may be up to half a minute late after a fault of
        the database."""
        end = time.monotonic() + seconds
        while len(found := self.rows(ids)) < len(set(ids)) and time.monotonic() < end:
            time.sleep(0.5)
        return found


@contextmanager
def running(folder: Path, factor: float) -> Iterator[Stack]:
    """Start everything. Times of rules and routes are divided by `factor`."""
    with ExitStack() as stack:
        postgres, redis = stack.enter_context(shared_servers(folder))
        provider = FakeUpstream(default=WELL)
        stack.callback(provider.close)
        database = postgres.create_database()
        fleet = Fleet(
            folder / "fleet",
            INSTANCES,
            DATABASE_URL=database,
            REDIS_URL=redis.url,
            OPENAI_API_KEY="sk-gameday",
            OPENAI_BASE_URL=provider.url + "/v1",
            GOBLIN_HEALTH_INTERVAL="1",
            GOBLIN_RETRIES="0",
            GOBLIN_TIMEOUT_TOTAL="10",
            GOBLIN_BREAKER_OPEN_SECONDS="2",
        )
        stack.callback(fleet.stop)
        fleet.command("db", "upgrade")
        fleet.start()
        fleet.command("users", "create", "you@example.com", "--password-stdin", typed=PASSWORD)
        key = fleet.command(*shlex.split(KEY)).strip()
        proxy = Proxy(folder / "nginx", fleet.upstream(), {"": UNBUFFERED})
        stack.callback(proxy.stop)
        proxy.start()
        webhook = stack.enter_context(WebhookReceiver())
        (folder / "secrets").mkdir()
        config = alertmanager_config(webhook.url, folder / "secrets", factor)
        alertmanager = stack.enter_context(running_alertmanager(config, folder / "alertmanager"))
        prometheus = stack.enter_context(
            running_prometheus(
                _prometheus_config(fleet, alertmanager, folder, factor), folder / "prometheus"
            )
        )
        yield Stack(
            folder, postgres, redis, provider, fleet, proxy.urls[""], key, database, prometheus,
            webhook,
        )  # fmt: skip


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
