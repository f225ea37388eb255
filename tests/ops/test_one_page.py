"""Eight faults, each on instances of its own, watched by one real Prometheus and Alertmanager with
the files of ops, whose times are divided by FACTOR: one page each, with a runbook whose commands
show what it says while the fault is on, and an end after the recovery.

The faults are made at the same time, because most of each is waiting.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.conftest import ROOT, Server, wait_until
from tests.support.alert_rules import PROMETHEUS
from tests.support.monitoring import (
    Prometheus,
    alertmanager_config,
    running_alertmanager,
    running_prometheus,
    shortened,
)
from tests.support.runbooks import PAGES, blocks, site_block
from tests.support.services import (
    Chroma,
    PostgresServer,
    RedisServer,
    find_binary,
    free_port,
)
from tests.support.steady_provider import SteadyProvider
from tests.support.webhook import WebhookReceiver

FACTOR = 15.0
PATIENCE = 240.0
"""Seconds to wait for a state; the machine may be busy."""
HELD_BACK = 3
"""Evaluations, of 2 s each, in which what Redis's alert holds back has to fire: longer than the
wait after which Alertmanager sends a group. The other faults are not drawn out: a longer one burns
budgets, whose alerts may outlive it on a busy machine."""
CHAT = {"model": "openai/gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
WIKI = "https://wiki.example.com/runbooks"


@dataclass
class Case:
    """One fault: what it needs, how it is made and ended, and what is expected of it."""

    job: str
    alert: str
    labels: dict[str, str] = field(default_factory=dict)
    follows: str = ""
    """An alert that must fire in Prometheus, and be held back, before the fault ends."""
    env: dict[str, str] = field(default_factory=dict)
    instances: int = 1
    callers: int = 1
    paths: tuple[str, ...] = ()
    """What callers ask for all the time: a chat for /chat/completions, else a GET."""
    break_it: Callable[[], Any] = lambda: None
    mend_it: Callable[[], Any] = lambda: None
    servers: list[Server] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)
    pages: list[dict[str, Any]] = field(default_factory=list)
    missing: dict[str, list[str]] = field(default_factory=dict)


class Faults:
    """The eight cases with everything that they start."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.stack = stack
        self.over = threading.Event()
        self.numbers = itertools.count()
        self.cases = {case.job: case for case in self._cases()}

    def _provider(self) -> SteadyProvider:
        provider = SteadyProvider()
        self.stack.callback(provider.close)
        return provider

    def _folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir()
        return folder

    def _cases(self) -> Iterator[Case]:
        down, hanging, slots = self._provider(), self._provider(), self._provider()
        redis = RedisServer(self._folder("redis"))
        redis.start()
        self.stack.callback(redis.stop)
        postgres = PostgresServer(self.folder / "postgres")
        postgres.start()
        self.stack.callback(postgres.stop)
        chroma = Chroma(self._folder("chroma"))
        chroma.start()
        self.stack.callback(chroma.stop)
        unhealthy = "ServiceUnhealthy"
        chats = ("/chat/completions",)
        yield Case(
            "case_provider_down",
            unhealthy,
            {"service_name": "openai"},
            "HighErrorRate",
            openai(down),
            paths=chats,
            break_it=down.stop,
            mend_it=down.start,
        )
        yield Case(
            "case_provider_hanging",
            "ProviderHanging",
            {"provider": "openai"},
            "HighErrorRate",
            {**openai(hanging), "GOBLIN_TIMEOUT_TOTAL": "20", "GOBLIN_BREAKER_OPEN_SECONDS": "1"},
            callers=8,
            paths=chats,
            break_it=hanging.hangs.set,
            mend_it=hanging.hangs.clear,
        )
        yield Case(
            "case_redis_stopped",
            unhealthy,
            {"service_name": "redis"},
            "RateLimiterDegraded",
            {
                "REDIS_URL": redis.url,
                "RATELIMIT_ENABLED": "true",
                "RATELIMIT_DEFAULT": "100000 per minute",
            },
            paths=("/usage",),
            break_it=redis.stop,
            mend_it=redis.start,
        )
        yield Case(
            "case_postgres_stopped",
            unhealthy,
            {"service_name": "database"},
            "HighErrorRate",
            {"DATABASE_URL": postgres.create_database()},
            paths=("/usage",),
            break_it=postgres.stop,
            mend_it=postgres.start,
        )
        yield Case(
            "case_chroma_stopped",
            unhealthy,
            {"service_name": "chroma"},
            env={"CHROMA_URL": chroma.url},
            break_it=chroma.stop,
            mend_it=chroma.start,
        )
        killed = Case("case_instance_killed", "GoblinAssistantInstanceDown", instances=2)
        killed.break_it = lambda: killed.servers[1].process.send_signal(signal.SIGKILL)
        killed.mend_it = lambda: self.start(killed, 1)
        yield killed
        full = Case(
            "case_slots_full",
            "ChatSlotsExhausted",
            {},
            "HighErrorRate",
            {**openai(slots), "GOBLIN_CHAT_SLOTS": "2", "GOBLIN_THREADS": "16"},
            paths=chats,
        )
        full.break_it = lambda: [self.stream(full) for _ in range(2)]
        full.mend_it = slots.streams_end.set
        yield full
        unmigrated = Case(
            "case_unmigrated",
            "DatabaseUnmigrated",
            {},
            "GoblinAssistantNotReady",
            {"GOBLIN_ENV": "production", "SECRET_KEY": "0123456789abcdef" * 3},
        )
        unmigrated.mend_it = lambda: self.run(unmigrated, "goblin-assistant db upgrade")
        yield unmigrated

    # -- processes ----------------------------------------------------------------------------
    def environment(self, case: Case, number: int) -> dict[str, str]:
        folder = self.folder / f"{case.job}{number}"
        return {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "HOME": str(folder),
            "PYTHONPATH": str(ROOT),
            "GOBLIN_ENV": "development",
            "GOBLIN_INSTANCE_DIR": str(folder / "instance"),
            "GOBLIN_HEALTH_INTERVAL": "1",
            "GOBLIN_RETRIES": "0",
            "RATELIMIT_ENABLED": "false",
            "GOBLIN_PORT": str(case.servers[number].port if number < len(case.servers) else 0),
            **case.env,
        }

    def start(self, case: Case, number: int) -> None:
        """Start an instance, on its port of before if it had one."""
        (self.folder / f"{case.job}{number}").mkdir(exist_ok=True)
        env = self.environment(case, number)
        if env["GOBLIN_PORT"] == "0":
            env["GOBLIN_PORT"] = str(free_port())
        process = subprocess.Popen(
            [sys.executable, "-m", "goblin_assistant", "serve"],
            cwd=self.folder / f"{case.job}{number}",
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        server = Server(process, int(env["GOBLIN_PORT"]))
        case.servers[number:] = [server, *case.servers[number + 1 :]]
        self.stack.callback(end, server)

    def run(self, case: Case, script: str, **env: str) -> str:
        """What a script prints on the machine of the case's first instance."""
        done = subprocess.run(
            ["bash", "-c", script],
            env=self.environment(case, 0) | env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return done.stdout + done.stderr

    # -- callers ------------------------------------------------------------------------------
    def traffic(self, case: Case) -> None:
        """Begin to call the first instance, until the end of all cases."""
        if not case.paths:
            return
        url, headers = case.servers[0].url, case.servers[0].register()

        def call() -> None:
            while not self.over.wait(0.25):
                for path in case.paths:
                    try:
                        if path == "/chat/completions":
                            requests.post(url + path, json=CHAT, headers=headers, timeout=60)
                        else:
                            requests.get(url + path, headers=headers, timeout=60)
                    except requests.RequestException:
                        pass

        for _ in range(case.callers):
            thread = threading.Thread(target=call, daemon=True)
            thread.start()

    def stream(self, case: Case) -> None:
        """Hold a stream open: its caller reads to the end."""
        headers = case.servers[0].register(f"stream{next(self.numbers)}@example.com")

        def read() -> None:
            while not self.over.wait(0.1):
                try:
                    answer = requests.post(
                        case.servers[0].url + "/chat/completions",
                        json={**CHAT, "stream": True},
                        headers=headers,
                        timeout=300,
                    )
                except requests.RequestException:
                    return
                if answer.status_code == 200:
                    return

        threading.Thread(target=read, daemon=True).start()


def openai(provider: SteadyProvider) -> dict[str, str]:
    return {"OPENAI_API_KEY": "sk-test-provider-key", "OPENAI_BASE_URL": provider.url}


def end(server: Server) -> None:
    if server.process.poll() is None:
        server.process.kill()
    server.wait()
    for pipe in (server.process.stdout, server.process.stderr):
        assert pipe is not None
        pipe.close()


def prometheus_config(cases: dict[str, Case], alertmanager: str, folder: Path) -> dict[str, Any]:
    """ops' configuration, with the cases as jobs."""
    config: dict[str, Any] = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    rules = folder / "short.rules.yml"
    groups = shortened(FACTOR, jobs="case_.*")
    for group in groups:
        # It watches the disk of the machine that the tests run on, which may be nearly full.
        group["rules"] = [rule for rule in group["rules"] if rule.get("alert") != "DiskSpaceLow"]
    rules.write_text(yaml.safe_dump({"groups": groups}))
    config["global"] |= {"scrape_interval": "1s", "scrape_timeout": "1s"}
    config["global"]["external_labels"]["runbook_base"] = WIKI
    config["rule_files"] = [str(rules)]
    config["alerting"]["alertmanagers"] = [
        {"static_configs": [{"targets": [alertmanager.removeprefix("http://")]}]}
    ]
    config["scrape_configs"] = [
        {
            "job_name": case.job,
            "static_configs": [{"targets": [f"127.0.0.1:{one.port}" for one in case.servers]}],
        }
        for case in cases.values()
    ]
    return config


class Watch:
    """What Prometheus and the receivers know of the cases."""

    def __init__(self, prometheus: Prometheus, webhook: WebhookReceiver) -> None:
        self.prometheus = prometheus
        self.webhook = webhook

    def titles(self, case: Case) -> list[str]:
        """The titles of the case's messages in the chat, which gets every alert."""
        found = [
            attachment["title"]
            for one in self.webhook.to("/chat")
            for attachment in one.body["attachments"]
        ]
        return [title for title in found if title.endswith(f"({case.job})")]

    def pages(self, case: Case) -> list[dict[str, Any]]:
        """What the pager got of the case, which gets critical alerts only."""
        return [
            one.body
            for one in self.webhook.to("/pager")
            if one.body["commonLabels"].get("job") == case.job
        ]

    def firing(self, case: Case, alert: str = "") -> bool:
        chosen = f',alertname="{alert}"' if alert else ""
        return bool(
            self.prometheus.query(f'ALERTS{{alertstate="firing",job="{case.job}"{chosen}}}')
        )

    def fired_for(self, case: Case, alert: str) -> float:
        """In how many evaluations an alert of the case has fired."""
        series = f'ALERTS{{alertstate="firing",job="{case.job}",alertname="{alert}"}}'
        found = self.prometheus.query(f"max(count_over_time({series}[10m]))")
        return float(found[0]["value"][1]) if found else 0.0


def happen(faults: Faults, case: Case, watch: Watch) -> None:
    """Make the fault, wait for its page, run the runbook, end it, wait for the end."""
    ready = f'count_over_time(up{{job="{case.job}"}}[1m]) > 10'
    wait_until(lambda: watch.prometheus.query(ready), PATIENCE, f"scrapes of {case.job}")
    case.break_it()
    wait_until(lambda: watch.titles(case), PATIENCE, f"a page for {case.job}")
    if case.follows:
        # For so long that Alertmanager would have sent it, were it not held back.
        least = HELD_BACK if case.follows == "RateLimiterDegraded" else 1
        what = f"{case.follows} behind {case.job}"
        wait_until(lambda: watch.fired_for(case, case.follows) >= least, PATIENCE, what)
    diagnose(faults, case, watch)
    case.mend_it()
    wait_until(
        lambda: any("RESOLVED" in title for title in watch.titles(case)),
        PATIENCE,
        f"the end of {case.job}: {watch.titles(case)}",
    )
    wait_until(lambda: not watch.firing(case), PATIENCE, f"silence of {case.job}")
    # Alertmanager tells each receiver by itself: the pager may hear of the end after the chat.
    wait_until(
        lambda: all(page["status"] == "resolved" for page in watch.pages(case)[-1:]),
        PATIENCE,
        f"the pager's end of {case.job}",
    )
    case.titles = watch.titles(case)
    case.pages = watch.pages(case)


def diagnose(faults: Faults, case: Case, watch: Watch) -> None:
    """Run the runbook's commands and note what they did not show."""
    page = PAGES[case.alert]
    log = faults.folder / f"{case.job}.log"
    log.write_bytes(b"".join(line for server in case.servers for line in list(server.output)))
    for block in blocks(page):
        output = faults.run(
            case,
            site_block(page) + block.commands,
            INSTANCES=" ".join(server.url for server in case.servers),
            PROMETHEUS=watch.prometheus.url,
            LOGS=str(log),
        )
        own = [
            line for line in output.splitlines() if "job=" not in line or f"job={case.job}" in line
        ]
        if missing := block.missing("\n".join(own)):
            case.missing[block.commands] = [*missing, "in:", *own]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Case]]:
    """The eight cases after all of them have happened."""
    for program in ("prometheus", "prometheus-alertmanager", "redis-server", "jq", "curl"):
        find_binary(program)
    folder = tmp_path_factory.mktemp("faults")
    (folder / "bin").mkdir()
    command = folder / "bin" / "goblin-assistant"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m goblin_assistant "$@"\n')
    command.chmod(0o755)
    with ExitStack() as stack:
        faults = Faults(folder, stack)
        stack.callback(faults.over.set)
        for case in faults.cases.values():
            for number in range(case.instances):
                faults.start(case, number)
        for case in faults.cases.values():
            for server in case.servers:
                wait_until(lambda server=server: live(server), PATIENCE, f"{case.job} to start")
            faults.traffic(case)
        webhook = stack.enter_context(WebhookReceiver())
        config = alertmanager_config(webhook.url, folder, FACTOR)
        alertmanager = stack.enter_context(running_alertmanager(config, folder / "alertmanager"))
        prometheus = stack.enter_context(
            running_prometheus(
                prometheus_config(faults.cases, alertmanager, folder), folder / "prometheus"
            )
        )
        watch = Watch(prometheus, webhook)
        with ThreadPoolExecutor(len(faults.cases)) as pool:
            running: list[Future[None]] = [
                pool.submit(happen, faults, case, watch) for case in faults.cases.values()
            ]
        for one in running:
            one.result()
        yield faults.cases


