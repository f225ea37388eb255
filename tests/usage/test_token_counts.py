"""The estimate of a request's tokens, against a tokenizer's counts (tests/usage/corpus)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from goblin_assistant.schemas.json_bounds import read_text
from goblin_assistant.usage.attachments import ATTACHMENT_TOKENS
from goblin_assistant.usage.images import IMAGE_TOKENS
from goblin_assistant.usage.token_counts import AT_ONCE, estimate_tokens, text_tokens
from tests.conftest import ROOT

CORPUS = ROOT / "tests" / "usage" / "corpus"
COUNTS: dict[str, int] = json.loads((CORPUS / "counts.json").read_text())
MOST = 1.5


def asked(*content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": item} for item in content]}


def test_every_request_of_the_corpus_was_counted() -> None:
    requests = {path.stem for path in CORPUS.glob("*.json")} - {"counts"}
    assert set(COUNTS) == requests
    assert len(COUNTS) >= 27
    assert min(COUNTS.values()) > 0


@pytest.mark.parametrize("name", COUNTS)
def test_an_estimate_is_no_lower_than_the_count_and_at_most_half_as_high_again(name: str) -> None:
    body = json.loads((CORPUS / f"{name}.json").read_text())
    assert COUNTS[name] <= estimate_tokens(body) <= MOST * COUNTS[name]


def test_a_text_of_any_length_is_counted_in_full() -> None:
    once, often = text_tokens("a " * 40), text_tokens("a " * 40 * AT_ONCE)
    assert often >= AT_ONCE * 40
    assert abs(often / (once * AT_ONCE) - 1) < 0.1


def test_images_and_documents_count_as_in_a_bill() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA"}}
    by_id = {"type": "document", "source": {"type": "file", "file_id": "file_1"}}
    nothing = estimate_tokens(asked("")) + 1
    assert estimate_tokens(asked([image])) >= nothing + IMAGE_TOKENS - 1
    assert estimate_tokens(asked([by_id])) >= nothing + ATTACHMENT_TOKENS - 1


def test_the_text_of_a_document_counts_as_text() -> None:
    words = "The gatekeeper had been awake since four. " * 200
    source = {"type": "text", "media_type": "text/plain", "data": words}
    within = {"type": "content", "content": [{"type": "text", "text": words}]}
    for given in (source, within):
        block = {"type": "document", "source": given}
        assert estimate_tokens(asked([block])) >= text_tokens(words), given["type"]


def test_tool_results_may_be_lists_texts_or_missing() -> None:
    text = "words of a result " * 50
    for content in (text, [{"type": "text", "text": text}]):
        block = {"type": "tool_result", "tool_use_id": "t", "content": content}
        assert estimate_tokens(asked([block])) >= text_tokens(text)
    assert estimate_tokens(asked([{"type": "tool_result", "tool_use_id": "t"}])) > 0


def test_blocks_of_any_kind_count() -> None:
    thought = {"type": "thinking", "thinking": "deep " * 100, "signature": "s"}
    unknown = {"type": "block_of_tomorrow", "anything": ["deep " * 100]}
    for block in (thought, unknown, {"type": "text", "text": 5}):
        assert estimate_tokens(asked([block])) > estimate_tokens(asked([]))


@pytest.mark.parametrize("number", ["1.00000000000000000001", "123456789012345678901"])
def test_numbers_of_many_digits_are_counted_as_they_are_written(number: str) -> None:
    block = {"type": "tool_use", "name": "f", "input": read_text(f'{{"x": {number}}}')}
    short = {"type": "tool_use", "name": "f", "input": {"x": 1}}
    assert estimate_tokens(asked([block])) > estimate_tokens(asked([short]))
