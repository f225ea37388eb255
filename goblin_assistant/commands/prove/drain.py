"""Tests that a rolling restart under load loses nothing. The operator gives the command."""

from __future__ import annotations

import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable

import requests

from goblin_assistant.commands.doctor.findings import in_words
from goblin_assistant.commands.prove.deployment import Deployment, Usage
from goblin_assistant.commands.prove.verdicts import Broken, NotTried, Seen

PROMISE = "A rolling restart loses no request, no stream and no usage record"
SECONDS = 900.0
"""The command may take this long."""
_LEAST = 3
"""Completed streams before the command starts, and again after it has ended."""
_WAIT_SECONDS = 60.0
_WORDS = 20


class _Load:
    """Chats, streams and health requests until `over`. Chats and streams keep to a third of the
    key's limit."""

    def __init__(self, deployment: Deployment, per_minute: int) -> None:
        self._deployment = deployment
        self._pause = 60.0 / max(1, per_minute // 3)
        self._lock = threading.Lock()
        self._next = time.monotonic()
        self.over = threading.Event()
        self.answered: Counter[str] = Counter()
        self.lost: list[str] = []
        self.chats = 0
        kinds: tuple[tuple[str, Callable[[requests.Session], str]], ...] = (
            ("stream", self._stream),
            ("chat", self._chat),
            ("health", self._health),
        )
        self._threads = [
            threading.Thread(target=self._run, args=kind, daemon=True)
            for kind in (kinds[0], kinds[0], kinds[1], kinds[2])
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop sending, and wait for the last answers."""
        self.over.set()
        for thread in self._threads:
            thread.join(_WAIT_SECONDS + 30)

    def wait_for_streams(self, more: int) -> bool:
        """Whether `more` further streams complete within a minute."""
        wanted = self.answered["stream"] + more
        end = time.monotonic() + _WAIT_SECONDS
        while self.answered["stream"] < wanted and time.monotonic() < end:
            time.sleep(0.1)
        return self.answered["stream"] >= wanted

    def _run(self, kind: str, ask: Callable[[requests.Session], str]) -> None:
        with self._deployment.session() as session:
            while not self.over.is_set():
                if kind == "health":
                    self.over.wait(0.05)
                elif not self._turn():
                    return
                try:
                    fault = ask(session)
                except requests.RequestException as error:
                    fault = in_words(error)
                with self._lock:
                    self.answered[kind] += not fault
                    if fault:
                        self.lost.append(f"{kind}: {fault}")

    def _turn(self) -> bool:
        with self._lock:
            wait = self._next - time.monotonic()
            self._next = max(self._next, time.monotonic()) + self._pause
        if self.over.wait(max(0.0, wait)):
            return False
        with self._lock:
            self.chats += 1
        return True

    def _stream(self, session: requests.Session) -> str:
        with self._deployment.post(
            session, "through a restart", streamed=True, paced=True, max_tokens=_WORDS
        ) as answer:
            if answer.status_code != 200:
                return str(answer.status_code)
            lines = [line for line in answer.iter_lines() if line]
        return "" if lines and lines[-1] == b"data: [DONE]" else "the stream broke off"

    def _chat(self, session: requests.Session) -> str:
        answer = self._deployment.post(session, "through a restart")
        return "" if answer.status_code == 200 else str(answer.status_code)

    def _health(self, session: requests.Session) -> str:
        answer = session.get(self._deployment.url + "/health/live", timeout=30)
        # A proxy may close this path to the public.
        return "" if answer.status_code in (200, 403, 404) else str(answer.status_code)


def drain(deployment: Deployment, command: str) -> Seen:
    """Run the command. The load starts before it and continues after it."""
    with deployment.session() as session:
        first = deployment.good(deployment.post(session, max_tokens=1))
    limit = int(first.headers.get("X-RateLimit-Limit", "120"))
    before = deployment.usage_since(_NOTHING, 1)
    load = _Load(deployment, limit)
    load.start()
    began = time.monotonic()
    try:
        if not load.wait_for_streams(_LEAST):
            raise NotTried(f"no load could be held before the restart: {_lost(load)}")
        done = subprocess.run(
            command, shell=True, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise Broken(
                f"the command ended with exit code {done.returncode}: {said[-1] if said else ''}"
            )
        served = load.wait_for_streams(_LEAST)
    except subprocess.TimeoutExpired:
        raise Broken(f"the command did not end within {SECONDS:g} s") from None
    finally:
        load.stop()
    added = deployment.usage_since(before, load.chats)
    text = (
        f"within {time.monotonic() - began:.0f} s {sum(load.answered.values())} requests were "
        f"answered ({load.answered['stream']} streams, {load.answered['chat']} chats, "
        f"{load.answered['health']} health), {len(load.lost)} lost; {load.chats} chats left "
        f"{added.requests} usage records"
    )
    if load.lost or added.requests != load.chats or not served:
        raise Broken(f"{text}. {_lost(load) if load.lost else ''}".strip())
    return Seen(
        text,
        {
            "answered": dict(load.answered),
            "lost": 0,
            "chats": load.chats,
            "usage_records": added.requests,
        },
    )


_NOTHING = Usage(0, 0, 0, 0, 0, 0, None, None)


def _lost(load: _Load) -> str:
    return "Lost: " + "; ".join(
        f"{count} x {what}" for what, count in Counter(load.lost).most_common(5)
    )
