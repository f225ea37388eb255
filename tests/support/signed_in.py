"""Somebody who is signed in to the page, in one of its views."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import requests
from playwright.sync_api import Browser, Page, expect

from tests.conftest import PASSWORD, Server
from tests.support.browser import Person, person


def sign_in(page: Page, email: str, password: str = PASSWORD) -> None:
    """Fill the form in and send it."""
    page.get_by_label("E-mail").fill(email)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in", exact=True).click()


def create_account(page: Page, email: str, password: str = PASSWORD) -> None:
    """Fill the other form in and send it."""
    page.get_by_role("button", name="Create an account").click()
    page.get_by_label("E-mail").fill(email)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Create account").click()


def end_session(server: Server, email: str) -> None:
    """Have the server end all sessions of somebody, behind the page's back."""
    login = server.patiently("/auth/login", {"email": email, "password": PASSWORD})
    out = requests.post(
        server.url + "/auth/logout",
        json={},
        headers={"Authorization": f"Bearer {login['access_token']}"},
        timeout=60,
    )
    assert out.status_code == 204


@contextmanager
def signed_in(
    browser: Browser, server: Server, email: str, view: str = "keys", **options: Any
) -> Iterator[Person]:
    """A person with an account who has opened a view; `options` are of the browser's profile."""
    with person(browser, f"{server.url}/#/{view}", **options) as made:
        sign_in(made.page, email)
        ready(made.page)
        yield made


def ready(page: Page, view: str = "") -> None:
    """Wait until a view is there; without `view`, any, as after a reload."""
    kind = f".view.{view}" if view else ".view"
    expect(page.locator(f"#room:not([aria-busy]) > {kind} h1")).to_have_count(1)


def make_admin(folder: Path, email: str) -> None:
    """Make a user of the server in `folder` an admin: it reads the role with each request."""
    path = folder / "instance" / "goblin.db"
    with closing(sqlite3.connect(path, timeout=30)) as database, database:
        changed = database.execute("UPDATE users SET role = 'admin' WHERE email = ?", (email,))
        assert changed.rowcount == 1
