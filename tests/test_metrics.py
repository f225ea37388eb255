"""The guide's names and labels, the documented table, and promtool's check of a scrape."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from prometheus_client import Counter, generate_latest
from prometheus_client.metrics import MetricWrapperBase

from goblin_assistant import metrics
from goblin_assistant.metrics import DURATION_BUCKETS, REGISTRY, OptionalGauge
from tests.conftest import ROOT
from tests.support.services import find_binary

# https://prometheus.io/docs/ -- the production guide's list, name to labels
GUIDE = {
    "http_requests_total": ("method", "endpoint", "status_code"),
    "http_request_duration_seconds": ("method", "endpoint"),
    "http_requests_in_progress": ("method", "endpoint"),
    "http_errors_total": ("method", "endpoint", "error_type"),
    "chat_completions_total": ("provider", "model"),
    "chat_completion_tokens_total": ("provider", "model", "token_type"),
    "chat_completion_errors_total": ("provider", "error_type"),
    "provider_latency_seconds": ("provider", "operation"),
    "service_health_status": ("service_name",),
}

INSTRUMENTS: dict[str, MetricWrapperBase | OptionalGauge] = {
    name: value
    for name, value in vars(metrics).items()
    if isinstance(value, MetricWrapperBase | OptionalGauge)
}
LABELLED = {
    name: value
    for name, value in INSTRUMENTS.items()
    if isinstance(value, MetricWrapperBase) and value._labelnames
}

PAGE = ROOT / "docs" / "metrics.md"
BEGIN, END = "<!-- table: ", "<!-- end -->"


def described() -> dict[str, tuple[str, str, tuple[str, ...]]]:
    """Each instrument's type, meaning and labels."""
    found = {}
    for name, instrument in INSTRUMENTS.items():
        (family,) = instrument.collect()
        labels = LABELLED[name]._labelnames if name in LABELLED else ()
        found[name] = family.type, family.documentation, labels
    return found


def table() -> str:
    """Every metric as the page shows it."""
    rows = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for name, (kind, meaning, labels) in described().items():
        rows.append(f"| `{name}` | {kind} | {', '.join(labels) or '-'} | {meaning} |")
    return "\n".join(rows)


def test_the_page_lists_every_metric() -> None:
    text = PAGE.read_text()
    head, _, rest = text.partition(BEGIN)
    marker, _, rest = rest.partition("\n")
    _, _, tail = rest.partition(END)
    wanted = f"{head}{BEGIN}{marker}\n{table()}\n{END}{tail}"
    if os.environ.get("GOBLIN_TEST_WRITE_DOCS") == "1":
        PAGE.write_text(wanted)
    assert PAGE.read_text() == wanted, (
        "run GOBLIN_TEST_WRITE_DOCS=1 python -m pytest tests/test_metrics.py"
    )


def test_an_instrument_is_exported_under_its_own_name() -> None:
    for name, instrument in INSTRUMENTS.items():
        (family,) = instrument.collect()
        assert family.name + ("_total" if isinstance(instrument, Counter) else "") == name


@pytest.mark.parametrize("name", GUIDE)
def test_the_guides_metrics_have_exactly_its_labels(name: str) -> None:
    assert LABELLED[name]._labelnames == GUIDE[name]


def test_the_guides_metrics_come_first() -> None:
    assert set(list(INSTRUMENTS)[:8]) < set(GUIDE)


def test_the_guides_snippet_runs() -> None:
    namespace: dict[str, object] = {}
    snippet = PAGE.read_text().split("```python\n")[1].split("```")[0]
    before = (
        REGISTRY.get_sample_value(
            "chat_completions_total", {"provider": "openai", "model": "gpt-4"}
        )
        or 0
    )
    exec(snippet, namespace)
    assert (
        REGISTRY.get_sample_value(
            "chat_completions_total", {"provider": "openai", "model": "gpt-4"}
        )
        == before + 1
    )
    metrics.chat_completions_total.remove("openai", "gpt-4")


def test_the_guides_targets_are_bucket_edges() -> None:
    assert {0.1, 0.5, 2.0, 300.0} <= set(DURATION_BUCKETS)
    metrics.http_request_duration_seconds.labels("GET", "/health").observe(0.01)
    assert 'endpoint="/health",le="2.0"' in generate_latest(REGISTRY).decode()


def test_no_created_series_double_the_scrape() -> None:
    assert "_created" not in generate_latest(REGISTRY).decode()


def test_promtool_finds_nothing_wrong() -> None:
    promtool = find_binary("promtool")
    for instrument in LABELLED.values():
        instrument.labels(*("x" for _ in instrument._labelnames))
    try:
        done = subprocess.run(
            [promtool, "check", "metrics"],
            input=generate_latest(REGISTRY),
            capture_output=True,
            timeout=30,
            check=False,
        )
    finally:
        for instrument in LABELLED.values():
            instrument.remove(*("x" for _ in instrument._labelnames))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_promtool_is_there_where_services_are_required() -> None:
    if os.environ.get("GOBLIN_TEST_REQUIRE_SERVICES") == "1":
        assert shutil.which("promtool")
