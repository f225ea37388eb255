"""Tags of chats: from the header or `metadata` into the record, and out in reports."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine

from goblin_assistant.errors import ValidationFailed
from goblin_assistant.metrics import REGISTRY
from goblin_assistant.usage import reports
from goblin_assistant.usage.records import UnreadableRecord, entry_from, first_id_at, journal_line
from goblin_assistant.usage.reports import Scope
from goblin_assistant.usage.tags import is_stored_form, tags_of
from tests.conftest import MakeApp, register
from tests.support.books import entry, open_store, rows
from tests.support.books_fixtures import engine
from tests.support.fake_upstream import FakeUpstream, Reply
from tests.support.wire_bodies import openai_chat

__all__ = ["engine"]

NOVEMBER, DAY = 1_793_491_200_000, 86_400_000
HELLO = [{"role": "user", "content": "Hello"}]


def parsed(header: str | None = None, metadata: Any = None) -> Any:
    tags = tags_of(header, metadata)
    return None if tags is None else json.loads(tags)


# -- what is a tag --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("header", "tags"),
    [
        ("team=search", {"team": "search"}),
        ("team=a,feature=b", {"team": "a", "feature": "b"}),
        (" team=a ,\tfeature=b c, ", {"team": "a", "feature": "b c"}),
        ("url=https://x?y=z", {"url": "https://x?y=z"}),
        ("a.b_C-1=\"'{}", {"a.b_C-1": "\"'{}"}),
        ("", None),
        (",", None),
    ],
)
def test_the_header_has_names_and_values(header: str, tags: Any) -> None:
    assert parsed(header) == tags


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("team", "pairs such as"),
        ("=a", "a name has 1 to 64"),
        ("te am=a", "a name has 1 to 64"),
        ("té=a", "a name has 1 to 64"),
        ("n" * 65 + "=a", "a name has 1 to 64"),
        ("team=", "a value has 1 to 512"),
        ("team=" + "v" * 513, "a value has 1 to 512"),
        ("team=é", "printable ASCII"),
        ("team=a\x07", "printable ASCII"),
        ("team=a,team=b", "each name once (team)"),
        (",".join(f"t{n}=1" for n in range(17)), "at most 16 tags"),
        ("," * 4097, "at most 4096 characters"),
    ],
)
def test_a_header_that_is_not_of_that_form_is_refused_with_the_reason(
    header: str, said: str
) -> None:
    with pytest.raises(ValidationFailed, match="X-Goblin-Tags: accepted: ") as refused:
        tags_of(header, None)
    assert said in refused.value.message
    assert refused.value.param == "X-Goblin-Tags"


@pytest.mark.parametrize(
    ("metadata", "tags"),
    [
        ({"team": "a", "topic": "größe"}, {"team": "a", "topic": "größe"}),
        ({"n": 5, "deep": {"a": "b"}, "empty": "", "none": None, "ok": "1"}, {"ok": "1"}),
        ({"two words": "a", "": "b", "k" * 65: "c", "long": "v" * 513}, None),
        ({"nul": "a\x00b", "half": "\ud800", "line": "a\nb"}, None),
        (["team"], None),
        ("team=a", None),
        ({}, None),
    ],
)
def test_of_metadata_that_is_recorded_which_is_a_tag(metadata: Any, tags: Any) -> None:
    assert parsed(None, metadata) == tags


def test_the_header_counts_before_metadata() -> None:
    metadata = {"team": "b", **{f"m{n}": "1" for n in range(16)}}
    found = parsed("team=a,feature=x", metadata)
    assert (found["team"], found["feature"], len(found)) == ("a", "x", 16)


@given(st.dictionaries(st.text(max_size=70), st.text(max_size=520) | st.integers(), max_size=20))
def test_whatever_is_in_metadata_can_be_stored(metadata: dict[str, Any]) -> None:
    tags = tags_of(None, metadata)
    assert tags is None or is_stored_form(tags)


# -- over HTTP ------------------------------------------------------------------------------------
@pytest.fixture
def chat_app(make_app: MakeApp, fake_upstream: FakeUpstream) -> Flask:
    fake_upstream.default = Reply.json(200, openai_chat())
    made = make_app(
        file={
            "providers": {"up": {"base_url": fake_upstream.url + "/v1", "models": ["m"]}},
            "prices": {"up/*": {"input": 10, "output": 100}, "echo/*": {"input": 1, "output": 1}},
        }
    )
    made.extensions["goblin"].monitor.stop()
    return made


@pytest.fixture
def client(chat_app: Flask) -> FlaskClient:
    return chat_app.test_client()


@pytest.fixture
def headers(client: FlaskClient) -> dict[str, str]:
    return {"Authorization": f"Bearer {register(client)['access_token']}"}


def stored(app: Flask) -> list[Any]:
    found = rows(app.extensions["goblin"].engine, "SELECT tags FROM usage_records ORDER BY id")
    return [None if row[0] is None else json.loads(row[0]) for row in found]


def test_every_dialect_records_its_tags(
    chat_app: Flask, client: FlaskClient, headers: dict[str, str], fake_upstream: FakeUpstream
) -> None:
    tagged = {**headers, "X-Goblin-Tags": "team=red"}
    metadata = {"feature": "x"}
    asked: list[tuple[str, dict[str, Any], Any]] = [
        ("/v1/chat/completions", {"messages": HELLO, "metadata": metadata}, metadata),
        ("/v1/responses", {"input": "Hello", "metadata": metadata}, metadata),
        ("/v1/messages", {"messages": HELLO, "max_tokens": 9, "metadata": {"user_id": "u"}}, {}),
        ("/v1/embeddings", {"input": "Hello", "model": "echo"}, {}),
    ]
    for path, body, _ in asked:
        answer = client.post(path, json={"model": "up/m", **body}, headers=tagged)
        assert answer.status_code == 200, answer.text
    assert stored(chat_app) == [{"team": "red", **more} for _, _, more in asked]
    client.post("/v1/messages", json={"model": "up/m", **asked[2][1]}, headers=headers)
    assert stored(chat_app)[-1] is None
    # A provider gets its own field as before, and nothing of the header.
    assert fake_upstream.requests[0].json()["metadata"] == metadata
    assert not any("x-goblin-tags" in one.headers for one in fake_upstream.requests)


def test_a_header_that_is_wrong_is_a_400_and_no_chat(
    chat_app: Flask, client: FlaskClient, headers: dict[str, str], fake_upstream: FakeUpstream
) -> None:
    body = {"model": "up/m", "messages": HELLO}
    wrong = {**headers, "X-Goblin-Tags": "team"}
    answer = client.post("/chat/completions", json=body, headers=wrong)
    assert (answer.status_code, answer.get_json()["error"]) == (400, "validation_failed")
    assert answer.get_json()["message"].startswith("X-Goblin-Tags: accepted: pairs such as")
    openai = client.post("/v1/chat/completions", json=body, headers=wrong).get_json()["error"]
    assert openai["param"] == "X-Goblin-Tags"
    assert stored(chat_app) == []
    assert fake_upstream.requests == []


def test_a_report_groups_by_a_tag_in_json_and_csv(
    client: FlaskClient, headers: dict[str, str]
) -> None:
    for tags in ("team=red,feature=a", "team=red", "team==cmd|' /C calc'", ""):
        body = {"model": "up/m", "messages": HELLO}
        client.post("/chat/completions", json=body, headers={**headers, "X-Goblin-Tags": tags})
    found = client.get("/usage?group_by=tag:team", headers=headers).get_json()
    assert found["group_by"] == ["tag:team"]
    assert [(row["tag:team"], row["requests"], row["cost_usd"]) for row in found["rows"]] == [
        (None, 1, "0.00062"),
        ("=cmd|' /C calc'", 1, "0.00062"),
        ("red", 2, "0.00124"),
    ]
    text = client.get("/usage?group_by=tag:team,tag:feature&format=csv", headers=headers).text
    assert [(row["tag:team"], row["tag:feature"]) for row in csv.DictReader(io.StringIO(text))] == [
        ("", ""),
        ("'=cmd|' /C calc'", ""),
        ("red", ""),
        ("red", "a"),
    ]


@pytest.mark.parametrize("group", ["tag:", "tag:a%20b", "tag:a'b", "tag:" + "n" * 65, "tags"])
def test_a_tag_that_cannot_be_is_refused(
    client: FlaskClient, headers: dict[str, str], group: str
) -> None:
    answer = client.get(f"/usage?group_by={group}", headers=headers)
    assert answer.status_code == 400
    assert "tag:NAME" in answer.get_json()["message"]


def test_a_report_has_its_next_page_whatever_its_tags_hold(
    client: FlaskClient, headers: dict[str, str]
) -> None:
    names = ["a", "b", "c", "d"]
    for first in "\U0001f9cc\U0001f47a":
        metadata = dict.fromkeys(names, first * 512)
        body = {"model": "up/m", "messages": HELLO, "metadata": metadata}
        assert client.post("/chat/completions", json=body, headers=headers).status_code == 200
    query = {"group_by": ",".join(f"tag:{name}" for name in names), "limit": 1}
    found = []
    while True:
        answer = client.get("/usage", query_string=query, headers=headers)
        assert answer.status_code == 200, answer.text
        page = answer.get_json()
        found += [row["tag:d"] for row in page["rows"]]
        if (cursor := page["next_cursor"]) is None:
            break
        query["cursor"] = cursor
    assert sorted(found) == ["\U0001f47a" * 512, "\U0001f9cc" * 512]


def test_a_report_of_more_than_four_tags_is_refused(
    client: FlaskClient, headers: dict[str, str]
) -> None:
    four = "day,tag:a,tag:b,tag:c,tag:d"
    assert client.get(f"/usage?group_by={four}", headers=headers).status_code == 200
    answer = client.get(f"/usage?group_by={four},tag:e", headers=headers)
    assert answer.status_code == 400
    assert answer.get_json()["message"] == "group_by: at most 4 tags"


def test_no_metric_has_a_tag(client: FlaskClient, headers: dict[str, str]) -> None:
    tagged = {**headers, "X-Goblin-Tags": "canary-name=canary-value"}
    body = {"model": "up/m", "messages": HELLO}
    assert client.post("/chat/completions", json=body, headers=tagged).status_code == 200
    labels = [sample.labels for metric in REGISTRY.collect() for sample in metric.samples]
    assert any("provider" in one for one in labels)
    assert "canary" not in str(labels)


# -- in the database ------------------------------------------------------------------------------
def test_pages_by_tag_together_are_the_whole(engine: Engine, tmp_path: Path) -> None:
    entries = [
        entry(
            id=first_id_at(NOVEMBER)[:26] + f"{n:06x}",
            tags=None if n % 5 == 4 else tags_of(None, {"team": "aB_é"[n % 5], "other": "x"}),
            cost_microusd=n,
        )
        for n in range(20)
    ]
    with open_store(engine, tmp_path) as store:
        assert store.import_records(map(journal_line, entries)).imported == 20
    span = (NOVEMBER, NOVEMBER + DAY, ("tag:team", "tag:missing"))
    whole = reports.report(engine, Scope(), *span, 1000)
    assert {row["tag:team"]: row["requests"] for row in whole.rows} == dict.fromkeys(
        [None, "a", "B", "_", "é"], 4
    )
    assert {row["tag:missing"] for row in whole.rows} == {None}
    paged, cursor = [], None
    while not paged or cursor:
        page = reports.report(engine, Scope(), *span, 2, cursor)
        paged += page.rows
        cursor = page.next_cursor
    assert paged == whole.rows


@pytest.mark.parametrize("tags", ['"x"', "{}", "{", '{"a b":"c"}', '{"a":5}', '{"a":"\\u0000"}'])
def test_a_changed_line_with_impossible_tags_is_no_record(tags: str) -> None:
    with pytest.raises(UnreadableRecord):
        entry_from({**entry().as_row(), "tags": tags})
