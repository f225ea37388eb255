"""How many tokens are assumed where no provider has counted them."""

from __future__ import annotations

import base64
import json
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import Any

import orjson
import pytest

from goblin_assistant.usage.delivered import DeliveredText
from goblin_assistant.usage.documents import PAGE_TOKENS
from goblin_assistant.usage.estimates import (
    ATTACHMENT_TOKENS,
    IMAGE_TOKENS,
    UNSEEN_TOKENS,
    count_prompt,
    estimate_completion_tokens,
    estimate_prompt_tokens,
    max_completion_tokens,
    most_prompt_tokens,
    text_length,
)
from goblin_assistant.usage.images import DEAR_FACTOR, MEASURED_IMAGES, image_size
from tests.support.nasty_bodies import ESTIMATED, Make


def said(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


def test_text_is_counted_in_bytes() -> None:
    # role, user, content: 15 bytes of names; 3 tokens prime the answer
    assert estimate_prompt_tokens(said("x" * 385)) == 3 + 100
    assert most_prompt_tokens(said("x" * 285)) == 3 + 100
    assert estimate_prompt_tokens(said("ж" * 100)) == estimate_prompt_tokens(said("x" * 200))


@pytest.mark.parametrize(
    "item",
    [
        {"role": "user", "content": "hello"},
        {"role": "ü", "content": "über"},
        {"type": "text", "text": "hällo"},
        {"type": "text", "text": 5},
        {"content": "hello", "other": "hello"},
        {"type": "image_url", "text": "hello"},
        {"type": ["image"], "text": "hello"},
        {"role": "user", "content": [{"type": "text", "text": "hello"}]},
    ],
)
def test_an_item_of_two_fields_counts_as_one_of_three_of_which_one_is_empty(
    item: dict[str, Any],
) -> None:
    empty = count_prompt({"messages": [{**item, "name": None}]})
    counted = count_prompt({"messages": [item]})
    assert replace(counted, text_bytes=0) == replace(empty, text_bytes=0)
    assert empty.text_bytes - counted.text_bytes == len("name")


def test_a_document_of_two_fields_is_one() -> None:
    assert count_prompt(said([{"type": "file", "text": "hello"}])).attachments == ATTACHMENT_TOKENS


@pytest.mark.parametrize("content", [{"inner": "x" * 400}, 5, None])
def test_content_of_an_unknown_form_counts_as_much_as_any_other_field(content: Any) -> None:
    item = {"role": "user", "name": "ada"}
    counted = count_prompt({"messages": [{**item, "content": content}]})
    assert counted == count_prompt({"messages": [{**item, "another": content}]})


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


def picture(data: bytes, kind: str = "jpeg") -> dict[str, Any]:
    url = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def jpeg(before: bytes = b"", width: int = 300, height: int = 200) -> bytes:
    sizes = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return b"\xff\xd8" + before + b"\xff\xc0\x00\x11\x08" + sizes + b"\x03" + bytes(40)


@pytest.mark.parametrize(
    "before",
    [
        b"",
        b"\xff" * 100,
        b"\xff" * 800,
        b"\xff\xe0\x00\x10" + bytes(14),
        b"\xff\xe1\xff\xfe" + bytes(0xFFFC) + b"\xff\xe2\x40\x00" + bytes(0x3FFE),
    ],
)
def test_a_jpegs_size_is_read_behind_fillers_and_metadata(before: bytes) -> None:
    picture_url = picture(jpeg(before))["image_url"]["url"]
    assert image_size(picture_url) == (300, 200)


def test_a_few_hundred_images_of_a_request_are_measured_and_the_others_count_the_most() -> None:
    small = picture(jpeg())
    few, many = ([small] * count for count in (MEASURED_IMAGES, MEASURED_IMAGES + 10))
    each = count_prompt(said([small])).images
    assert count_prompt(said(few)).images == MEASURED_IMAGES * each
    assert count_prompt(said(many)).images == MEASURED_IMAGES * each + 10 * IMAGE_TOKENS


def pdf(pages: int) -> bytes:
    """Blank pages that share one object."""
    return (
        b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Count "
        + str(pages).encode()
        + b"/Kids["
        + b"3 0 R " * pages
        + b"]>>endobj\n3 0 obj<</Type/Page/Parent 2 0 R>>endobj\n%%EOF"
    )


def packed(data: bytes) -> bytes:
    stream = zlib.compress(data)
    return (
        b"%PDF-1.5\n1 0 obj<</Type/ObjStm/Filter/FlateDecode/N 3/First 9/Length "
        + str(len(stream)).encode()
        + b">>stream\r\n"
        + stream
        + b"\r\nendstream endobj\n%%EOF"
    )


def document(**source: str) -> dict[str, Any]:
    return {"type": "document", "source": source}


def in_base64(data: bytes) -> dict[str, Any]:
    return document(
        type="base64", media_type="application/pdf", data=base64.b64encode(data).decode()
    )


@pytest.mark.parametrize("make", [bytes, packed, lambda data: b"\n" * 500 + data])
@pytest.mark.parametrize("pages", [1, 5, 30])
def test_the_pages_of_a_pdf_are_reserved_and_not_billed(
    make: Callable[[bytes], bytes], pages: int
) -> None:
    body = said([in_base64(make(pdf(pages)))])
    count = count_prompt(body)
    expected = max(ATTACHMENT_TOKENS, pages * PAGE_TOKENS)
    assert expected <= count.held() <= count.most() < expected + 1000
    assert count.estimate < ATTACHMENT_TOKENS + 1000


@pytest.mark.parametrize(
    "part",
    [
        document(type="url", url="https://example.com/a.pdf"),
        document(type="file", file_id="file_1"),
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "file", "file": {"file_data": "https://example.com/a.pdf", "filename": "a.pdf"}},
        {"type": "input_file", "file_url": "https://example.com/a.pdf"},
        {"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}},
        in_base64(b"%PDF-1.7 whose pages cannot be found"),
        in_base64(pdf(5000)),
    ],
)
def test_what_cannot_be_seen_is_reserved_up_to_the_models_window(part: dict[str, Any]) -> None:
    count = count_prompt(said([part]))
    assert UNSEEN_TOKENS <= count.held() <= count.most() < UNSEEN_TOKENS + 20_000
    assert 32_000 <= count.held(window=32_000) < 45_000
    assert count.estimate < ATTACHMENT_TOKENS + 10_000


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        {"tools": [{"type": "web_fetch_20250910", "name": "web_fetch"}]},
        {"tools": [{"type": "mcp_toolset", "mcp_server_name": "a"}]},
        {"mcp_servers": [{"type": "url", "url": "https://example.com", "name": "a"}]},
        {"web_search_options": {}},
    ],
)
def test_tools_that_run_at_the_provider_are_reserved(fields: dict[str, Any]) -> None:
    count = count_prompt({**said("hi"), **fields})
    assert UNSEEN_TOKENS <= count.held() <= count.most() < UNSEEN_TOKENS + 1000
    assert count.estimate < 100


