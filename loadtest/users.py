"""The simulated users of the three scenarios.

`guide`    the production guide's eight tasks with its weights; users wait between requests
`targets`  the guide's rates, all at once; requests follow a schedule, however slow the last one
           was (open loop)
`stream`   streamed chats, one after the other; measures the first token and the longest silence
"""

from __future__ import annotations

import itertools
import json
import math
import random
import time
from collections.abc import Iterator, Mapping
from typing import Any

import gevent
import requests
from locust import FastHttpUser, HttpUser, LoadTestShape, between, task
from locust.contrib.fasthttp import ResponseContextManager

from loadtest.account import Account, AccountError
from loadtest.schedule import place
from loadtest.verdict import TARGETS

QUESTION = "Why do goblins keep the lamps lit?"
FIRST_PLACE = random.random()  # of this process: users of other workers get places in between
RETRY_SECONDS = 1.0
"""How long a streaming user waits after a 429."""
NO_WAIT_SECONDS = {"health": 0.25, "chat": 3.0, "login": 1.0}
"""Seconds an answer may take before all scheduled users are busy and requests are sent late.

Well above the targets.
"""


def headers_of(user: Any) -> dict[str, str]:
    """Credentials of the test's account.

    Without an account the user ends; the session has logged why and ends the test.
    """
    account: Account = user.environment.goblin_account
    try:
        return account.headers()
    except AccountError as error:
        # Before the run begins this is not counted; during it, this fails the run.
        user.environment.events.request.fire(
            request_type="POST",
            name="account",
            response_time=0,
            response_length=0,
            exception=error,
            context={},
        )
        raise gevent.GreenletExit from error  # StopUser would print a traceback


class Requests(FastHttpUser):
    """The requests of the scenarios.

    `late` is how many seconds the current request is behind its schedule.
    """

    abstract = True
    late = 0.0

    def on_start(self) -> None:
        """Make sure of the account before anything is measured."""
        headers_of(self)

    def _send(
        self,
        method: str,
        path: str,
        *,
        target: str | None,
        name: str,
        body: Mapping[str, Any] | None = None,
        authorised: bool = False,
        expect: str | None = None,
    ) -> None:
        # `expect` is a key of the answer's JSON object: with a 200 alone, a proxy's error page
        # would pass.
        context = {"target": target, "scenario": name, "late_ms": self.late * 1000}
        headers = headers_of(self) if authorised else None
        with self.client.request(
            method,
            path,
            name=name,
            json=body,
            headers=headers,
            catch_response=True,
            context=context,
        ) as response:
            check(response, expect)

    def get_health(self) -> None:
        """The basic health route."""
        self._send("GET", "/health", target="health", name="health_check", expect="status")

    def chat(self) -> None:
        """A chat on the default model, not streamed."""
        body = {"messages": [{"role": "user", "content": QUESTION}]}
        self._send(
            "POST", "/chat/completions", target="chat", name="chat_completion", body=body,
            authorised=True, expect="choices",
        )  # fmt: skip

    def log_in(self) -> None:
        """A login with the right password."""
        account: Account = self.environment.goblin_account  # type: ignore[attr-defined]
        body = {"email": account.email, "password": account.password}
        self._send(
            "POST", "/auth/login", target="login", name="login", body=body, expect="access_token"
        )


def check(response: ResponseContextManager, expect: str | None) -> None:
    """Classify an answer.

    A 429 gets its own name in Locust's tables, so that its short time distorts no percentile.
    """
    if response.status_code == 429:
        response.request_meta["context"]["limited"] = True
        response.request_meta["name"] += " (429)"
        response.success()
    elif response.status_code == 0:
        response.failure(f"no answer: {getattr(response, 'error', None)!r}")
    elif response.status_code != 200:
        response.failure(f"{response.status_code} {(response.text or '')[:200]}")
    elif expect is not None:
        try:
            answer = json.loads(response.content)
        except ValueError:
            answer = None
        if isinstance(answer, dict) and expect in answer:
            response.success()
        else:
            response.failure(f"200 without {expect!r}: {(response.text or '')[:200]}")


class GuideUser(Requests):
    """The guide's test scenarios with its weights."""

    wait_time = between(0.5, 1.5)

    @task(10)
    def health_check(self) -> None:
        """GET /health"""
        self.get_health()

    @task(8)
    def health_all(self) -> None:
        """GET /health/all"""
        self._send("GET", "/health/all", target="health", name="health_all", expect="services")

    @task(5)
    def health_chroma(self) -> None:
        """GET /health/chroma; `disabled` passes too"""
        self._send("GET", "/health/chroma", target="health", name="health_chroma", expect="status")

    @task(3)
    def health_sandbox(self) -> None:
        """GET /health/sandbox"""
        self._send(
            "GET", "/health/sandbox", target="health", name="health_sandbox", expect="status"
        )

    @task(2)
    def get_models(self) -> None:
        """GET /chat/models"""
        self._send(
            "GET", "/chat/models", target=None, name="get_models", authorised=True, expect="data"
        )

    @task(1)
    def chat_completion(self) -> None:
        """POST /chat/completions"""
        self.chat()

    @task(2)
    def get_settings(self) -> None:
        """GET /settings/"""
        self._send("GET", "/settings/", target=None, name="get_settings", authorised=True)

    @task(1)
    def login(self) -> None:
        """POST /auth/login"""
        self.log_in()


