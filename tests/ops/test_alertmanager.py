"""Alertmanager's configuration: amtool's checks, a route for each alert, and a real Alertmanager
that holds back what follows from a cause.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from goblin_assistant.health.checks import RESERVED
from tests.conftest import wait_until
from tests.support.alert_rules import ALERTS, OPS
from tests.support.mailbox import Mailbox
from tests.support.monitoring import alertmanager_config, running_alertmanager
from tests.support.services import find_binary
from tests.support.webhook import WebhookReceiver

FILE = OPS / "alertmanager" / "alertmanager.yml"
RECEIVERS = {"critical": "pager,mail,chat", "warning": "chat", "none": "watchdog"}
LINK = "https://wiki.example.com/runbooks/"


def amtool(*arguments: str) -> str:
    done = subprocess.run(
        [find_binary("amtool"), *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_configuration_and_its_template_are_valid() -> None:
    assert "1 templates" in amtool("check-config", str(FILE))


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_reaches_its_receivers(alert: str) -> None:
    severity = ALERTS[alert]["labels"]["severity"]
    printed = amtool(
        *("config", "routes", "test", f"--config.file={FILE}"),
        f"--verify.receivers={RECEIVERS[severity]}",
        *(f"alertname={alert}", f"severity={severity}", "team=goblin", "job=goblin-assistant"),
    )
    assert re.findall(r"\w+", printed) == RECEIVERS[severity].split(",")


def test_secrets_are_in_files() -> None:
    text = FILE.read_text()
    assert not re.search(r"^\s*(smtp_auth_password|slack_api_url|credentials|api_url):", text, re.M)
    assert len(re.findall(r"_file: /etc/alertmanager/secrets/|_file: ", text)) == 4


def test_inhibitions_name_alerts_that_exist() -> None:
    rules = yaml.safe_load(FILE.read_text())["inhibit_rules"]
    for rule in rules:
        for matcher in rule["source_matchers"] + rule["target_matchers"]:
            if pattern := re.fullmatch(r'alertname(?:=|=~|!=)"([^"]+)"', matcher):
                for name in pattern[1].split("|"):
                    assert [alert for alert in ALERTS if re.fullmatch(name, alert)], name


def test_provider_alerts_carry_the_name_that_the_provider_has_under_health() -> None:
    for alert in ("HighChatCompletionErrors", "ProviderHanging", "CircuitOpen"):
        template = ALERTS[alert]["labels"]["service_name"]
        (pattern,) = re.findall(r'match "\^\(([^)]*)\)\$"', template)
        assert set(pattern.split("|")) == RESERVED


class Alertmanager:
    """A real Alertmanager and what it sends."""

    def __init__(self, url: str, webhook: WebhookReceiver) -> None:
        self.url = url
        self.webhook = webhook

    def fire(self, *alerts: tuple[str, dict[str, str]]) -> None:
        """Post alerts as Prometheus does, with their rules' severity and a link to the runbook."""
        body = [
            {
                "labels": {
                    "alertname": alert,
                    "severity": ALERTS[alert]["labels"]["severity"],
                    "job": "goblin",
                    **labels,
                },
                "annotations": {
                    "summary": f"summary of {alert}",
                    "description": f"description of {alert}",
                    "runbook_url": f"{LINK}{alert}.md",
                },
            }
            for alert, labels in alerts
        ]
        requests.post(self.url + "/api/v2/alerts", json=body, timeout=60).raise_for_status()

    def states(self) -> dict[str, str]:
        """active or suppressed, by alert."""
        alerts = requests.get(self.url + "/api/v2/alerts", timeout=60).json()
        return {one["labels"]["alertname"]: one["status"]["state"] for one in alerts}


@pytest.fixture
def alertmanager(tmp_path: Path) -> Iterator[Alertmanager]:
    """A running Alertmanager whose times are a thirtieth."""
    with WebhookReceiver() as webhook:
        config = alertmanager_config(webhook.url, tmp_path, factor=30)
        with running_alertmanager(config, tmp_path / "alertmanager") as url:
            yield Alertmanager(url, webhook)


def test_a_page_has_the_summary_and_a_link_that_opens_the_runbook(
    alertmanager: Alertmanager,
) -> None:
    alertmanager.fire(("ServiceUnhealthy", {"service_name": "redis"}))
    wait_until(lambda: alertmanager.webhook.to("/pager"), 60, "the pager")
    wait_until(lambda: alertmanager.webhook.to("/chat"), 60, "the chat")
    (page,) = alertmanager.webhook.to("/pager")
    (alert,) = page.body["alerts"]
    assert alert["annotations"]["runbook_url"] == LINK + "ServiceUnhealthy.md"
    assert page.headers["Authorization"] == "Bearer the pager-token"
    (message,) = alertmanager.webhook.to("/chat")[0].body["attachments"]
    assert message["title"] == "[FIRING:1] ServiceUnhealthy (goblin)"
    assert message["title_link"] == LINK + "ServiceUnhealthy.md"
    assert "CRITICAL summary of ServiceUnhealthy" in message["text"]
    assert f"Runbook: {LINK}ServiceUnhealthy.md" in message["text"]


