"""How many tokens are assumed where nobody counts them."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from goblin_assistant.usage.delivered import DeliveredText
from goblin_assistant.usage.estimates import (
    ATTACHMENT_TOKENS,
    IMAGE_TOKENS,
    estimate_completion_tokens,
    estimate_prompt_tokens,
    max_completion_tokens,
    most_prompt_tokens,
)


def said(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


def test_text_is_counted_in_bytes() -> None:
    # role, user, content: 15 bytes of names; 3 tokens prime the answer
    assert estimate_prompt_tokens(said("x" * 385)) == 3 + 100
    assert most_prompt_tokens(said("x" * 285)) == 3 + 100
    assert estimate_prompt_tokens(said("ж" * 100)) == estimate_prompt_tokens(said("x" * 200))


def test_english_is_near_its_true_count() -> None:
    # 56 tokens in o200k_base, with the message's frame 63
    text = (
        "The quick brown fox jumps over the lazy dog while the goblin counts every single token "
        "twice, because money is involved and nobody likes surprises at the end of the month. He "
        "writes the sum into a large book, closes it, "
        "and goes home to have dinner with his family in peace."
    )
    assert 0.9 * 63 < estimate_prompt_tokens(said(text)) < 1.3 * 63
    assert most_prompt_tokens(said(text)) > 63


@pytest.mark.parametrize(
    "body",
    [
        said("hello"),
        said(
            [
                {"type": "text", "text": "hello"},
                {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
            ]
        ),
        {"input": ["a", "b"]},
        {"input": [1, 2, 3]},
        {
            **said("x"),
            "tools": [
                {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
            ],
        },
        {},
        {"messages": []},
        said("\ud800 lone"),
    ],
)
def test_the_cautious_count_is_never_below_the_fair_one(body: dict[str, Any]) -> None:
    assert most_prompt_tokens(body) >= estimate_prompt_tokens(body) >= 1


def test_an_image_counts_the_same_however_large_it_is_sent() -> None:
    small = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    large = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 2_000_000}}
    theirs = {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": "A" * 2_000_000},
    }
    base = estimate_prompt_tokens(said([]))
    for part in (small, large, theirs):
        assert estimate_prompt_tokens(said([part])) == base + IMAGE_TOKENS


def test_documents_and_audio_count_by_their_size() -> None:
    part = {"type": "file", "file": {"file_data": "data:application/pdf;base64," + "A" * 1_600_000}}
    assert 100_000 <= estimate_prompt_tokens(said([part])) < 101_000
    part = {"type": "input_audio", "input_audio": {"data": "A" * 100, "format": "mp3"}}
    assert (
        estimate_prompt_tokens(said([part])) == estimate_prompt_tokens(said([])) + ATTACHMENT_TOKENS
    )


def test_a_document_that_is_plain_text_counts_as_text() -> None:
    part = {
        "type": "document",
        "source": {"type": "text", "media_type": "text/plain", "data": "x" * 400_000},
    }
    assert 100_000 <= estimate_prompt_tokens(said([part])) < 100_100


def test_tools_and_the_system_prompt_count() -> None:
    base = estimate_prompt_tokens(said("hi"))
    assert (
        estimate_prompt_tokens({**said("hi"), "tools": [{"description": "x" * 4000}]}) > base + 1000
    )
    assert estimate_prompt_tokens({**said("hi"), "system": "x" * 4000}) == base + 1000


def test_nesting_of_any_depth_is_counted() -> None:
    deep: Any = "x"
    for _ in range(5000):
        deep = [deep]
    assert estimate_prompt_tokens(said(deep)) >= 1


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, 4096),
        ({"max_tokens": 10}, 10),
        ({"max_completion_tokens": 7, "max_tokens": 10}, 10),
        ({"max_tokens": 10, "n": 3}, 30),
        ({"n": 2}, 8192),
        ({"max_tokens": None, "n": None}, 4096),
        ({"max_tokens": "ten"}, 4096),
        ({"max_tokens": True}, 4096),
    ],
)
def test_the_answers_are_as_long_as_the_request_allows_all_choices_together(
    body: dict[str, Any], expected: int
) -> None:
    assert max_completion_tokens(body, 4096) == expected


def test_an_answer_without_usage_is_counted_by_its_text() -> None:
    openai = orjson.dumps(
        {"choices": [{"message": {"content": "x" * 400}}, {"message": {"content": "x" * 400}}]}
    )
    assert estimate_completion_tokens(openai) == 200
    assert estimate_completion_tokens(orjson.dumps({"content": [{"text": "x" * 40}]})) == 10
    assert [
        estimate_completion_tokens(body) for body in (b"", b"no json", b"[]", b'{"choices": 1}')
    ] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("choices", "size"),
    [
        ([{"delta": {"reasoning_content": "a", "reasoning": "x" * 4000}}], 4000),
        ([{"delta": {"reasoning": "x" * 4000, "reasoning_content": "a"}}], 4000),
        ([{"delta": {"reasoning": "a", "reasoning_details": [{"text": "x" * 4000}]}}], 4000),
        ([{"delta": {"reasoning_details": [{"text": "x" * 4000}]}}], 4000),
        ([{"delta": {"reasoning_content": "x" * 4000, "reasoning": "x" * 4000}}], 4000),
        ([{"delta": {"content": "a"}}, {"text": "x" * 4000}], 4001),
        ([{"delta": {"content": "a"}}, {"message": {"content": "x" * 4000}}], 4001),
        ([{"delta": {"content": "a"}, "text": "x" * 4000}], 4001),
        ([{"text": "x" * 4000}, {"delta": {"content": "a"}}], 4001),
    ],
)
def test_all_that_a_chunk_delivers_counts_and_what_it_repeats_counts_once(
    choices: list[dict[str, Any]], size: int
) -> None:
    delivered = DeliveredText()
    event = json.dumps({"choices": choices}, separators=(",", ":"))
    delivered.add(f"data: {event}\n\n".encode())
    assert delivered.tokens == -(-size // 4)
