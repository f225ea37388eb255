"""OpenRouter's reasoning_details, joined from the pieces of a stream."""

from __future__ import annotations

from typing import Any

from goblin_assistant.dialects.carried import Details


def joined(*deltas: Any) -> list[dict[str, Any]]:
    details = Details()
    for delta in deltas:
        details.add(delta)
    return details.whole()


def test_pieces_of_one_item_are_joined_by_index_and_type() -> None:
    text = {"type": "reasoning.text", "index": 0}
    hidden = {"type": "reasoning.encrypted", "index": 0}
    assert joined(
        [{**text, "text": "a", "id": "r"}], [{**hidden, "data": "x"}], [{**text, "text": "b"}],
        [{**hidden, "data": "y", "signature": "s"}], [{**text, "text": None, "signature": "t"}],
    ) == [
        {**text, "text": "ab", "id": "r", "signature": "t"},
        {**hidden, "data": "xy", "signature": "s"},
    ]  # fmt: skip


def test_items_without_index_stay_apart_and_what_is_no_item_is_left_out() -> None:
    item = {"type": "reasoning.text", "text": "a"}
    odd = {"type": ["x"], "index": {}, "text": "b"}
    assert joined(None, "a", [item], [item, 5], [odd], [odd]) == [item, item, odd, odd]


def test_a_text_that_comes_after_the_item_has_begun_is_part_of_it() -> None:
    place = {"type": "reasoning.summary", "index": 1}
    assert joined([place], [{**place, "summary": "a"}], [{**place, "summary": "b"}]) == [
        {**place, "summary": "ab"}
    ]


def test_an_item_is_not_changed_by_what_follows() -> None:
    given = {"type": "reasoning.text", "index": 0, "text": "a"}
    before = dict(given)
    joined([given], [{**given, "text": "b"}])
    assert given == before