def test_a_mail_has_the_same_title_text_and_link(tmp_path: Path) -> None:
    with WebhookReceiver() as webhook, Mailbox() as mailbox:
        config = alertmanager_config(webhook.url, tmp_path, factor=30, mail=mailbox.address)
        with running_alertmanager(config, tmp_path / "alertmanager") as url:
            Alertmanager(url, webhook).fire(("ServiceUnhealthy", {"service_name": "redis"}))
            wait_until(lambda: mailbox.messages, 60, "the mail")
    (message,) = mailbox.messages
    assert message["Subject"] == "[FIRING:1] ServiceUnhealthy (goblin)"
    assert (message["From"], message["To"]) == ("alertmanager@example.com", "oncall@example.com")
    body = message.get_body(("plain",))
    assert body is not None
    text = body.get_content()
    assert "CRITICAL summary of ServiceUnhealthy" in text
    assert f"Runbook: {LINK}ServiceUnhealthy.md" in text
    # The password is that of the file.
    assert mailbox.logins == [("alertmanager@example.com", "the smtp-password")]


DATABASE = ("ServiceUnhealthy", {"service_name": "database"})
PROVIDER = ("ServiceUnhealthy", {"service_name": "openai"})
HANGING = ("ProviderHanging", {"service_name": "openai", "provider": "openai"})
SLOTS: tuple[str, dict[str, str]] = ("ChatSlotsExhausted", {})
FAILING = ("HighChatCompletionErrors", {"service_name": "openai", "provider": "openai"})
CIRCUIT = ("CircuitOpen", {"service_name": "openai", "provider": "openai"})
CHAT_ERRORS = ("HighErrorRate", {"endpoint": "/v1/chat/completions"})
SLOW_CHATS = ("SlowResponseTime", {"kind": "first_token"})
BURN = ("ErrorBudgetBurnFast", {"slo": "chat"})
DOWN: tuple[str, dict[str, str]] = ("GoblinAssistantDown", {})
HELD_BACK: dict[str, tuple[tuple[str, dict[str, str]], list[tuple[str, dict[str, str]]]]] = {
    "all instances": (
        DOWN,
        [
            ("GoblinAssistantInstanceDown", {"instance": "a"}),
            ("HighErrorRate", {"endpoint": "/usage"}),
            ("PublicAddressUnreachable", {"job": "goblin-probe", "instance": "https://a"}),
        ],
    ),
    "the database": (
        DATABASE,
        [
            ("GoblinAssistantNotReady", {}),
            ("HighErrorRate", {"endpoint": "/auth/login"}),
            ("UsageRecordsUnsaved", {}),
            ("SlowResponseTime", {"endpoint": "/usage"}),
            ("ErrorBudgetBurnFast", {"slo": "login"}),
        ],
    ),
    "the tables": (
        ("DatabaseUnmigrated", {}),
        [("GoblinAssistantNotReady", {}), CHAT_ERRORS, BURN],
    ),
    "redis": (("ServiceUnhealthy", {"service_name": "redis"}), [("RateLimiterDegraded", {})]),
    "a provider that is down": (PROVIDER, [FAILING, CIRCUIT, CHAT_ERRORS, SLOW_CHATS, BURN]),
    "a provider that hangs": (HANGING, [FAILING, CIRCUIT, SLOTS, CHAT_ERRORS, SLOW_CHATS, BURN]),
    "a provider that fails": (FAILING, [CIRCUIT, CHAT_ERRORS, BURN]),
    "full slots": (SLOTS, [CHAT_ERRORS, SLOW_CHATS, BURN]),
    "a burning budget": (BURN, [("ErrorBudgetBurnSlow", {"slo": "chat"})]),
}


@pytest.mark.parametrize("cause", HELD_BACK)
def test_what_follows_from_a_cause_is_held_back(cause: str, alertmanager: Alertmanager) -> None:
    source, followers = HELD_BACK[cause]
    alertmanager.fire(source, *followers)
    expected = {source[0]: "active"} | {alert: "suppressed" for alert, _ in followers}
    wait_until(lambda: alertmanager.states() == expected, 60, json.dumps(expected))
    wait_until(lambda: chat_titles(alertmanager), 60, "the chat")
    assert chat_titles(alertmanager) == {f"[FIRING:1] {source[0]} (goblin)"}


def chat_titles(alertmanager: Alertmanager) -> set[str]:
    messages = [one.body for one in alertmanager.webhook.to("/chat")]
    return {attachment["title"] for body in messages for attachment in body.get("attachments", [])}


OTHERS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "another service": [PROVIDER, ("ServiceFlapping", {"service_name": "chroma"})],
    "another provider": [PROVIDER, ("CircuitOpen", {"service_name": "mistral"})],
    "another route": [PROVIDER, ("HighErrorRate", {"endpoint": "/auth/login"})],
    "redis is not the database": [
        ("ServiceUnhealthy", {"service_name": "redis"}),
        ("GoblinAssistantNotReady", {}),
        CHAT_ERRORS,
    ],
    "another job": [DATABASE, ("GoblinAssistantNotReady", {"job": "staging"})],
    "one instance": [
        ("GoblinAssistantInstanceDown", {"instance": "a"}),
        ("HighErrorRate", {"endpoint": "/usage"}),
    ],
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_has_another_cause_is_not_held_back(case: str, alertmanager: Alertmanager) -> None:
    alertmanager.fire(*OTHERS[case])
    expected = {alert: "active" for alert, _ in OTHERS[case]}
    wait_until(lambda: len(chat_titles(alertmanager)) == len(expected), 60, "all messages")
    assert alertmanager.states() == expected
