"""axe-core (https://github.com/dequelabs/axe-core) finds nothing serious in any view."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from playwright.sync_api import Browser, Page, expect

from tests.conftest import Server, serving
from tests.support import node
from tests.support.browser import person
from tests.support.signed_in import ready, signed_in

PROJECT = Path(__file__).parent / "axe"
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def axe() -> str:
    """The text of axe-core, which is put into the page from outside."""
    return (node.installed(PROJECT) / "axe-core" / "axe.min.js").read_text()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server, with an account that has keys and chats."""
    with serving(tmp_path_factory.mktemp("axe")) as start:
        made = start()
        headers = made.register("ada@example.com")
        for name in ("one", "two"):
            answer = requests.post(
                made.url + "/auth/keys",
                json={"name": name, "monthly_budget_usd": "5"},
                headers=headers,
                timeout=60,
            )
            assert answer.status_code == 201
        chat = {"model": "echo", "messages": [{"role": "user", "content": "Hello"}]}
        requests.post(made.url + "/v1/chat/completions", json=chat, headers=headers, timeout=60)
        yield made


def serious(page: Page, axe: str) -> list[Any]:
    """What axe-core finds that is serious or critical, in short."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(axe + "; null")
    found: list[Any] = page.evaluate(
        """async () => (await axe.run(document, { resultTypes: ["violations"] })).violations
          .filter((one) => ["serious", "critical"].includes(one.impact))
          .map((one) => [one.id, one.help, one.nodes.slice(0, 5).map((node) => node.html)])"""
    )
    return found


def test_axe_finds_what_is_wrong(browser: Browser, server: Server, axe: str) -> None:
    with person(browser, server.url) as ada:
        expect(ada.page.get_by_label("E-mail")).to_be_visible()
        ada.page.evaluate("document.querySelector('input').removeAttribute('autocomplete')")
        ada.page.evaluate("document.querySelector('main').append(document.createElement('button'))")
        assert [one[0] for one in serious(ada.page, axe)] == ["button-name"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_at_the_door(
    browser: Browser, server: Server, axe: str, scheme: Any
) -> None:
    with person(browser, server.url, color_scheme=scheme) as ada:
        expect(ada.page.get_by_label("E-mail")).to_be_visible()
        assert serious(ada.page, axe) == []


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_nothing_serious_in_any_view(browser: Browser, server: Server, axe: str, look: str) -> None:
    options: dict[str, Any] = {"viewport": PHONE} if look == "phone" else {"color_scheme": look}
    with signed_in(browser, server, "ada@example.com", "status", **options) as ada:
        for view in ("chat", "keys", "usage", "status", "settings"):
            ada.page.goto(f"{server.url}/#/{view}")
            ready(ada.page, view)
            if view == "chat":
                ask(ada.page)
            assert (view, serious(ada.page, axe)) == (view, [])
        ada.page.goto(f"{server.url}/#/keys")
        ready(ada.page, "keys")
        for button in ("New key", "Rotate one", "Revoke one"):
            ada.page.get_by_role("button", name=button).click()
            expect(ada.page.get_by_role("dialog")).to_be_visible()
            assert (button, serious(ada.page, axe)) == (button, [])
            ada.page.keyboard.press("Escape")
            expect(ada.page.get_by_role("dialog")).to_have_count(0)


def ask(page: Page) -> None:
    """A question whose answer, by echo, has code, a table and a list."""
    text = (
        "# Title\n\n- one\n- two\n\n```python\nprint('hello')  # said\n```\n\n|a|b|\n|-|-|\n|1|2|"
    )
    page.get_by_label("Message").fill(text)
    page.get_by_label("Message").press("Enter")
    expect(page.get_by_role("button", name="Ask again")).to_be_visible()
