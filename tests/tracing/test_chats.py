"""A chat's trace, from its caller to its provider: in the headers, the log and the record."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import ROOT, Serve, Server
from tests.support.fake_upstream import CUT, FakeUpstream, Reply
from tests.support.real_server import CHAT, STREAM, start
from tests.support.wire_bodies import openai_chat, openai_events
from tests.tracing.test_context import PARENT, SPAN, TRACE

BUSY = Reply.json(503, {"error": {"message": "overloaded"}})
_numbers = itertools.count()


def ask(server: Server, body: dict[str, Any], **headers: str) -> requests.Response:
    return requests.post(
        server.url + "/v1/chat/completions",
        json=body,
        headers={**server.register(f"user{next(_numbers)}@example.com"), **headers},
        timeout=30,
    )


def sent(upstream: FakeUpstream) -> list[tuple[str, str, str]]:
    """Trace id, parent span and flags of every request that the provider got."""
    parts = [request.headers["traceparent"].split("-") for request in upstream.requests]
    return [(trace, span, flags) for _, trace, span, flags in parts]


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "streamed"])
def test_the_provider_gets_the_trace_with_the_attempts_span_as_parent(
    serve: Serve, fake_upstream: FakeUpstream, body: dict[str, Any]
) -> None:
    server = start(serve, fake_upstream)
    fake_upstream.reply(Reply.sse(openai_events()) if "stream" in body else openai_whole())
    answer = ask(server, body, traceparent=PARENT, tracestate="vendor=1")
    assert answer.status_code == 200
    [(trace, span, flags)] = sent(fake_upstream)
    assert (trace, flags) == (TRACE, "01")
    assert span != SPAN
    assert fake_upstream.requests[0].headers["tracestate"] == "vendor=1"


def openai_whole() -> Reply:
    return Reply.json(200, openai_chat())


def test_attempts_are_siblings_with_a_span_each(serve: Serve, fake_upstream: FakeUpstream) -> None:
    server = start(serve, fake_upstream, GOBLIN_RETRIES="2")
    fake_upstream.reply(BUSY, BUSY, openai_whole())
    assert ask(server, CHAT, traceparent=PARENT).status_code == 200
    found = sent(fake_upstream)
    assert {trace for trace, _, _ in found} == {TRACE}
    assert len({span for _, span, _ in found}) == 3


def test_every_line_and_the_record_of_a_chat_have_its_trace(
    serve: Serve, fake_upstream: FakeUpstream, tmp_path: Path
) -> None:
    server = start(serve, fake_upstream, LOG_LEVEL="DEBUG")
    fake_upstream.reply(Reply.sse([*openai_events()[:2], CUT]))
    answer = ask(server, STREAM, traceparent=PARENT)
    identity = answer.headers["X-Correlation-ID"]
    server.wait_for_line("request_completed", correlation_id=identity)
    server.wait_for_line("chat_failed", correlation_id=identity)
    lines = [line for line in server.log_lines() if line["correlation_id"] == identity]
    assert {line["message"] for line in lines} >= {"request_started", "request_completed"}
    assert {line.get("trace_id") for line in lines} == {TRACE}
    assert all("trace_id" not in line for line in server.log_lines("server_started"))
    assert server.stop() == 0
    for wanted in (identity, TRACE):
        told = explain(tmp_path / "server0", wanted)
        assert f"trace              {TRACE}" in told
    assert "nothing is known" in explain(tmp_path / "server0", "0" * 31 + "1")


def explain(folder: Path, identity: str) -> str:
    """What the command prints about a correlation id or a trace of the server in a folder."""
    done = subprocess.run(
        [sys.executable, "-m", "goblin_assistant", "explain", identity],
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "GOBLIN_ENV": "development",
            "GOBLIN_INSTANCE_DIR": str(folder / "instance"),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout + done.stderr


def test_a_client_that_leaves_leaves_lines_with_its_trace(
    serve: Serve, fake_upstream: FakeUpstream
) -> None:
    server = start(serve, fake_upstream)
    fake_upstream.reply(Reply.sse([openai_events()[0], *[openai_events()[1]] * 2000, CUT]))
    with requests.post(
        server.url + "/v1/chat/completions",
        json=STREAM,
        headers={**server.register(), "traceparent": PARENT},
        stream=True,
        timeout=30,
    ) as answer:
        next(answer.iter_lines())
    for message in ("chat_failed", "request_completed"):
        line = server.wait_for_line(message, correlation_id=answer.headers["X-Correlation-ID"])
        assert line["trace_id"] == TRACE


def test_a_request_without_a_valid_trace_begins_one(
    serve: Serve, fake_upstream: FakeUpstream
) -> None:
    server = start(serve, fake_upstream)
    fake_upstream.reply(openai_whole(), openai_whole())
    first = ask(server, CHAT)
    ask(server, CHAT, traceparent=PARENT.upper(), tracestate="vendor=1")
    (one, _, flags), (two, _, _) = sent(fake_upstream)
    assert len({one, two, TRACE, TRACE.upper()}) == 4
    assert flags == "01"
    assert "tracestate" not in fake_upstream.requests[1].headers
    identity = first.headers["X-Correlation-ID"]
    assert server.wait_for_line("chat_completed", correlation_id=identity)["trace_id"] == one


def test_two_instances_in_a_row_are_one_chain(serve: Serve, fake_upstream: FakeUpstream) -> None:
    far = start(serve, fake_upstream)
    fake_upstream.default = openai_whole()
    spec = {"name": "near", "scopes": ["chat"]}
    made = requests.post(far.url + "/auth/keys", json=spec, headers=far.register(), timeout=30)
    near = serve(OPENAI_API_KEY=made.json()["key"], OPENAI_BASE_URL=far.url + "/v1")
    answer = ask(near, {**CHAT, "model": "openai/openai/gpt-4o"}, traceparent=PARENT)
    assert answer.status_code == 200, answer.text
    assert [trace for trace, _, _ in sent(fake_upstream)] == [TRACE]
    identity = answer.headers["X-Correlation-ID"]
    for server in (near, far):
        line = server.wait_for_line("chat_completed", correlation_id=identity)
        assert line["trace_id"] == TRACE


def test_an_operators_own_header_stands_in_place_of_ours(
    serve: Serve, fake_upstream: FakeUpstream, tmp_path: Path
) -> None:
    file = tmp_path / "goblin.toml"
    file.write_text(
        '[providers.own]\nkind = "openai_compatible"\n'
        f'base_url = "{fake_upstream.url}/v1"\napi_key = "sk-canary-own"\n'
        'headers = { Traceparent = "off" }\n'
    )
    server = start(serve, fake_upstream, GOBLIN_CONFIG_FILE=str(file))
    fake_upstream.reply(openai_whole())
    ask(server, {**CHAT, "model": "own/gpt-4o"}, traceparent=PARENT)
    posted = [request for request in fake_upstream.requests if request.method == "POST"]
    assert [request.headers["traceparent"] for request in posted] == ["off"]
