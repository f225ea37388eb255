"""Spans that are sent to an OTLP collector: what they say, which are kept, and what a collector
that fails costs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import Serve, Server, wait_until
from tests.support.fake_upstream import CUT, FakeUpstream, Reply, answering_gets
from tests.support.otlp_collector import CLIENT, INTERNAL, SERVER, Collector, collecting
from tests.support.real_server import CHAT, STREAM, start
from tests.support.wire_bodies import openai_chat, openai_events, openai_usage
from tests.tracing.test_chats import BUSY, ask, openai_whole
from tests.tracing.test_context import PARENT, SPAN, TRACE

UNSAMPLED = f"00-{TRACE}-{SPAN}-00"
CANARY = "canary-content-of-a-chat"
FAST = {"OTEL_BSP_SCHEDULE_DELAY": "50"}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as made:
        yield made


def begin(serve: Serve, upstream: FakeUpstream, collector: Collector, **more: str) -> Server:
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, **FAST, **more}
    return start(serve, upstream, **settings)


def test_a_chat_is_a_request_with_an_attempt_below_it(
    serve: Serve, fake_upstream: FakeUpstream, collector: Collector
) -> None:
    server = begin(serve, fake_upstream, collector, GOBLIN_INSTANCE_NAME="web-1")
    fake_upstream.reply(Reply.json(200, openai_chat(usage=openai_usage(12, 5))))
    body = {**CHAT, "temperature": 0.5, "max_tokens": 64}
    answer = ask(server, body, traceparent=PARENT)
    wait_until(lambda: len(collector.of(TRACE)) == 2)
    by_kind = {span.kind: span for span in collector.of(TRACE)}
    request, attempt = by_kind[SERVER], by_kind[CLIENT]
    assert request.name == "POST /v1/chat/completions"
    assert request.parent_id == SPAN
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["goblin.correlation_id"] == answer.headers["X-Correlation-ID"]
    assert request.resource["service.name"] == "goblin-assistant"
    assert request.resource["service.instance.id"] == "web-1"
    assert attempt.name == "chat gpt-4o"
    assert attempt.parent_id == request.span_id
    sent = fake_upstream.requests[0].headers["traceparent"]
    assert sent == f"00-{TRACE}-{attempt.span_id}-01"
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.request.stream": False,
        "gen_ai.request.max_tokens": 64,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 5,
        "server.address": "127.0.0.1",
        "server.port": int(fake_upstream.url.rpartition(":")[2]),
    }
    assert expected.items() <= attempt.attributes.items()
    assert not request.error
    assert request.seconds >= attempt.seconds > 0


def test_a_stream_says_when_its_first_token_came(
    serve: Serve, fake_upstream: FakeUpstream, collector: Collector
) -> None:
    server = begin(serve, fake_upstream, collector)
    fake_upstream.reply(Reply.sse(openai_events()))
    assert ask(server, STREAM, traceparent=PARENT).status_code == 200
    wait_until(lambda: len(collector.of(TRACE)) == 2)
    by_kind = {span.kind: span for span in collector.of(TRACE)}
    assert by_kind[SERVER].events == ["first_token"]
    assert by_kind[CLIENT].attributes["gen_ai.request.stream"] is True
    assert by_kind[CLIENT].attributes["gen_ai.response.time_to_first_chunk"] >= 0
    # The request is counted after its span was handed over, which may have arrived already.
    expected = {
        "http_request_duration_seconds",
        "provider_latency_seconds",
        "chat_time_to_first_token_seconds",
    }
    wait_until(lambda: with_exemplar(server) == expected)


def with_exemplar(server: Server) -> set[str]:
    """The histograms that lead to the trace."""
    scraped = requests.get(
        server.url + "/metrics", headers={"Accept": "application/openmetrics-text"}, timeout=30
    ).text
    return {
        line.partition("_bucket")[0]
        for line in scraped.splitlines()
        if f'trace_id="{TRACE}"' in line
    }


def test_retries_are_siblings_and_the_failed_ones_say_why(
    serve: Serve, fake_upstream: FakeUpstream, collector: Collector
) -> None:
    server = begin(serve, fake_upstream, collector, GOBLIN_RETRIES="1")
    fake_upstream.reply(BUSY, openai_whole())
    assert ask(server, CHAT, traceparent=UNSAMPLED).status_code == 200
    wait_until(lambda: len(collector.of(TRACE)) == 3)
    spans = collector.of(TRACE)
    (request,) = (span for span in spans if span.kind == SERVER)
    attempts = [span for span in spans if span.kind == CLIENT]
    assert {span.parent_id for span in attempts} == {request.span_id}
    assert [span.error for span in attempts] == [True, False]
    assert attempts[0].attributes["error.type"] == "provider_overloaded"
    assert request.events == ["retry"]


def test_two_instances_in_a_row_are_one_chain(
    serve: Serve, fake_upstream: FakeUpstream, collector: Collector
) -> None:
    far = begin(serve, fake_upstream, collector, GOBLIN_INSTANCE_NAME="far")
    fake_upstream.default = openai_whole()
    spec = {"name": "near", "scopes": ["chat"]}
    made = requests.post(far.url + "/auth/keys", json=spec, headers=far.register(), timeout=60)
    near = serve(
        OPENAI_API_KEY=made.json()["key"], OPENAI_BASE_URL=far.url + "/v1",
        GOBLIN_INSTANCE_NAME="near", OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **FAST,
    )  # fmt: skip
    answer = ask(near, {**CHAT, "model": "openai/openai/gpt-4o"}, traceparent=PARENT)
    assert answer.status_code == 200, answer.text
    wait_until(lambda: len(collector.of(TRACE)) == 4, 60)
    below = {span.parent_id: span for span in collector.of(TRACE)}
    chain, parent = [], SPAN
    while parent in below:
        chain.append(below[parent])
        parent = below[parent].span_id
    assert [(span.resource["service.instance.id"], span.kind) for span in chain] == [
        ("near", SERVER),
        ("near", CLIENT),
        ("far", SERVER),
        ("far", CLIENT),
    ]
    assert fake_upstream.requests[-1].headers["traceparent"] == f"00-{TRACE}-{parent}-01"


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "streamed"])
def test_what_failed_is_kept_though_its_caller_did_not_sample_it(
    serve: Serve, fake_upstream: FakeUpstream, collector: Collector, body: dict[str, Any]
) -> None:
    server = begin(serve, fake_upstream, collector)
    fake_upstream.reply(Reply.sse([openai_events()[0], CUT]) if "stream" in body else BUSY)
    ask(server, body, traceparent=UNSAMPLED)
    wait_until(lambda: len(collector.of(TRACE)) == 2)
    assert all(span.error for span in collector.of(TRACE))


def test_of_the_rest_a_share_is_kept(
    serve: Serve, fake_upstream: FakeUpstream, collector: Collector
) -> None:
    server = begin(
        serve, fake_upstream, collector,
        OTEL_TRACES_SAMPLER="parentbased_traceidratio", OTEL_TRACES_SAMPLER_ARG="0.5",
    )  # fmt: skip
    fake_upstream.default = openai_whole()
    ask(server, CHAT, traceparent=UNSAMPLED)
    headers = server.register()
    for _ in range(40):
        requests.post(server.url + "/v1/chat/completions", json=CHAT, headers=headers, timeout=30)
    flags = [request.headers["traceparent"].split("-") for request in fake_upstream.requests[1:]]
    kept = {trace for _, trace, _, flag in flags if flag == "01"}
    assert 0 < len(kept) < 40
    wait_until(lambda: kept <= {span.trace_id for span in collector.spans})
    assert server.stop() == 0
    dropped = {trace for _, trace, _, flag in flags if flag == "00"} | {TRACE}
    assert not dropped & {span.trace_id for span in collector.spans}


def test_a_limit_that_no_span_can_hold_is_left_out_and_no_error(
    serve: Serve, fake_upstream: FakeUpstream, collector: Collector
) -> None:
    server = begin(serve, fake_upstream, collector)
    fake_upstream.reply(openai_whole())
    body = {**CHAT, "max_tokens": 2**63, "temperature": 1}
    assert ask(server, body, traceparent=PARENT).status_code == 200
    wait_until(lambda: len(collector.of(TRACE)) == 2)
    (attempt,) = (span for span in collector.of(TRACE) if span.kind == CLIENT)
    assert attempt.attributes["gen_ai.request.temperature"] == 1
    assert "gen_ai.request.max_tokens" not in attempt.attributes
    assert server.stop() == 0
    assert [line for line in server.log_lines() if line["level"] == "ERROR"] == []


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("chat/completions", {"messages": CHAT["messages"], "max_completion_tokens": 64}),
        ("responses", {"input": "Hello", "max_output_tokens": 64}),
    ],
)
def test_the_limit_of_an_answer_has_one_name(
    serve: Serve,
    fake_upstream: FakeUpstream,
    collector: Collector,
    path: str,
    fields: dict[str, Any],
) -> None:
    server = begin(serve, fake_upstream, collector)
    answer = requests.post(
        f"{server.url}/v1/{path}",
        json={"model": "echo", **fields},
        headers={**server.register(), "traceparent": PARENT},
        timeout=30,
    )
    assert answer.status_code == 200
    wait_until(lambda: len(collector.of(TRACE)) == 2)
    (attempt,) = (span for span in collector.of(TRACE) if span.kind == CLIENT)
    assert attempt.attributes["gen_ai.request.max_tokens"] == 64


def test_a_wait_for_a_slot_is_a_span(
    serve: Serve, fake_upstream: FakeUpstream, collector: Collector
) -> None:
    server = begin(serve, fake_upstream, collector, GOBLIN_CHAT_SLOTS="1")
    headers = server.register()
    fake_upstream.default = openai_whole()
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda _: requests.post(
                    server.url + "/v1/chat/completions", json=CHAT, headers=headers, timeout=60
                ),
                range(64),
            )
        )
    wait_until(lambda: any(span.kind == INTERNAL for span in collector.spans))
    wait = next(span for span in collector.spans if span.kind == INTERNAL)
    assert wait.name == "wait for a chat slot"

    def parents() -> set[str]:
        return {span.span_id for span in collector.spans if span.kind == SERVER}

    # A request's spans may come in two batches.
    wait_until(lambda: wait.parent_id in parents(), what="the request that waited")


def test_no_span_has_content_or_a_secret(
    serve: Serve, fake_upstream: FakeUpstream, collector: Collector
) -> None:
    server = begin(serve, fake_upstream, collector)
    message = {"messages": [{"role": "user", "content": CANARY}]}
    fake_upstream.reply(
        Reply.json(400, {"error": {"message": CANARY}}),
        Reply.sse(openai_events(text=CANARY)),
    )
    ask(server, {**CHAT, **message}, traceparent=PARENT)
    ask(server, {**STREAM, **message, "user": CANARY}, traceparent=PARENT)
    url = server.url + f"/{CANARY}?key={CANARY}"
    requests.get(url, headers={"traceparent": PARENT}, timeout=60)
    wait_until(lambda: len(collector.of(TRACE)) == 5)
    assert server.stop() == 0
    everything = b"".join(collector.bodies)
    for secret in (CANARY, "sk-canary-provider-key", "Bearer", "@example.com"):
        assert secret.encode() not in everything


@pytest.mark.parametrize("fault", ["gone", "refuses", "fails", "hangs"])
def test_a_collector_that_fails_costs_spans_and_no_chat(
    serve: Serve, fake_upstream: FakeUpstream, collector: Collector, fault: str
) -> None:
    url = "http://127.0.0.1:1" if fault == "gone" else collector.url
    collector.status = 500 if fault == "fails" else 400
    if fault == "hangs":
        collector.hold.clear()
    server = begin(
        serve, fake_upstream, collector,
        OTEL_EXPORTER_OTLP_ENDPOINT=url, OTEL_EXPORTER_OTLP_TIMEOUT="1",
        OTEL_BSP_MAX_QUEUE_SIZE="16", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="8",
    )  # fmt: skip
    fake_upstream.default = openai_whole()
    headers = {**server.register(), "traceparent": PARENT}
    for _ in range(30):
        answer = requests.post(
            server.url + "/v1/chat/completions", json=CHAT, headers=headers, timeout=30
        )
        assert answer.status_code == 200

    def lost() -> float:
        counted = server.metrics()
        return sum(
            counted[f'trace_spans_total{{result="{result}"}}'] for result in ("refused", "dropped")
        )

    wait_until(lambda: lost() > 0, 60)
    assert server.metrics()['trace_spans_total{result="sent"}'] == 0
    collector.hold.set()
    assert server.stop() == 0


def test_a_slow_collector_costs_spans_and_no_chat(
    serve: Serve, fake_upstream: FakeUpstream, collector: Collector
) -> None:
    server = begin(
        serve, fake_upstream, collector, OTEL_EXPORTER_OTLP_TIMEOUT="120",
        OTEL_BSP_MAX_QUEUE_SIZE="16", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="8",
    )  # fmt: skip
    fake_upstream.default = openai_whole()
    headers = {**server.register(), "traceparent": PARENT}
    collector.hold.clear()  # its answer takes as long as all the chats
    for _ in range(30):
        answer = requests.post(
            server.url + "/v1/chat/completions", json=CHAT, headers=headers, timeout=30
        )
        assert answer.status_code == 200

    def spans(result: str) -> float:
        return server.metrics()[f'trace_spans_total{{result="{result}"}}']

    wait_until(lambda: spans("dropped") > 0, 60)
    collector.hold.set()
    wait_until(lambda: len(collector.of(TRACE)) > 0, 60)
    assert spans("refused") == 0
    assert server.stop() == 0


def test_a_count_of_tokens_has_its_attempt_below_it(
    serve: Serve, fake_upstream: FakeUpstream, collector: Collector
) -> None:
    server = begin(
        serve, fake_upstream, collector,
        ANTHROPIC_API_KEY="sk-ant", ANTHROPIC_BASE_URL=fake_upstream.url,
    )  # fmt: skip
    listed = Reply.json(200, {"data": []})
    fake_upstream.choose = answering_gets(listed)
    fake_upstream.default = Reply.json(200, {"input_tokens": 9})
    body = {"model": "anthropic/m", "messages": [{"role": "user", "content": "hello"}]}
    headers = {**server.register(), "traceparent": PARENT}
    path = "/v1/messages/count_tokens"
    answer = requests.post(server.url + path, json=body, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    wait_until(lambda: len(collector.of(TRACE)) == 2)
    by_kind = {span.kind: span for span in collector.of(TRACE)}
    assert by_kind[SERVER].name == f"POST {path}"
    attempt = by_kind[CLIENT]
    assert (attempt.name, attempt.parent_id) == ("count_tokens m", by_kind[SERVER].span_id)
    (sent,) = (one for one in fake_upstream.requests if one.path == path)
    assert sent.headers["traceparent"] == f"00-{TRACE}-{attempt.span_id}-01"


def test_without_an_endpoint_the_sdk_is_not_imported(
    serve: Serve, fake_upstream: FakeUpstream
) -> None:
    server = start(serve, fake_upstream)
    maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "opentelemetry" not in maps
    assert "google" not in maps


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "only http/protobuf"),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "0"}, ""),
    ],
)
def test_settings_that_cannot_be_used_are_named_and_the_server_serves(
    serve: Serve, collector: Collector, settings: dict[str, str], reason: str
) -> None:
    server = serve(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **settings)
    assert reason in server.wait_for_line("traces_not_sent")["reason"]
    assert requests.get(server.url + "/health", timeout=30).status_code == 200


def test_the_protocol_of_traces_counts_before_the_general_one(
    serve: Serve, fake_upstream: FakeUpstream, collector: Collector
) -> None:
    server = begin(
        serve, fake_upstream, collector,
        OTEL_EXPORTER_OTLP_PROTOCOL="grpc", OTEL_EXPORTER_OTLP_TRACES_PROTOCOL="http/protobuf",
    )  # fmt: skip
    fake_upstream.reply(openai_whole())
    assert ask(server, CHAT, traceparent=PARENT).status_code == 200
    wait_until(lambda: len(collector.of(TRACE)) == 2)


@pytest.mark.parametrize(
    "settings", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}]
)
def test_what_switches_traces_off_wins(
    serve: Serve, fake_upstream: FakeUpstream, collector: Collector, settings: dict[str, str]
) -> None:
    server = begin(serve, fake_upstream, collector, **settings)
    fake_upstream.reply(openai_whole())
    assert ask(server, CHAT, traceparent=PARENT).status_code == 200
    assert server.stop() == 0
    assert collector.requests == 0
    assert os.environ.get("OTEL_SDK_DISABLED") is None
