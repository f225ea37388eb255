"""The commands of the runbooks whose faults are not in test_one_page.py, while their fault is on.

Real instances are broken, a real Prometheus evaluates the rules of ops with their times divided by
FACTOR, and the commands have to show what the page says.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
import requests
import yaml

from tests.conftest import wait_until
from tests.support.alert_rules import ALERTS, PROMETHEUS
from tests.support.fake_upstream import FakeUpstream, Reply
from tests.support.monitoring import Prometheus, running_prometheus, shortened
from tests.support.services import Nginx, PostgresServer, RedisServer, find_binary, free_port
from tests.support.steady_provider import ANSWER, SteadyProvider
from tests.support.watched import JOURNAL_REMOTE, PATIENCE, Machine, Watched, scraped

FACTOR = 30.0
ELSEWHERE = {
    "ServiceUnhealthy", "ProviderHanging", "GoblinAssistantInstanceDown", "ChatSlotsExhausted",
    "DatabaseUnmigrated",
}  # fmt: skip
HERE = sorted(set(ALERTS) - ELSEWHERE)
TOML = """\
[providers.broken]
kind = "echo"
options = {{ error_rate = 1.0, error_kinds = ["overloaded"] }}
[providers.slow]
kind = "echo"
options = {{ latency = "2.3" }}
[providers.unpriced]
kind = "openai_compatible"
base_url = "{upstream}/v1"
models = ["good"]
"""
TLS = """
server {
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {folder}/certificate.pem;
    ssl_certificate_key {folder}/key.pem;
    location / { proxy_pass http://127.0.0.1:ALIVE; }
    location /gone/ { proxy_pass http://127.0.0.1:DEAD/; }
}
"""


class Faults:
    """The instances, what breaks them, and what their runbooks did not show."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.stack = stack
        self.over = threading.Event()
        self.machine = Machine(folder)
        self.missing: dict[str, dict[str, list[str]]] = {}
        self.prometheus = Prometheus(0)
        self.upstream = FakeUpstream(default=Reply.json(200, {**ANSWER, "model": "good"}))
        stack.callback(self.upstream.close)
        self.chroma = SteadyProvider()
        stack.callback(self.chroma.close)
        self.redis = RedisServer(self.new_folder("redis"))
        self.redis.start()
        stack.callback(self.redis.stop)
        self.postgres = PostgresServer(folder / "postgres")
        self.postgres.start()
        stack.callback(self.postgres.stop)
        self.calls = self._instance("fault_calls", GOBLIN_BREAKER_OPEN_SECONDS="2")
        self._write_toml("")
        self.books = self._instance("fault_books", DATABASE_URL=self.postgres.create_database())
        self.limits = self._instance(
            "fault_limits",
            REDIS_URL=self.redis.url,
            RATELIMIT_ENABLED="true",
            RATELIMIT_DEFAULT="100000 per minute",
        )
        self.services = self._instance("fault_services", CHROMA_URL=self.chroma.url)
        self.unready = self._instance(
            "fault_unready",
            GOBLIN_ENV="production",
            SECRET_KEY="0123456789abcdef" * 3,
            DATABASE_URL=f"postgresql://nobody@127.0.0.1:{free_port()}/none",
            GOBLIN_LOG_FILE="/dev/full",
        )
        self.hanging = SteadyProvider()
        stack.callback(self.hanging.close)
        self.mortal = self._mortal()
        self.instances = [
            *(self.calls, self.books, self.limits, self.services, self.unready, self.mortal)
        ]
        self.full = self._on_a_full_disk()
        if self.full is not None:
            self.instances.append(self.full)

    def new_folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir()
        return folder

    def _instance(self, job: str, **env: str) -> Watched:
        return Watched(job, self.machine, self.stack, **env)

    def _mortal(self) -> Watched:
        """An instance whose deadlines thread can be killed, and that makes no call by itself which
        would start the thread again."""
        instance = self._instance(
            "fault_mortal",
            OPENAI_API_KEY="sk-test-provider-key",
            OPENAI_BASE_URL=self.hanging.url,
            GOBLIN_HEALTH_INTERVAL="3600",
        )
        instance.extra["MORTAL_ORDER"] = str(instance.folder / "order")
        instance.module = "tests.support.mortal_server"
        return instance

    def _on_a_full_disk(self) -> Watched | None:
        """An instance whose folder is a small file system with little room; None where this user
        may not mount one."""
        enter = [find_binary("unshare"), "--user", "--map-root-user", "--mount"]
        if subprocess.run([*enter, "true"], capture_output=True, check=False).returncode:
            return None
        instance = self._instance("fault_disk")
        folder = instance.folder / "instance"
        folder.mkdir()
        mount = f"mount -t tmpfs -o size=40m tmpfs {folder} && head -c 37M /dev/zero > {folder}/old"
        instance.wrapper = [*enter, "bash", "-c", f'{mount} && exec "$@"', "-"]
        return instance

    def _write_toml(self, more: str) -> None:
        text = TOML.format(upstream=self.upstream.url) + more
        (self.calls.folder / "goblin.toml").write_text(text)

    # -- what the cases are made of -----------------------------------------------------------
    def diagnose(self, instance: Watched, alert: str, job: str = "", **env: str) -> None:
        """Wait until the rule sees the fault, then until its page's commands show it."""
        series = f'ALERTS{{alertname="{alert}",job="{job or instance.job}"}}'
        if alert == "Watchdog":
            series = 'ALERTS{alertname="Watchdog"}'
        wait_until(lambda: self.prometheus.query(series), PATIENCE, f"{alert} of {instance.job}")
        end = time.monotonic() + PATIENCE / 2
        while True:
            found = instance.missing(alert, self.prometheus.url, **env)
            if not found or time.monotonic() > end:
                break
        self.missing[alert] = found

    def repeat(self, action: Callable[[], Any], pause: float) -> None:
        """Do something again and again, in a thread of its own, until the end of all cases."""

        def run() -> None:
            while not self.over.wait(pause):
                try:
                    action()
                except requests.RequestException:
                    pass

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self.stack.callback(thread.join, 90)

    def chats(self, instance: Watched, model: str, callers: int, pause: float) -> None:
        """Chat from now on, with a user that is registered for it."""
        email = f"{model.partition('/')[0]}@example.com"
        headers = instance.servers[-1].register(email)
        chat = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
        for _ in range(callers):
            self.repeat(
                lambda: requests.post(
                    instance.url + "/v1/chat/completions", json=chat, headers=headers, timeout=60
                ),
                pause,
            )

    # -- the cases, which run at the same time ------------------------------------------------
    def failing_calls(self) -> None:
        calls = self.calls
        old = calls.folder / "instance" / "backup_last_success"
        old.write_text(str(int(time.time()) - 100_000))
        self.chats(calls, "broken/echo", 1, 0.5)
        self.chats(calls, "slow/echo", 8, 0.1)
        self.chats(calls, "unpriced/good", 1, 1.0)
        for alert in (
            "HighErrorRate", "HighChatCompletionErrors", "PriceUnknown", "BackupTooOld",
            "CircuitOpen", "SlowResponseTime", "ErrorBudgetBurnFast", "ErrorBudgetBurnSlow",
        ):  # fmt: skip
            self.diagnose(calls, alert)
        self._write_toml('[aliases]\nfast = "absent/model"\n')
        calls.servers[-1].process.send_signal(1)
        self.diagnose(calls, "ConfigReloadFailed")

    def slow_and_lost_database(self) -> None:
        self.chats(self.books, "echo/echo", 3, 0.1)
        stopped, at_work = threading.Event(), threading.Lock()

        def pulse() -> None:
            with at_work:
                if not stopped.is_set():
                    self.postgres.pause()
                    self.over.wait(0.3)
                    self.postgres.resume()

        self.repeat(pulse, 0.1)
        self.diagnose(self.books, "GatewayOverheadHigh")
        stopped.set()
        with at_work:
            self.postgres.stop()
        self.diagnose(self.books, "UsageRecordsUnsaved")

    def full_redis(self) -> None:
        headers = self.limits.servers[-1].register()
        self.repeat(
            lambda: requests.get(self.limits.url + "/usage", headers=headers, timeout=60), 0.5
        )
        with redis.Redis.from_url(self.redis.url) as client:
            client.config_set("maxmemory", "1")  # it answers PING, and cannot count
        self.diagnose(self.limits, "RateLimiterDegraded")

    def restless_services(self) -> None:
        services = self.services
        steady = threading.Event()

        def toggle() -> None:
            if not steady.is_set():
                self.chroma.stop()
                self.over.wait(2)
                self.chroma.start()

        self.repeat(toggle, 2)
        self.diagnose(services, "ServiceFlapping")
        steady.set()
        services.kill()
        del services.extra["CHROMA_URL"]
        services.start()
        self.diagnose(services, "ServiceHealthMissing")
        services.kill()
        self.diagnose(services, "GoblinAssistantDown")

    def not_ready(self) -> None:
        self.diagnose(self.unready, "GoblinAssistantNotReady")
        self.repeat(lambda: requests.get(self.unready.url + "/usage", timeout=60), 0.2)
        self.diagnose(self.unready, "LogRecordsDropped")

    def full_disk(self) -> None:
        if self.full is None:
            return
        pid = str(self.full.servers[-1].process.pid)
        options = ("--user", "--mount", "--preserve-credentials")
        self.full.wrapper = [find_binary("nsenter"), "-t", pid, *options]
        self.diagnose(self.full, "DiskSpaceLow")

    def dead_deadlines(self) -> None:
        self.hanging.hangs.set()
        # Its call hangs, so that a deadline is to be kept.
        self.chats(self.mortal, "openai/gpt-4o", 1, 0.5)
        # Again and again: the scrape that sees it dead starts it again.
        self.repeat(Path(self.mortal.extra["MORTAL_ORDER"]).touch, 10)
        try:
            self.diagnose(self.mortal, "DeadlinesThreadDied")
        finally:
            self.hanging.hangs.clear()

    def from_outside(self, address: str) -> None:
        gone = f"https://{address}/gone/health"
        probe = "goblin-assistant-probe"
        self.diagnose(self.calls, "PublicAddressUnreachable", probe, URL=gone)
        self.diagnose(self.calls, "CertificateExpiresSoon", probe, HOST=address)
        self.diagnose(self.calls, "Watchdog", ALERTMANAGER=f"http://127.0.0.1:{free_port()}")


def public_address(faults: Faults) -> str:
    """HOST:PORT of a proxy with TLS whose certificate ends soon; /gone/ leads nowhere."""
    folder = faults.new_folder("nginx")
    nginx = Nginx(folder)
    subprocess.run(
        [
            *(find_binary("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes"),
            *("-days", "7", "-subj", "/CN=127.0.0.1"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")),
        ],
        check=True,
        capture_output=True,
    )
    nginx.start(TLS.replace("ALIVE", str(faults.calls.port)).replace("DEAD", str(free_port())))
    faults.stack.callback(nginx.stop)
    return f"127.0.0.1:{nginx.port}"


def exporter(faults: Faults) -> str:
    """HOST:PORT of a blackbox exporter with the module of ops, which accepts any certificate."""
    config = yaml.safe_load((PROMETHEUS / "blackbox.yml").read_text())
    config["modules"]["goblin_assistant"]["http"]["tls_config"] = {"insecure_skip_verify": True}
    file, port = faults.folder / "blackbox.yml", free_port()
    file.write_text(json.dumps(config))
    process = subprocess.Popen(
        [
            find_binary("prometheus-blackbox-exporter"),
            f"--config.file={file}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=error",
        ]
    )
    faults.stack.callback(process.wait, 30)
    faults.stack.callback(process.terminate)
    return f"127.0.0.1:{port}"


def prometheus_config(faults: Faults, address: str, blackbox: str) -> dict[str, Any]:
    """The configuration of ops with these instances, and an Alertmanager that does not answer."""
    config: dict[str, Any] = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    rules = faults.folder / "short.rules.yml"
    rules.write_text(yaml.safe_dump({"groups": shortened(FACTOR, jobs="fault_.*")}))
    config["global"] |= {"scrape_interval": "1s", "scrape_timeout": "1s"}
    config["rule_files"] = [str(rules)]
    nobody = f"127.0.0.1:{free_port()}"
    config["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [nobody]}]}]
    (_, probe) = config["scrape_configs"]
    probe["scrape_interval"] = "1s"
    targets = [f"https://{address}/health", f"https://{address}/gone/health"]
    probe["static_configs"] = [{"targets": targets}]
    probe["relabel_configs"][-1]["replacement"] = blackbox
    config["scrape_configs"] = [*scraped(faults.instances), probe]
    return config


@pytest.fixture(scope="module")
def missing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What each runbook did not show while its fault was on."""
    for program in ("prometheus", "redis-server", "jq", "curl", "openssl", "nginx", "journalctl"):
        find_binary(program)
    find_binary("systemd-journal-remote", *JOURNAL_REMOTE)
    folder = tmp_path_factory.mktemp("runbooks")
    with ExitStack() as stack:
        faults = Faults(folder, stack)
        stack.callback(faults.over.set)
        with ThreadPoolExecutor(len(faults.instances)) as pool:
            list(pool.map(Watched.start, faults.instances))
        address = public_address(faults)
        config = prometheus_config(faults, address, exporter(faults))
        faults.prometheus = stack.enter_context(running_prometheus(config, folder / "prometheus"))
        cases: list[Callable[[], None]] = [
            faults.failing_calls, faults.slow_and_lost_database, faults.full_redis,
            faults.restless_services, faults.not_ready, faults.full_disk, faults.dead_deadlines,
            lambda: faults.from_outside(address),
        ]  # fmt: skip
        try:
            with ThreadPoolExecutor(len(cases)) as pool:
                running = [pool.submit(case) for case in cases]
            for one in running:
                one.result()
        finally:
            faults.over.set()
        yield faults.missing


@pytest.mark.parametrize("alert", HERE)
def test_the_commands_of_a_runbook_show_what_it_says_while_its_fault_is_on(
    alert: str, missing: dict[str, Any]
) -> None:
    if alert == "DiskSpaceLow" and alert not in missing:
        pytest.skip("this user may not mount a file system")
    assert missing[alert] == {}