@pytest.mark.parametrize(
    "tool",
    [
        {"name": "f", "input_schema": {"type": "object"}},
        {"type": "custom", "name": "f", "input_schema": {"type": "object"}},
        {"type": "function", "function": {"name": "f"}},
        {"type": "bash_20250124", "name": "bash"},
        {"type": "text_editor_20250728", "name": "edit"},
    ],
)
def test_tools_that_run_at_the_client_count_as_text(tool: dict[str, Any]) -> None:
    count = count_prompt({**said("hi"), "tools": [tool]})
    assert count.held() <= count.most() < 100


@pytest.mark.parametrize("make", ESTIMATED.values(), ids=list(ESTIMATED))
def test_a_request_is_counted_in_few_steps(make: Make) -> None:
    """Steps of the interpreter: unlike time, they do not depend on the machine's load."""
    body = make(300_000)
    parsed = orjson.loads(body)
    events = 0

    def step(frame: FrameType, event: str, arg: object) -> Callable[..., Any]:
        nonlocal events
        events += 1
        return step

    before = sys.gettrace()
    sys.settrace(step)
    try:
        count = count_prompt(parsed)
    finally:
        sys.settrace(before)
    assert count.estimate >= 1
    assert events < len(body)


URL = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
"""An image whose size is not known."""


