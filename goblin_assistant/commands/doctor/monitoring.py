"""Checks of Prometheus, Alertmanager and Grafana, through their APIs.

Sources: https://prometheus.io/docs/prometheus/latest/querying/api/ ,
https://github.com/prometheus/alertmanager/blob/main/api/v2/openapi.yaml ,
https://grafana.com/docs/grafana/latest/developers/http_api/
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import requests

from goblin_assistant.commands.doctor.context import Context
from goblin_assistant.commands.doctor.findings import Finding, failure, in_words, ok, warning
from goblin_assistant.commands.plain_session import plain_session
from goblin_assistant.commands.prometheus_api import JOB, Prometheus, PrometheusError

GUIDE_ALERTS = (
    "HighErrorRate", "SlowResponseTime", "ServiceUnhealthy", "HighChatCompletionErrors",
)  # fmt: skip
"""The alerts of the production guide."""
ALWAYS_FIRING = "Watchdog"
DASHBOARD = "goblin-overview"
"""The uid of the first dashboard in ops/grafana/dashboards."""

_SECONDS = 5.0

T = TypeVar("T")


def scraping(context: Context) -> Iterator[Finding]:
    """Prometheus scrapes each instance."""
    up = _ask(
        context,
        "scraping",
        lambda prometheus: prometheus.vector(f'up{{job="{JOB}"}}'),
        fix="Start it, or correct PROMETHEUS_URL.",
    )
    if isinstance(up, Finding):
        yield up
        return
    down = sorted(labels.get("instance", "?") for labels, value in up if value == 0)
    if not up:
        yield failure(
            "scraping",
            f"Prometheus has no job {JOB}",
            "Add the job of ops/prometheus/prometheus.yml, with every instance as a target.",
        )
    elif down:
        yield failure(
            "scraping",
            f"Prometheus cannot scrape {', '.join(down)}",
            "Look at its page /targets: the instance is down, the port is closed to it, "
            "or the token is wrong.",
        )
    elif len(up) < context.config.instances:
        yield failure(
            "scraping",
            f"Prometheus scrapes {len(up)} of GOBLIN_INSTANCES={context.config.instances}",
            "List every instance as a target, not the proxy.",
        )
    else:
        yield ok("scraping", f"Prometheus scrapes {len(up)}")


def dashboards(context: Context) -> Iterator[Finding]:
    """Grafana is running and has the overview dashboard."""
    config = context.config
    if config.grafana_url is None:
        yield warning(
            "dashboards",
            "GRAFANA_URL is not set, so nothing was asked",
            "Provision ops/grafana and set GRAFANA_URL.",
        )
        return
    headers = {}
    if config.grafana_token is not None:
        headers["Authorization"] = f"Bearer {config.grafana_token.get_secret_value()}"
    try:
        health = _get(f"{config.grafana_url}/api/health")
        found = _get(f"{config.grafana_url}/api/dashboards/uid/{DASHBOARD}", headers)
    except requests.RequestException as error:
        yield failure(
            "dashboards", f"Grafana: {in_words(error)}", "Start it, or correct GRAFANA_URL."
        )
        return
    if health.status_code != 200:
        yield failure(
            "dashboards",
            f"Grafana's health check answers {health.status_code}",
            "Look at its log: its database does not answer, or this is no Grafana.",
        )
    elif found.status_code in (401, 403):
        yield warning(
            "dashboards",
            "Grafana is healthy, but does not tell whether it has the dashboards",
            "Set GRAFANA_TOKEN to a service account's token with the role Viewer.",
        )
    elif found.status_code != 200:
        yield failure(
            "dashboards",
            f"Grafana has no dashboard {DASHBOARD}",
            "Provision ops/grafana/dashboards (ops/grafana/README.md).",
        )
    else:
        yield ok("dashboards", f"Grafana has {DASHBOARD}")


def rules(context: Context) -> Iterator[Finding]:
    """Prometheus has the guide's alerts, and evaluates them without errors."""
    found = _ask(context, "alert rules", lambda prometheus: prometheus.get("rules", type="alert"))
    if isinstance(found, Finding):
        yield found
        return
    groups = found["groups"]
    loaded = {rule["name"]: rule for group in groups for rule in group["rules"]}
    missing = [name for name in GUIDE_ALERTS if name not in loaded]
    broken = sorted(name for name, rule in loaded.items() if rule.get("health") == "err")
    if missing:
        yield failure(
            "alert rules",
            f"Prometheus has no {', '.join(missing)}",
            "List ops/prometheus/rules/*.yml under rule_files and reload Prometheus.",
        )
    elif broken:
        yield failure(
            "alert rules",
            f"Prometheus cannot evaluate {', '.join(broken)}",
            "Look at its page /rules for the error.",
        )
    else:
        yield ok("alert rules", f"{len(loaded)} alerts, the guide's four among them")
    yield _firing(context)


