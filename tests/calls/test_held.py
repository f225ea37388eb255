"""What a chat holds is given back in reverse order, once, whatever fails."""

from __future__ import annotations

import pytest

from goblin_assistant.calls.held import Held


def test_what_was_taken_last_is_given_back_first_and_only_once() -> None:
    given: list[str] = []
    held = Held("id-1")
    for name in ("key", "slot", "tokens"):
        held.callback(given.append, name)
    held.close()
    held.close()
    assert given == ["tokens", "slot", "key"]


def test_a_release_that_fails_is_logged_and_costs_none_of_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken() -> None:
        raise RuntimeError("broken")

    given: list[str] = []
    held = Held("id-1")
    held.callback(given.append, "slot")
    held.callback(broken)
    held.callback(broken)
    held.callback(given.append, "tokens")
    held.close()
    assert given == ["tokens", "slot"]
    assert [record.message for record in caplog.records] == ["release_failed"] * 2
