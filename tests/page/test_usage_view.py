"""Stories of people who look at what was used: plots, tables, CSV."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from playwright.sync_api import Browser, Locator, Page, expect
from sqlalchemy import create_engine

from goblin_assistant.database.engine import engine_options
from goblin_assistant.usage.records import first_id_at, journal_line
from tests.conftest import Server, serving, wait_until
from tests.support.books import entry, open_store
from tests.support.signed_in import make_admin, ready, signed_in

DAYS = 16
MODELS = ("gpt-4o", "claude-sonnet", "llama3.2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server is."""
    return tmp_path_factory.mktemp("usage")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    """One server for all stories."""
    with serving(folder) as start:
        yield start()


def fill(folder: Path, server: Server, email: str) -> dict[str, str]:
    """A user with sixteen days of chats by three models; their headers."""
    headers = server.register(email)
    user_id = requests.get(server.url + "/auth/me", headers=headers, timeout=60).json()["id"]
    noon = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
    entries = []
    for day in range(DAYS):
        start = int((noon - timedelta(days=day + 1)).timestamp() * 1000)
        for number in range(day % 4 + 1):
            entries.append(
                entry(
                    id=first_id_at(start)[:26] + f"{user_id * 64 + number:06x}",
                    user_id=user_id, provider="up", model=MODELS[number % 3], key_id=None,
                    cost_microusd=10_000 * (number + 1), prompt_tokens=100 + day,
                    completion_tokens=50,
                )
            )  # fmt: skip
    url = f"sqlite:///{folder / 'server0' / 'instance' / 'goblin.db'}"
    engine = create_engine(url, **engine_options(url, 2))
    with open_store(engine, folder / f"journal-{user_id}") as store:
        lines = (journal_line(one) for one in entries)
        assert store.import_records(lines).imported == len(entries)
    engine.dispose()
    return headers


def painted(page: Page) -> list[int]:
    """For each plot, how many of its pixels have one of the bars' colours: opaque and not grey."""
    counts: list[int] = page.evaluate(
        """[...document.querySelectorAll(".plot canvas")].map((canvas) => {
          const { width, height } = canvas;
          const data = canvas.getContext("2d").getImageData(0, 0, width, height).data;
          let found = 0;
          for (let at = 0; at < data.length; at += 4) {
            const [r, g, b, a] = data.slice(at, at + 4);
            if (a > 200 && Math.max(r, g, b) - Math.min(r, g, b) > 40) found += 1;
          }
          return found;
        })"""
    )
    return counts


def chooser(page: Page, name: str) -> Locator:
    return page.get_by_role("combobox", name=name, exact=True)


def rows_of(page: Page, region: str) -> list[list[str]]:
    cells: list[list[str]] = (
        page.get_by_role("region", name=region)
        .locator("tbody tr")
        .evaluate_all(
            "(rows) => rows.map((row) => [...row.children].map((cell) => cell.innerText.trim()))"
        )
    )
    return cells


def test_cost_tokens_and_requests_are_drawn_and_stand_in_tables(
    browser: Browser, server: Server, folder: Path
) -> None:
    headers = fill(folder, server, "drawn@example.com")
    expected = requests.get(
        server.url + "/usage?group_by=day,model&limit=1000", headers=headers, timeout=60
    ).json()
    with signed_in(browser, server, "drawn@example.com", "usage") as ada:
        expect(ada.page.get_by_role("figure")).to_have_count(3)
        wait_until(lambda: min(painted(ada.page), default=0) > 500, what="bars in each plot")
        expect(ada.page.locator(".legend li")).to_have_text([f"up/{name}" for name in MODELS])
        total = expected["totals"]
        for text in (f"${float(total['cost_usd']):.2f}", f"{total['requests']}"):
            expect(ada.page.locator(".sums")).to_contain_text(text)
        ada.page.get_by_role("button", name="Show all").click()
        shown = rows_of(ada.page, "Day by day")
        figures = {
            (day, name): (int(requests_), int(read.replace(",", "")), int(written))
            for day, name, requests_, _, read, written, _ in shown
        }
        assert figures == {
            (row["day"], f"up/{row['model']}"): (
                row["requests"], row["prompt_tokens"], row["completion_tokens"],
            )
            for row in expected["rows"]
        }  # fmt: skip
        assert [row[0] for row in shown] == sorted((row[0] for row in shown), reverse=True)
        assert len(rows_of(ada.page, "Together")) == 3


def test_plots_follow_the_colour_scheme_and_the_width(
    browser: Browser, server: Server, folder: Path
) -> None:
    fill(folder, server, "scheme@example.com")
    with signed_in(browser, server, "scheme@example.com", "usage") as ada:
        first = "document.querySelector('.plot canvas').toDataURL()"
        wait_until(lambda: min(painted(ada.page), default=0) > 500, what="bars")
        light = ada.page.evaluate(first)
        ada.page.emulate_media(color_scheme="dark")
        wait_until(lambda: ada.page.evaluate(first) != light, what="other colours")
        ada.page.set_viewport_size({"width": 390, "height": 844})
        width = "document.querySelector('.plot canvas').getBoundingClientRect().width"
        wait_until(lambda: ada.page.evaluate(width) < 390, what="narrow plots")
        assert ada.page.locator(".plot canvas").count() == 3


