"""`make normal-use`: ten minutes of the load test's `targets` with a rolling restart, watched by
Prometheus and Alertmanager with the files of ops and their real times. Nothing may fire.

Two instances behind nginx share PostgreSQL and Redis. At four tenths of the time one after the
other gets SIGTERM and is started again. The verdict of the load test is printed and does not count:
the question is who would have been called.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import yaml

from loadtest.run import RAISED, TOML, targets
from loadtest.schedule import multiple_of_rates
from tests.conftest import ROOT, wait_until
from tests.support.alert_rules import PROMETHEUS
from tests.support.monitoring import (
    Prometheus,
    alertmanager_config,
    running_alertmanager,
    running_prometheus,
)
from tests.support.services import (
    Nginx,
    PostgresServer,
    RedisServer,
    balanced,
    free_port,
    shared_servers,
)
from tests.support.webhook import WebhookReceiver

RESTART_AT = 0.4
PAUSE = 15.0
"""Seconds between an instance that is ready again and the next: longer than the proxy's
fail_timeout, for which it leaves out an instance that refused it."""
AFTERWARDS = 75.0
"""Seconds until the last scrapes were evaluated and what fired was sent."""


class Instance:
    """One `goblin-assistant serve`, which keeps its port and its folder over a restart."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        folder.mkdir()
        (folder / "goblin.toml").write_text(TOML)
        self.folder = folder
        self.port = free_port()
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHONPATH": str(ROOT),
            "GOBLIN_INSTANCE_DIR": str(folder / "instance"),
            "GOBLIN_PORT": str(self.port),
            **env,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it is ready."""
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "goblin_assistant", "serve"],
                cwd=self.folder,
                env=self.env,
                stdout=log,
                stderr=log,
            )
        wait_until(self._ready, 60, f"the instance on port {self.port}")

    def _ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "server.log").read_text()[-3000:]
        try:
            url = f"http://127.0.0.1:{self.port}/health/ready"
            return requests.get(url, timeout=2).status_code == 200
        except requests.RequestException:
            return False

    def stop(self) -> None:
        """SIGTERM, and wait for the end of what it is answering."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(90)
            self.process = None


def settings(postgres: PostgresServer, redis: RedisServer, instances: int) -> dict[str, str]:
    """What all instances have in common."""
    groups = ("AUTH", "CHAT", "HEALTH", "DEFAULT", "LOGIN_ACCOUNT")
    return {
        "GOBLIN_ENV": "development",
        "SECRET_KEY": "0123456789abcdef" * 3,
        "DATABASE_URL": postgres.create_database(),
        "REDIS_URL": redis.url,
        "GOBLIN_INSTANCES": str(instances),
        "GOBLIN_TRUSTED_PROXY": "127.0.0.1",
        "GOBLIN_DEFAULT_MODEL": "sim/echo",
        **{f"RATELIMIT_{group}": RAISED for group in groups},
    }


def prometheus_config(instances: list[Instance], alertmanager: str) -> dict[str, Any]:
    """ops/prometheus/prometheus.yml with these targets, and without the probe from outside."""
    config: dict[str, Any] = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["rule_files"] = [str(PROMETHEUS / "rules" / "*.yml")]
    (job, _) = config["scrape_configs"]
    job["static_configs"] = [{"targets": [f"127.0.0.1:{one.port}" for one in instances]}]
    config["scrape_configs"] = [job]
    config["alerting"]["alertmanagers"] = [
        {"static_configs": [{"targets": [alertmanager.removeprefix("http://")]}]}
    ]
    return config


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def run(options: argparse.Namespace, folder: Path, stack: ExitStack) -> int:
    """The exit code: 1 when an alert fired or a message was sent."""
    postgres, redis = stack.enter_context(shared_servers(folder))
    cores = sorted(os.sched_getaffinity(0))
    common = settings(postgres, redis, options.instances)
    instances = [
        # One process, one core: docs/operations.md.
        Instance(folder / f"instance{n}", {**common, "GOBLIN_CPU": str(cores[n % len(cores)])})
        for n in range(options.instances)
    ]
    for one in instances:
        one.start()
        stack.callback(one.stop)
    (folder / "nginx").mkdir()
    nginx = Nginx(folder / "nginx")
    nginx.start(balanced(*(one.port for one in instances)))
    stack.callback(nginx.stop)
    webhook = stack.enter_context(WebhookReceiver())
    alertmanager = stack.enter_context(
        running_alertmanager(alertmanager_config(webhook.url, folder), folder / "alertmanager")
    )
    prometheus = stack.enter_context(
        running_prometheus(prometheus_config(instances, alertmanager), folder / "prometheus")
    )
    code, verdict = load(nginx.url, options.seconds, options.multiple, instances)
    say(f"load test: exit code {code}, passed: {verdict.get('passed')}")
    for note in verdict.get("notes", []):
        say(f"  {note}")
    time.sleep(AFTERWARDS)
    seen = look(prometheus, webhook, options.seconds)
    text = document(options, verdict, seen)
    options.report.parent.mkdir(parents=True, exist_ok=True)
    options.report.write_text(text)
    print(text)
    say(f"written to {options.report}")
    return 0 if seen.quiet else 1


