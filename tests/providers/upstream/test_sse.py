"""Server-sent events as blocks of bytes."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goblin_assistant.providers.upstream.sse import (
    MAX_EVENT_BYTES,
    EventBuffer,
    EventTooLarge,
    event_data,
    is_comment,
    single_events,
    split_events,
)

EVENTS = (
    b"data: one\n\n",
    b"event: x\ndata: two\r\n\r\n",
    b"data: three\ndata: more\n\n",
    b": comment\n\n",
    b"data: four\n\r\n",
)


@given(st.lists(st.integers(0, 120), max_size=12))
def test_blocks_are_whole_events_and_nothing_is_lost_however_the_bytes_are_cut(
    cuts: list[int],
) -> None:
    data = b"".join(EVENTS) * 2
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    blocks = EventBuffer()
    out = [blocks.feed(data[a:b]) for a, b in pairwise(edges)]
    assert b"".join(out) == data
    assert blocks.rest() == b""
    assert all(block.endswith((b"\n\n", b"\n\r\n")) for block in out if block)


@pytest.mark.parametrize("event", EVENTS)
def test_an_event_is_given_out_with_its_very_last_byte(event: bytes) -> None:
    blocks = EventBuffer()
    *head, last = [event[i : i + 1] for i in range(len(event))]
    assert [blocks.feed(byte) for byte in head] == [b""] * len(head)
    assert blocks.feed(last) == event


def test_only_the_incomplete_event_is_held_back() -> None:
    blocks = EventBuffer()
    assert blocks.feed(b"data: 1\n\ndata: 2\n\nda") == b"data: 1\n\ndata: 2\n\n"
    assert blocks.feed(b"ta: 3\n") == b""
    assert blocks.feed(b"\ndata: 4") == b"data: 3\n\n"


@pytest.mark.parametrize(
    ("left", "rest"),
    [
        (b"data: [DONE]", b"data: [DONE]\n\n"),
        (b"data: [DONE]\n", b"data: [DONE]\n\n"),
        (b'data: {"a": 1}\n', b'data: {"a": 1}\n\n'),
        (b'data: {"a": ', b""),
        (b"\r\n", b""),
        (b"", b""),
    ],
)
def test_what_is_left_at_the_end_is_completed_only_if_its_lines_are_whole(
    left: bytes, rest: bytes
) -> None:
    blocks = EventBuffer()
    assert blocks.feed(b"data: 0\n\n" + left).startswith(b"data: 0\n\n")
    assert blocks.rest() == rest


def test_a_large_event_costs_no_more_than_its_size() -> None:
    blocks = EventBuffer()
    blocks.feed(b"data: ")
    for _ in range(MAX_EVENT_BYTES // 4096 - 1):
        assert blocks.feed(b"x" * 4096) == b""
    assert len(blocks.feed(b"\n\n")) > MAX_EVENT_BYTES - 8192
    with pytest.raises(EventTooLarge):
        deque((blocks.feed(b"x" * 4096) for _ in range(MAX_EVENT_BYTES // 4096 + 1)), maxlen=0)


def test_comments_are_told_from_events() -> None:
    assert is_comment(b": hello\n\n")
    assert is_comment(b"\n\n")
    assert not is_comment(b"data: 1\n\n")
    assert not is_comment(b": hello\n\ndata: 1\n\n")
    assert not is_comment(b": hello\nevent: x\ndata: 1\n\n")


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: one", b" one"),
        (b"data:one", b"one"),
        (b"event: x\ndata: two", b" two"),
        (b"data: three\ndata: more", b" three\n more"),
        (b": comment", None),
        (b"event: x", None),
    ],
)
def test_the_data_lines_of_an_event_are_joined(event: bytes, data: bytes | None) -> None:
    assert event_data(event) == data


def test_a_block_is_split_into_its_events() -> None:
    block = b"".join(EVENTS)
    assert b"".join(single_events(block)) == block
    assert split_events(b"data: 1\r\nid: 2\r\n\r\n\n\n: hi\n\n") == [
        b"data: 1\nid: 2",
        b": hi",
    ]
