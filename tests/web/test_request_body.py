"""Bodies that are not what they should be: refused in words, without repeating what was sent."""

from __future__ import annotations

import json

import pytest
from pydantic import BaseModel, ValidationError

from goblin_assistant.errors import BadRequest, ValidationFailed
from goblin_assistant.schemas.base import MAX_INPUTS, MAX_MESSAGES
from goblin_assistant.schemas.chat import ChatCompletionRequest, EmbeddingsRequest
from goblin_assistant.schemas.messages import MessagesRequest
from goblin_assistant.schemas.responses import ResponsesRequest
from goblin_assistant.web.request_body import (
    MAX_PROBLEMS,
    PRICED_KEYS,
    load,
    load_object,
    parse_json,
    validation_failed,
)

HELLO = [{"role": "user", "content": "hello"}]


def chat(**fields: object) -> bytes:
    return json.dumps({"messages": HELLO, **fields}).encode()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"not json",
        b"\xff\xfe",
        b'{"a": "\xed\xa0\x80"}',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": "\\ud800"}',
        b'{"a": 1} {}',
        b'{"a": 1,}',
        b"{'a': 1}",
        b"[" * 100_000,
        b"[" * 500 + b"]" * 500,
        b'{"a":' * 300 + b"1" + b"}" * 300,
        b'{"a": "\x00"}',
    ],
    ids=lambda raw: repr(raw[:24]),
)
def test_what_is_not_json_is_a_bad_request(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        load(raw)


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b'{"canary": 1,}', "trailing comma is not allowed: line 1 column 13"),
        (b'{"canary": 1', "unexpected end of data: line 1 column 13"),
        (b'{"canary": "\\ud83d"}', "no low surrogate in string"),
        (b"\xef\xbb\xbf{}", r"UTF-8 byte order mark \(BOM\) is not supported"),
        ('{"canary": "é"}'.encode("latin-1"), "its text is not UTF-8$"),
        ('{"canary": 1}'.encode("utf-16"), "its text is not UTF-8$"),
    ],
)
def test_the_message_says_why_a_body_is_not_json(raw: bytes, told: str) -> None:
    with pytest.raises(BadRequest, match=f"^the body is not valid JSON: {told}") as refused:
        parse_json(ChatCompletionRequest, raw)
    assert "canary" not in refused.value.message


def test_the_message_names_the_key_that_is_there_twice() -> None:
    for raw, name in (
        (b'{"messages": [{"role": "user", "content": "x"}], "model": "a", "model": "b"}', "model"),
        (b'{"messages": [{"role": "user", "role": "user", "content": "x"}], "mod\\u0065l": "b"}',
        "role"),
    ):  # fmt: skip
        with pytest.raises(BadRequest, match=f"twice in one object: {name}$"):
            parse_json(ChatCompletionRequest, raw)
    for raw in (b'{"a b": 1, "a b": 2}', b'{"a": 1, "a": "' + b"9" * 70_000 + b'"}'):
        with pytest.raises(BadRequest, match=r"twice in one object$"):
            load_object(raw)


@pytest.mark.parametrize("raw", [b"null", b"[]", b"3", b'"text"', b"true"])
def test_json_that_is_no_object_is_a_bad_request(raw: bytes) -> None:
    with pytest.raises(BadRequest, match="must be a JSON object"):
        load_object(raw)
    with pytest.raises(BadRequest, match="must be a JSON object"):
        parse_json(ChatCompletionRequest, raw)


def test_a_key_given_twice_is_refused_wherever_we_decide_by_it() -> None:
    with pytest.raises(BadRequest, match="same key twice"):
        load_object(b'{"a": {"b": 1, "b": 2}}')
    for extra in (
        b'"model": "a", "model": "b"',
        b'"model": "a", "mod\\u0065l": "b"',
        b'"stream": false, "stream": true',
    ):
        with pytest.raises(BadRequest, match="same key twice"):
            parse_json(
                ChatCompletionRequest,
                b'{"messages": [{"role": "user", "content": "x"}], ' + extra + b"}",
            )


@pytest.mark.parametrize(
    "name",
    [
        *PRICED_KEYS, "tools", "stream_options", "store", "background", "previous_response_id",
        "conversation", "prompt", "system", "instructions",
    ],
)  # fmt: skip
def test_a_key_that_costs_or_keeps_something_is_refused_if_it_is_given_twice(name: str) -> None:
    head = b'{"messages": [{"role": "user", "content": "x"}], '
    once = b'"%b": null' % name.encode()
    assert name in parse_json(ChatCompletionRequest, head + once + b"}")
    with pytest.raises(BadRequest, match="same key twice"):
        parse_json(ChatCompletionRequest, head + once + b", " + once + b"}")