def load(
    url: str, seconds: int, multiple: float, instances: list[Instance]
) -> tuple[int, dict[str, Any]]:
    """Run the load test with a rolling restart in it; its exit code and verdict."""
    result: list[tuple[int, dict[str, Any]]] = []
    thread = threading.Thread(target=lambda: result.append(targets(url, seconds, multiple)))
    say(f"load begins: {multiple:g} times the guide's rates for {seconds} s")
    thread.start()
    thread.join(seconds * RESTART_AT)
    for one in instances:
        say(f"restart of port {one.port}")
        one.stop()
        one.start()
        say(f"port {one.port} is ready again")
        time.sleep(PAUSE)
    thread.join()
    return result[0]


@dataclass(frozen=True)
class Seen:
    """What Prometheus and the receivers saw. Alerts are `name{labels}` with their evaluations."""

    pending: list[str]
    firing: list[str]
    sent: list[str]
    watchdog: bool
    broken: list[str]
    """Rules that could not be evaluated."""
    restarts: str

    @property
    def quiet(self) -> bool:
        """Whether nobody was told of anything, by alerts that work."""
        return self.watchdog and not self.firing and not self.sent and not self.broken


def look(prometheus: Prometheus, webhook: WebhookReceiver, seconds: int) -> Seen:
    """Ask for all that fired, was about to, and was sent."""
    window = f"[{seconds + 300}s]"

    def alerts(state: str) -> list[str]:
        series = f'ALERTS{{alertstate="{state}",alertname!="Watchdog"}}'
        return [
            f"{one['metric'].pop('alertname')} {one['metric']}: {one['value'][1]} evaluations"
            for one in prometheus.query(f"count_over_time({series}{window})")
        ]

    def number(expression: str) -> str:
        found = prometheus.query(expression)
        return str(found[0]["value"][1]) if found else "unknown"

    groups = requests.get(f"{prometheus.url}/api/v1/rules", timeout=30).json()["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    return Seen(
        alerts("pending"),
        alerts("firing"),
        [f"{one.path} {one.body}" for one in webhook.notifications if one.path != "/watchdog"],
        bool(prometheus.query('ALERTS{alertname="Watchdog",alertstate="firing"}')),
        [rule["name"] for rule in rules if rule["health"] == "err"],
        number(f"sum(changes(process_start_time_seconds{window}))"),
    )


def document(options: argparse.Namespace, verdict: dict[str, Any], seen: Seen) -> str:
    """What was seen, as Markdown for docs/slo.md."""

    def listed(lines: list[str]) -> str:
        return "".join(f"\n- `{line}`" for line in lines) or " nothing"

    rows = "\n".join(
        f"| {row['title']} | {row['rate']} | {row['p95_ms']} | {row['answers']} "
        f"| {row['limited']} | {row['failed']} | {row['result']} |"
        for row in verdict.get("targets", [])
    )
    return f"""# Normal use, {time.strftime("%Y-%m-%d %H:%M")}

{"Nobody would have been called." if seen.quiet else "SOMEBODY WOULD HAVE BEEN CALLED."}

{options.multiple:g} times the guide's rates for {options.seconds} s, {options.instances} instances
on {os.cpu_count()} cores, load {os.getloadavg()[1]:.1f} at the end. Restarts that Prometheus saw:
{seen.restarts}. Rules that failed: {", ".join(seen.broken) or "none"}. Watchdog
{"fires" if seen.watchdog else "DOES NOT FIRE"}.

| load test | a second | p95 ms | answers | 429s | failed | result |
|---|---|---|---|---|---|---|
{rows}

Fired:{listed(seen.firing)}

Was pending:{listed(seen.pending)}

Messages:{listed(seen.sent)}
"""


def main() -> int:
    """Run it once."""
    parser = argparse.ArgumentParser(prog="python -m tests.ops.normal_use", description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="length of the load")
    parser.add_argument(
        "--multiple", type=multiple_of_rates, default=1.0, help="multiple of the guide's rates"
    )
    parser.add_argument("--instances", type=int, default=2, help="instances of the application")
    parser.add_argument(
        "--report", type=Path, default=ROOT / ".make" / "normal-use.md", help="file for the report"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="goblin-normal-") as name, ExitStack() as stack:
        return run(options, Path(name), stack)


if __name__ == "__main__":
    sys.exit(main())
