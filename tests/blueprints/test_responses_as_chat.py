"""All that POST /v1/chat/completions has, POST /v1/responses has too."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from goblin_assistant.config import GoblinFile
from goblin_assistant.dialects.error_bodies import body_for
from goblin_assistant.errors import APP_ERRORS
from goblin_assistant.providers.base import PROVIDER_ERRORS
from goblin_assistant.providers.echo import rehearsals
from goblin_assistant.providers.echo.rehearsals import REHEARSALS
from goblin_assistant.rate_limits.policy import CHAT_ROUTES
from goblin_assistant.web.body_limits import BodyLimits
from tests.conftest import MakeApp, register
from tests.providers.test_fault_table import Row, rows
from tests.support.fake_upstream import FakeUpstream, Reply
from tests.support.wire_bodies import openai_chat

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
TEXT = "one two three four five"
ASKED: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": TEXT}]},
    RESPONSES: {"input": TEXT},
}
FAULTS = [row for row in rows() if not row.fault.startswith("client_gone")]
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def ask(client: FlaskClient, path: str, model: str = "echo", **more: Any) -> Any:
    headers = more.pop("headers")
    return client.post(path, json={"model": model, **ASKED[path], **more}, headers=headers)


def events_of(answer: Any) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line[:7] == "data: {"]


def test_the_same_group_of_limits_and_size_of_body() -> None:
    assert {CHAT, RESPONSES} <= CHAT_ROUTES
    limits = BodyLimits(1 << 40)
    assert limits.of("POST", CHAT) == limits.of("POST", RESPONSES)


def test_the_document_has_the_same_errors_security_and_event_stream(client: FlaskClient) -> None:
    paths = client.get("/openapi.json").get_json()["paths"]
    chat, response = (paths[path]["post"] for path in (CHAT, RESPONSES))
    for name in ("security", "tags"):
        assert chat[name] == response[name]
    assert chat["responses"].keys() == response["responses"].keys()
    for status, described in chat["responses"].items():
        told = response["responses"][status]
        assert described.get("headers") == told.get("headers"), status
        assert described["content"].keys() == told["content"].keys(), status
        if status != "200":
            assert described["content"] == told["content"], status


@pytest.mark.parametrize("kind", [*APP_ERRORS, *PROVIDER_ERRORS], ids=lambda kind: kind.__name__)
def test_every_error_has_the_same_body(kind: Any) -> None:
    assert body_for(RESPONSES, kind("no"), "id") == body_for(CHAT, kind("no"), "id")


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_has_the_same_headers_and_costs_the_same(
    client: FlaskClient, auth_headers: dict[str, str], stream: bool
) -> None:
    sent = {**auth_headers, "traceparent": PARENT, "Origin": "https://page.example"}
    chat, response = (ask(client, path, stream=stream, headers=sent) for path in (CHAT, RESPONSES))
    assert (chat.status_code, response.status_code) == (200, 200)
    own = {"Content-Length"}
    assert set(chat.headers.keys()) - own == set(response.headers.keys()) - own
    for name in ("Content-Type", "Cache-Control", "X-Goblin-Provider", "X-Goblin-Attempts"):
        assert chat.headers.get(name) == response.headers.get(name), name
    found = client.get("/usage?group_by=model", headers=auth_headers).get_json()
    [row] = found["rows"]
    assert row["requests"] == 2
    counted = chat.get_json()["usage"] if not stream else None
    if counted is not None:
        assert row["prompt_tokens"] == 2 * counted["prompt_tokens"]
        assert row["completion_tokens"] == 2 * counted["completion_tokens"]


def test_a_trace_goes_on_to_the_provider(make_app: MakeApp, fake_upstream: FakeUpstream) -> None:
    row = {"base_url": fake_upstream.url + "/v1", "models": ["m"]}
    app = make_app(file=GoblinFile.model_validate({"providers": {"up": row}}), retries=0)
    app.extensions["goblin"].monitor.stop()  # its check would take the reply
    fake_upstream.requests.clear()
    fake_upstream.default = Reply.json(200, openai_chat())
    client = app.test_client()
    headers = {"Authorization": f"Bearer {register(client)['access_token']}"}
    headers |= {"traceparent": PARENT, "tracestate": "vendor=1"}
    for path in (CHAT, RESPONSES):
        assert ask(client, path, "up/m", headers=headers).status_code == 200
    asked = [one.headers for one in fake_upstream.requests if one.method == "POST"]
    assert [one["tracestate"] for one in asked] == ["vendor=1"] * 2
    _, trace, span, _ = PARENT.split("-")
    found = [one["traceparent"].split("-") for one in asked]
    assert [parts[1] for parts in found] == [trace] * 2
    assert len({span, *(parts[2] for parts in found)}) == 3


@pytest.fixture
def rehearsing(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> Flask:
    """An application that serves the rehearsals of faults, without waiting long."""
    for name, rehearsal in list(REHEARSALS.items()):
        if rehearsal.seconds:
            short = rehearsals.Rehearsal(rehearsal.error, rehearsal.midway, 0.01)
            monkeypatch.setitem(REHEARSALS, name, short)
    file = GoblinFile.model_validate({"providers": {"fault": {"kind": "faults"}}})
    return make_app(file=file, retries=0)


def test_every_fault_of_a_provider_is_told_as_in_a_chat(rehearsing: Flask) -> None:
    client = rehearsing.test_client()
    headers = {"Authorization": f"Bearer {register(client)['access_token']}"}
    assert len(FAULTS) > 10
    for row in FAULTS:
        stream = row.fault.startswith("stream")
        chat, response = (
            ask(client, path, f"fault/{row.fault}", stream=stream, headers=headers)
            for path in (CHAT, RESPONSES)
        )
        assert (chat.status_code, response.status_code) == (row.status, row.status), row.fault
        assert chat.headers.get("Retry-After") == response.headers.get("Retry-After"), row.fault
        if row.event:
            told_as_the_end(events_of(response), row, events_of(chat)[-1]["error"])
            continue
        errors = [answer.get_json()["error"] for answer in (chat, response)]
        for error in errors:
            assert error.pop("correlation_id", True)
        assert errors[0] == errors[1], row.fault
    found = client.get("/usage?group_by=model", headers=headers).get_json()["rows"]
    assert {item["requests"] for item in found} == {2}


def told_as_the_end(events: list[dict[str, Any]], row: Row, chat: dict[str, Any]) -> None:
    """The last events are `response.failed` and `error`, with what the chat was told."""
    *_, failed, last = events
    assert (failed["type"], last["type"]) == ("response.failed", "error"), row.fault
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"]["code"] == row.code
    assert (last["code"], last["message"]) == (chat["code"], chat["message"])
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
