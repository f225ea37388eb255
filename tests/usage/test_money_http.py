"""A hundred calls of usage/test_money.py over HTTP, from the client and to the provider."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine

from tests.conftest import Serve, wait_until
from tests.support.books import budget_of
from tests.support.money_cases import Case, cases
from tests.support.scripted_server import GLYPH, ScriptedServer, Truth

CALLS = 100
PRICE = 100


class Upstream:
    """A ScriptedServer behind a socket; each provider at a path of its own."""

    def __init__(self) -> None:
        self.servers = {name: ScriptedServer() for name in ("plain", "older", "newer", "claude")}
        self.servers["claude"].anthropic = True
        self.servers["newer"].reads = "max_completion_tokens"
        servers = self.servers

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._whole(b'{"data": []}')

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server = servers[self.path.split("/")[1]]
                if json.loads(body).get("stream") is not True:
                    self._whole(server.post(self.path, body))
                    return
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Connection", "close")
                self.end_headers()
                for event in server.post_sse(self.path, body):
                    self.wfile.write(event)
                self.close_connection = True

            def _whole(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Log nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """The gateway closes streams whose client has left."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    made = Upstream()
    yield made
    made.close()


def toml(url: str) -> str:
    """Four rows on the upstream, at a price."""
    rows = []
    for name, field in (
        ("plain", None),
        ("older", "max_tokens"),
        ("newer", "max_completion_tokens"),
    ):
        options = f'options = {{max_tokens_field = "{field}"}}' if field else ""
        rows.append(
            f'[providers.{name}]\nbase_url = "{url}/{name}"\napi_key = "k"\n'
            f'models = ["m"]\n{options}'
        )
    rows.append(
        f'[providers.claude]\nkind = "anthropic"\nbase_url = "{url}/claude"\n'
        'api_key = "k"\nmodels = ["m"]'
    )
    names = ("plain", "older", "newer", "claude")
    return "\n".join(
        [*rows, *(f'[prices."{name}/*"]\ninput = 100\noutput = 100' for name in names)]
    )


def call(base: str, key: str, case: Case) -> int:
    """Ask, and read as far as the case says. Returns the bytes of text that arrived."""
    path = "/v1/messages" if case.dialect == "anthropic" else "/v1/chat/completions"
    headers = {"Authorization": f"Bearer {key}"}
    with requests.post(
        base + path, json=case.body, headers=headers, stream=True, timeout=30
    ) as answer:
        if answer.status_code != 200:
            return 0
        got = b""
        try:
            for number, line in enumerate(answer.iter_lines(chunk_size=1 << 16), 1):
                got += line
                if case.reads is not None and number > 2 * case.reads:
                    break
        except requests.RequestException:
            pass
    return got.count(GLYPH.encode()) * 3


def test_a_hundred_calls_over_http_never_exceed_their_budgets(
    upstream: Upstream, serve: Serve, tmp_path: Path
) -> None:
    file = tmp_path / "goblin.toml"
    file.write_text(toml(upstream.url))
    server = serve(
        GOBLIN_CONFIG_FILE=str(file),
        GOBLIN_RETRIES="0",
        GOBLIN_BUDGET_DEFAULT_MAX_TOKENS="500",
        GOBLIN_BREAKER_MIN_CALLS="1000",
        GOBLIN_MAX_KEYS_PER_USER="1000",
    )
    login = server.register()
    engine = create_engine(f"sqlite:///{tmp_path / 'server0' / 'instance' / 'goblin.db'}")
    made: list[int] = []

    @settings(
        max_examples=CALLS // 4,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        budget=st.sampled_from((300, 3_000, 30_000)),
        calls=st.lists(cases(keeps=True), min_size=4, max_size=4),
    )
    def spend(budget: int, calls: list[Case]) -> None:
        key = requests.post(
            server.url + "/auth/keys",
            json={
                "name": "k",
                "scopes": ["chat"],
                "monthly_budget_usd": f"{budget * PRICE / 1e6:.6f}",
            },
            headers=login,
            timeout=10,
        ).json()
        truths: list[Truth] = []
        for case in calls:
            provider = upstream.servers[case.body["model"].split("/")[0]]
            provider.scripts[:] = [case.script]
            asked = len(provider.truths)
            arrived = call(server.url, key["key"], case)
            made.append(arrived)
            if len(provider.truths) > asked:
                truth = provider.truths[-1]
                if case.body.get(
                    "stream"
                ):  # what the upstream has written is not what was delivered
                    truth = Truth(truth.prompt if arrived else 0, delivered=arrived)
                    truth.reported_prompt = truth.prompt
                truths.append(truth)
        key_id = key["id"]
        wait_until(lambda: budget_of(engine, key_id)[1] == 0, 30, "the reservations to end")
        spent = budget_of(engine, key_id)[0]
        cost = sum(truth.tokens for truth in truths)
        assert cost * PRICE <= spent <= budget * PRICE

    spend()
    engine.dispose()
    assert len(made) >= CALLS
    assert sum(made) > 0
