"""Each row of docs/faults.md by its model, through the whole gateway."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask.testing import FlaskClient

from goblin_assistant.config import GoblinFile
from goblin_assistant.providers.echo import rehearsals
from goblin_assistant.providers.echo.rehearsals import REHEARSALS, RETRY_AFTER
from tests.conftest import MakeApp, register
from tests.providers.test_fault_table import Row, rows

ROWS = [row for row in rows() if not row.fault.startswith("client_gone")]
FILE = {"providers": {"fault": {"kind": "faults"}}}


@pytest.fixture
def caller(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> tuple[FlaskClient, dict[str, str]]:
    """A client with credentials, of an instance that serves the rehearsals without waiting long."""
    for name, rehearsal in list(REHEARSALS.items()):
        if rehearsal.seconds:
            short = rehearsals.Rehearsal(rehearsal.error, rehearsal.midway, 0.01)
            monkeypatch.setitem(REHEARSALS, name, short)
    client = make_app(file=GoblinFile.model_validate(FILE), retries=0).test_client()
    return client, {"Authorization": f"Bearer {register(client)['access_token']}"}


def chat(caller: Any, fault: str, **more: Any) -> Any:
    client, headers = caller
    messages = [{"role": "user", "content": "one two three four five"}]
    body = {"model": f"fault/{fault}", "messages": messages, **more}
    return client.post("/v1/chat/completions", json=body, headers=headers)


def test_every_row_has_a_model() -> None:
    assert REHEARSALS.keys() == {row.fault for row in ROWS} | {"overflow", "slow_first_token"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.fault)
def test_a_model_does_what_its_row_says(caller: Any, row: Row) -> None:
    answer = chat(caller, row.fault, stream=row.fault.startswith("stream"))
    assert answer.status_code == row.status
    if row.event:
        events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
        assert len(events) > 1
        assert json.loads(events[-1])["error"]["code"] == row.code
        assert "[DONE]" not in answer.text
    else:
        error = answer.get_json()["error"]
        assert (error["code"], error["source"]) == (row.code, "provider")
    client, headers = caller
    usage = client.get("/usage?group_by=model", headers=headers).get_json()
    assert sum(item["requests"] for item in usage["rows"]) == 1
    billed = sum(item["completion_tokens"] for item in usage["rows"])
    assert (billed > 0) is ("token" in row.billed)


def test_a_limit_has_retry_after_and_an_overflow_anthropics_sentence(caller: Any) -> None:
    assert chat(caller, "rate_limited").headers["Retry-After"] == str(int(RETRY_AFTER))
    error = chat(caller, "overflow").get_json()["error"]
    assert error["message"] == "prompt is too long: 213462 tokens > 200000 maximum"


@pytest.mark.parametrize("stream", [False, True])
def test_a_slow_first_token_is_an_answer_after_all(caller: Any, stream: bool) -> None:
    answer = chat(caller, "slow_first_token", stream=stream)
    assert answer.status_code == 200
    assert "five" in answer.text


def test_rehearsals_do_not_open_the_circuit_breaker(caller: Any) -> None:
    codes = {chat(caller, "server_error").get_json()["error"]["code"] for _ in range(30)}
    assert codes == {"provider_bad_response"}


def test_they_are_served_only_where_goblin_toml_says_so(make_app: MakeApp) -> None:
    client = make_app().test_client()
    headers = {"Authorization": f"Bearer {register(client)['access_token']}"}
    assert chat((client, headers), "server_error").status_code == 404
