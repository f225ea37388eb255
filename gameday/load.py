"""A load that keeps account of every request."""

from __future__ import annotations

import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import requests

ECHO, PROVIDER = "echo", "openai/gpt-4o"
LATER = 0.15
"""Seconds between two requests of a caller: together they stay below the proxy's own limit for one
address."""

TURNED_AWAY = 1.0
"""Seconds that a caller waits after a 429 or 503, which name a time to wait."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One chat. Times are by time.monotonic(). `result` is the status, or how it broke off;
    `tidy` says whether a failure had this API's own shape."""

    id: str
    model: str
    began: float
    ended: float
    result: str
    tidy: bool

    @property
    def answered(self) -> bool:
        """Completely, and with 200."""
        return self.result == "200"


class Load:
    """Callers that chat until `stop`, half of them by streams; some ask the fake provider."""

    def __init__(
        self, url: str, key: str, certificate: Path, *, callers: int = 6, at_provider: int = 2
    ) -> None:
        self._url = url
        self._key = key
        self._certificate = certificate
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._sent: list[Sent] = []
        models = [PROVIDER] * at_provider + [ECHO] * (callers - at_provider)
        self._threads = [
            threading.Thread(target=self._call, args=(model, number % 2 == 1), daemon=True)
            for number, model in enumerate(models)
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """No new requests; wait for the answers."""
        self._over.set()
        for thread in self._threads:
            if thread.ident is not None:  # it was started
                thread.join(120)

    def sent(self) -> list[Sent]:
        """All requests that have ended."""
        with self._lock:
            return list(self._sent)

    def _call(self, model: str, streamed: bool) -> None:
        with requests.Session() as session:
            session.trust_env = False
            session.verify = str(self._certificate)
            session.headers["Authorization"] = f"Bearer {self._key}"
            later = LATER
            while not self._over.wait(later):
                name, began = f"gameday-{uuid.uuid4().hex}", time.monotonic()
                try:
                    result, tidy = self._ask(session, name, model, streamed)
                except requests.RequestException as error:
                    result, tidy = type(error).__name__, False
                one = Sent(name, model, began, time.monotonic(), result, tidy)
                later = TURNED_AWAY if result.startswith(("429", "503")) else LATER
                with self._lock:
                    self._sent.append(one)

    def _ask(
        self, session: requests.Session, name: str, model: str, streamed: bool
    ) -> tuple[str, bool]:
        answer = session.post(
            self._url + "/chat/completions",
            json={
                "model": model,
                "stream": streamed and model == ECHO,
                "messages": [{"role": "user", "content": "a load of words " * 5}],
            },
            headers={"X-Correlation-ID": name},
            timeout=60,
        )
        if answer.status_code != 200:
            return _refusal(answer)
        if streamed and model == ECHO and not answer.content.endswith(b"data: [DONE]\n\n"):
            return "cut", False
        return "200", True


def _refusal(answer: requests.Response) -> tuple[str, bool]:
    """Status and error code, and whether the body is one of this API's."""
    try:
        body = answer.json()
        return f"{answer.status_code} {body['error']}", "correlation_id" in body
    except (ValueError, KeyError, TypeError):
        return str(answer.status_code), False


def admitted(url: str, key: str, certificate: Path, count: int) -> int:
    """How many of `count` chats in a row get 200."""
    with requests.Session() as session:
        session.trust_env = False
        session.verify = str(certificate)
        session.headers["Authorization"] = f"Bearer {key}"
        body = {"model": ECHO, "messages": [{"role": "user", "content": "hello"}]}
        return sum(
            session.post(url + "/chat/completions", json=body, timeout=60).status_code == 200
            for _ in range(count)
        )
