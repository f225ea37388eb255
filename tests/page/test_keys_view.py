"""Stories of people who make, use, rotate and revoke API keys on the page."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests
from playwright.sync_api import Browser, Page, expect

from goblin_assistant.database.models import now_ms
from tests.conftest import Server, serving, wait_until
from tests.support.signed_in import ready, signed_in


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server is."""
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    """One server for all stories, where echo costs a cent a token."""
    (folder / "goblin.toml").write_text('[prices."echo/*"]\ninput = 10000\noutput = 10000\n')
    with serving(folder) as start:
        yield start(GOBLIN_CONFIG_FILE=str(folder / "goblin.toml"))


def ask(server: Server, key: str, **body: Any) -> requests.Response:
    """A chat by an API key."""
    chat = {"model": "echo", "messages": [{"role": "user", "content": "Hello"}], **body}
    headers = {"Authorization": f"Bearer {key}"}
    return requests.post(
        server.url + "/v1/chat/completions", json=chat, headers=headers, timeout=60
    )


def keys_of(server: Server, headers: dict[str, str]) -> list[dict[str, Any]]:
    answer = requests.get(server.url + "/auth/keys", headers=headers, timeout=60)
    found: list[dict[str, Any]] = answer.json()["keys"]
    return found


def make(page: Page, name: str, **fields: str) -> str:
    """Make a key by the form; what is shown."""
    page.get_by_role("button", name="New key").click()
    page.get_by_label("Name").fill(name)
    for label, value in fields.items():
        page.get_by_label(label.replace("_", " ")).fill(value)
    page.get_by_role("button", name="Create key").click()
    return shown(page)


def shown(page: Page) -> str:
    """The key that a dialog shows, which is closed."""
    dialog = page.get_by_role("dialog")
    secret = dialog.get_by_label("Key", exact=True)
    expect(secret).to_be_visible()
    value = secret.input_value()
    dialog.get_by_role("button", name="Done").click()
    expect(dialog).to_have_count(0)
    return value


def test_a_key_is_made_copied_used_and_never_shown_again(browser: Browser, server: Server) -> None:
    server.register("maker@example.com")
    with signed_in(browser, server, "maker@example.com") as ada:
        ada.context.grant_permissions(["clipboard-read", "clipboard-write"])
        ada.page.get_by_role("button", name="New key").click()
        ada.page.get_by_label("Name").fill("build server")
        ada.page.get_by_role("button", name="Create key").click()
        dialog = ada.page.get_by_role("dialog")
        dialog.get_by_role("button", name="Copy").click()
        expect(dialog.get_by_role("button", name="Copied")).to_be_visible()
        copied = ada.page.evaluate("navigator.clipboard.readText()")
        assert copied == shown(ada.page)
        assert ask(server, copied).status_code == 200
        assert copied not in ada.page.content()
        ada.page.reload()
        ready(ada.page)
        row = ada.page.get_by_role("row", name="build server")
        expect(row).to_contain_text(copied[:12])
        assert copied not in ada.page.content()


def test_limits_scopes_models_and_budget_are_those_that_the_server_keeps(
    browser: Browser, server: Server
) -> None:
    headers = server.register("limits@example.com")
    with signed_in(browser, server, "limits@example.com") as ada:
        ada.page.get_by_role("button", name="New key").click()
        dialog = ada.page.get_by_role("dialog")
        for label, value in (
            ("Name", "narrow"), ("Models", "echo/*\n gone/model "), ("Chats a minute", "7"),
            ("Tokens a minute", "12000"), ("Chats at once", "3"), ("Budget a month", "2.50"),
        ):  # fmt: skip
            dialog.get_by_label(label).fill(value)
        dialog.get_by_label("embeddings").uncheck()
        dialog.get_by_label("Ends").select_option("in 30 days")
        dialog.get_by_role("button", name="Create key").click()
        secret = shown(ada.page)
        (kept,) = keys_of(server, headers)
        assert kept["scopes"] == ["chat"]
        assert kept["allowed_models"] == ["echo/*", "gone/model"]
        assert kept["requests_per_minute"] == 7
        assert kept["tokens_per_minute"] == 12_000
        assert kept["max_concurrency"] == 3
        assert kept["monthly_budget_usd"] == "2.50"
        assert kept["expires_at"] is not None
        used = ask(server, secret, max_tokens=50).json()["usage"]["total_tokens"]
        # The record of a chat is written after its answer.
        query = {"group_by": "key"}
        wait_until(
            lambda: requests.get(
                server.url + "/usage", params=query, headers=headers, timeout=60
            ).json()["rows"],
            what="the chat's record",
        )
        ada.page.reload()
        row = ada.page.get_by_role("row", name="narrow")
        spent = f"${used / 100:.2f}"
        for text in (
            "chat", "echo/*, gone/model", "7 chats a minute", "12,000 tokens a minute",
            "3 at once", f"{spent} of $2.50 this month", "days",
        ):  # fmt: skip
            expect(row).to_contain_text(text)


