"""Each preset through the whole gateway: two turns with tools and reasoning in every dialect, whole
and streamed; usage to the token and the micro-dollar; overflow; a foreign history.

providers/wire_forms.py says what is right for each. Bodies are in tests/support/turns.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from flask.testing import FlaskClient

from goblin_assistant import create_app
from goblin_assistant.config import Config, GoblinFile
from goblin_assistant.logs import json_logging
from goblin_assistant.providers.presets import PRESETS
from goblin_assistant.providers.wire_forms import WIRE_FORMS
from goblin_assistant.providers.wire_tables import message_table, overflow_table
from tests.conftest import ROOT, BufferedClient, close_app, register
from tests.support.fake_upstream import FakeUpstream, Reply, answering_gets
from tests.support.turns import (
    CLIENTS,
    DETAILS,
    NAME,
    RESULT,
    SAID,
    SIGNATURE,
    SIGNED,
    THOUGHT,
    Client,
    chat,
    deltas,
    first_message,
    form_of,
    ids_of,
)
from tests.support.usage_cases import CASES, PRICES, streamed

OPENAI_LIKE = sorted(name for name, form in WIRE_FORMS.items() if form.messages is not None)
PLAIN = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}
CLAUDES = {"input_tokens": 25, "cache_creation_input_tokens": 300, "cache_read_input_tokens": 75,
           "output_tokens": 150}  # fmt: skip
FOREIGN_ID = "call_PTLP8xhu3uwZk4l3nlnrrJha"


@dataclass
class Gateway:
    """An instance with every preset, all at one server."""

    client: FlaskClient
    headers: dict[str, str]
    upstream: FakeUpstream

    def send(self, path: str, body: dict[str, Any], *replies: Reply) -> Any:
        """Send a request that the provider answers so."""
        self.upstream.reply(*replies)
        return self.client.post(path, json=body, headers=self.headers)

    def billed(self, preset: str) -> tuple[int, int, int]:
        """Prompt, completion and micro-dollars of the preset so far."""
        answer = self.client.get("/usage?group_by=model", headers=self.headers).get_json()
        rows = [row for row in answer["rows"] if row["provider"] == preset]
        names = ("prompt_tokens", "completion_tokens", "cost_microusd")
        prompt, completion, cost = (sum(row[name] or 0 for row in rows) for name in names)
        return prompt, completion, cost

    def messages(self) -> list[dict[str, Any]]:
        """The messages of the last chat that the provider got."""
        posted = [request for request in self.upstream.requests if request.method == "POST"]
        found: list[dict[str, Any]] = posted[-1].json()["messages"]
        return found


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One instance for this module."""
    upstream = FakeUpstream(choose=answering_gets(Reply.json(200, {"object": "list", "data": []})))
    folder = tmp_path_factory.mktemp("wire_forms")
    rows: dict[str, Any] = {
        name: {"base_url": upstream.url, "api_key": "k", "models": ["m"]} for name in PRESETS
    }
    for name in ("openai", "xai"):  # the Responses API is translated, as for the others
        rows[name]["options"] = {"responses_path": ""}
    values: dict[str, Any] = {
        "env": "development", "instance_dir": folder / "instance", "ratelimit_enabled": False,
        "health_interval": 3600, "retries": 0,
        "file": GoblinFile.model_validate({"providers": rows, "prices": PRICES}),
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        write = staticmethod(lambda data: None)  # it bypasses pytest's capture
        patch.setattr(json_logging.QueueingHandler, "_write_fd", write)
        app = create_app(Config.load(values, environ={}, dotenv=folder / "absent.env"))
        app.test_client_class = BufferedClient
        client = app.test_client()
        headers = {"Authorization": f"Bearer {register(client)['access_token']}"}
        try:
            yield Gateway(client, headers, upstream)
        finally:
            close_app(app)
            json_logging.flush()
            upstream.close()


def events_of(text: str) -> list[dict[str, Any]]:
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def claudes_turn() -> list[dict[str, Any]]:
    calls = [{"type": "tool_use", "id": call_id, "name": NAME, "input": {"day": day}}
             for day, call_id in enumerate(ids_of("anthropic"))]  # fmt: skip
    thinking = {"type": "thinking", "thinking": THOUGHT, "signature": SIGNATURE}
    return [thinking, {"type": "text", "text": SAID}, *calls]


def claudes_answer() -> dict[str, Any]:
    return {"id": "msg_1", "type": "message", "role": "assistant", "model": "m",
            "content": claudes_turn(), "stop_reason": "tool_use", "stop_sequence": None,
            "usage": CLAUDES}  # fmt: skip


def claudes_events() -> list[bytes]:
    start = {**claudes_answer(), "content": [], "stop_reason": None,
             "usage": {**CLAUDES, "output_tokens": 1}}  # fmt: skip
    events: list[dict[str, Any]] = [{"type": "message_start", "message": start}]
    for index, block in enumerate(claudes_turn()):
        empty = {"thinking": {"thinking": "", "signature": ""}, "text": {"text": ""},
                 "tool_use": {"input": {}}}[block["type"]]  # fmt: skip
        events.append({"type": "content_block_start", "index": index,
                       "content_block": {**block, **empty}})  # fmt: skip
        if block["type"] == "thinking":
            pieces: list[dict[str, Any]] = [
                {"type": "thinking_delta", "thinking": THOUGHT},
                {"type": "signature_delta", "signature": SIGNATURE},
            ]
        elif block["type"] == "text":
            pieces = [{"type": "text_delta", "text": SAID}]
        else:
            text = json.dumps(block["input"])
            pieces = [{"type": "input_json_delta", "partial_json": part}
                      for part in (text[:4], text[4:])]  # fmt: skip
        events += [{"type": "content_block_delta", "index": index, "delta": p} for p in pieces]
        events.append({"type": "content_block_stop", "index": index})
    delta = {"stop_reason": "tool_use", "stop_sequence": None}
    events.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 150}})
    events.append({"type": "message_stop"})
    return [f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in events]


