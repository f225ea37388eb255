"""The parts of one application, and how a view reaches them.

Whatever outlives a request (providers, router, slots, monitor) is a field of `Runtime`, made once
for each application. None of it is global: tests run several applications side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flask import current_app

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from goblin_assistant.accounts.users import Accounts
    from goblin_assistant.calls.idempotency import IdempotencyStore
    from goblin_assistant.calls.service import ChatService
    from goblin_assistant.config import Config
    from goblin_assistant.conversations.store import Conversations
    from goblin_assistant.health.monitor import HealthMonitor
    from goblin_assistant.providers import Registry
    from goblin_assistant.rate_limits.policy import RateLimits
    from goblin_assistant.routing.router import Router
    from goblin_assistant.tracing.tracing import Tracing
    from goblin_assistant.usage.store import UsageStore


@dataclass(slots=True)
class Runtime:
    """The parts of one application, in the order in which they are made."""

    config: Config
    engine: Engine
    accounts: Accounts
    rate_limits: RateLimits
    registry: Registry
    router: Router
    usage: UsageStore
    conversations: Conversations
    idempotency: IdempotencyStore
    chat: ChatService
    monitor: HealthMonitor
    tracing: Tracing


def runtime() -> Runtime:
    """The current application's parts."""
    found: Runtime = current_app.extensions["goblin"]
    return found