def live(server: Server) -> bool:
    assert server.process.poll() is None, b"".join(server.output + server.errors)
    try:
        return requests.get(server.url + "/health/live", timeout=60).status_code == 200
    except requests.RequestException:
        return False


JOBS = (
    "case_provider_down",
    "case_provider_hanging",
    "case_redis_stopped",
    "case_postgres_stopped",
    "case_chroma_stopped",
    "case_instance_killed",
    "case_slots_full",
    "case_unmigrated",
)


@pytest.mark.parametrize("job", JOBS)
def test_a_fault_makes_one_page_and_its_end_another(job: str, cases: dict[str, Case]) -> None:
    case = cases[job]
    # A Prometheus of minutes has no good hours before the fault, so that its budget burns at once
    # and for long. ops/prometheus/tests/budgets.yml shows with real times that the budget's alert
    # fires beside the fault's own and never alone, and test_alertmanager.py that it is held back.
    titles = [title for title in case.titles if "ErrorBudgetBurn" not in title]
    assert titles == [f"[FIRING:1] {case.alert} ({job})", f"[RESOLVED] {case.alert} ({job})"]


@pytest.mark.parametrize("job", JOBS)
def test_the_runbooks_commands_show_what_it_says(job: str, cases: dict[str, Case]) -> None:
    assert cases[job].missing == {}


def test_a_critical_fault_reaches_the_pager_with_its_labels_and_runbook(
    cases: dict[str, Case],
) -> None:
    for job in ("case_provider_down", "case_provider_hanging", "case_postgres_stopped"):
        case = cases[job]
        first = case.pages[0]
        (alert,) = first["alerts"]
        assert case.labels.items() <= alert["labels"].items()
        assert "runbook_base" not in alert["labels"]
        assert alert["annotations"]["runbook_url"] == f"{WIKI}/{case.alert}.md"
