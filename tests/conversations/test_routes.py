"""/conversations over HTTP: shapes, refusals, export, and what is never logged."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.conftest import MakeApp, register

PIXEL = "data:image/png;base64,iVBORw0KGgo="


def begin(client: FlaskClient, headers: dict[str, str], **body: Any) -> dict[str, Any]:
    answer = client.post("/conversations", json=body, headers=headers)
    assert answer.status_code == 201, answer.get_data(as_text=True)
    made: dict[str, Any] = answer.get_json()
    return made


def test_a_conversation_is_kept_as_it_was_written(
    client: FlaskClient, auth_headers: dict[str, str]
) -> None:
    made = begin(client, auth_headers, title="Caves", settings={"model": "echo"})
    assert made["settings"]["model"] == "echo"
    question = {"role": "user", "text": "What is this? ✨", "attachments": [PIXEL]}
    details = {"model": "echo", "cost_usd": "0.000012", "first_token_ms": 12, "reasoning": "hm"}
    answer = {"role": "assistant", "text": "A **goblin**.", "details": details}
    path = f"/conversations/{made['id']}/messages"
    body = {"revision": made["revision"], "messages": [question, answer]}
    written = client.put(f"{path}/0", json=body, headers=auth_headers)
    assert written.status_code == 200, written.get_data(as_text=True)
    assert written.get_json()["messages"] == 2
    read = client.get(path, headers=auth_headers).get_json()
    assert read["next_start"] is None
    assert [one["text"] for one in read["messages"]] == ["What is this? ✨", "A **goblin**."]
    assert read["messages"][0]["attachments"] == [PIXEL]
    assert read["messages"][1]["details"] == details
    stale = client.put(f"{path}/0", json=body, headers=auth_headers)
    assert stale.status_code == 409


def test_an_image_and_a_long_answer_are_kept(
    client: FlaskClient, auth_headers: dict[str, str]
) -> None:
    made = begin(client, auth_headers)
    image = "data:image/png;base64," + "A" * 2_000_000
    messages = [
        {"role": "user", "text": "What is this?", "attachments": [image]},
        {"role": "assistant", "text": "goblin " * 100_000},
    ]
    path = f"/conversations/{made['id']}/messages"
    body = {"revision": made["revision"], "messages": messages}
    written = client.put(f"{path}/0", json=body, headers=auth_headers)
    assert written.status_code == 200, written.get_data(as_text=True)[:300]
    read = client.get(path, headers=auth_headers).get_json()["messages"]
    assert read[0]["attachments"] == [image]
    assert read[1]["text"] == messages[1]["text"]


def test_the_list_gives_a_cursor_until_its_end(
    client: FlaskClient, auth_headers: dict[str, str]
) -> None:
    for number in range(5):
        begin(client, auth_headers, title=str(number))
    found: list[str] = []
    query = "limit=2"
    while query:
        page = client.get(f"/conversations?{query}", headers=auth_headers).get_json()
        found += [one["title"] for one in page["conversations"]]
        query = f"limit=2&before={page['next_before']}" if page["next_before"] else ""
    assert sorted(found) == ["0", "1", "2", "3", "4"]
    assert len(found) == 5


@pytest.mark.parametrize(
    "message",
    [
        {"role": "system", "text": "x"},
        {"role": "user", "text": "a\0b"},
        {"role": "user", "text": "x", "attachments": ["https://evil.example/a.png"]},
        {"role": "user", "text": "x", "attachments": ["data:image/svg+xml;base64,PHN2Zz4="]},
        {"role": "user", "text": "x", "html": "<b>"},
        {"role": "assistant", "text": "x", "details": {"other": 1}},
    ],
    ids=str,
)
def test_what_does_not_belong_into_a_message_is_refused(
    client: FlaskClient, auth_headers: dict[str, str], message: dict[str, Any]
) -> None:
    made = begin(client, auth_headers)
    body = {"revision": 0, "messages": [message]}
    path = f"/conversations/{made['id']}/messages/0"
    assert client.put(path, json=body, headers=auth_headers).status_code == 400


def test_the_export_is_a_line_for_each_and_deleting_leaves_nothing(
    client: FlaskClient, auth_headers: dict[str, str]
) -> None:
    for title in ("one", "two"):
        made = begin(client, auth_headers, title=title)
        body = {"revision": 0, "messages": [{"role": "user", "text": f"about {title}"}]}
        client.put(f"/conversations/{made['id']}/messages/0", json=body, headers=auth_headers)
    answer = client.get("/conversations/export", headers=auth_headers)
    assert answer.content_type == "application/x-ndjson"
    assert "attachment" in answer.headers["Content-Disposition"]
    lines = [json.loads(line) for line in answer.get_data(as_text=True).splitlines()]
    assert [(one["title"], one["messages"][0]["text"]) for one in lines] == [
        ("one", "about one"), ("two", "about two")
    ]  # fmt: skip
    assert client.delete("/conversations", headers=auth_headers).status_code == 204
    assert client.get("/conversations/export", headers=auth_headers).get_data() == b""


def test_switched_off_the_routes_are_gone(make_app: MakeApp) -> None:
    client = make_app(conversations=False).test_client()
    headers = {"Authorization": f"Bearer {register(client)['access_token']}"}
    for path in ("/conversations", "/conversations/1/messages", "/conversations/export"):
        assert client.get(path, headers=headers).status_code == 404
