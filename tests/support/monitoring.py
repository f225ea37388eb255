"""Prometheus and Alertmanager as processes, with the files of ops and shorter times.

`shortened` is the one knob: it divides every time in the rules. `alertmanager_config` divides those
of the routes and sends all receivers to a webhook of the test.
"""

from __future__ import annotations

import copy
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
import yaml

from tests.conftest import wait_until
from tests.support.alert_rules import GROUPS, OPS
from tests.support.services import find_binary, free_port

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(duration: str) -> int:
    """Prometheus's `1h30m` in seconds."""
    return sum(int(count) * SECONDS[unit] for count, unit in re.findall(r"(\d+)([smhd])", duration))


def divided(duration: str, factor: float) -> str:
    """A duration divided by the factor, in milliseconds."""
    return f"{round(seconds(duration) * 1000 / factor)}ms"


def shortened(factor: float, jobs: str = "goblin-assistant") -> list[dict[str, Any]]:
    """The groups of ops/prometheus with every time divided by `factor`: intervals, waits, windows,
    offsets, and the one threshold that is a waiting time. `jobs` is a regular expression.
    """
    groups = copy.deepcopy(GROUPS)
    for group in groups:
        group["interval"] = divided(group["interval"], factor)
        for rule in group["rules"]:
            for field in {"for", "keep_firing_for"} & rule.keys():
                rule[field] = divided(rule[field], factor)
            text = re.sub(
                r"\[(\w+)\]|(?<=offset )(\w+)",
                lambda found: (
                    f"[{divided(found[1], factor)}]" if found[1] else divided(found[2], factor)
                ),
                rule["expr"],
            )
            text = re.sub(
                r"(provider_oldest_call_age_seconds\S* > )(\d+)",
                lambda found: f"{found[1]}{int(found[2]) / factor:g}",
                text,
            )
            rule["expr"] = text.replace('job="goblin-assistant"', f'job=~"{jobs}"')
    return groups


class Prometheus:
    """A running Prometheus; `query` asks it."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an expression now; none while it cannot be asked."""
        try:
            answer = requests.get(
                self.url + "/api/v1/query", params={"query": expression}, timeout=10
            ).json()
        except requests.RequestException:
            return []
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found


@contextmanager
def running_prometheus(config: dict[str, Any], folder: Path) -> Iterator[Prometheus]:
    """Prometheus with this configuration, until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    (folder / "prometheus.yml").write_text(json.dumps(config))
    with _running(
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    ):
        prometheus = Prometheus(port)
        wait_until(lambda: prometheus.query("vector(1)"), 60, "Prometheus")
        yield prometheus


def alertmanager_config(
    webhook: str, folder: Path, factor: float = 1.0, mail: str = ""
) -> dict[str, Any]:
    """ops/alertmanager's configuration with its secrets in `folder`, all receivers as webhooks or
    chats of the test, and the times of its routes divided. `mail` is the HOST:PORT of an SMTP
    server without TLS; without one, mail goes to the webhook.
    """
    config: dict[str, Any] = yaml.safe_load((OPS / "alertmanager" / "alertmanager.yml").read_text())
    for name in ("smtp-password", "pager-token", "watchdog-token"):
        (folder / name).write_text(f"the {name}")
    (folder / "chat-webhook-url").write_text(f"{webhook}/chat")
    config["global"]["slack_api_url_file"] = str(folder / "chat-webhook-url")
    config["templates"] = [str(OPS / "alertmanager" / "templates" / "*.tmpl")]
    config["global"]["smtp_auth_password_file"] = str(folder / "smtp-password")
    if mail:
        config["global"] |= {"smtp_smarthost": mail, "smtp_require_tls": False}
    for receiver in config["receivers"]:
        if "email_configs" in receiver:
            if mail:
                continue
            del receiver["email_configs"]
            receiver["webhook_configs"] = [{"url": f"{webhook}/mail"}]
            continue
        for hook in receiver.get("webhook_configs", []):
            hook["url"] = f"{webhook}/{receiver['name']}"
            file = Path(hook["http_config"]["authorization"]["credentials_file"])
            hook["http_config"]["authorization"]["credentials_file"] = str(folder / file.name)
    _shorten_route(config["route"], factor)
    return config


def _shorten_route(route: dict[str, Any], factor: float) -> None:
    for field in {"group_wait", "group_interval"} & route.keys():
        route[field] = divided(route[field], factor)
    for child in route.get("routes", []):
        _shorten_route(child, factor)


@contextmanager
def running_alertmanager(config: dict[str, Any], folder: Path) -> Iterator[str]:
    """The URL of an Alertmanager with this configuration, until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    (folder / "alertmanager.yml").write_text(json.dumps(config))
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        try:
            return requests.get(url + "/-/ready", timeout=2).status_code == 200
        except requests.RequestException:
            return False

    with _running(
        "prometheus-alertmanager",
        f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
        "--log.level=error",
    ):
        wait_until(ready, 60, "Alertmanager")
        yield url


@contextmanager
def _running(program: str, *arguments: str) -> Iterator[None]:
    process = subprocess.Popen([find_binary(program), *arguments], stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)