class ScheduledUser(Requests):
    """Sends one request each `period` seconds.

    A request that starts late, because the one before it was slow, is measured from when it was
    due. So a stalled server cannot hide by slowing its clients down.
    """

    abstract = True
    target = ""
    period = 1.0
    places: Iterator[int] = itertools.count()
    _due = 0.0

    def on_start(self) -> None:
        """Take a place in the schedule."""
        super().on_start()
        mine = place(next(self.places), FIRST_PLACE)
        now = time.monotonic()
        self._due = now + (mine * self.period - now) % self.period
        gevent.sleep(self._due - now)

    def wait_time(self) -> float:
        """Seconds until the next request is due."""
        self._due += self.period
        return max(0.0, self._due - time.monotonic())

    def _begin(self) -> None:
        self.late = max(0.0, time.monotonic() - self._due)


class TargetHealthUser(ScheduledUser):
    """Health checks at the target's rate."""

    target = "health"
    places = itertools.count()

    @task
    def send(self) -> None:
        """GET /health"""
        self._begin()
        self.get_health()


class TargetChatUser(ScheduledUser):
    """Chats at the target's rate."""

    target = "chat"
    places = itertools.count()

    @task
    def send(self) -> None:
        """POST /chat/completions"""
        self._begin()
        self.chat()


class TargetLoginUser(ScheduledUser):
    """Logins at the target's rate."""

    target = "login"
    places = itertools.count()

    @task
    def send(self) -> None:
        """POST /auth/login"""
        self._begin()
        self.log_in()


SCHEDULED: tuple[type[ScheduledUser], ...] = (TargetHealthUser, TargetChatUser, TargetLoginUser)


def schedule(multiple: float) -> int:
    """Set the scheduled users to the guide's rates times `multiple`; return the number of users."""
    rates = {target.name: target.rate for target in TARGETS}
    for user in SCHEDULED:
        rate = (rates[user.target] or 0.0) * multiple
        user.fixed_count = max(1, math.ceil(rate * NO_WAIT_SECONDS[user.target]))
        # 1 % faster, to make up for the requests cut off at both ends of the measured time.
        user.period = user.fixed_count / (rate * 1.01)
    return sum(user.fixed_count for user in SCHEDULED)


class TargetsShape(LoadTestShape):
    """All scheduled users at once, for --run-time (30 s unless given)."""

    use_common_options = True
    users = 1

    def tick(self) -> tuple[int, float] | None:
        """Return users and spawn rate; Locust calls this once a second."""
        options = self.runner.environment.parsed_options if self.runner else None
        run_time = (options.run_time if options else None) or 30
        return (self.users, 100.0) if self.get_run_time() < run_time else None


class StreamUser(HttpUser):
    """Streams one chat after the other.

    Times of the first token, the longest silence and the whole stream are separate entries.
    """

    wait_time = between(0.0, 0.1)

    def on_start(self) -> None:
        """Make sure of the account before anything is measured."""
        headers_of(self)

    @task
    def stream_chat(self) -> None:
        """POST /chat/completions with stream: true"""
        body = {"messages": [{"role": "user", "content": QUESTION}], "stream": True}
        started = time.perf_counter()
        context = {"target": None, "scenario": "stream"}
        with self.client.post(
            "/chat/completions",
            json=body,
            headers=headers_of(self),
            stream=True,
            catch_response=True,
            context=context,
        ) as response:
            meta = response.request_meta["context"]
            meta["target"] = "first_token"  # for failures; a success gets its own entries below
            if response.status_code != 200:
                check(response, None)  # type: ignore[arg-type]
                if response.status_code == 429:
                    gevent.sleep(RETRY_SECONDS)
                return
            first = last = gap = 0.0
            tail = b""
            try:
                for piece in response.iter_content(None):
                    now = time.perf_counter()
                    # A provider's opening event has a role and no text. The first token is in the
                    # first event with text.
                    if not first and b'"content":"' in piece.replace(b'"content":""', b""):
                        first = now
                    elif first:
                        gap = max(gap, now - last)
                    last = now
                    tail = (tail + piece)[-64:]
            except requests.RequestException as error:
                response.failure(f"the stream broke off: {type(error).__name__}")
                return
            if not tail.endswith(b"data: [DONE]\n\n") or not first:
                response.failure("the stream ended without its end mark")
                return
            meta["target"] = None
            response.success()
        fire = self.environment.events.request.fire
        for target, seconds in (
            ("first_token", first - started),
            ("chunk_gap", gap),
            ("stream", last - started),
        ):
            fire(
                request_type="SSE",
                name=target,
                response_time=seconds * 1000,
                response_length=0,
                exception=None,
                context={"target": target, "scenario": target},
            )
