"""Commands of the README and the production guide run as written, and links lead somewhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
import requests

from goblin_assistant.config import Config
from goblin_assistant.metrics import REGISTRY
from tests.conftest import PASSWORD, ROOT, Serve, wait_until
from tests.support.services import find_binary, free_port

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "ops").rglob("*.md")])
GUIDE = ROOT / "docs" / "production-guide.md"

# Marks of the guide's shell blocks: those that are run here, and in test_guide_loadtest.py.
RUN = {"start", "doctor", "errors", "logs", "alerts", "setup"}
RUN_ELSEWHERE = {"install", "web", "headless", "load"}


def blocks(page: Path, mark: str, language: str = "sh") -> list[str]:
    return re.findall(rf"^```{language} {mark}\n(.*?)^```", page.read_text(), re.S | re.M)


class Terminal:
    """An empty folder with production settings, in which the guide's commands run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.jobs: list[subprocess.Popen[str]] = []
        programs = folder / "bin"
        programs.mkdir()
        command = programs / "goblin-assistant"
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m goblin_assistant "$@"\n')
        command.chmod(0o755)
        self.env = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "HOME": str(folder),
            "PYTHONPATH": str(ROOT),
            "SECRET_KEY": "a secret of the guide's test, long enough for production",
            "GOBLIN_PORT": str(self.port),
        }

    def begin(self, block: str, typed: str = "") -> subprocess.Popen[str]:
        """Run a block's commands, with `typed` as the operator's input."""
        job = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", block.replace("8001", str(self.port))],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Without a controlling terminal, the password prompt reads standard input.
            start_new_session=True,
        )
        self.jobs.append(job)
        assert job.stdin is not None
        job.stdin.write(typed)
        job.stdin.close()
        job.stdin = None
        return job

    def wait_for_server(self, job: subprocess.Popen[str]) -> None:
        def answers() -> bool:
            assert job.poll() is None, job.communicate()
            try:
                return requests.get(self.url + "/health/live", timeout=2).status_code == 200
            except requests.RequestException:
                return False

        wait_until(answers, 30, "the guide's server")

    def stop_server(self, job: subprocess.Popen[str]) -> str:
        """Stop the server, but not what reads its log; return the job's whole output."""
        shell = psutil.Process(job.pid)
        for process in [shell, *shell.children(recursive=True)]:
            if any(one.status == "LISTEN" for one in process.net_connections("inet")):
                process.terminate()
        output, errors = job.communicate(timeout=40)
        assert job.returncode == 0, errors
        return output


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """A Terminal; whatever still runs in it at the end is killed."""
    made = Terminal(tmp_path)
    yield made
    for job in made.jobs:
        if job.poll() is None:
            for process in psutil.Process(job.pid).children(recursive=True):
                process.kill()
            job.kill()
        job.communicate()


def parse_objects(text: str) -> list[dict[str, Any]]:
    """JSON objects that follow each other, as jq prints them."""
    decoder, found = json.JSONDecoder(), []
    text = text.strip()
    while text:
        one, end = decoder.raw_decode(text)
        found.append(one)
        text = text[end:].strip()
    return found


def shell(script: str, port: int) -> str:
    script = script.replace("localhost:8001", f"127.0.0.1:{port}")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_five_minute_tour_works_as_written(serve: Serve) -> None:
    steps = blocks(ROOT / "README.md", "tour")
    assert len(steps) == 5
    # One shell keeps the tour's variables between steps. A mark separates the outputs.
    output = shell("\necho; echo ----\n".join(steps), serve().port).split("----\n")
    assert '"email":"you@example.com"' in output[0]
    assert "You said: Hello, goblin!" in output[1]
    assert output[2].strip().endswith("data: [DONE]")
    assert '"id":"echo/echo"' in output[3]
    assert "chat_completions_total" in output[4]
    assert '"status":"healthy"' in output[4]


