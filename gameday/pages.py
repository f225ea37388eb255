"""What Alertmanager told: each alert with all its labels, and who got it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tests.support.webhook import WebhookReceiver

EVERYTHING, PAGER = "/everything", "/pager"
"""Paths of the webhook: what every receiver of the chat gets, as JSON, and what the pager gets."""

Labels = Mapping[str, str]


@dataclass(frozen=True)
class Alert:
    """One alert of one notification. `began` is by the clock of Prometheus."""

    labels: Labels
    firing: bool
    began: float

    def has(self, labels: Labels) -> bool:
        """Whether all these labels are its own."""
        return labels.items() <= self.labels.items()

    def __str__(self) -> str:
        shown = ", ".join(
            f"{name}={value}"
            for name, value in sorted(self.labels.items())
            if name not in ("alertname", "team", "job")
        )
        return f"{self.labels['alertname']}{{{shown}}}"


def watch_everything(config: dict[str, Any], webhook: str) -> None:
    """Let the chat's receiver, which gets every alert, tell the webhook too: a chat's message has
    no labels."""
    (chat,) = (one for one in config["receivers"] if one["name"] == "chat")
    chat["webhook_configs"] = [{"url": webhook + EVERYTHING, "send_resolved": True}]


class Pages:
    """What arrived. Times are those of time.time()."""

    def __init__(self, webhook: WebhookReceiver) -> None:
        self._webhook = webhook

    def since(self, began: float, path: str = EVERYTHING) -> list[Alert]:
        """The alerts that began to fire after this time, each once."""
        found = {
            str(alert): alert
            for one in self._webhook.to(path)
            for alert in map(_alert, one.body["alerts"])
            if alert.firing and alert.began >= began
        }
        return list(found.values())

    def told(self, labels: Labels, began: float) -> bool:
        """Whether an alert with these labels began after this time and arrived, a critical one at
        the pager too."""
        paths = [EVERYTHING, *([PAGER] if labels.get("severity") == "critical" else [])]
        return all(any(one.has(labels) for one in self.since(began, path)) for path in paths)


def _alert(body: dict[str, Any]) -> Alert:
    began = datetime.fromisoformat(body["startsAt"].replace("Z", "+00:00"))
    return Alert(body["labels"], body["status"] == "firing", began.timestamp())


def wait(until: Callable[[], object], seconds: float) -> bool:
    """Whether it became true in time."""
    end = time.monotonic() + seconds
    while not until():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True
