"""Results of tools whose calls have no ids."""

from __future__ import annotations

from typing import Any

from goblin_assistant.providers.tool_results import with_ids


def calls(number: int) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [{"id": "", "function": {}}] * number}


RESULT = {"role": "tool", "tool_call_id": ""}


def test_a_result_belongs_to_the_turn_before_it_though_an_earlier_one_lacks_its_own() -> None:
    first, one, _, second, two = with_ids([calls(2), RESULT, {"role": "user"}, calls(1), RESULT])
    assert one["tool_call_id"] == first["tool_calls"][0]["id"]
    assert two["tool_call_id"] == second["tool_calls"][0]["id"]


def test_turns_side_by_side_share_the_results_behind_them() -> None:
    first, second, one, two = with_ids([calls(1), calls(1), RESULT, RESULT])
    assert one["tool_call_id"] == first["tool_calls"][0]["id"]
    assert two["tool_call_id"] == second["tool_calls"][0]["id"]
