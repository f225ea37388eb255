"""The dashboards are what the code writes, and each panel has data from a real Prometheus."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from functools import partial
from itertools import combinations
from typing import Any

import pytest
import requests
import yaml

from goblin_assistant.commands.doctor.monitoring import DASHBOARD
from goblin_assistant.metrics import REGISTRY
from ops.grafana.source.boards import BOARDS
from ops.grafana.source.write import FOLDER, as_json
from tests.conftest import ROOT, wait_until
from tests.support.fake_upstream import FakeUpstream, Reply
from tests.support.monitoring_servers import PrometheusServer
from tests.support.services import RedisServer, free_port

GUIDE_PANELS = (
    "Request rate by endpoint",
    "Error rate by endpoint",
    "P95 latency by endpoint",
    "Active requests gauge",
    "Chat completion metrics",
)
OTHERS = {"up", "ALERTS_FOR_STATE"}
"""Series that Prometheus makes itself."""
TOML = """\
[providers.sim]
kind = "echo"
[providers.broken]
kind = "echo"
options = { error_rate = 1.0, error_kinds = ["overloaded"] }
[providers.priced]
kind = "openai_compatible"
base_url = "{upstream}/v1"
models = ["good"]
[providers.unpriced]
kind = "openai_compatible"
base_url = "{upstream}/v1"
models = ["good"]
[prices."priced/good"]
input = 1
output = 2
[chains]
fallback = ["broken/echo", "sim/echo"]
"""
ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "good",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello"},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 1000, "completion_tokens": 1000, "total_tokens": 2000},
}
# Longer than the tests take, so that the load stays within.
VARIABLES = {"$__rate_interval": "10m", "$__range": "10m", "$instance": ".*"}


def panels_of(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


FILES = {board.uid: json.loads(as_json(board)) for board in BOARDS}
PANELS = [(uid, panel) for uid, board in FILES.items() for panel in panels_of(board)]
QUERIES = [
    pytest.param(target["expr"], id=f"{uid}: {panel['title']} {target['refId']}")
    for uid, panel in PANELS
    for target in panel["targets"]
]


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_the_committed_file_is_what_the_code_writes(board: Any) -> None:
    assert (FOLDER / f"{board.uid}.json").read_text() == as_json(board), (
        "run: python -m ops.grafana.source.write"
    )


def test_no_file_is_left_over() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(FILES)


def test_the_overview_begins_with_the_guides_five_panels() -> None:
    assert tuple(panel["title"] for panel in panels_of(FILES[DASHBOARD])[:5]) == GUIDE_PANELS


def test_every_panel_says_what_it_shows_and_from_where() -> None:
    for uid, panel in PANELS:
        where = f"{uid}: {panel['title']}"
        assert len(panel["description"]) > 5, where
        assert panel["fieldConfig"]["defaults"]["unit"], where
        for one in (panel, *panel["targets"]):
            assert one["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, where


def test_every_rate_uses_the_interval_that_grafana_chooses() -> None:
    for uid, panel in PANELS:
        for target in panel["targets"]:
            ranges = set(re.findall(r"\[([^\]]+)\]", target["expr"]))
            assert ranges <= {"$__rate_interval", "$__range"}, (uid, panel["title"])


@pytest.mark.parametrize("uid", FILES)
def test_panels_lie_beside_each_other(uid: str) -> None:
    places = [panel["gridPos"] for panel in FILES[uid]["panels"]]
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (uid, one, other)
    assert all(place["x"] + place["w"] <= 24 for place in places)


def test_every_dashboard_has_the_variables_that_it_uses() -> None:
    for uid, board in FILES.items():
        assert [one["name"] for one in board["templating"]["list"]] == ["datasource", "instance"]
        assert board["uid"] == uid


def test_every_metric_of_a_panel_is_exported() -> None:
    exported = {
        sample
        for family in REGISTRY.collect()
        for sample in (
            family.name,
            *(f"{family.name}_{end}" for end in ("total", "bucket", "count", "sum")),
        )
    }
    for parameter in QUERIES:
        expression = str(parameter.values[0])
        used = set(re.findall(r"([a-z][a-zA-Z_]+|ALERTS\w*)\{", expression))
        assert used, expression
        assert used <= exported | OTHERS, expression


def test_provisioning_names_the_data_source_and_the_folder() -> None:
    folder = ROOT / "ops" / "grafana" / "provisioning"
    sources = yaml.safe_load((folder / "datasources" / "goblin.yml").read_text())
    providers = yaml.safe_load((folder / "dashboards" / "goblin.yml").read_text())
    assert [one["type"] for one in sources["datasources"]] == ["prometheus"]
    path = providers["providers"][0]["options"]["path"]
    assert path in (ROOT / "ops" / "grafana" / "README.md").read_text()


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusServer]:
    """A Prometheus that has scraped an application under load, with a service that is down."""
    from loadtest.run import server as running_server

    folder = tmp_path_factory.mktemp("grafana")
    upstream = FakeUpstream(default=Reply.json(200, ANSWER))
    (folder / "goblin.toml").write_text(TOML.replace("{upstream}", upstream.url))
    made = PrometheusServer(folder / "prometheus")
    (folder / "redis").mkdir()
    redis = RedisServer(folder / "redis")
    redis.start()
    for path in (ROOT / "ops" / "prometheus" / "rules").glob("*.yml"):
        # Groups are evaluated every 30 s in production.
        text = re.sub(r"^( +interval:) .*$", r"\1 1s", path.read_text(), flags=re.M)
        (folder / path.name).write_text(text)
    with contextlib.ExitStack() as stack:
        stack.callback(upstream.close)
        stack.callback(redis.stop)
        stack.callback(made.stop)
        url = stack.enter_context(
            running_server(
                GOBLIN_CONFIG_FILE=str(folder / "goblin.toml"),
                GOBLIN_DEFAULT_MODEL="sim/echo",
                GOBLIN_RETRIES="1",
                REDIS_URL=redis.url,
                SANDBOX_URL=f"http://127.0.0.1:{free_port()}",
            )
        )
        made.start(
            {
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(folder / "*.yml")],
                "scrape_configs": [
                    {
                        "job_name": "goblin-assistant",
                        "static_configs": [{"targets": [url.removeprefix("http://")]}],
                    }
                ],
            }
        )
        wait_until(lambda: made.query("http_requests_total"), 60, "the first scrape")
        caller = Caller(url)
        # A rate needs an increase after the first scrape that has the series.
        for number in (1, 2):
            caller.round()
            wait_until(partial(_read_often, made, number), 60, "the scrape of a round")
        wait_until(lambda: made.query("ALERTS_FOR_STATE"), 60, "a pending alert")
        yield made


def _read_often(prometheus: PrometheusServer, number: int) -> bool:
    # The last request of a round, so that the others were counted before it.
    found = prometheus.query('sum(http_requests_total{endpoint="/settings/"})')
    return bool(found) and float(found[0]["value"][1]) >= number


class Caller:
    """Sends one of each kind of request."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._account = {"email": "dash@goblin.dev", "password": "correct horse battery staple"}
        requests.post(url + "/auth/register", json=self._account, timeout=30).raise_for_status()

    def round(self) -> None:
        login = requests.post(self._url + "/auth/login", json=self._account, timeout=30)
        headers = {"Authorization": f"Bearer {login.json()['access_token']}"}
        chat = {"messages": [{"role": "user", "content": "Hello"}]}
        for model, stream in (
            ("sim/echo", False), ("sim/echo", True), ("fallback", False), ("broken/echo", False),
            ("priced/good", False), ("unpriced/good", False),
        ):  # fmt: skip
            requests.post(
                self._url + "/v1/chat/completions",
                json={**chat, "model": model, "stream": stream},
                headers=headers,
                timeout=30,
            )
        for path in ("/health", "/health/all", "/health/sandbox", "/nothing", "/settings/"):
            requests.get(self._url + path, timeout=30)


@pytest.mark.parametrize("expression", QUERIES)
def test_every_query_returns_data(prometheus: PrometheusServer, expression: str) -> None:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    found = prometheus.query(expression)
    assert found, expression
    if " / " in expression or "histogram_quantile" in expression:
        assert any(one["value"][1] != "NaN" for one in found), expression
