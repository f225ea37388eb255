"""The README and the production guide tell the truth: their commands are run as written, their links lead somewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT, Serve
from tests.services import find_binary

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "ops").rglob("*.md")])


def blocks(page: Path, mark: str) -> list[str]:
    return re.findall(rf"^```sh {mark}\n(.*?)^```", page.read_text(), re.S | re.M)


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
    # One shell: the tour's variables go from step to step. A mark tells the outputs apart.
    output = shell("\necho; echo ----\n".join(steps), serve().port).split("----\n")
    assert '"email":"you@example.com"' in output[0]
    assert "You said: Hello, goblin!" in output[1]
    assert output[2].strip().endswith("data: [DONE]")
    assert '"id":"echo/echo"' in output[3]
    assert "chat_completions_total" in output[4]
    assert '"status":"healthy"' in output[4]


def test_the_guides_section_testing_the_setup_works_as_written(serve: Serve) -> None:
    find_binary("promtool")
    steps = blocks(ROOT / "docs" / "production-guide.md", "setup")
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
    import requests

    server = serve(RATELIMIT_ENABLED="true")
    body = {"email": "test@example.com", "password": "test"}
    answers = [requests.post(server.url + "/auth/login", json=body, timeout=10) for _ in range(15)]
    assert [answer.status_code for answer in answers] == [401] * 10 + [429] * 5
    refused = answers[-1].json()
    assert refused["error"] == "rate_limit_exceeded"
    assert refused["message"] == "Rate limit exceeded: 10 per 1 minute"
    assert refused["retry_after"] == int(answers[-1].headers["Retry-After"])
    assert 0 < refused["retry_after"] <= 60


def test_the_guides_metric_snippet_runs() -> None:
    page = (ROOT / "docs" / "production-guide.md").read_text()
    snippet = next(
        block
        for block in re.findall(r"```python\n(.*?)```", page, re.S)
        if "chat_completions_total" in block
    )
    exec(compile(snippet, "production-guide.md", "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


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
