"""The table of dialects, and OpenAI's row. Anthropic's translation has tests of its own."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, get_args

import orjson
import pytest

from goblin_assistant.dialects.table import DIALECTS
from goblin_assistant.errors import InternalError
from goblin_assistant.providers.base import Dialect

USER = {"role": "user", "content": "hello"}
SYSTEM = {"role": "system", "content": "Be brief."}
ALL = {"temperature": 0.5, "max_tokens": 7, "system_prompt": "Be brief."}


def test_every_dialect_has_a_row() -> None:
    assert set(DIALECTS) == set(get_args(Dialect))


@pytest.mark.parametrize("dialect", get_args(Dialect))
def test_without_settings_a_body_stays_as_it_is(dialect: Dialect) -> None:
    body: dict[str, Any] = {"messages": [USER], "max_tokens": 5}
    before = deepcopy(body)
    assert not DIALECTS[dialect].apply_defaults(body, {})
    assert body == before


@pytest.mark.parametrize(
    ("dialect", "body", "settings", "expected"),
    [
        ("openai", {}, ALL, {"temperature": 0.5, "max_tokens": 7, "messages": [SYSTEM, USER]}),
        ("openai", {"temperature": 0}, {"temperature": 0.5}, {"temperature": 0}),
        ("openai", {"max_completion_tokens": 5}, {"max_tokens": 7}, {"max_completion_tokens": 5}),
        ("openai", {"messages": [SYSTEM]}, {"system_prompt": "x"}, {"messages": [SYSTEM]}),
        ("anthropic", {"max_tokens": 5}, ALL, {"max_tokens": 5, "system": "Be brief."}),
        ("anthropic", {"system": "Mine."}, ALL, {"system": "Mine."}),
    ],
)
def test_settings_fill_in_only_what_a_body_leaves_out(
    dialect: Dialect, body: dict[str, Any], settings: dict[str, Any], expected: dict[str, Any]
) -> None:
    asked = {"messages": [USER], **body}
    before = deepcopy(asked)
    changed = DIALECTS[dialect].apply_defaults(asked, settings)
    assert asked == {"messages": [USER], **expected}
    assert changed == (asked != before)


def test_a_broken_stream_ends_with_the_error_in_the_dialects_form() -> None:
    error = InternalError("broken")
    openai = DIALECTS["openai"].error_event(error, "id-1")
    assert orjson.loads(openai.removeprefix(b"data: "))["error"]["correlation_id"] == "id-1"
    assert b"[DONE]" not in openai
    kind, data, *rest = DIALECTS["anthropic"].error_event(error, "id-1").split(b"\n")
    assert kind == b"event: error"
    assert orjson.loads(data.removeprefix(b"data: "))["request_id"] == "id-1"
    assert rest == [b"", b""]
