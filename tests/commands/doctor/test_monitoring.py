"""Lines about monitoring: a real Prometheus and Alertmanager, and Grafana's API as documented."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from goblin_assistant.commands import report
from goblin_assistant.commands.doctor import monitoring, settings, storage
from tests.commands.doctor.conftest import MakeContext, only, verdict
from tests.conftest import wait_until
from tests.support.monitoring_servers import AlertmanagerServer, PrometheusServer
from tests.support.services import find_binary, free_port

HOUR = 3600
SERIES = {
    'http_requests_total{{job="{job}",endpoint="/health",status_code="200"}}': 40,
    'rate_limit_rejections_total{{job="{job}",group="chat",scope="key"}}': 4,
    'http_errors_total{{job="{job}",endpoint="/chat/completions"}}': 1,
}
"""Counters of the first day, and how much each grows in a minute."""


def _samples(path: Path, start: float, hours: int) -> None:
    """A day of two instances and a probe, as OpenMetrics."""
    lines = []
    times = [start + 60 * minute for minute in range(hours * 60)]
    for instance in ("a:8001", "b:8001"):
        lines += [f'up{{job="goblin-assistant",instance="{instance}"}} 1 {t:.0f}' for t in times]
    lines += [
        f'probe_success{{job="blackbox",instance="https://api.goblin.dev"}} 1 {t:.0f}'
        for t in times
    ]
    for series, growth in SERIES.items():
        name = series.format(job="goblin-assistant")
        lines += [f"{name} {growth * i} {t:.0f}" for i, t in enumerate(times)]
    path.write_text("\n".join(lines) + "\n# EOF\n")


def rule(name: str, expression: str, severity: str = "warning") -> dict[str, Any]:
    return {"alert": name, "expr": expression, "labels": {"severity": severity}}


def _config(folder: Path, name: str, rules: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    path = folder / f"{name}.rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": rules}]}))
    intervals = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    return {"global": intervals, "rule_files": [str(path)], **more}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Prometheus with 26 hours of a job, the guide's alerts and a Watchdog; its Alertmanager."""
    folder = tmp_path_factory.mktemp("good")
    now = time.time()
    _samples(folder / "samples", now - 26 * HOUR, 26)
    subprocess.run(
        [
            find_binary("promtool"), "tsdb", "create-blocks-from", "openmetrics",
            str(folder / "samples"), str(folder / "data"),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )  # fmt: skip
    told = AlertmanagerServer(folder / "alertmanager")
    told.start(
        {
            "route": {"receiver": "page", "group_wait": "1s"},
            "receivers": [{"name": "page", "webhook_configs": [{"url": "http://127.0.0.1:9/"}]}],
        }
    )
    rules = [rule(name, "vector(1) == 2") for name in monitoring.GUIDE_ALERTS]
    rules.append(rule("Watchdog", "vector(1)", "none"))
    alerting = {
        "alertmanagers": [{"static_configs": [{"targets": [told.url.removeprefix("http://")]}]}]
    }
    server = PrometheusServer(folder)
    # The samples end a minute ago at the latest, and instant queries look back five minutes.
    server.start(_config(folder, "good", rules, alerting=alerting), "--rules.alert.resend-delay=1s")
    yield server.url, told.url
    server.stop()
    told.stop()


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Prometheus that scrapes a closed port, with a rule that fails and one that fires."""
    folder = tmp_path_factory.mktemp("bad")
    told = AlertmanagerServer(folder / "alertmanager")
    told.start({"route": {"receiver": "nobody"}, "receivers": [{"name": "nobody"}]})
    rules = [
        rule(monitoring.GUIDE_ALERTS[0], "up == bool on() group_left() up", "critical"),
        *(rule(name, "vector(1) == 2") for name in monitoring.GUIDE_ALERTS[1:]),
        rule("TheRoofIsOnFire", "vector(1)", "critical"),
    ]
    down = {"job_name": "goblin-assistant", "static_configs": [
        {"targets": [f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"]}
    ]}  # fmt: skip
    probe = {
        "job_name": "blackbox",
        "static_configs": [{"targets": [f"127.0.0.1:{free_port()}"]}],
    }
    server = PrometheusServer(folder)
    server.start(_config(folder, "bad", rules, scrape_configs=[down, probe]))
    wait_until(lambda: len(server.query("up == 0")) == 3, 30, "failed scrapes")
    wait_until(lambda: server.query("ALERTS"), 30, "an alert")
    wait_until(lambda: "err" in server.rule_health(), 30, "a rule that fails")
    yield server.url, told.url
    server.stop()
    told.stop()


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Prometheus without jobs and rules; an Alertmanager that hears nothing."""
    folder = tmp_path_factory.mktemp("empty")
    told = AlertmanagerServer(folder / "alertmanager")
    webhook = [{"url": "http://127.0.0.1:9/"}]
    told.start(
        {
            "route": {"receiver": "page"},
            "receivers": [{"name": "page", "webhook_configs": webhook}],
        }
    )
    server = PrometheusServer(folder)
    server.start({})
    yield server.url, told.url
    server.stop()
    told.stop()


def dead() -> str:
    return f"http://127.0.0.1:{free_port()}"


def test_scraping_passes_when_every_instance_is_scraped(
    context: MakeContext, good: tuple[str, str]
) -> None:
    assert verdict(monitoring.scraping(context(prometheus_url=good[0], instances=2))) == "ok"


def test_scraping_fails_when_instances_are_down_missing_or_unknown(
    context: MakeContext, good: tuple[str, str], bad: tuple[str, str], empty: tuple[str, str]
) -> None:
    def said(url: str, **more: Any) -> str:
        found = only(monitoring.scraping(context(prometheus_url=url, **more)))
        assert found.verdict == "failure"
        assert found.fix
        return found.message

    assert "cannot scrape 127.0.0.1:" in said(bad[0])
    assert "no job" in said(empty[0])
    assert "2 of GOBLIN_INSTANCES=3" in said(good[0], instances=3)
    assert "connection failed" in said(dead())
    assert verdict(monitoring.scraping(context())) == "warning"


def test_rules_passes_when_the_guides_four_are_loaded(
    context: MakeContext, good: tuple[str, str]
) -> None:
    found = list(monitoring.rules(context(prometheus_url=good[0])))
    assert [one.verdict for one in found] == ["ok", "ok"]


def test_rules_fails_when_they_are_missing_broken_or_fire(
    context: MakeContext, bad: tuple[str, str], empty: tuple[str, str]
) -> None:
    found = list(monitoring.rules(context(prometheus_url=bad[0])))
    assert [one.verdict for one in found] == ["failure", "failure"]
    assert "cannot evaluate HighErrorRate" in found[0].message
    # HighErrorRate fires too, until Prometheus has found its rule broken.
    assert found[1].message.startswith("fire now: ")
    assert "TheRoofIsOnFire" in found[1].message
    assert found[1].fix == "Follow the pages in ops/runbooks."
    assert "no HighErrorRate" in next(
        iter(monitoring.rules(context(prometheus_url=empty[0])))
    ).message  # fmt: skip
    assert verdict(monitoring.rules(context(prometheus_url=dead()))) == "failure"
    assert verdict(monitoring.rules(context())) == "warning"


def test_alertmanager_passes_when_it_hears_the_watchdog(
    context: MakeContext, good: tuple[str, str]
) -> None:
    made = context(alertmanager_url=good[1])
    wait_until(
        lambda: only(monitoring.alertmanager(made)).verdict == "ok", 30, "the Watchdog to arrive"
    )
    assert verdict(monitoring.alertmanager(made)) == "ok"


def test_alertmanager_fails_when_it_tells_nobody_or_hears_nothing(
    context: MakeContext, bad: tuple[str, str], empty: tuple[str, str]
) -> None:
    for url, said in ((bad[1], "no receiver"), (empty[1], "has not arrived"), (dead(), "refused")):
        found = only(monitoring.alertmanager(context(alertmanager_url=url)))
        assert found.verdict == "failure"
        assert said in found.message
    assert verdict(monitoring.alertmanager(context(alertmanager_url=bad[0]))) == "failure"
    assert verdict(monitoring.alertmanager(context())) == "warning"


def test_health_checks_passes_when_a_probe_does(
    context: MakeContext, good: tuple[str, str]
) -> None:
    assert verdict(monitoring.health_checks(context(prometheus_url=good[0]))) == "ok"


def test_health_checks_fails_when_there_is_no_probe(
    context: MakeContext, empty: tuple[str, str]
) -> None:
    assert verdict(monitoring.health_checks(context(prometheus_url=empty[0]))) == "warning"
    assert verdict(monitoring.health_checks(context(prometheus_url=dead()))) == "failure"
    assert verdict(monitoring.health_checks(context())) == "warning"


def test_first_day_passes_after_24_hours(context: MakeContext, good: tuple[str, str]) -> None:
    assert verdict(monitoring.first_day(context(prometheus_url=good[0]))) == "ok"


def test_first_day_fails_before(context: MakeContext, bad: tuple[str, str]) -> None:
    assert verdict(monitoring.first_day(context(prometheus_url=bad[0]))) == "warning"
    assert verdict(monitoring.first_day(context(prometheus_url=dead()))) == "failure"
    assert verdict(monitoring.first_day(context())) == "warning"


def test_limits_fails_when_many_requests_were_refused(
    context: MakeContext, good: tuple[str, str]
) -> None:
    made = context(prometheus_url=good[0], ratelimit_chat="200 per minute")
    assert "10% of the requests" in only(settings.limits(made)).message


def test_instances_passes_or_fails_by_what_prometheus_scrapes(
    context: MakeContext, good: tuple[str, str]
) -> None:
    assert verdict(storage.instances(context(prometheus_url=good[0], instances=2))) == "ok"
    assert verdict(storage.instances(context(prometheus_url=good[0]))) == "failure"


class _Grafana(BaseHTTPRequestHandler):
    """Grafana's two calls, as its HTTP API's documentation has them. Dashboards need the token."""

    dashboards = True

    def do_GET(self) -> None:
        if self.path == "/api/health":
            status, body = 200, {"database": "ok", "version": "10.1.0"}
        elif self.headers.get("Authorization") != "Bearer glsa_good":
            status, body = 401, {"message": "Unauthorized"}
        elif self.path == f"/api/dashboards/uid/{monitoring.DASHBOARD}" and self.dashboards:
            status, body = 200, {"dashboard": {"uid": monitoring.DASHBOARD}, "meta": {}}
        else:
            status, body = 404, {"message": "Dashboard not found"}
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


class _EmptyGrafana(_Grafana):
    dashboards = False


@pytest.fixture
def grafana() -> Iterator[dict[str, str]]:
    """Two servers that answer as Grafana does: with the dashboard, and without."""
    servers = {}
    for name, handler in (("full", _Grafana), ("empty", _EmptyGrafana)):
        servers[name] = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        Thread(target=servers[name].serve_forever, daemon=True).start()
    yield {name: f"http://127.0.0.1:{server.server_port}" for name, server in servers.items()}
    for server in servers.values():
        server.shutdown()
        server.server_close()


def test_dashboards_passes_when_grafana_has_them(
    context: MakeContext, grafana: dict[str, str]
) -> None:
    made = context(grafana_url=grafana["full"], grafana_token="glsa_good")
    assert verdict(monitoring.dashboards(made)) == "ok"


def test_dashboards_fails_when_they_are_missing_or_cannot_be_seen(
    context: MakeContext, grafana: dict[str, str]
) -> None:
    made = context(grafana_url=grafana["empty"], grafana_token="glsa_good")
    assert verdict(monitoring.dashboards(made)) == "failure"
    assert verdict(monitoring.dashboards(context(grafana_url=grafana["full"]))) == "warning"
    assert verdict(monitoring.dashboards(context(grafana_url=dead()))) == "failure"
    assert verdict(monitoring.dashboards(context())) == "warning"


def test_the_report_of_the_first_day_counts_what_prometheus_has(good: tuple[str, str]) -> None:
    from click.testing import CliRunner

    done = CliRunner().invoke(
        report.report, ["first-24h"], env={"PROMETHEUS_URL": good[0], "SECRET_KEY": "x" * 40}
    )
    assert done.exit_code == 0, done.output
    rows = dict(
        [cell.strip() for cell in line.split("|")[1:3]]
        for line in done.output.splitlines()
        if line.startswith("| ") and line.count("|") == 4
    )
    assert "not over" not in done.output
    assert abs(int(rows["Requests"].replace(",", "")) - 40 * 1440) < 200
    assert rows["Instances"] == "2"
    assert rows["Share of failures"] == "2.50%"
    assert rows["Chats"] == "no data"
    assert "- `/chat/completions`: 1," in done.output


@pytest.mark.parametrize("url", ["", "dead"])
def test_the_report_says_in_a_sentence_why_it_cannot_be_made(url: str) -> None:
    from click.testing import CliRunner

    env = {"PROMETHEUS_URL": dead() if url else "", "SECRET_KEY": "x" * 40}
    done = CliRunner().invoke(report.report, ["first-24h"], env=env)
    assert done.exit_code == 1
    assert done.output.startswith("Error: ")
    assert done.output.count("\n") == 1