def test_the_csv_is_the_servers(
    browser: Browser, server: Server, folder: Path, tmp_path: Path
) -> None:
    headers = fill(folder, server, "csv@example.com")
    with signed_in(browser, server, "csv@example.com", "usage/90/model") as ada:
        with ada.page.expect_download() as started:
            ada.page.get_by_role("button", name="CSV").click()
        started.value.save_as(tmp_path / "usage.csv")
        name = started.value.suggested_filename
        start = name.removeprefix("usage-").removesuffix(".csv")
        query = {"from": start, "group_by": "day,model", "format": "csv", "limit": "1000"}
        answer = requests.get(server.url + "/usage", params=query, headers=headers, timeout=60)
        assert (tmp_path / "usage.csv").read_bytes() == answer.content


def test_the_pages_of_a_long_csv_are_one_file(
    browser: Browser, server: Server, folder: Path, tmp_path: Path
) -> None:
    headers = fill(folder, server, "long@example.com")
    with signed_in(browser, server, "long@example.com", "usage") as ada:
        # As for a thousand rows and more, with pages of five.
        ada.page.route(
            "**/usage?*format=csv*",
            lambda route: route.continue_(url=route.request.url.replace("limit=1000", "limit=5")),
        )
        with ada.page.expect_download() as started:
            ada.page.get_by_role("button", name="CSV").click()
        started.value.save_as(tmp_path / "usage.csv")
    query = {"group_by": "day,model", "format": "csv", "limit": "1000"}
    answer = requests.get(server.url + "/usage", params=query, headers=headers, timeout=60)
    assert (tmp_path / "usage.csv").read_bytes() == answer.content


def test_what_is_chosen_stands_in_the_address(
    browser: Browser, server: Server, folder: Path
) -> None:
    headers = fill(folder, server, "chosen@example.com")
    made = requests.post(
        server.url + "/auth/keys", json={"name": "nightly"}, headers=headers, timeout=60
    ).json()
    chat = {"model": "echo", "messages": [{"role": "user", "content": "Hello"}]}
    bearer = {"Authorization": f"Bearer {made['key']}"}
    answer = requests.post(
        server.url + "/v1/chat/completions", json=chat, headers=bearer, timeout=60
    )
    assert answer.status_code == 200
    query = {"group_by": "key"}
    wait_until(
        lambda: len(
            requests.get(
                server.url + "/usage", params=query, headers=headers, timeout=60
            ).json()["rows"]
        ) == 2,
        what="the chat's record",
    )  # fmt: skip
    with signed_in(browser, server, "chosen@example.com", "usage") as ada:
        chooser(ada.page, "By").select_option("API key")
        expect(ada.page.locator(".legend li")).to_have_text(["without a key", "nightly"])
        assert ada.page.url.endswith("#/usage/30/key/own")
        chooser(ada.page, "The last").select_option("7 days")
        expect(ada.page).to_have_url(f"{server.url}/#/usage/7/key/own")
        ada.page.reload()
        expect(chooser(ada.page, "By")).to_have_value("key")
        expect(chooser(ada.page, "The last")).to_have_value("7")
        ada.page.go_back()
        expect(chooser(ada.page, "The last")).to_have_value("30")
        ada.page.go_back()
        expect(chooser(ada.page, "By")).to_have_value("model")


def test_an_admin_sees_everybodys_and_others_are_not_offered_it(
    browser: Browser, server: Server, folder: Path
) -> None:
    fill(folder, server, "somebody@example.com")
    server.register("root@example.com")
    make_admin(folder / "server0", "root@example.com")
    with signed_in(browser, server, "root@example.com", "usage") as root:
        expect(root.page.get_by_text("No usage in these days.")).to_be_visible()
        chooser(root.page, "Of").select_option("everybody")
        expect(root.page.get_by_role("figure")).to_have_count(3)
        chooser(root.page, "By").select_option("user")
        expect(root.page.locator(".legend")).to_contain_text("somebody@example.com")
    with signed_in(browser, server, "somebody@example.com", "usage/30/user/all") as ada:
        expect(ada.page.get_by_role("figure")).to_have_count(3)
        expect(chooser(ada.page, "Of")).to_have_count(0)
        expect(chooser(ada.page, "By")).to_have_value("model")


def test_a_report_that_fails_is_said_with_the_id_and_tried_again(
    browser: Browser, server: Server, folder: Path
) -> None:
    fill(folder, server, "fails@example.com")
    with signed_in(browser, server, "fails@example.com", "status") as ada:
        refused: dict[str, Any] = {
            "status": 503,
            "headers": {"X-Correlation-ID": "the-id", "Retry-After": "5"},
            "json": {"error": "unavailable", "message": "the usage records cannot be read now"},
        }
        ada.page.route("**/usage?*", lambda route: route.fulfill(**refused))
        ada.page.get_by_role("link", name="Usage").click()
        alert = ada.page.get_by_role("alert")
        expect(alert).to_contain_text(
            "The usage records cannot be read now. Try again in 5 seconds."
        )
        expect(alert.locator("code")).to_have_text("the-id")
        ada.page.unroute("**/usage?*")
        alert.get_by_role("button", name="Try again").click()
        expect(ada.page.get_by_role("figure")).to_have_count(3)
        ready(ada.page)