@pytest.mark.parametrize(
    ("body", "size"),
    [
        ({"prompt": "x" * 10}, 10),
        ({"prompt": "ж" * 10}, 20),
        ({"prompt": "\ud800"}, 3),
        ({"model": "m" * 50, "user": "u" * 50, "max_tokens": 5, "n": 2, "stop": "ab"}, 2),
        ({"temperature": 0.5, "stream": True, "top_k": 40, "seed": None}, 0),
        ({"metadata": {"user_id": "x" * 50, "team": "abc"}}, 3),
        ({"metadata": "abcd"}, 4),
        (orjson.loads(b'{"metadata": {"user_id": "xxxx", "team": "abc", "zone": "de"}}'), 5),
        ({"format": {"type": "abc"}}, 4 + 3),
        ({"response_format": {"type": "abc"}}, 4 + 3),
        ({"tools": [{"añ": ["b", 1, True, None, {"c": "dd"}]}]}, 3 + 1 + 4 + 4 + 1 + 2),
        ({"tools": [{"d": "ж"}]}, 1 + 2),
        ({"tools": [list(range(8))]}, 8 * 4),
        ({"tools": [list(range(9))]}, 9 * 4),
        ({"tools": [[*range(9), "a"]]}, 9 * 4 + 1),
        ({"tools": []}, 0),
        ({"input": [1, 2.5, 3]}, 3 * 4),
        ({"input": []}, 0),
        ({"input": [1, "ab"]}, 4 + 2),
        ({"input": [1, 2.5, "abc"]}, 4 + 4 + 3),
        ({"input": ["ab", 1]}, 4 + 2),
        ({"input": [[1, 2], [3]]}, 3 * 4),
        ({"system": "abc"}, 3),
        ({"system": [{"type": "text", "text": "abc"}]}, 4 + 4 + 4 + 3),
        ({"input": [{"role": "user", "content": "abc", "name": "ü"}]}, 4 + 4 + 7 + 3 + 4 + 2),
        ({"input": [{"role": "user", "content": [{"type": "text", "text": "é"}]}]},
         4 + 4 + 7 + 4 + 4 + 4 + 2),
        ({"input": [{"type": "function_call_output", "output": [URL, "abc"], "id": None}]},
         4 + 20 + 6 + 3 + 2),
        ({"input": [{"type": "tool_use", "input": {"type": "image"}, "n": 1}]},
         4 + 8 + 5 + 4 + 5 + 1 + 4),
    ],
    ids=repr,
)  # fmt: skip
def test_the_bytes_of_all_that_the_model_reads_are_counted(body: dict[str, Any], size: int) -> None:
    assert count_prompt(body).text_bytes == size


@pytest.mark.parametrize(
    ("size", "fair", "cautious"), [(0, 1, 1), (1, 1, 1), (4, 1, 2), (5, 2, 2), (12, 3, 4)]
)
def test_tokens_are_rounded_up_and_at_least_one(size: int, fair: int, cautious: int) -> None:
    count = count_prompt({"prompt": "x" * size})
    assert (count.estimate, count.held(), count.most()) == (fair, fair, cautious)
    assert most_prompt_tokens({"prompt": "x" * size}) == cautious


def test_messages_are_framed_and_other_forms_are_not() -> None:
    assert estimate_prompt_tokens({"messages": []}) == 3
    assert estimate_prompt_tokens({"input": []}) == 1