def test_every_command_of_the_guide_is_run_by_a_test() -> None:
    fences = re.findall(r"^```([^\n]*)\n.*?^```$", GUIDE.read_text(), re.S | re.M)
    marks = [info.split() for info in fences if info.startswith(("sh", "bash", "console"))]
    assert {" ".join(words[1:]) for words in marks} == RUN | RUN_ELSEWHERE
    tests = "".join((ROOT / "tests" / name).read_text() for name in TESTS_OF_THE_GUIDE)
    assert [mark for mark in RUN | RUN_ELSEWHERE if f'blocks(GUIDE, "{mark}")' not in tests] == []


TESTS_OF_THE_GUIDE = ("test_docs.py", "test_guide_loadtest.py")


def test_the_guides_server_starts_and_passes_the_guides_checklist(terminal: Terminal) -> None:
    (start,), (doctor,) = blocks(GUIDE, "start"), blocks(GUIDE, "doctor")
    server = terminal.begin(start, typed=f"{PASSWORD}\n{PASSWORD}\n")
    terminal.wait_for_server(server)
    login = {"email": "you@example.com", "password": PASSWORD}
    assert requests.post(terminal.url + "/auth/login", json=login, timeout=30).status_code == 200
    checklist = terminal.begin(doctor)
    printed, errors = checklist.communicate(timeout=60)
    assert checklist.returncode == 0, printed + errors
    assert re.search(r"^ok +ready ", printed, re.M)
    assert "FAIL" not in printed
    terminal.stop_server(server)


def test_the_guides_log_command_prints_every_line_as_json(terminal: Terminal) -> None:
    find_binary("jq")
    (command,) = blocks(GUIDE, "logs")
    server = terminal.begin(command)
    terminal.wait_for_server(server)
    assert requests.get(terminal.url + "/health", timeout=60).status_code == 200
    lines = parse_objects(terminal.stop_server(server))
    assert {"request_completed"} <= {line["message"] for line in lines}


def test_the_guides_error_filter_prints_failures_and_nothing_else(terminal: Terminal) -> None:
    find_binary("jq")
    (command,) = blocks(GUIDE, "errors")
    server = terminal.begin(command)
    terminal.wait_for_server(server)
    # The database has no tables yet, so the instance is not ready.
    assert requests.get(terminal.url + "/health/ready", timeout=60).status_code == 503
    lines = parse_objects(terminal.stop_server(server))
    assert "/health/ready" in [line.get("path") for line in lines]
    assert [line for line in lines if line["level"] != "ERROR" and line["status_code"] < 500] == []


def test_the_guides_settings_are_valid_and_known(tmp_path: Path) -> None:
    (settings,) = blocks(GUIDE, "settings", "ini")
    dotenv = tmp_path / ".env"
    dotenv.write_text(settings.replace("SECRET_KEY=...", "SECRET_KEY=" + "0123456789abcdef" * 3))
    config = Config.load(environ={}, dotenv=dotenv)
    assert config.production
    assert config.database_url.startswith("postgresql")
    assert config.redis_url == "redis://cache:6379/0"
    assert config.cors_origins == ["https://yourdomain.com", "https://www.yourdomain.com"]
    assert config.log_level == "INFO"


