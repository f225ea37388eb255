"""`python -m goblin_assistant`: what it says when the server cannot start."""

from __future__ import annotations

import json

from goblin_assistant import __main__ as program
from goblin_assistant.logs import json_logging


def test_a_start_that_fails_names_no_secret() -> None:
    json_logging.register_secrets(["canary-in-an-address"])
    line = json.loads(program._described(OSError("cannot reach db:canary-in-an-address")))
    assert line["message"] == "cannot_start"
    assert "cannot reach" in line["error"]
    assert "canary" not in line["error"]
    assert line["instance"] == json_logging.instance()
