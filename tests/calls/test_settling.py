"""Whatever a chat takes is given back, whichever line of it fails.

A request is run once to find the lines that it executes in the chat's modules. Then it is run once
for each of these lines, with an exception raised in its place.
"""

from __future__ import annotations

import gc
import linecache
import re
import sys
import threading
from types import FrameType
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, select

from goblin_assistant.accounts.principals import Principal
from goblin_assistant.calls import admission, charge, service, settlement, telemetry
from goblin_assistant.calls import stream as chat_stream
from goblin_assistant.calls.request import Chat
from goblin_assistant.config import GoblinFile
from goblin_assistant.database.models import budget_reservations
from goblin_assistant.metrics import REGISTRY
from goblin_assistant.providers.upstream.deadlines import deadlines
from goblin_assistant.routing import attempt, router
from goblin_assistant.threads.reaper import reaper
from goblin_assistant.web import chat_response
from tests.conftest import MakeApp, register, wait_until
from tests.support.fake_upstream import SILENCE, FakeUpstream, Reply

MODELS = Reply.json(200, {"object": "list", "data": [{"id": "m", "object": "model"}]})
USAGE = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
MESSAGE = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
ANSWER = Reply.json(
    200,
    {"id": "c", "object": "chat.completion", "model": "m", "choices": [MESSAGE], "usage": USAGE},
)
VECTORS = Reply.json(200, {"object": "list", "model": "m", "data": [], "usage": USAGE})
CHUNK = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m",'
    b'"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}]}\n\n'
)
STREAM = Reply.sse([CHUNK, CHUNK, b"data: [DONE]\n\n"])
HELLO = {"model": "up/m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 20}

REQUESTS: dict[str, tuple[str, dict[str, Any], Reply]] = {
    "whole": ("/v1/chat/completions", HELLO, ANSWER),
    "stream": ("/v1/chat/completions", {**HELLO, "stream": True}, STREAM),
    "translated stream": ("/v1/messages", {**HELLO, "stream": True}, STREAM),
    "embeddings": ("/v1/embeddings", {"model": "up/m", "input": "x"}, VECTORS),
    "failed": ("/v1/chat/completions", {**HELLO, "stream": True}, Reply.json(500, {})),
    "broken stream": ("/v1/chat/completions", {**HELLO, "stream": True}, Reply.sse([CHUNK])),
}

MODULES = (
    service,
    admission,
    settlement,
    charge,
    telemetry,
    chat_stream,
    router,
    attempt,
    chat_response,
)
FILES = {module.__file__ for module in MODULES}
GIVING_BACK = {
    "settle", "_settle", "_settle_tokens", "release", "close", "close_events", "__del__",
    "_release", "_end_all", "attach", "_after_response", "ended_by",
}  # fmt: skip
"""Functions that give back: no fault is raised in them."""
CANNOT_FAIL = re.compile(
    r"try:|finally:|return \w+(, \w+)*$|except BaseException as error:|if outcome is None:"
    r"|if isinstance\(result, Outcome\):|if not isinstance\(result, ProviderError\):"
    r"|(\w+\.)*held\.callback\(|settlement\.reached\(|ends\.append\("
    r"|self\._release\(\)|(\w+\.)*chat\.defer\(|settlement\.ended_by\("
)
"""Lines between taking something and noting that it was taken, and lines that give it back."""


@pytest.fixture
def app(make_app: MakeApp, fake_upstream: FakeUpstream) -> Flask:
    fake_upstream.default = MODELS
    row = {"base_url": fake_upstream.url + "/v1", "models": ["m"], "max_concurrency": 1}
    prices = {"up/m": {"input": 1, "output": 1}}
    file = GoblinFile.model_validate({"providers": {"up": row}, "prices": prices})
    return make_app(file=file, retries=0, breaker_min_calls=100_000, health_interval=3600)


@pytest.fixture
def client(app: Flask, fake_upstream: FakeUpstream) -> FlaskClient:
    client = app.test_client()
    client.get("/health/live")
    wait_until(lambda: fake_upstream.requests, what="the monitor's own request")
    app.config["PROPAGATE_EXCEPTIONS"] = False
    return client


@pytest.fixture
def key(client: FlaskClient) -> dict[str, str]:
    """Headers of a key with every limit, which admits one chat at a time."""
    headers = {"Authorization": f"Bearer {register(client)['access_token']}"}
    wish = {
        "name": "k",
        "tokens_per_minute": 1_000_000,
        "max_concurrency": 1,
        "monthly_budget_usd": "100",
    }
    made = client.post("/auth/keys", json=wish, headers=headers)
    assert made.status_code == 201, made.json
    return {"Authorization": f"Bearer {made.json['key']}"}


class Lines:
    """Traces the lines of the chat's modules, and raises in place of the one that is `chosen`."""

    def __init__(self, chosen: tuple[str, int] | None = None) -> None:
        self.seen: dict[tuple[str, int], str] = {}
        self._chosen = chosen

    def __enter__(self) -> Lines:
        sys.settrace(self._enter)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _enter(self, frame: FrameType, event: str, _: Any) -> Any:
        code = frame.f_code
        return self._line if code.co_filename in FILES and code.co_name not in GIVING_BACK else None

    def _line(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            place = (frame.f_code.co_filename, frame.f_lineno)
            if CANNOT_FAIL.match(linecache.getline(*place).strip()):
                return self._line
            self.seen[place] = frame.f_code.co_name
            if place == self._chosen:
                self._chosen = None
                raise RuntimeError("injected")
        return self._line


def ask(client: FlaskClient, key: dict[str, str], upstream: FakeUpstream, kind: str) -> int:
    path, body, reply = REQUESTS[kind]
    upstream.default = reply
    try:
        answer = client.post(path, json=body, headers=key)
    except RuntimeError:
        return 0  # raised in the body, which the test client reads
    answer.close()
    return answer.status_code


def taken(app: Flask) -> dict[str, float | None]:
    """Everything that a chat holds while it runs."""
    app.extensions["goblin"].usage.flush(10)  # a reservation ends with its record
    with app.extensions["goblin"].engine.connect() as connection:
        reservations = connection.execute(
            select(func.count()).select_from(budget_reservations)
        ).scalar_one()
    return {
        "slots": REGISTRY.get_sample_value("chat_slots_in_use"),
        "calls": REGISTRY.get_sample_value("provider_calls_in_flight", {"provider": "up"}) or 0,
        "reservations": reservations,
    }


@pytest.mark.parametrize("kind", list(REQUESTS))
def test_an_exception_at_any_line_of_a_chat_leaves_nothing_taken(
    app: Flask, client: FlaskClient, key: dict[str, str], fake_upstream: FakeUpstream, kind: str
) -> None:
    with Lines() as lines:
        usual = ask(client, key, fake_upstream, kind)
    assert usual in (200, 400, 502)
    nothing = {"slots": 0, "calls": 0, "reservations": 0}
    wait_until(lambda: taken(app) == nothing)
    assert len(lines.seen) > 60
    before = "nothing"
    for place, function in lines.seen.items():
        with Lines(place):
            status = ask(client, key, fake_upstream, kind)
        # The provider's cap and the key's place admit one chat: a lost one refuses the next.
        assert status not in (429, 503), f"lost by {before}"
        before = f"{place[0].rsplit('/', 1)[-1]}:{place[1]} in {function}"
        if taken(app) != nothing:
            gc.collect()  # closes what the server would drop with the broken response
            wait_until(
                lambda: taken(app) == nothing, 10, what=f"to come back after {before}: {taken(app)}"
            )
    assert ask(client, key, fake_upstream, kind) == usual
    wait_until(lambda: deadlines.active() == 0, what="every upstream exchange to be over")


# -- garbage collection -----------------------------------------------------------------------
def test_a_dropped_stream_is_settled_though_the_thread_that_collects_it_holds_every_lock(
    app: Flask, client: FlaskClient, fake_upstream: FakeUpstream
) -> None:
    chats = app.extensions["goblin"].chat
    fake_upstream.default = Reply.sse([CHUNK, SILENCE])
    stream = chats.stream(Chat(Principal(1, "user"), {**HELLO, "stream": True}, b"", stream=True))
    assert next(iter(stream)) == CHUNK
    cycle: list[object] = [stream]
    cycle.append(cycle)
    del stream, cycle
    done = threading.Event()

    def collect() -> None:
        with chats.slots._lock:
            gc.collect()
        done.set()

    threading.Thread(target=collect, daemon=True).start()
    assert done.wait(30), "garbage collection waits for a lock that its own thread holds"
    wait_until(lambda: taken(app)["slots"] == 0)
    wait_until(lambda: fake_upstream.open_connections == 0)


def test_work_left_behind_is_done_and_a_failure_ends_nothing() -> None:
    done = threading.Event()

    def fail() -> None:
        raise RuntimeError("broken")

    reaper.start()
    reaper.hand_over(fail)
    reaper.hand_over(done.set)
    assert done.wait(30)