def test_images_are_reserved_for_at_what_the_dearest_model_counts() -> None:
    count = count_prompt(said([URL, URL]))
    text = -(-count.text_bytes // 4) + 3
    assert (count.estimate, count.held()) == (text + 2 * IMAGE_TOKENS,) * 2
    most = count.most(["gpt-4o"])
    assert count.most() == most == count.most_images + 3 - (-count.text_bytes // 3)
    dear = count.most(["gpt-4o", "openai/gpt-4o-mini-2024"])
    assert dear == most + (DEAR_FACTOR - 1) * count.most_images
    assert most_prompt_tokens(said([URL, URL]), ["gpt-4o-mini"]) == dear


@pytest.mark.parametrize(
    ("part", "size"),
    [
        (URL, 0),
        ({**URL, "type": "image"}, None),
        ({**URL, "cache_control": {"type": "ephemeral"}}, 0),
        ({**URL, "note": "abc"}, 4 + 3),
        ({**URL, "alt": "abc"}, 3 + 3),
        (orjson.loads(orjson.dumps({**URL, "note": "abc"})), 4 + 3),
        ({"type": "image_url", "image_url": {**URL["image_url"], "detail": "high"}}, 0),
        ({"type": "image_url", "image_url": {**URL["image_url"], "alt": "abc"}}, 3),
        ({"type": "input_image", "image_url": "https://example.com/a.png", "detail": "low"}, 0),
        ({"type": "input_image", "file_id": "file-1"}, 0),
    ],
    ids=repr,
)
def test_what_stands_beside_an_image_counts_as_text(part: dict[str, Any], size: int | None) -> None:
    empty = count_prompt(said([]))
    count = count_prompt(said([part]))
    if size is None:  # it is no image
        assert count.images == 0
        assert count.text_bytes > empty.text_bytes
    else:
        assert count.images == IMAGE_TOKENS
        assert count.text_bytes == empty.text_bytes + size


def test_images_in_the_results_of_tools_and_in_documents_are_images() -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "content": [URL, {"a": "b"}]}
    assert count_prompt(said([result])).images == IMAGE_TOKENS
    source = {"type": "content", "content": [URL, {"type": "text", "text": "x" * 40}], "by": "me"}
    document = {"type": "document", "source": source, "title": "abc"}
    inside = count_prompt(orjson.loads(orjson.dumps(said([document]))))
    assert (inside.images, inside.attachments) == (IMAGE_TOKENS, 0)
    names = "typedocumentsourcetypecontentbymetitleabctypetexttext"
    assert inside.text_bytes == count_prompt(said([])).text_bytes + len(names) + 40


def test_each_tool_that_runs_at_the_provider_is_reserved_for() -> None:
    def unseen(**fields: Any) -> int:
        return count_prompt({**said("hi"), **fields}).unseen

    web, mine = {"type": "web_search_2025"}, {"type": "function", "function": {"name": "f"}}
    assert unseen() == unseen(tools=[mine, {"name": "x"}, "odd"]) == unseen(tools="odd") == 0
    assert unseen(tools=[mine, web, web]) == 2 * UNSEEN_TOKENS
    assert unseen(tools=[web], plugins=[{"id": "web"}]) == 2 * UNSEEN_TOKENS
    assert unseen(plugins=[], web_search_options=False, mcp_servers=None) == 0


def test_documents_are_reserved_for_beside_tools_and_text() -> None:
    link = document(type="url", url="https://example.com/a.pdf")
    count = count_prompt({**said([{"type": "text", "text": "x" * 40}, link]), "plugins": ["web"]})
    assert count.unseen == 2 * UNSEEN_TOKENS
    assert count.text_bytes >= 40


def test_a_prediction_costs_its_text_like_an_answer() -> None:
    assert count_prompt({"prediction": {"type": "content", "content": "x" * 30}}).prediction == 13
    assert count_prompt({"prediction": "xxxx"}).prediction == 2
    assert count_prompt({"prediction": None}).prediction == count_prompt({}).prediction == 0


def test_the_text_of_any_json_is_measured_without_its_names_and_numbers() -> None:
    assert text_length({"name": ["ab", {"x": "ж"}, 5, None, True], "y": {}}) == 4