def test_the_guides_scrape_configuration_is_valid(tmp_path: Path) -> None:
    (snippet,) = re.findall(r"^```yaml\n(.*?)^```", GUIDE.read_text(), re.S | re.M)
    (tmp_path / "prometheus.yml").write_text(snippet)
    done = subprocess.run(
        [find_binary("promtool"), "check", "config", str(tmp_path / "prometheus.yml")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_guides_commands_check_the_files_of_prometheus_and_alertmanager() -> None:
    find_binary("promtool")
    find_binary("amtool")
    (commands,) = blocks(GUIDE, "alerts")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_guides_section_testing_the_setup_works_as_written(serve: Serve) -> None:
    find_binary("promtool")
    steps = blocks(GUIDE, "setup")
    assert len(steps) == 3
    server = serve(RATELIMIT_ENABLED="true")
    assert shell(steps[0], server.port).split() == ["401"] * 10 + ["429"] * 5
    metrics = shell(steps[1], server.port)
    assert "http_requests_total{" in metrics
    assert (
        'http_request_duration_seconds_bucket{endpoint="/auth/login",le="2.0",method="POST"} 15.0'
        in metrics
    )
    assert '"status":"ok"' in shell(steps[2], server.port)


def test_the_guides_limit_answer_is_exactly_as_written(serve: Serve) -> None:
    server = serve(RATELIMIT_ENABLED="true")
    body = {"email": "test@example.com", "password": "test"}
    answers = [requests.post(server.url + "/auth/login", json=body, timeout=60) for _ in range(15)]
    assert [answer.status_code for answer in answers] == [401] * 10 + [429] * 5
    refused = answers[-1].json()
    assert refused["error"] == "rate_limit_exceeded"
    assert refused["message"] == "Rate limit exceeded: 10 per 1 minute"
    assert refused["retry_after"] == int(answers[-1].headers["Retry-After"])
    assert 0 < refused["retry_after"] <= 60


def test_the_guides_metric_snippet_counts_an_answer_of_openais_sdk(serve: Serve) -> None:
    server = serve()
    headers = server.register()
    with openai.OpenAI(
        base_url=server.url + "/v1", api_key=headers["Authorization"].removeprefix("Bearer ")
    ) as client:
        response = client.chat.completions.create(
            model="echo", messages=[{"role": "user", "content": "Hello, goblin!"}]
        )
    assert response.usage is not None
    assert response.usage.prompt_tokens > 0
    (snippet,) = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.S | re.M)
    names = [
        ("chat_completions_total", {"provider": "openai", "model": "gpt-4"}, 1),
        (
            "chat_completion_tokens_total",
            {"provider": "openai", "model": "gpt-4", "token_type": "prompt"},
            response.usage.prompt_tokens,
        ),
        (
            "provider_latency_seconds_sum",
            {"provider": "openai", "operation": "chat_completion"},
            1.25,
        ),
    ]
    before = [REGISTRY.get_sample_value(name, labels) or 0 for name, labels, _ in names]
    variables = {"response": response, "duration": 1.25}
    exec(compile(snippet, "production-guide.md", "exec"), variables)
    for known, (name, labels, more) in zip(before, names, strict=True):
        assert REGISTRY.get_sample_value(name, labels) == known + more


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


OF_OTHER_PROGRAMS = re.compile(
    r"GOBLIN_(LOADTEST|TEST|NGINX)(_|$)|GOBLIN_(BACKENDS|DOMAIN|IMAGE_TAG|KEY)$"
)
"""Variables of the load test, the tests, the compose file itself, and clients (GOBLIN_KEY)."""


def test_every_setting_that_ops_and_the_pages_name_exists() -> None:
    known = {Config.env_name(name) for name in Config.model_fields if name != "file"}
    files = [
        file
        for folder in (ROOT / "ops", ROOT / "docs")
        for file in folder.rglob("*")
        if file.suffix in (".md", ".yml", ".yaml", ".conf", ".service", ".sh", ".toml", ".example")
    ]
    assert len(files) > 100
    unknown = {
        f"{file.relative_to(ROOT)}: {name}"
        for file in files
        # Not the beginning of several names: GOBLIN_BREAKER_*.
        for name in re.findall(r"\b((?:GOBLIN|RATELIMIT)_[A-Z_]*[A-Z])\b(?!_?\*)", file.read_text())
        if not {name, name.removesuffix("_FILE")} & known and not OF_OTHER_PROGRAMS.match(name)
    }
    assert unknown == set()


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    assert [
        page.name
        for page in (ROOT / "docs").glob("*.md")
        if page.name != "README.md" and f"({page.name})" not in index
    ] == []


def test_every_decision_is_in_the_list_of_decisions() -> None:
    index = (ROOT / "docs" / "adr" / "README.md").read_text()
    assert [
        page.name for page in (ROOT / "docs" / "adr").glob("0*.md") if f"({page.name})" not in index
    ] == []


def test_the_page_on_contributing_lists_the_programs_that_ci_installs() -> None:
    page, script = (ROOT / "CONTRIBUTING.md").read_text(), (ROOT / ".ci" / "run").read_text()
    listed = re.search(r"apt-get install --no-install-recommends ([^`]+)```", page)
    installed = re.search(r"^packages=\(([^)]+)\)", script, re.MULTILINE)
    assert listed is not None
    assert installed is not None
    assert listed[1].replace("\\", " ").split() == installed[1].split()