def test_the_last_use_of_a_key_is_shown(browser: Browser, server: Server, folder: Path) -> None:
    headers = server.register("used@example.com")
    key = {"name": "often used"}
    made = requests.post(server.url + "/auth/keys", json=key, headers=headers, timeout=60).json()
    # Servers write it once a minute.
    path = folder / "server0" / "instance" / "goblin.db"
    with closing(sqlite3.connect(path, timeout=30)) as database, database:
        used = "UPDATE api_keys SET last_used_at = ? WHERE id = ?"
        database.execute(used, (now_ms() - 3 * 3_600_000 - 60_000, made["id"]))
    with signed_in(browser, server, "used@example.com") as ada:
        row = ada.page.get_by_role("row", name="often used")
        expect(row).to_contain_text("3 hours ago")


def test_a_rotated_key_is_replaced_and_a_revoked_one_is_refused(
    browser: Browser, server: Server
) -> None:
    headers = server.register("rotates@example.com")
    with signed_in(browser, server, "rotates@example.com") as ada:
        first = make(ada.page, "service", Budget_a_month="5")
        ada.page.get_by_role("button", name="Rotate service").click()
        ada.page.get_by_label("The old key ends").select_option("in an hour")
        ada.page.get_by_role("button", name="Rotate key").click()
        second = shown(ada.page)
        assert ask(server, first, max_tokens=9).status_code == 200
        assert ask(server, second, max_tokens=9).status_code == 200
        expect(ada.page.get_by_text("replaced", exact=True)).to_be_visible()
        # The successor, first in the list: only it can be rotated.
        rotate = ada.page.get_by_role("button", name="Rotate service")
        expect(rotate).to_have_count(1)
        rotate.click()
        ada.page.get_by_label("The old key ends").select_option("at once")
        ada.page.get_by_role("button", name="Rotate key").click()
        third = shown(ada.page)
        assert ask(server, second, max_tokens=9).status_code == 401
        row = ada.page.get_by_role("row", name=third[:12])
        row.get_by_role("button", name="Revoke").click()
        dialog = ada.page.get_by_role("dialog")
        expect(dialog).to_contain_text(third[:12])
        dialog.get_by_role("button", name="Cancel").click()
        assert ask(server, third, max_tokens=9).status_code == 200
        row.get_by_role("button", name="Revoke").click()
        dialog.get_by_role("button", name="Revoke key").click()
        expect(dialog).to_have_count(0)
        refused = ask(server, third, max_tokens=9)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "unauthorized")
        ada.page.get_by_text("Revoked and expired keys (2)").click()
        expect(row).to_contain_text("revoked")
        states = [bool(key["revoked_at"]) for key in keys_of(server, headers)]
        assert states == [False, False, True]


def test_what_the_server_refuses_is_shown_in_its_words_with_the_id(
    browser: Browser, server: Server
) -> None:
    headers = server.register("refused@example.com")
    with signed_in(browser, server, "refused@example.com") as ada:
        ada.page.get_by_role("button", name="New key").click()
        dialog = ada.page.get_by_role("dialog")
        dialog.get_by_label("Name").fill("much")
        dialog.get_by_label("Budget a month").fill("many")
        dialog.get_by_role("button", name="Create key").click()
        body = {"name": "much", "monthly_budget_usd": "many"}
        answer = requests.post(server.url + "/auth/keys", json=body, headers=headers, timeout=60)
        assert answer.status_code == 400
        alert = dialog.get_by_role("alert")
        expect(alert).to_contain_text(answer.json()["message"][1:])
        correlation_id = alert.locator("code").inner_text()
        server.wait_for_line("request_completed", correlation_id=correlation_id, status_code=400)
        # The form is as it was, and goes on.
        dialog.get_by_label("Budget a month").fill("1")
        dialog.get_by_role("button", name="Create key").click()
        assert shown(ada.page).startswith("gob_")


def test_a_server_that_is_away_is_said_and_asked_again(browser: Browser, server: Server) -> None:
    server.register("away@example.com")
    with signed_in(browser, server, "away@example.com") as ada:
        ada.page.route("**/auth/keys?*", lambda route: route.abort())
        ada.page.get_by_role("link", name="Status").click()
        ada.page.get_by_role("link", name="API keys").click()
        expect(ada.page.get_by_role("alert")).to_contain_text("The server cannot be reached")
        ada.page.unroute("**/auth/keys?*")
        ada.page.get_by_role("button", name="Try again").click()
        expect(ada.page.get_by_text("You have no key that works.")).to_be_visible()
