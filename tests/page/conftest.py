"""The browser of the stories, and the provider and server of those that chat."""

from playwright.sync_api import expect

from tests.support.browser import browser
from tests.support.chatting import server, upstream

__all__ = ["browser", "server", "upstream"]

expect.set_options(timeout=60_000)
