"""GET /usage: who sees which records, and their sums."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine

from goblin_assistant.errors import ValidationFailed
from goblin_assistant.runtime import runtime
from goblin_assistant.usage import csv_reports, reports
from goblin_assistant.usage.records import UsageEntry, first_id_at, journal_line
from goblin_assistant.usage.reports import Scope, parse_range
from tests.conftest import MakeApp, register
from tests.support.books import add_key, add_user, entry, open_store
from tests.support.books_fixtures import engine

__all__ = ["engine"]

DAY = 86_400_000
NOVEMBER = 1_793_491_200_000  # 2026-11-01T00:00:00Z


def at(day: int, number: int = 0, ms: int = 0) -> str:
    """A record id on a day of November 2026."""
    return first_id_at(NOVEMBER + (day - 1) * DAY + ms)[:26] + f"{number:06x}"


def fill(engine: Engine, folder: Path, entries: list[UsageEntry]) -> None:
    with open_store(engine, folder) as store:
        assert store.import_records(journal_line(one) for one in entries).imported == len(entries)


# -- the sums -------------------------------------------------------------------------------------
def test_a_report_adds_up_to_the_micro_dollar(engine: Engine, tmp_path: Path) -> None:
    entries = [
        entry(
            id=at(1 + n % 3, n), user_id=1 + n % 2, key_id=None if n % 5 == 0 else 1,
            model=f"m{n % 4}", provider="p", cost_microusd=None if n % 10 == 9 else n,
            completed=n % 7 != 0, cached_tokens=1, reasoning_tokens=2,
            token_source="estimated" if n % 6 == 0 else "provider",
        )
        for n in range(200)
    ]  # fmt: skip
    fill(engine, tmp_path, entries)
    start, end = NOVEMBER, NOVEMBER + 30 * DAY
    page = reports.report(engine, Scope(), start, end, ("day", "model", "key", "user"), 1000)
    assert page.next_cursor is None
    for name in page.totals:
        if name != "cost_usd":
            assert page.totals[name] == sum(row[name] for row in page.rows), name
    assert page.totals["cost_microusd"] == sum(one.cost_microusd or 0 for one in entries)
    assert page.totals["cost_usd"] == "0.01782"
    assert page.totals["requests"] == 200
    assert page.totals["unpriced_requests"] == 20
    assert page.totals["failed_requests"] == sum(not one.completed for one in entries)
    assert page.totals["estimated_requests"] == 34
    assert page.totals["reasoning_tokens"] == 400
    for row in page.rows:
        mine = [
            one
            for one in entries
            if (one.model, one.user_id, one.key_id) == (row["model"], row["user_id"], row["key_id"])
            and f"2026-11-0{1 + entries.index(one) % 3}" == row["day"]
        ]
        assert row["cost_microusd"] == sum(one.cost_microusd or 0 for one in mine)
        assert row["requests"] == len(mine)


@pytest.mark.parametrize(
    "group_by", [("day",), ("model",), ("key",), ("day", "model", "key"), ("user", "day")]
)
def test_pages_together_are_the_whole_without_gap_or_repetition(
    engine: Engine, tmp_path: Path, group_by: tuple[str, ...]
) -> None:
    fill(
        engine,
        tmp_path,
        [
            entry(
                id=at(1 + n % 20, n),
                key_id=[None, 1, 2][n % 3],
                user_id=[None, 5, 6][n % 3],
                model=["a", "B", "é", "_", ""][n % 5],
                cost_microusd=1,
            )
            for n in range(300)
        ],
    )
    whole = reports.report(engine, Scope(), NOVEMBER, NOVEMBER + 30 * DAY, group_by, 1000)
    pages: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = reports.report(engine, Scope(), NOVEMBER, NOVEMBER + 30 * DAY, group_by, 2, cursor)
        assert len(page.rows) <= 2
        assert page.totals == whole.totals
        pages += page.rows
        cursor = page.next_cursor
        if cursor is None:
            break
    assert pages == whole.rows
    assert sum(row["requests"] for row in pages) == 300


def test_an_empty_range_has_zero_totals_and_no_rows(engine: Engine) -> None:
    page = reports.report(engine, Scope(), 0, 1)
    assert page.rows == []
    assert page.totals["cost_microusd"] == page.totals["requests"] == 0
    assert page.totals["cost_usd"] == "0.00"


def test_keys_and_users_have_their_names_and_lost_ones_none(engine: Engine, tmp_path: Path) -> None:
    user = add_user(engine, "ada@example.com")
    key = add_key(engine, user, name="team red")
    fill(
        engine,
        tmp_path,
        [entry(id=at(1, 1), user_id=user, key_id=key), entry(id=at(1, 2), user_id=999, key_id=999)],
    )
    found = reports.report(engine, Scope(), NOVEMBER, NOVEMBER + DAY, ("key", "user")).rows
    assert [(row["key_name"], row["key_prefix"], row["user_email"]) for row in found] == [
        ("team red", "gob_test", "ada@example.com"), (None, None, None),
    ]  # fmt: skip


def test_the_borders_of_a_range_are_exact_to_the_millisecond(
    engine: Engine, tmp_path: Path
) -> None:
    fill(
        engine,
        tmp_path,
        [entry(id=at(2, ms=ms, number=n)) for n, ms in enumerate((-1, 0, DAY - 1, DAY))],
    )
    start, end = parse_range("2026-11-02", "2026-11-02")
    assert reports.report(engine, Scope(), start, end).totals["requests"] == 2
    start, end = parse_range("2026-11-02T00:00:00.001Z", "2026-11-03T00:00:00Z")
    assert reports.report(engine, Scope(), start, end).totals["requests"] == 1
    start, end = parse_range("2026-11-02T01:00:00+01:00", "2026-11-02T00:00:00.001+00:00")
    assert reports.report(engine, Scope(), start, end).totals["requests"] == 1


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2026-13-01", None), ("yesterday", None), ("2026-11-01T00:00:00", None),
        (None, "2026-02-30"), ("0001-01-01", None), ("2026-11-02", "2026-11-01"),
        ("1969-12-31", None), ("2026-11-01", "9999-12-31T23:59:59-23:59"), ("٢٠٢٦-11-01", None),
    ],
)  # fmt: skip
def test_a_range_that_makes_no_sense_is_refused(start: str | None, end: str | None) -> None:
    with pytest.raises(ValidationFailed):
        parse_range(start, end)


def test_a_spreadsheet_takes_no_cell_for_a_formula(engine: Engine, tmp_path: Path) -> None:
    fill(engine, tmp_path, [entry(id=at(1), model='=HYPERLINK("http://evil")', provider="p,q")])
    page = reports.report(engine, Scope(), NOVEMBER, NOVEMBER + DAY, ("model",))
    found = list(csv.DictReader(io.StringIO(csv_reports.as_csv(page))))
    assert found[0]["model"] == '\'=HYPERLINK("http://evil")'
    assert found[0]["provider"] == "p,q"


@pytest.mark.parametrize(
    "text",
    [
        "=1",
        " " * 65 + "=1",
        "\u200b" * 200 + "\uff0b1",
        "\u3164=1",
        "\u034f@x",
        "\ufe0f\u2028-1",
        "\u2800=1",
        " =1",
        "\uff1d1",
        "\u200b=1",
        "\u00a0+1",
        "\t@x",
        "\ufeff-1",
        "\uff20x",
        "\n=1",
        "|x",
    ],
)
def test_a_formula_is_guarded_in_every_spelling(engine: Engine, tmp_path: Path, text: str) -> None:
    fill(engine, tmp_path, [entry(id=at(1), model=text)])
    page = reports.report(engine, Scope(), NOVEMBER, NOVEMBER + DAY, ("model",))
    assert csv_reports.as_csv(page).splitlines()[1:] != []
    assert f"'{text}" in csv_reports.as_csv(page)


@pytest.mark.parametrize("text", ["gpt-4o", "a=1", "claude+", "\u540d"])
def test_a_plain_text_is_not_guarded(engine: Engine, tmp_path: Path, text: str) -> None:
    fill(engine, tmp_path, [entry(id=at(1), model=text)])
    page = reports.report(engine, Scope(), NOVEMBER, NOVEMBER + DAY, ("model",))
    assert "'" not in csv_reports.as_csv(page)


# -- the route ------------------------------------------------------------------------------------
PRICES = {"echo/*": {"input": 1, "output": 1}}


@pytest.fixture
def priced(make_app: MakeApp) -> Flask:
    """An application where echo costs a micro-dollar per token."""
    from goblin_assistant.config.goblin_file import GoblinFile

    return make_app(file=GoblinFile.model_validate({"prices": PRICES}))


class Caller:
    """A user of the application, with or without a key."""

    def __init__(self, app: Flask, email: str, admin: bool = False) -> None:
        self.client: FlaskClient = app.test_client()
        token = register(self.client, email)
        if admin:
            with app.app_context():
                accounts = runtime().accounts
                accounts.set_role(accounts.by_email(email).id, "admin")
            token = self.client.post(
                "/auth/login", json={"email": email, "password": "correct horse battery staple"}
            ).get_json()
        self.user = {"Authorization": f"Bearer {token['access_token']}"}
        self.id = self.client.get("/auth/me", headers=self.user).get_json()["id"]

    def key(self, **limits: Any) -> tuple[int, dict[str, str]]:
        made = self.client.post(
            "/auth/keys", json={"name": "k", "scopes": ["chat"], **limits}, headers=self.user
        ).get_json()
        return made["id"], {"Authorization": f"Bearer {made['key']}"}

    def chat(self, headers: dict[str, str], **body: Any) -> Any:
        body = {"messages": [{"role": "user", "content": "one two three"}], "max_tokens": 7, **body}
        answer = self.client.post("/chat/completions", json=body, headers=headers, buffered=True)
        answer.close()
        return answer

    def usage(self, headers: dict[str, str], query: str = "") -> Any:
        return self.client.get(f"/usage{query}", headers=headers)


def test_a_user_sees_all_of_their_own_and_a_key_only_its_own(priced: Flask) -> None:
    ada, bob = Caller(priced, "ada@example.com"), Caller(priced, "bob@example.com")
    (first, one), (second, two) = ada.key(), ada.key()
    for headers in (ada.user, one, one, two):
        assert ada.chat(headers).status_code == 200
    assert bob.chat(bob.user).status_code == 200
    assert ada.usage(ada.user).get_json()["totals"]["requests"] == 4
    assert ada.usage(ada.user).get_json()["totals"]["cost_microusd"] == 40
    assert ada.usage(one).get_json()["totals"]["requests"] == 2
    assert ada.usage(two).get_json()["totals"]["requests"] == 1
    assert bob.usage(bob.user).get_json()["totals"]["requests"] == 1
    assert ada.usage(ada.user, f"?key_id={second}").get_json()["totals"]["requests"] == 1
    assert bob.usage(bob.user, f"?key_id={first}").get_json()["totals"]["requests"] == 0
    by_key = ada.usage(ada.user, "?group_by=key").get_json()["rows"]
    assert [(row["key_id"], row["requests"]) for row in by_key] == [
        (None, 1),
        (first, 2),
        (second, 1),
    ]


@pytest.mark.parametrize(
    "query", ["?scope=all", "?user_id=99", "?group_by=user", "?scope=all&group_by=day,user"]
)
def test_only_an_admin_sees_others(priced: Flask, query: str) -> None:
    ada = Caller(priced, "ada@example.com")
    _, key = ada.key()
    for headers in (ada.user, key):
        answer = ada.usage(headers, query)
        assert answer.status_code == 403
        assert answer.get_json()["error"] == "forbidden"


def test_a_key_does_not_see_its_sister(priced: Flask) -> None:
    ada = Caller(priced, "ada@example.com")
    (first, _), (_, two) = ada.key(), ada.key()
    assert ada.usage(two, f"?key_id={first}").status_code == 403


def test_an_admin_sees_everybody(priced: Flask) -> None:
    ada, root = Caller(priced, "ada@example.com"), Caller(priced, "root@example.com", admin=True)
    for caller in (ada, root):
        caller.chat(caller.user)
    assert root.usage(root.user).get_json()["totals"]["requests"] == 1
    assert root.usage(root.user, "?scope=all").get_json()["totals"]["requests"] == 2
    assert root.usage(root.user, f"?user_id={ada.id}").get_json()["totals"]["requests"] == 1
    by_user = root.usage(root.user, "?scope=all&group_by=user").get_json()["rows"]
    assert {row["user_email"] for row in by_user} == {"ada@example.com", "root@example.com"}


def test_without_a_credential_there_is_nothing_to_see(client: FlaskClient) -> None:
    assert client.get("/usage").status_code == 401


@pytest.mark.parametrize(
    "query",
    [
        "?group_by=", "?group_by=shoe_size", "?limit=0", "?limit=1001", "?limit=x", "?from=never",
        "?to=never", "?format=xml", "?cursor=x", "?cursor=W10", "?cursor=WyJhIl0",
        "?cursor=" + "A" * 1999, "?unknown=1", "?user_id=0", "?scope=none",
        "?key_id=99999999999999999999", "?from=2026-11-02&to=2026-11-01", "?cursor=WzFlOTld",
        "?cursor=%00",
        "?group_by=model&cursor=WyJcdTAwMDAiLCJhIl0", "?group_by=model&cursor=WyJcdWQ4MDAiLCJhIl0",
    ],
)  # fmt: skip
def test_a_query_that_makes_no_sense_is_a_400_that_says_why(
    client: FlaskClient, auth_headers: dict[str, str], query: str
) -> None:
    answer = client.get("/usage" + query, headers=auth_headers)
    assert answer.status_code == 400, answer.get_data(as_text=True)
    assert answer.get_json()["error"] == "validation_failed"


def test_csv_by_parameter_or_by_accept_with_the_next_page_in_a_link(priced: Flask) -> None:
    ada = Caller(priced, "ada@example.com")
    for model in ("echo", "echo/echo"):
        ada.chat(ada.user, model=model)
    _, key = ada.key()
    ada.chat(key)
    asked = ada.usage(ada.user, "?format=csv&group_by=key&limit=1")
    assert asked.content_type == "text/csv; charset=utf-8"
    found = list(csv.DictReader(io.StringIO(asked.get_data(as_text=True))))
    assert [(row["key_id"], row["requests"], row["cost_usd"]) for row in found] == [
        ("", "2", "0.00002")
    ]
    link = asked.headers["Link"]
    assert link.endswith('; rel="next"')
    following = ada.client.get(link.split(">")[0].lstrip("<"), headers=ada.user)
    assert following.get_data(as_text=True).splitlines()[1].split(",")[1] == "k"
    assert "Link" not in following.headers
    accepted = ada.client.get("/usage", headers={**ada.user, "Accept": "text/csv"})
    assert accepted.content_type.startswith("text/csv")
    assert ada.client.get("/usage", headers={**ada.user, "Accept": "*/*"}).is_json


def test_a_key_sees_its_budget(priced: Flask) -> None:
    ada = Caller(priced, "ada@example.com")
    _, key = ada.key(monthly_budget_usd="0.0001")
    ada.chat(key)
    budget = ada.usage(key).get_json()["budget"]
    assert (budget["budget_usd"], budget["spent_usd"], budget["reserved_usd"]) == (
        "0.0001",
        "0.00001",
        "0.00",
    )
    assert ada.usage(ada.user).get_json()["budget"] is None


def test_a_spent_budget_is_a_402_that_is_recorded_and_costs_nothing(priced: Flask) -> None:
    ada = Caller(priced, "ada@example.com")
    _, key = ada.key(monthly_budget_usd="0.00002")
    answers = [ada.chat(key) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 402]
    error = answers[2].get_json()
    assert error["error"] == "budget_exceeded"
    assert error["spent_usd"] == "0.00002"
    assert "retry_after" not in error
    totals = ada.usage(key).get_json()["totals"]
    assert (totals["requests"], totals["failed_requests"], totals["cost_microusd"]) == (3, 1, 20)


def test_a_model_without_a_price_is_refused_to_a_key_with_a_budget_only(make_app: MakeApp) -> None:
    from goblin_assistant.config.goblin_file import GoblinFile

    rows = {"local": {"base_url": "http://127.0.0.1:9/v1", "models": ["llama"]}}
    ada = Caller(make_app(file=GoblinFile.model_validate({"providers": rows})), "ada@example.com")
    _, key = ada.key(monthly_budget_usd="1")
    answer = ada.chat(key, model="local/llama")
    assert (answer.status_code, answer.get_json()["error"]) == (400, "price_unknown")
    _, key = ada.key()
    assert ada.chat(key, model="local/llama").status_code == 502
