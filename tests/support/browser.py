"""Debian's Chromium by Playwright, and pages that are watched: what a browser complains about, and
where its requests go.

The browser is a module's, not the session's: while Playwright's synchronous API is open, no other
test of the process could run an event loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.support.services import find_binary

MILLISECONDS = 60_000
"""How long a page may take for what it should do. Machines that run tests are busy."""

REPORT = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`);
});
"""
"""Collects what the page's Content-Security-Policy has stopped. Runs before the page's own code."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A running Chromium without a window."""
    path = find_binary("chromium")
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield made
        made.close()


@dataclass
class Person:
    """Somebody with a browser profile, so cookies, of their own. `page` is the first tab."""

    context: BrowserContext
    page: Page
    host: str
    complaints: list[str] = field(default_factory=list)
    """Errors on the console and in scripts, but for answers of the server that are errors."""
    elsewhere: list[str] = field(default_factory=list)
    """Requests to another host."""

    def watch(self, page: Page) -> Page:
        """Listen to a tab."""
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.complaints.append(f"script: {error}"))
        page.on("request", self._asked)
        return page

    def _heard(self, message: Any) -> None:
        # The browser itself writes a line for each answer that is an error.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.complaints.append(message.text)

    def _asked(self, request: Any) -> None:
        parts = urlsplit(request.url)
        if parts.scheme in ("http", "https", "ws", "wss") and parts.netloc != self.host:
            self.elsewhere.append(request.url)

    def new_tab(self) -> Page:
        """Another tab of the same profile."""
        return self.watch(self.context.new_page())

    def violations(self) -> list[str]:
        """What the policy has stopped, in the tabs that are open."""
        return [one for page in self.context.pages for one in page.evaluate("window.violations")]

    def check(self) -> None:
        """Nothing was complained about, stopped by the policy, or asked of another host."""
        assert self.complaints == []
        assert self.violations() == []
        assert self.elsewhere == []


@contextmanager
def person(browser: Browser, url: str, **options: Any) -> Iterator[Person]:
    """A person whose first tab is at `url`; afterwards what they saw is checked."""
    context = browser.new_context(**options)
    context.set_default_timeout(MILLISECONDS)
    context.add_init_script(REPORT)
    try:
        made = Person(context, context.new_page(), urlsplit(url).netloc)
        made.watch(made.page)
        made.page.goto(url)
        yield made
        made.check()
    finally:
        context.close()
