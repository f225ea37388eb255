"""What an answer cost, told to the client: in headers, and in the usage that a stream reports."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from flask import Flask
from hypothesis import assume, given
from hypothesis import strategies as st

from goblin_assistant.dialects.stream_cost import with_cost
from goblin_assistant.money import from_microusd
from tests.conftest import MakeApp, register
from tests.support.books import rows
from tests.support.fake_upstream import CUT, FakeUpstream, Gate, Reply
from tests.support.response_bodies import message, response, response_events
from tests.support.wire_bodies import (
    anthropic_events,
    anthropic_message,
    openai_chat,
    openai_events,
)

CLAUDE, GPT, PLAIN, FREE = "anthropic/claude-sonnet-4-5", "openai/gpt-4o", "plain/m", "unpriced/m"
PRICE = {"input": 10, "output": 100}  # micro-dollars a token
COST = "0.00062"  # of 12 + 5 tokens
MESSAGES = [{"role": "user", "content": "Hello"}]
CHATS: Mapping[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 9},
    "/v1/responses": {"input": "Hello"},
}
INCLUDED = {"stream": True, "stream_options": {"include_usage": True}}


class Bench:
    """An application whose models have one price, with a provider of each kind behind them."""

    def __init__(self, make_app: MakeApp, claude: FakeUpstream, gpt: FakeUpstream) -> None:
        plain = {"base_url": gpt.url + "/v1", "models": ["m"]}
        names = ("plain/m", "plain/dear", "anthropic/*", "openai/*", "echo/*")
        self.app: Flask = make_app(
            anthropic_api_key="sk-ant-upstream",
            anthropic_base_url=claude.url,
            openai_api_key="sk-upstream",
            openai_base_url=gpt.url + "/v1",
            retries=0,
            file={
                "providers": {"plain": plain, "unpriced": plain},
                "prices": {
                    **dict.fromkeys(names, PRICE),
                    "plain/dear": {"input": 1000, "output": 1000},
                },
            },
        )
        self.app.extensions["goblin"].monitor.stop()  # its checks would use up scripted replies
        self.claude, self.gpt = claude, gpt
        self.client = self.app.test_client()
        self.headers = {"Authorization": f"Bearer {register(self.client)['access_token']}"}

    def post(self, path: str, model: str = PLAIN, **fields: Any) -> Any:
        headers = dict(self.headers)
        if key := fields.pop("key", None):
            headers["Idempotency-Key"] = key
        body = {"model": model, **CHATS[path], **fields}
        return self.client.post(path, json=body, headers=headers)

    def whole(self, model: str, path: str) -> None:
        """Have the provider of a model answer once."""
        if model == CLAUDE:
            self.claude.reply(Reply.json(200, anthropic_message()))
        elif model == GPT and path == "/v1/responses":
            self.gpt.reply(Reply.json(200, response()))
        else:
            self.gpt.reply(Reply.json(200, openai_chat()))

    def stream(self, model: str, path: str) -> list[bytes]:
        """Have the provider of a model stream an answer once."""
        if model == CLAUDE:
            events = anthropic_events()
            self.claude.reply(Reply.sse(events))
        elif model == GPT and path == "/v1/responses":
            events = response_events()
            self.gpt.reply(Reply.sse(events))
        else:
            events = openai_events()
            self.gpt.reply(Reply.sse(events))
        return events

    def record(self) -> tuple[Any, ...]:
        """(prompt, completion, source, cost) of the last record."""
        return rows(
            self.app.extensions["goblin"].engine,
            "SELECT prompt_tokens, completion_tokens, token_source, cost_microusd "
            "FROM usage_records ORDER BY id DESC LIMIT 1",
        )[0]


@pytest.fixture
def bench(make_app: MakeApp, fake_upstream: FakeUpstream) -> Iterator[Bench]:
    gpt = FakeUpstream()
    yield Bench(make_app, fake_upstream, gpt)
    gpt.close()


def told(text: str) -> list[Any]:
    """The `cost_usd` of each event that has one."""
    found = []
    for line in text.splitlines():
        if line.startswith("data: {"):
            event = json.loads(line[6:])
            usage = event.get("usage") or (event.get("response") or {}).get("usage") or {}
            if "cost_usd" in usage:
                found.append(usage["cost_usd"])
    return found


# -- whole answers --------------------------------------------------------------------------------
@pytest.mark.parametrize("model", [PLAIN, CLAUDE, GPT])
@pytest.mark.parametrize("path", CHATS)
def test_a_whole_answer_says_what_its_record_says(bench: Bench, path: str, model: str) -> None:
    bench.whole(model, path)
    headers = bench.post(path, model).headers
    assert bench.record() == (12, 5, "provider", 620)
    assert headers["X-Goblin-Cost"] == COST
    assert headers["X-Goblin-Prompt-Tokens"] == "12"
    assert headers["X-Goblin-Completion-Tokens"] == "5"
    assert headers["X-Goblin-Token-Source"] == "provider"


def test_a_cost_that_is_not_known_is_left_out(bench: Bench) -> None:
    bench.whole(FREE, "")
    headers = bench.post("/v1/chat/completions", FREE).headers
    assert bench.record() == (12, 5, "provider", None)
    assert headers["X-Goblin-Prompt-Tokens"] == "12"
    assert "X-Goblin-Cost" not in headers


def test_an_answer_that_nobody_counted_says_that_it_was_estimated(bench: Bench) -> None:
    answer = openai_chat()
    del answer["usage"]
    bench.gpt.reply(Reply.json(200, answer))
    headers = bench.post("/v1/chat/completions").headers
    prompt, completion, source, cost = bench.record()
    assert headers["X-Goblin-Token-Source"] == source == "estimated"
    assert headers["X-Goblin-Prompt-Tokens"] == str(prompt)
    assert headers["X-Goblin-Completion-Tokens"] == str(completion)
    assert headers["X-Goblin-Cost"] == from_microusd(cost)


def test_embeddings_say_it_too(bench: Bench) -> None:
    body = {"model": "echo", "input": ["two words"]}
    answer = bench.client.post("/v1/embeddings", json=body, headers=bench.headers)
    assert answer.headers["X-Goblin-Cost"] == "0.00002"
    assert answer.headers["X-Goblin-Completion-Tokens"] == "0"


def test_a_repeated_answer_says_what_the_first_one_cost(bench: Bench) -> None:
    bench.whole(PLAIN, "")
    bench.post("/v1/chat/completions", key="once")
    again = bench.post("/v1/chat/completions", key="once")
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers["X-Goblin-Cost"] == COST


def test_scripts_in_a_browser_may_read_it(make_app: MakeApp) -> None:
    client = make_app(cors_origins=["https://app.example.com"]).test_client()
    answer = client.get("/health", headers={"Origin": "https://app.example.com"})
    exposed = answer.headers["Access-Control-Expose-Headers"].split(", ")
    assert {
        "X-Goblin-Cost",
        "X-Goblin-Prompt-Tokens",
        "X-Goblin-Completion-Tokens",
        "X-Goblin-Token-Source",
    } <= set(exposed)


# -- streams --------------------------------------------------------------------------------------
@pytest.mark.parametrize("model", [PLAIN, CLAUDE, GPT, "echo"])
@pytest.mark.parametrize("path", CHATS)
def test_the_usage_of_a_stream_has_its_cost(bench: Bench, path: str, model: str) -> None:
    bench.stream(model, path)
    asked = INCLUDED if path == "/v1/chat/completions" else {"stream": True}
    answer = bench.post(path, model, **asked)
    assert told(answer.text) == [from_microusd(bench.record()[-1])]
    if model != "echo":
        assert told(answer.text) == [COST]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
def test_all_but_the_field_passes_as_it_came(bench: Bench, path: str) -> None:
    model = {"/v1/messages": CLAUDE, "/v1/responses": GPT}.get(path, PLAIN)
    events = bench.stream(model, path)
    asked = INCLUDED if path == "/v1/chat/completions" else {"stream": True}
    answer = bench.post(path, model, **asked).data
    assert answer.replace(b'"cost_usd":"0.00062",', b"", 1) == b"".join(events)
    assert b'"usage":{"cost_usd":"0.00062",' in answer


def test_a_client_that_asked_for_no_usage_is_told_none(bench: Bench) -> None:
    bench.stream(PLAIN, "")
    answer = bench.post("/v1/chat/completions", stream=True).text
    assert "cost_usd" not in answer
    assert bench.record()[-1] == 620


def test_a_stream_without_a_known_price_passes_untouched(bench: Bench) -> None:
    events = bench.stream(FREE, "")
    answer = bench.post("/v1/chat/completions", FREE, **INCLUDED)
    assert answer.data == b"".join(events)


def test_the_price_is_that_of_the_model_that_answered(bench: Bench) -> None:
    bench.gpt.reply(Reply.sse(openai_events(model="dear")))
    answer = bench.post("/v1/chat/completions", **INCLUDED)
    assert told(answer.text) == ["0.017"]
    assert bench.record()[-1] == 17_000


def test_each_count_has_the_cost_up_to_it(bench: Bench) -> None:
    begun, *_, stop, usage, done = openai_events("")
    late = openai_events("late")[1:-3]
    bench.gpt.reply(Reply.sse([begun, stop, usage, *late, usage, done]))
    answer = bench.post("/v1/chat/completions", **INCLUDED)
    assert told(answer.text) == [COST, COST]
    assert bench.record()[-1] == 620
    assert answer.data.replace(b'"cost_usd":"0.00062",', b"") == b"".join(
        [begun, stop, usage, *late, usage, done]
    )


def test_a_stream_that_breaks_after_its_count_has_told_what_is_booked(bench: Bench) -> None:
    events = anthropic_events()
    bench.claude.reply(Reply.sse([*events[:-1], CUT]))
    answer = bench.post("/v1/messages", CLAUDE, stream=True)
    assert answer.data.replace(b'"cost_usd":"0.00062",', b"").startswith(b"".join(events[:-1]))
    assert b"event: error" in answer.data
    assert told(answer.text) == [COST]
    assert bench.record()[-1] == 620


@pytest.mark.parametrize(
    ("path", "model"), [("/v1/chat/completions", PLAIN), ("/v1/messages", CLAUDE)]
)
def test_a_provider_that_stays_open_after_its_count_holds_nothing_back(
    bench: Bench, path: str, model: str
) -> None:
    events = openai_events() if model == PLAIN else anthropic_events()
    upstream = bench.gpt if model == PLAIN else bench.claude
    end = Gate()
    upstream.reply(Reply.sse([*events[:-1], end, events[-1]]))
    asked = INCLUDED if model == PLAIN else {"stream": True}
    answer = bench.client.post(
        path, json={"model": model, **CHATS[path], **asked}, headers=bench.headers, buffered=False
    )
    text = ""
    for piece in answer.response:
        text += piece.decode()
        if told(text) and not end.opened.is_set():
            assert "[DONE]" not in text
            assert "message_stop" not in text
            end.opened.set()
    answer.close()
    assert told(text) == [COST]
    assert text.rstrip().endswith(events[-1].decode().rstrip())


def test_a_last_event_of_any_size_has_its_cost(bench: Bench) -> None:
    *begun, last = response_events()
    last = last.replace(b'"usage":', b'"z":"%b","usage":' % (b"z" * (2 << 20)), 1)
    bench.gpt.reply(Reply.sse([*begun, last]))
    answer = bench.post("/v1/responses", GPT, stream=True)
    assert told(answer.text) == [COST]


# -- the bytes ------------------------------------------------------------------------------------
def test_a_tools_schema_named_usage_is_not_taken_for_it() -> None:
    tool = {"type": "function", "name": "f", "parameters": {"properties": {"usage": {"a": 1}}}}
    said = message('{"usage":{"a":1}}')
    for fields in ({"tools": [tool]}, {"z": {"usage": {"a": 1}}}):
        (event,) = response_events()[-1:]
        data = json.loads(event.split(b"data: ")[1])
        data["response"].update(fields, output=[said])
        event = b"event: x\ndata: " + json.dumps(data).encode() + b"\n\n"
        found = with_cost(event, ("response", "usage"), "1.50")
        data["response"]["usage"]["cost_usd"] = "1.50"
        assert json.loads(found.split(b"data: ")[1]) == data


def test_the_cost_of_another_instance_is_replaced() -> None:
    event = b'data: {"choices":[],"usage":{"prompt_tokens":1,"cost_usd": "9.99"}}\n\n'
    assert with_cost(event, ("usage",), "0.01") == event.replace(b'"cost_usd": "9.99"', _field())


@pytest.mark.parametrize("old", ["9.99", 9.99, None, "0.01"])
def test_only_the_usages_own_cost_is_replaced(old: Any) -> None:
    (event,) = response_events()[-1:]
    data = json.loads(event.split(b"data: ")[1])
    schema = {"properties": {"cost_usd": {"type": "number"}}}
    tool = {"type": "function", "name": "f", "parameters": schema}
    usage = {"cost_usd": old, **data["response"].pop("usage")}
    data["response"].update(tools=[tool], usage=usage, metadata={"cost_usd": "7"})
    event = b"event: x\ndata: " + json.dumps(data).encode() + b"\n\n"
    found = with_cost(event, ("response", "usage"), "0.01")
    data["response"]["usage"]["cost_usd"] = "0.01"
    assert json.loads(found.split(b"data: ")[1]) == data


def _field(cost: str = "0.01") -> bytes:
    return b'"cost_usd":"%b"' % cost.encode()


@pytest.mark.parametrize(
    "block",
    [
        b'data: {"usage":null}\n\n',
        b'data: {"usage":{}}\n\n',
        b'data: {"usage":[1]}\n\n',
        b'data: {"usage":{"prompt_tokens":1}\n\n',
        b': "usage":{"a":1}\n\n',
        b"data: [DONE]\n\n",
        b"",
    ],
)
def test_what_is_no_usage_stays(block: bytes) -> None:
    assert with_cost(block, ("usage",), "0.01") == block


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["usage", "cost", "a", 'q"']) | st.text(), inner)
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(["usage", "choices", "x"]) | st.text(), JSON, max_size=4),
    st.dictionaries(st.text().filter(lambda name: name != "cost_usd"), JSON, min_size=1),
    st.sampled_from(["\n\n", "\r\n\r\n"]),
)
def test_the_field_is_added_and_nothing_else_changes(
    chunk: dict[str, Any], usage: dict[str, Any], end: str
) -> None:
    chunk["usage"] = usage
    before = b": a comment" + end.encode()
    event = f"data: {json.dumps(chunk)}{end}".encode()
    assume(event.count(b'"usage"') <= 8)  # of more only the last are looked at
    found = with_cost(before + event, ("usage",), "0.01")
    assert found.startswith(before + b"data: ")
    changed = json.loads(found.removeprefix(before + b"data: "))
    assert changed["usage"].pop("cost_usd") == "0.01"
    assert changed == chunk
    if found.count(b'"usage"') == 1:
        assert found.replace(_field() + b",", b"") == before + event
