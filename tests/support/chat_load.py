"""Chats that go on by several threads, over one instance or several in turn."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import requests

from tests.conftest import wait_until

CHAT = {
    "model": "echo",
    "messages": [{"role": "user", "content": "a few words"}],
    "max_tokens": 20,  # what a small budget covers many times at once
}


class RoundRobin:
    """Names instances in turn, and knows how many requests each has."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = list(urls)
        self._inside: Counter[str] = Counter()
        self._turn = 0
        self._lock = threading.Lock()

    @contextmanager
    def next(self) -> Iterator[str]:
        """The URL of the next instance, for one request."""
        with self._lock:
            self._turn += 1
            url = self._urls[self._turn % len(self._urls)]
            self._inside[url] += 1
        try:
            yield url
        finally:
            with self._lock:
                self._inside[url] -= 1

    def add(self, url: str) -> None:
        """Send requests to this instance as well."""
        with self._lock:
            self._urls.append(url)

    def take_out(self, url: str) -> None:
        """Send none to it any more, and wait until it has answered all."""
        with self._lock:
            self._urls.remove(url)
        wait_until(lambda: self._inside[url] == 0, 60, f"{url} to be idle")


class ChatLoad:
    """Chats while the block runs. `answered` has their correlation ids, `failed` what went wrong.

    Every second chat of a thread is a stream.
    """

    def __init__(
        self, instances: RoundRobin, headers: Sequence[dict[str, str]], threads: int = 3
    ) -> None:
        self._instances = instances
        self._headers = headers
        self.answered: list[str] = []
        self.failed: list[str] = []
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join(90)
            assert not thread.is_alive()

    def wait_for_more(self, count: int) -> None:
        """Wait until so many further chats are answered."""
        until = len(self.answered) + count
        wait_until(lambda: len(self.answered) >= until or self.failed, 120, f"{until} chats")

    def _run(self, number: int) -> None:
        turn = 0
        headers = self._headers[number % len(self._headers)]
        while not self._done.is_set():
            turn += 1
            body: dict[str, Any] = {**CHAT, "stream": turn % 2 == 0}
            with self._instances.next() as url:
                try:
                    answer = requests.post(
                        url + "/v1/chat/completions", json=body, headers=headers, timeout=60
                    )
                except requests.RequestException as error:
                    self.failed.append(f"{url}: {type(error).__name__}")
                    continue
            whole = turn % 2 or answer.text.endswith("data: [DONE]\n\n")
            if answer.status_code == 200 and whole:
                self.answered.append(answer.headers["X-Correlation-ID"])
            else:
                self.failed.append(f"{url}: {answer.status_code} {answer.text[-200:]}")