def _firing(context: Context) -> Finding:
    found = _ask(context, "alerts", lambda prometheus: prometheus.get("alerts"))
    if isinstance(found, Finding):
        return found
    firing = {
        alert["labels"]["alertname"]: alert["labels"].get("severity", "")
        for alert in found["alerts"]
        if alert["state"] == "firing" and alert["labels"]["alertname"] != ALWAYS_FIRING
    }
    if firing:
        names = ", ".join(sorted(firing))
        verdict = failure if "critical" in firing.values() else warning
        return verdict("alerts", f"fire now: {names}", "Follow the pages in ops/runbooks.")
    return ok("alerts", "none fires")


def alertmanager(context: Context) -> Iterator[Finding]:
    """Alertmanager is running, has a receiver, and Prometheus sends alerts to it."""
    address = context.config.alertmanager_url
    if address is None:
        yield warning(
            "alertmanager",
            "ALERTMANAGER_URL is not set, so nothing was asked",
            "Set ALERTMANAGER_URL, for this command alone or in .env.",
        )
        return
    try:
        config = _json(f"{address}/api/v2/status")["config"]["original"]
        heard = _json(f"{address}/api/v2/alerts?filter=alertname%3D%22{ALWAYS_FIRING}%22")
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        yield failure(
            "alertmanager", in_words_of_api(error), "Start it, or correct ALERTMANAGER_URL."
        )
        return
    if "_configs:" not in config:
        yield failure(
            "alertmanager",
            "it has no receiver that tells a person",
            "Fill in the receivers of its configuration (mail, webhook, chat).",
        )
    elif not heard:
        yield failure(
            "alertmanager",
            f"{ALWAYS_FIRING}, which always fires, has not arrived",
            "Name this Alertmanager under `alerting:` in prometheus.yml and load the rules.",
        )
    else:
        yield ok("alertmanager", f"hears from Prometheus ({ALWAYS_FIRING}), and has receivers")


def health_checks(context: Context) -> Iterator[Finding]:
    """A probe from outside checks whether the service answers."""
    probes = _ask(
        context,
        "probes",
        lambda prometheus: prometheus.vector("probe_success"),
        unset="Let the balancer, Kubernetes or the blackbox job ask /health/ready.",
    )
    if isinstance(probes, Finding):
        yield probes
        return
    failed = sorted(labels.get("instance", "?") for labels, value in probes if value == 0)
    if failed:
        yield failure(
            "probes", f"fail: {', '.join(failed)}", "Ask that address from the prober's machine."
        )
    elif not probes:
        yield warning(
            "probes",
            "Prometheus has no probe from outside",
            "Add the blackbox job, or let the balancer or Kubernetes ask /health/ready.",
        )
    else:
        yield ok("probes", f"{len(probes)} pass")


def first_day(context: Context) -> Iterator[Finding]:
    """Prometheus has 24 hours of metrics, enough for the report on the first day."""
    report = "Run `goblin-assistant report first-24h` when the day is over, and read it."
    then = _ask(
        context, "first day", lambda prometheus: prometheus.vector(f'up{{job="{JOB}"}} offset 24h')
    )
    if isinstance(then, Finding):
        yield then
        return
    if then:
        yield ok("first day", "Prometheus has 24 hours; `report first-24h` shows them")
    else:
        yield warning("first day", "Prometheus has less than 24 hours of this job", report)


def _ask(
    context: Context,
    subject: str,
    question: Callable[[Prometheus], T],
    *,
    unset: str = "Set PROMETHEUS_URL, for this command alone or in .env.",
    fix: str = "See the line on scraping.",
) -> T | Finding:
    """Prometheus's answer, or the line that says why there is none."""
    if (prometheus := context.prometheus) is None:
        return warning(subject, "PROMETHEUS_URL is not set, so nothing was asked", unset)
    try:
        return question(prometheus)
    except PrometheusError as error:
        return failure(subject, f"Prometheus: {error}", fix)


def in_words_of_api(error: Exception) -> str:
    """As in_words; an answer in another shape is named as such."""
    if isinstance(error, requests.HTTPError):
        return f"answered {error.response.status_code}"
    if isinstance(error, requests.RequestException) and not isinstance(error, ValueError):
        return in_words(error)
    return "its answer is not that of Alertmanager's API v2"


def _json(url: str) -> Any:
    answer = _get(url)
    answer.raise_for_status()
    return answer.json()


def _get(url: str, headers: dict[str, str] | None = None) -> requests.Response:
    with plain_session() as session:
        return session.get(url, headers=headers, timeout=_SECONDS)