def first_reply(preset: str, *, stream: bool) -> Reply:
    if preset == "anthropic":
        return Reply.sse(claudes_events()) if stream else Reply.json(200, claudes_answer())
    place, usage, _ = CASES[preset]
    message = first_message(preset)
    if stream:
        return Reply.sse(streamed(place, usage, deltas(message), "tool_calls"))
    return Reply.json(200, chat(message, usage))


def second_reply(preset: str) -> Reply:
    if preset == "anthropic":
        done = {"content": [{"type": "text", "text": "Sunny."}], "stop_reason": "end_turn"}
        return Reply.json(200, {**claudes_answer(), **done})
    return Reply.json(200, chat({"role": "assistant", "content": "Sunny."}, PLAIN))


def expected(preset: str) -> tuple[int, int, int]:
    """Prompt, completion and micro-dollars of the first answer."""
    prompt, completion, cached, written = (400, 150, 75, 300)
    if preset != "anthropic":
        prompt, completion, cached, written, _ = CASES[preset][2]
    cost = (prompt - cached - written) * 10 + cached + written * 13 + completion * 100
    return prompt, completion, cost


def check_second(preset: str, messages: list[dict[str, Any]]) -> None:
    """What the server gets back is what it wrote, in its own form."""
    if preset == "anthropic":
        assert messages[1] == {"role": "assistant", "content": claudes_turn()}
        results = messages[2]["content"]
        assert [item["tool_use_id"] for item in results] == ids_of(preset)
        return
    first, form = first_message(preset), form_of(preset)
    _, turn, *results = messages
    assert [call["id"] for call in turn["tool_calls"]] == ids_of(preset)
    assert [item["tool_call_id"] for item in results] == ids_of(preset)
    assert all(item["content"] == RESULT for item in results)
    functions = [call["function"] for call in turn["tool_calls"]]
    assert [item["name"] for item in functions] == [NAME, NAME]
    assert [json.loads(item["arguments"]) for item in functions] == [{"day": 0}, {"day": 1}]
    for name in ("reasoning_content", "reasoning", "reasoning_details"):
        assert turn.get(name) == first.get(name)
    signed = SIGNED if form.thought_signatures else None
    assert turn["tool_calls"][0].get("extra_content") == signed
    assert turn["content"] == first["content"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("dialect", CLIENTS)
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_two_turns_come_back_in_the_providers_form_and_are_billed_exactly(
    gateway: Gateway, preset: str, dialect: str, stream: bool
) -> None:
    client: Client = CLIENTS[dialect]
    before = gateway.billed(preset)
    body: dict[str, Any] = client.first(f"{preset}/m")
    if stream:
        body["stream"] = True
    answer = gateway.send(client.path, body, first_reply(preset, stream=stream))
    assert answer.status_code == 200, answer.text
    spent = tuple(new - old for new, old in zip(gateway.billed(preset), before, strict=True))
    assert spent == expected(preset)
    turn = client.joined(events_of(answer.text)) if stream else client.whole(answer.get_json())

    answer = gateway.send(client.path, client.second(f"{preset}/m", turn), second_reply(preset))
    assert answer.status_code == 200, answer.text
    check_second(preset, gateway.messages())
    assert "X-Goblin-Ignored" not in answer.headers


WINDOWS = {
    "openai": (8545, 8192), "azure": (8545, 8192), "anthropic": (213462, 200000),
    "gemini": (1196265, 1048575), "mistral": (65536, 32768), "deepseek": (67591, 65536),
    "openrouter": (1463, 131000, 131072), "together": (9000, 8193), "fireworks": (40177, 32767),
    "xai": (537812, 131072), "vllm": (40100, 1024, 40960), "llamacpp": (9001, 4096),
    "lmstudio": (4932, 4096), "groq": (), "ollama": (),
}  # fmt: skip
"""The numbers of each preset's sentence: prompt, the answer's limit where both share the window,
window."""


def sentence_for(preset: str) -> str:
    numbers = WINDOWS[preset]
    if not numbers:
        return "prompt is too long for the model's context window"
    if len(numbers) == 2:
        return f"prompt is too long: {numbers[0]} tokens > {numbers[1]} maximum"
    return (
        "prompt is too long: input length and `max_tokens` exceed context limit: "
        f"{numbers[0]} + {numbers[1]} > {numbers[2]}, "
        "decrease input length or `max_tokens` and try again"
    )


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("dialect", CLIENTS)
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_an_overflow_is_told_in_anthropics_words_and_costs_nothing(
    gateway: Gateway, preset: str, dialect: str, stream: bool
) -> None:
    form, client = WIRE_FORMS[preset].overflow, CLIENTS[dialect]
    error = {"message": form.sentence, "type": "invalid_request_error", "code": form.code}
    before = gateway.billed(preset)
    body = {**client.first(f"{preset}/m"), "stream": stream}
    answer = gateway.send(client.path, body, Reply.json(400, {"type": "error", "error": error}))
    assert answer.status_code == 400
    told = answer.get_json()["error"]
    assert told["message"] == sentence_for(preset)
    if dialect == "anthropic":
        assert told["type"] == "invalid_request_error"
    else:
        assert told["code"] == "context_length_exceeded"
    assert gateway.billed(preset) == before


HISTORY: list[dict[str, Any]] = [
    {"role": "user", "content": "hi"},
    {
        "role": "assistant", "content": SAID, "refusal": None, "annotations": [],
        "reasoning_content": "hm", "reasoning_details": DETAILS,
        "thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}],
        "tool_calls": [
            {"id": FOREIGN_ID, "type": "function", "extra_content": SIGNED,
             "function": {"name": NAME, "arguments": "{}"}}
        ],
    },
    {"role": "tool", "tool_call_id": FOREIGN_ID, "content": RESULT},
]  # fmt: skip
"""A conversation that began with several other providers."""


KEPT = {
    "openai": "", "azure": "", "groq": "", "gemini": "extra_content", "mistral": "thinking",
    "deepseek": "reasoning_content", "openrouter": "reasoning reasoning_details",
    "together": "reasoning reasoning_details", "ollama": "reasoning reasoning_details",
    "fireworks": "reasoning_content reasoning_details",
    "xai": "reasoning_content reasoning_details",
    "llamacpp": "reasoning_content reasoning_details",
    "lmstudio": "reasoning_content reasoning_details",
    "vllm": "reasoning_content reasoning_details extra_content",
}  # fmt: skip
"""What of it each preset gets back, as its source says; not read from the table."""


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("preset", OPENAI_LIKE)
def test_a_foreign_history_arrives_in_the_presets_form_and_what_is_left_out_is_named(
    gateway: Gateway, preset: str, stream: bool
) -> None:
    body = {"model": f"{preset}/m", "messages": HISTORY, "stream": stream}
    place, usage, _ = CASES[preset]
    reply = Reply.sse(streamed(place, usage)) if stream else Reply.json(
        200, chat({"role": "assistant", "content": "hi"}, usage)
    )  # fmt: skip
    answer = gateway.send("/v1/chat/completions", body, reply)
    assert answer.status_code == 200, answer.text
    named = set(answer.headers.get("X-Goblin-Ignored", "").split(", ")) - {""}

    form = form_of(preset)
    question, turn, result = gateway.messages()
    assert question == HISTORY[0]
    (call,) = turn["tool_calls"]
    assert call["function"] == HISTORY[1]["tool_calls"][0]["function"]
    assert call["id"] == result["tool_call_id"]
    if form.tool_call_ids:
        assert len(call["id"]) == 9
        assert call["id"].isalnum()
    else:
        assert call["id"] == FOREIGN_ID

    assert set(form.refused_fields).isdisjoint({*turn, *call})
    content = turn["content"]
    thinking = {"thinking"} if isinstance(content, list) else set()
    found = {*turn, *call, *thinking} - {
        "role", "content", "tool_calls", "id", "type", "function", "refusal", "annotations"
    }  # fmt: skip
    assert found == set(KEPT[preset].split())
    assert (len(call["id"]) == 9) is (preset == "mistral")
    kept = {"reasoning_content", "reasoning"} & turn.keys()
    wanted = form.reasoning_field
    own = {"reasoning_content"} if wanted is None else {wanted} - {"", "thinking_parts"}
    assert kept == own
    for name in ("reasoning_details", "thinking_blocks"):
        assert (name in turn) is not (f"messages.{name}" in named)
    extra = "messages.tool_calls.extra_content"
    assert ("extra_content" in call) is not (extra in named)
    assert ("messages.reasoning_content" in named) is (wanted == "")
    assert not {"messages.refusal", "messages.annotations"} & named  # they said nothing


def test_every_statement_has_its_source_and_stands_in_the_documentation() -> None:
    page = (ROOT / "docs" / "providers.md").read_text()
    assert message_table() in page
    assert overflow_table() in page
    for form in WIRE_FORMS.values():
        for part in (form.messages, form.usage, form.overflow):
            if part is not None:
                assert "https://" in part.source.reference
                assert re.fullmatch(r"20\d\d-\d\d-\d\d", part.source.read_on)


def test_what_a_server_needs_back_is_never_what_it_refuses() -> None:
    for form in WIRE_FORMS.values():
        if form.messages is not None:
            assert form.messages.reasoning_field not in form.messages.refused_fields
            if form.messages.thought_signatures:
                assert "extra_content" not in form.messages.refused_fields