@pytest.mark.parametrize("name", ["Conversation", "PROMPT", "Previous_Response_ID", "Store"])
def test_what_a_provider_keeps_is_refused_in_other_letters(name: str) -> None:
    with pytest.raises(BadRequest, match="has to be written exactly so"):
        parse_json(ResponsesRequest, json.dumps({"input": "x", name: "r"}).encode())


@pytest.mark.parametrize(
    "name",
    [
        "Max_Tokens", "MAX_COMPLETION_TOKENS", "N_Predict", "Best_Of", "N", "Model", "Stream",
        "Service_Tier", "max_to\u212aens", "me\u017f\u017fages",
    ],
)  # fmt: skip
@pytest.mark.parametrize("schema", [ChatCompletionRequest, MessagesRequest])
def test_a_known_field_in_other_letters_is_refused_because_some_servers_read_it(
    schema: type[BaseModel], name: str
) -> None:
    body = {"model": "m", "max_tokens": 1, "messages": HELLO, name: 50_000}
    with pytest.raises(BadRequest, match="has to be written exactly so") as raised:
        parse_json(schema, json.dumps(body).encode())
    assert raised.value.status == 400
    assert raised.value.param == name.casefold()


def test_unknown_fields_may_have_any_letters() -> None:
    body = {"model": "m", "messages": HELLO, "Custom": 1, "repeat_Penalty": 2, "İ": 3, "": 4}
    assert parse_json(ChatCompletionRequest, json.dumps(body).encode()) == body


@pytest.mark.parametrize("shift", range(-8, 3))
def test_an_escaped_key_is_seen_wherever_it_stands(shift: int) -> None:
    head = b'{"messages": [{"role": "user", "content": "x"}], "model": "a", "pad": "'
    pad = b"x" * (1024 * 1024 - len(head) - len(b'", "mod') + shift)
    with pytest.raises(BadRequest, match="same key twice"):
        parse_json(ChatCompletionRequest, head + pad + b'", "mod\\u0065l": "b"}')


@pytest.mark.parametrize("shift", range(-10, 3))
def test_a_repeated_key_is_seen_wherever_it_stands(shift: int) -> None:
    head = b'{"messages": [{"role": "user", "content": "x"}], "model": "a", "pad": "'
    pad = b"x" * (1024 * 1024 - len(head) - len(b'", ') + shift)
    with pytest.raises(BadRequest, match="same key twice"):
        parse_json(ChatCompletionRequest, head + pad + b'", "model": "b"}')
    assert parse_json(ChatCompletionRequest, head + pad + b'", "mode": "b"}')["model"] == "a"


def test_a_guarded_name_inside_the_content_is_no_repetition() -> None:
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": '{"model": "x", "stream": 1}'}],
        "tools": [{"model": 1}],
    }
    assert parse_json(ChatCompletionRequest, json.dumps(body).encode()) == body


def test_nul_in_stored_text_is_refused() -> None:
    with pytest.raises(BadRequest, match="NUL"):
        load_object(b'{"name": "a\\u0000b"}')
    with pytest.raises(BadRequest, match="NUL"):
        load_object(b'{"deep": [{"na\\u0000me": 1}]}')
    assert load_object(b'{"name": "a\\\\u0000b"}') == {"name": "a\\u0000b"}


def test_numbers_of_any_length_are_read_or_refused_but_never_break() -> None:
    assert load_object(b'{"a": 123456789012345678901234567890}') == {"a": 1.2345678901234568e29}
    with pytest.raises(BadRequest):
        load_object(b'{"a": 1' + b"0" * 5000 + b"}")


def test_a_number_without_a_fraction_is_an_integer_however_it_is_written() -> None:
    body = load_object(b'{"a": 5.0, "b": [1e2, 0.5, {"c": -3.0}], "d": "5.0", "e": true}')
    assert body == {"a": 5, "b": [100, 0.5, {"c": -3}], "d": "5.0", "e": True}
    assert type(body["a"]) is int
    assert type(body["b"][2]["c"]) is int


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [*HELLO, {"role": ["user"], "content": "x"}]}, "messages[1].role"),
        ({"messages": [*HELLO, {"role": None, "content": "x"}]}, "messages[1].role"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"text": "x"}]}]},
            "messages[0].content[0].type",
        ),
        ({"messages": ["x"]}, "messages[0]"),
        ({"model": ""}, "model"),
        ({"model": "a\nb"}, "model"),
        ({"model": "x" * 256}, "model"),
        ({"model": 3}, "model"),
        ({"stream": "yes"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "0.5"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"stop": 3}, "stop"),
        ({"tools": {}}, "tools"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, object], param: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        parse_json(ChatCompletionRequest, chat(**fields))
    assert caught.value.param == param
    assert param in str(caught.value)


