"""Two instances behind the proxies of ops/proxy, as fixtures: import those that a module needs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from goblin_assistant.commands.doctor.outside import METRICS_SPELLINGS
from tests.conftest import Server, serving, wait_until
from tests.support.fake_upstream import FakeUpstream, Reply
from tests.support.proxies import PROXIES, Answer, Proxy, made_certificate
from tests.support.response_bodies import response_events
from tests.support.services import RedisServer
from tests.support.wire_bodies import openai_chat, openai_events

SECONDS = 60
"""How long a test waits for what must happen."""
MESSAGES = [{"role": "user", "content": "Hello"}]
CHAT = {"model": "openai/gpt-4o", "messages": MESSAGES}
MESSAGE = {**CHAT, "max_tokens": 100}
RESPONSE = {"model": CHAT["model"], "input": "Hello"}
MODELS = Reply.plain(200, b'{"data": []}', headers={"Connection": "close"})

SPELLINGS = (
    *METRICS_SPELLINGS, "/metrics%2fx", "/%4detrics", "/a//../metrics", "/%2e/metrics",
    "/health/%2e%2e/metrics", "/static/../metrics", "/static/%2e%2e/metrics", "/metrics%23",
    "/%2Fmetrics", "/metrics;jsessionid=1", "http://127.0.0.1/metrics",
)  # fmt: skip
SETTINGS = {
    "SECRET_KEY": "s" * 40,
    "GOBLIN_TRUSTED_PROXY": "127.0.0.1",
    "GOBLIN_INSTANCES": "2",
    "OPENAI_API_KEY": "sk-upstream",
    "GOBLIN_RETRIES": "0",
    "GOBLIN_HEALTH_INTERVAL": "3600",
    "RATELIMIT_ENABLED": "true",
    "RATELIMIT_CHAT": "1000000 per minute",
    "RATELIMIT_DEFAULT": "1000000 per minute",
    "RATELIMIT_HEALTH": "1000000 per minute",
    # A comment in a silent stream would hide a proxy that holds it back.
    "GOBLIN_STREAM_KEEPALIVE_SECONDS": "0",
}
TOML = """\
[providers.sim]
kind = "echo"
options = { tokens_per_second = 5 }
"""
# So slow that a busy machine does not look like a proxy that holds events back.

# The outer limit would meet a test's own load.
WIDE = {"nginx": ("rate=50r/s", "rate=50000r/s"), "traefik": ("average: 50", "average: 50000")}


@dataclass(frozen=True)
class Streamed:
    """A route that streams: what to ask it, what the provider answers at first and then, and how
    the answer ends. Nothing is passed on before the first token."""

    path: str
    body: dict[str, Any]
    first: bytes
    others: Sequence[bytes]
    end: bytes


def _streamed(
    path: str, body: dict[str, Any], events: Sequence[bytes], first: int, end: bytes
) -> Streamed:
    return Streamed(path, body, b"".join(events[:first]), events[first:], end)


STREAMED = (
    _streamed("/v1/chat/completions", CHAT, openai_events(), 1, b"data: [DONE]"),
    _streamed("/chat/completions", CHAT, openai_events(), 1, b"data: [DONE]"),
    _streamed("/v1/messages", MESSAGE, openai_events(), 1, b'{"type":"message_stop"}'),
    _streamed("/v1/responses", RESPONSE, response_events(), 5, b"}"),
)


@dataclass
class Site:
    """Instances with one database, their provider, a user's headers and an API key."""

    instances: list[Server]
    upstream: FakeUpstream
    user: dict[str, str]
    key: str
    settings: dict[str, str]

    def log_lines(self, **fields: Any) -> list[dict[str, Any]]:
        """The lines of all instances about requests that have ended, with these fields."""
        return [
            line
            for server in self.instances
            for line in server.log_lines("request_completed")
            if all(line.get(name) == value for name, value in fields.items())
        ]


def settings_of(base: Path, upstream: FakeUpstream, **more: str) -> dict[str, str]:
    """The instances' settings: one database, and `upstream` as their provider."""
    (base / "goblin.toml").write_text(TOML)
    return {
        **SETTINGS,
        "GOBLIN_CONFIG_FILE": str(base / "goblin.toml"),
        "DATABASE_URL": f"sqlite:///{base}/goblin.db",
        "OPENAI_BASE_URL": upstream.url + "/v1",
        **more,
    }


def past_their_checks(upstream: FakeUpstream) -> None:
    """Wait for two instances' checks of the provider. Replies that come later are for chats."""
    wait_until(lambda: len(upstream.requests) >= 2, SECONDS, "the checks of the provider")
    wait_until(lambda: upstream.open_connections == 0, SECONDS, "the checks of the provider")
    upstream.requests.clear()
    upstream.default = Reply.json(200, openai_chat())


def post(server: Server, path: str, body: Any, headers: dict[str, str]) -> Any:
    """The JSON of an instance's answer."""
    answer = requests.post(server.url + path, json=body, headers=headers, timeout=SECONDS)
    answer.raise_for_status()
    return answer.json()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_certificate(tmp_path_factory.mktemp("tls") / "tls")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two instances that no test stops; they share limits in Redis."""
    base = tmp_path_factory.mktemp("site")
    redis = RedisServer(base)
    upstream = FakeUpstream(default=MODELS)
    redis.start()
    try:
        with serving(base) as serve:
            settings = settings_of(base, upstream, REDIS_URL=redis.url)
            first, second = (serve(**settings) for _ in range(2))  # the first migrates
            past_their_checks(upstream)
            user = first.register()
            key = str(post(first, "/auth/keys", {"name": "doctor"}, user)["key"])
            yield Site([first, second], upstream, user, key, settings)
    finally:
        upstream.close()
        redis.stop()


@pytest.fixture(scope="module", params=sorted(PROXIES))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def proxy(
    kind: str, site: Site, certificate: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    """The proxy as shipped, but for its limit on requests."""
    folder = tmp_path_factory.mktemp("proxy") / kind
    made = PROXIES[kind](folder, certificate, [server.port for server in site.instances])
    try:
        made.start(rate=WIDE[kind])
        yield made
    finally:
        made.stop()


@dataclass
class Stub:
    """A proxy in front of a server that answers every path with metrics, and keeps the requests."""

    proxy: Proxy
    server: FakeUpstream

    def arrived(self) -> list[Any]:
        """The requests that are not the proxy's own checks."""
        checks = ("/health/live", "/health/ready")
        return [it for it in self.server.requests if it.path not in checks]


@pytest.fixture(scope="module")
def stub(kind: str, certificate: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stub]:
    """Shows what an instance would receive."""
    server = FakeUpstream(default=Reply.plain(200, b"http_requests_total 1\n", "text/plain"))
    made = PROXIES[kind](tmp_path_factory.mktemp("stub") / kind, certificate, [server.port])
    try:
        made.start(rate=WIDE[kind])
        yield Stub(made, server)
    finally:
        made.stop()
        server.close()


def error_in_shape(path: str, answer: Answer) -> dict[str, Any]:
    """The fields of an error in the dialect of `path`: code, message and correlation id."""
    assert answer.header("content-type") == "application/json", answer
    body = json.loads(answer.body)
    if path.startswith("/v1/messages"):
        assert body["type"] == "error"
        return {**body["error"], "correlation_id": body["request_id"]}
    if path.startswith("/v1"):
        assert body["error"]["type"]
        return dict(body["error"])
    return {**body, "code": body["error"]}
