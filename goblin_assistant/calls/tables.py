"""goblin.toml's routes and prices, which a reload replaces together.

A chat takes both at its admission and keeps them to its end. So it is charged by the prices under
which its target was chosen.
"""

from __future__ import annotations

from goblin_assistant.routing.router import Router
from goblin_assistant.routing.targets import Resolver
from goblin_assistant.usage.prices import Prices
from goblin_assistant.usage.store import UsageStore


class Tables:
    """What is in force. Shared by all threads."""

    def __init__(self, router: Router, usage: UsageStore) -> None:
        self._router = router
        self._usage = usage
        self.current = (router.resolver, usage.prices)
        """Read it once for both."""

    def replace(self, resolver: Resolver, prices: Prices) -> None:
        """Use these from the next chat on."""
        self.current = (resolver, prices)
        # For listings, and for what is not a chat.
        self._router.resolver = resolver
        self._usage.prices = prices