@pytest.mark.parametrize(
    ("model", "fields", "told"),
    [
        (ChatCompletionRequest, {"messages": []}, "messages: List should have at least 1 item"),
        (ChatCompletionRequest, {"messages": ["x"]}, "messages[0]: Input should be an object"),
        (
            ChatCompletionRequest,
            {"messages": [{"role": "user", "content": 3}]},
            "messages[0].content: Input should be a valid string or list",
        ),
        (
            ChatCompletionRequest,
            {"messages": [{"role": "user", "content": [{"text": "x"}]}]},
            "messages[0].content[0].type: Field required",
        ),
        (
            MessagesRequest,
            {"messages": [{"role": "user", "content": ["x"]}], "max_tokens": 9},
            "messages[0].content[0]: Input should be an object",
        ),
        (ChatCompletionRequest, {"stop": 3}, "stop: Input should be a valid string or list"),
        (ChatCompletionRequest, {"stop": ["x", 3]}, "stop[1]: Input should be a valid string"),
        (
            ChatCompletionRequest,
            {"tool_choice": 3},
            "tool_choice: Input should be a valid string or object",
        ),
        (
            ChatCompletionRequest,
            {"response_format": "x"},
            "response_format: Input should be an object",
        ),
        (ResponsesRequest, {"input": []}, "input: List should have at least 1 item"),
        (ResponsesRequest, {"input": ["x"]}, "input[0]: Input should be an object"),
        (
            ResponsesRequest,
            {"input": [{"role": "user", "content": 5}]},
            "input[0].content: Input should be a valid string or list",
        ),
        (EmbeddingsRequest, {"input": []}, "input: List should have at least 1 item"),
        (EmbeddingsRequest, {"input": ""}, "input: String should have at least 1 character"),
        (EmbeddingsRequest, {"input": 3}, "input: Input should be a valid string or list"),
    ],
)
def test_the_message_says_what_a_field_takes(
    model: type[BaseModel], fields: dict[str, object], told: str
) -> None:
    body = (
        fields if model in (ResponsesRequest, EmbeddingsRequest) else {"messages": HELLO, **fields}
    )
    with pytest.raises(ValidationFailed) as caught:
        parse_json(model, json.dumps(body).encode())
    assert str(caught.value) == told
    assert caught.value.extra["fields"] == [
        {"field": caught.value.param, "message": told.partition(": ")[2]}
    ]


def test_what_is_no_object_at_all_is_told_without_a_field() -> None:
    with pytest.raises(ValidationError) as found:
        ChatCompletionRequest.model_validate(5)
    assert str(validation_failed(found.value)) == "Input should be an object"


def test_values_are_never_repeated_and_made_up_names_only_when_they_look_like_names() -> None:
    from goblin_assistant.schemas.base import Strict

    class Login(Strict):
        password: str

    with pytest.raises(ValidationFailed) as caught:
        parse_json(Login, b'{"password": ["CANARY"], "sk-CANARY CANARY": 1, "pasword": "CANARY"}')
    shown = str(caught.value) + str(caught.value.extra) + str(caught.value.param)
    assert "CANARY" not in shown
    assert "pasword" in shown


def test_the_first_wrong_item_of_a_list_ends_the_check() -> None:
    with pytest.raises(ValidationFailed) as caught:
        parse_json(ChatCompletionRequest, chat(messages=[{"role": "x"}] * 500))
    assert [problem["field"] for problem in caught.value.extra["fields"]] == ["messages[0].role"]


def test_only_the_first_problems_are_listed() -> None:
    with pytest.raises(ValidationFailed) as caught:
        parse_json(
            ChatCompletionRequest, chat(logit_bias={f"k{number}": "x" for number in range(500)})
        )
    assert len(caught.value.extra["fields"]) == MAX_PROBLEMS
    assert "and 490 more" in str(caught.value)


def test_a_wrong_item_far_down_a_long_list_is_named_by_its_place() -> None:
    messages = [*HELLO * 4321, {"role": "user"}, {"role": "wizard"}]
    with pytest.raises(ValidationFailed) as caught:
        parse_json(ChatCompletionRequest, chat(messages=messages))
    assert caught.value.param == "messages[4322].role"
    parts = [{"type": "text", "text": "x"}] * 2500
    for model in (ChatCompletionRequest, MessagesRequest):
        body = {"max_tokens": 5, "messages": [{"role": "user", "content": [*parts, {"type": 3}]}]}
        with pytest.raises(ValidationFailed) as caught:
            parse_json(model, json.dumps(body).encode())
        assert caught.value.param == "messages[0].content[2500].type"
        assert caught.value.extra["fields"][-1]["field"] == "messages[0].content[2500].type"


