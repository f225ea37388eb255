"""The game day names a promise for each fault, counts what was lost, and says so."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from gameday.faults import FAULTS, SHORT, Fault
from gameday.load import ECHO, PROVIDER, Sent
from gameday.pages import Pages, watch_everything
from gameday.play import PROMISES, Outcome, judge, look_at_alerts, promise_of
from gameday.report import as_json, as_markdown, as_svg
from gameday.stack import Stack
from tests.support.alert_rules import ALERTS
from tests.support.monitoring import alertmanager_config
from tests.support.webhook import WebhookReceiver

BY_NAME = {fault.name: fault for fault in FAULTS}
REDIS = {"alertname": "ServiceUnhealthy", "severity": "critical", "service_name": "redis"}


def sent(result: str, model: str = ECHO, tidy: bool = True) -> Sent:
    return Sent("a", model, 0.0, 1.0, result, tidy)


def test_every_fault_has_a_promise_and_every_promise_a_fault() -> None:
    names = re.findall(r"^\| (\w+): [^|]*\|", PROMISES.read_text(), re.M)
    assert names
    assert sorted(names) == sorted(BY_NAME)
    assert all(promise_of(name) for name in names)


def test_the_short_form_plays_five_faults() -> None:
    assert len(set(SHORT)) == 5
    assert set(SHORT) <= set(BY_NAME)


def test_every_failed_request_counts_unless_the_promise_excuses_it() -> None:
    down = [sent("502 provider_connection_failed", PROVIDER), sent("200")]
    assert len(BY_NAME["rolling_restart"].lost(down)) == 1
    assert BY_NAME["provider_down"].lost(down) == []


def test_an_ill_provider_excuses_neither_other_models_nor_untidy_failures() -> None:
    lost = BY_NAME["provider_down"].lost
    assert len(lost([sent("502 provider_connection_failed", ECHO)])) == 1
    assert len(lost([sent("ConnectionError", PROVIDER, tidy=False)])) == 1


def test_only_the_promised_refusal_excuses_a_chat() -> None:
    lost = BY_NAME["slots_full"].lost
    assert lost([sent("503 overloaded"), sent("200")]) == []
    others = [sent("503 unavailable"), sent("503 overloaded", tidy=False), sent("cut", tidy=False)]
    assert lost(others) == others


@pytest.fixture
def stack() -> Stack:
    """What the faults' pages ask a stack for."""
    made: Any = SimpleNamespace(target=lambda number: f"127.0.0.1:800{number}", own_disk=True)
    found: Stack = made
    return found


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_expects_the_alert_that_its_promise_names(fault: Fault, stack: Stack) -> None:
    page, promise = fault.page(stack), promise_of(fault.name)
    if same := re.match(r"as when it is (\w+)", promise):
        promise = promise_of(f"{fault.name.partition('_')[0]}_{same[1]}")
    if page:
        rule = ALERTS[page["alertname"]]
        assert page["severity"] == rule["labels"]["severity"]
        assert ("its address" in promise) == ("instance" in page)
        assert f"`{page['alertname']}` is told" in promise
    elif "without an alert" not in promise_of(fault.name):
        assert "is told" not in promise


def told(url: str, path: str, began: str, status: str = "firing", **labels: str) -> None:
    body = {"alerts": [{"labels": labels, "status": status, "startsAt": began}]}
    requests.post(url + path, json=body, timeout=30).raise_for_status()


def test_a_critical_page_counts_when_its_labels_arrive_at_the_pager_too() -> None:
    with WebhookReceiver() as webhook:
        pages, now = Pages(webhook), "2026-01-01T00:00:00Z"
        database = {**REDIS, "service_name": "database"}
        for path in ("/everything", "/pager"):
            told(webhook.url, path, now, **database)
        assert not pages.told(REDIS, 0), "another service's page"
        told(webhook.url, "/everything", now, **REDIS)
        assert not pages.told(REDIS, 0), "not at the pager"
        told(webhook.url, "/pager", now, "resolved", **REDIS)
        assert not pages.told(REDIS, 0), "it ended"
        told(webhook.url, "/pager", now, **REDIS)
        assert pages.told(REDIS, 0)
        assert not pages.told(REDIS, 4e9), "an alert of before"


