"""A client's names in a header."""

from __future__ import annotations

import pytest

from goblin_assistant.dialects.anthropic.request import request_to_openai as from_anthropic
from goblin_assistant.dialects.responses.request import request_to_openai as from_responses
from goblin_assistant.schemas.field_names import MOST_TEXT, listed, note_others, shown

NAMES = ("名前", "é", "a\r\nb", "x" * 40, "")


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_no_header_can_hold_is_not_shown(name: str) -> None:
    assert shown("input", name) == "input.?"
    assert shown("input", "citations") == "input.citations"


@pytest.mark.parametrize("name", NAMES)
def test_the_dialects_name_what_they_leave_out_in_ascii(name: str) -> None:
    ignored: set[str] = set()
    part = {"type": "text", "text": "x", name: 1}
    from_anthropic({"max_tokens": 5, "messages": [{"role": "user", "content": [part]}]}, ignored)
    part = {"type": "input_text", "text": "x", name: 1}
    from_responses(
        {"input": [{"role": "user", "content": [part]}], "reasoning": {name: 1}}, ignored
    )
    assert ignored == {"messages.?", "input.?", "reasoning.?"}


def test_a_client_cannot_make_the_header_long() -> None:
    few = {"messages.citations", "tools.strict"}
    assert listed(few) == "messages.citations, tools.strict"
    text = listed({f"messages.field_{number:05}" for number in range(5000)})
    assert MOST_TEXT - 40 < len(text) <= MOST_TEXT + len(", ...")
    assert text.startswith("messages.field_00000, ")
    assert all(name.startswith("messages.field_") for name in text.split(", ")[:-1])
    assert text.endswith(", ...")


def test_what_says_nothing_is_not_named() -> None:
    ignored: set[str] = set()
    given = {"a": None, "b": False, "c": "", "d": [], "e": {}, "f": 0, "g": "x", "known": "x"}
    note_others(given, ("known",), "tools", ignored)
    assert ignored == {"tools.f", "tools.g"}