@pytest.mark.parametrize("model", [ChatCompletionRequest, MessagesRequest])
def test_messages_are_counted_before_any_is_looked_at(model: type[BaseModel]) -> None:
    most = json.dumps(
        {"max_tokens": 5, "messages": HELLO * MAX_MESSAGES}, separators=(",", ":")
    ).encode()
    parse_json(model, most)
    with pytest.raises(ValidationFailed, match="at most 100000 items"):
        parse_json(model, b'{"max_tokens":5,"messages":[' + b"{}," * MAX_MESSAGES + b"{}]}")


def test_embeddings_take_many_tokens_and_no_more_texts_than_openai() -> None:
    parse_json(EmbeddingsRequest, json.dumps({"input": list(range(200_000))}).encode())
    parse_json(EmbeddingsRequest, json.dumps({"input": [[1, 2, 3]] * MAX_INPUTS}).encode())
    for item in ("a", [1]):
        with pytest.raises(ValidationFailed, match="at most 2048 inputs"):
            parse_json(EmbeddingsRequest, json.dumps({"input": [item] * (MAX_INPUTS + 1)}).encode())
    for wrong in ([1] * 5000 + ["a"], [[1]] * 1500 + [["a"]], ["a"] * 2000 + [1]):
        with pytest.raises(ValidationFailed, match="input"):
            parse_json(EmbeddingsRequest, json.dumps({"input": wrong}).encode())


def test_more_biases_than_any_model_takes_are_counted_only() -> None:
    with pytest.raises(ValidationFailed, match="at most 10000 entries"):
        parse_json(
            ChatCompletionRequest, chat(logit_bias={str(number): "x" for number in range(10_001)})
        )


def test_a_stored_object_of_many_fields_is_refused_before_they_are_compared() -> None:
    with pytest.raises(ValidationFailed, match="too many fields"):
        load_object(json.dumps({str(number): 1 for number in range(101)}).encode())


@pytest.mark.parametrize(
    "unit",
    [b"[],", b"{},", b'{"a":1},', b'"ab",', b"[1],", b"1,", b'{"a":[{}]},'],
)
def test_a_dense_body_is_refused_before_it_is_parsed(
    unit: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "goblin_assistant.schemas.json_bounds.orjson.loads",
        lambda raw: pytest.fail("it was parsed"),
    )
    raw = b'{"messages":[' + unit * (6_000_000 // len(unit)) + unit[:-1] + b"]}"
    with pytest.raises(BadRequest, match="too many values: at most about 524,000"):
        load(raw)
    with pytest.raises(BadRequest, match="too many values: at most about 10,000"):
        load_object(raw[:100_000])


def test_what_sdks_send_is_accepted_and_comes_back_untouched() -> None:
    body = {
        "model": "openai/gpt-4o",
        "messages": [
            {"role": "developer", "content": "be brief"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "what is it?"},
                    {"type": "image_url", "image_url": {"url": "data:,"}},
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                ],
            },
            {"role": "assistant", "refusal": None, "audio": None, "tool_calls": []},
            {"role": "tool", "tool_call_id": "1", "content": "42"},
            {"role": "function", "name": "f", "content": "42"},
        ],
        "temperature": 1,
        "top_p": None,
        "max_tokens": None,
        "max_completion_tokens": 100,
        "stop": ["a", "b"],
        "seed": -1,
        "n": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
        "tools": [
            {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
        ],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}},
        "logit_bias": {"50256": -100},
        "reasoning_effort": "low",
        "a_field_of_tomorrow": {"deep": [1, 2.5, None]},
    }
    assert parse_json(ChatCompletionRequest, json.dumps(body).encode()) == body


@pytest.mark.parametrize("value", ["text", ["a", "b"], [1, 2], [[1, 2], [3]]])
def test_embeddings_take_text_texts_tokens_and_lists_of_tokens(value: object) -> None:
    body = {"input": value, "model": "m", "encoding_format": "base64"}
    assert parse_json(EmbeddingsRequest, json.dumps(body).encode()) == body


@pytest.mark.parametrize("value", ["", [], [[]], None, 3, [1, "a"], {"a": 1}])
def test_embeddings_refuse_anything_else(value: object) -> None:
    with pytest.raises(ValidationFailed) as caught:
        parse_json(EmbeddingsRequest, json.dumps({"input": value, "model": "m"}).encode())
    assert caught.value.param is not None
    assert caught.value.param.startswith("input")