def test_the_chats_receiver_tells_the_webhook_too(tmp_path: Path) -> None:
    config = alertmanager_config("http://x", tmp_path)
    watch_everything(config, "http://x")
    (chat,) = (one for one in config["receivers"] if one["name"] == "chat")
    assert chat["slack_configs"]
    assert [hook["url"] for hook in chat["webhook_configs"]] == ["http://x/everything"]


def test_a_page_for_something_else_breaks_the_promise() -> None:
    with WebhookReceiver() as webhook:
        for labels in (REDIS, {**REDIS, "service_name": "database"}):
            told(webhook.url, "/everything", "2026-01-01T00:00:00Z", **labels)
        told(webhook.url, "/everything", "2026-01-01T00:00:00Z", alertname="A", severity="warning")
        alerts = Pages(webhook).since(0)
    outcome = Outcome("redis_gone", "", page=REDIS, paged_at=1.0, recovered_at=1.0)
    look_at_alerts(outcome, BY_NAME["redis_gone"], alerts)
    judge(outcome, BY_NAME["redis_gone"])
    assert len(outcome.alerts) == 3
    (problem,) = outcome.broken
    assert "paged for something else" in problem
    assert "database" in problem
    assert "redis" not in problem


@pytest.mark.parametrize(
    ("seen", "problem"),
    [
        ({"lost": 1}, "1 requests lost, at most 0"),
        ({"rows_lost": 2}, "2 usage records lost, at most 0"),
        ({"rows_doubled": 1}, "1 usage records doubled, at most 0"),
        ({"paged_at": None}, "ServiceUnhealthy was not told"),
        ({"recovered_at": None}, "no recovery"),
        ({"else_broken": "a limit of 10 admitted 11"}, "a limit of 10 admitted 11"),
    ],
)
def test_each_broken_promise_is_named(seen: dict[str, Any], problem: str) -> None:
    values = {"page": REDIS, "paged_at": 1.0, "recovered_at": 1.0, **seen}
    outcome = Outcome("redis_gone", "", **values)
    judge(outcome, BY_NAME["redis_gone"])
    assert len(outcome.broken) == 1
    assert problem in outcome.broken[0]


@pytest.fixture
def outcomes() -> list[Outcome]:
    good = Outcome("rolling_restart", "no request is lost", requests=2, mended_at=2.0)
    good.timeline = [(-1.0, True), (1.0, True)]
    good.rows_excused = 7
    bad = Outcome("redis_gone", "no request is lost", requests=2, failed=1, lost=1, mended_at=1.0)
    bad.timeline = [(0.5, False), (1.5, True)]
    bad.alerts = ["ServiceUnhealthy{service_name=redis}"]
    bad.lost_lines = ["503 unavailable after 0.1 s", 'instance1: {"message": "request_completed"}']
    bad.broken = ["1 requests lost, at most 0"]
    return [good, bad]


def test_the_report_names_the_broken_promise(outcomes: list[Outcome]) -> None:
    page = as_markdown(outcomes, {"clock": "not here"}, 15, "plot.svg")
    assert "1 broke a promise" in page
    assert "**broken**: 1 requests lost, at most 0" in page
    assert "0 (and 7 by the promise)" in page
    assert "`ServiceUnhealthy{service_name=redis}`" in page
    assert "\n503 unavailable after 0.1 s\ninstance1: {" in page
    assert "`clock`: not here" in page
    assert as_json(outcomes, {}, 15)["kept"] is False
    assert as_json(outcomes[:1], {}, 15)["kept"] is True


def test_the_plot_is_a_picture_with_a_row_for_each_fault(outcomes: list[Outcome]) -> None:
    picture = ET.fromstring(as_svg(outcomes))
    texts = [one.text for one in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["rolling_restart", "redis_gone"]
    assert 'fill="#c33"' in as_svg(outcomes)
