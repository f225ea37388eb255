"""Property: a budget holds, whatever clients ask and providers answer. Tried on the chat service,
without HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from goblin_assistant.accounts.principals import Principal
from goblin_assistant.calls.service import Chat, ChatService, ChatStream
from goblin_assistant.config import Config, GoblinFile
from goblin_assistant.config.goblin_file import PriceRow
from goblin_assistant.errors import AppError
from goblin_assistant.providers import Registry
from goblin_assistant.providers.anthropic.provider import AnthropicProvider
from goblin_assistant.providers.base import Model, ProviderError
from goblin_assistant.providers.openai.provider import OpenAICompatibleProvider
from goblin_assistant.providers.openai.quirks import Quirks
from goblin_assistant.rate_limits.memory import MemoryStorage
from goblin_assistant.rate_limits.policy import RateLimits
from goblin_assistant.routing.router import Router
from goblin_assistant.schemas.chat import ChatCompletionRequest
from goblin_assistant.schemas.messages import MessagesRequest
from goblin_assistant.threads.budget import ThreadBudget
from goblin_assistant.usage.batches import BATCH_SECONDS
from goblin_assistant.usage.prices import Prices
from goblin_assistant.web.request_body import parse_json
from tests.support.books import add_key, budget_of, open_database, open_store, rows
from tests.support.money_cases import Case, cases
from tests.support.scripted_server import ScriptedServer, Truth

PRICE = 100  # micro-dollars a token
ROWS = {
    "plain": Quirks(),
    "older": Quirks(max_tokens_field="max_tokens"),
    "newer": Quirks(max_tokens_field="max_completion_tokens"),
}


class Scripted(OpenAICompatibleProvider):
    """A provider's row whose server follows a script."""

    def __init__(self, name: str, server: ScriptedServer) -> None:
        super().__init__(name, "http://127.0.0.1:9", quirks=ROWS[name], models=[Model("m")])
        self._client = server  # type: ignore[assignment]


class ScriptedAnthropic(AnthropicProvider):
    """The same in Anthropic's dialect."""

    def __init__(self, server: ScriptedServer) -> None:
        super().__init__("claude", "http://127.0.0.1:9", models=[Model("m")])
        self._client = server  # type: ignore[assignment]


class Till:
    """A chat service with a database of its own, and keys with budgets."""

    def __init__(self, engine: Engine, store: Any) -> None:
        self.engine = engine
        self.servers = {name: ScriptedServer() for name in (*ROWS, "claude")}
        self.servers["claude"].anthropic = True
        self.servers["newer"].reads = "max_completion_tokens"
        config = Config.load(
            {"secret_key": "x" * 32, "file": GoblinFile(), "retries": 0}, environ={}
        )
        providers = [Scripted(name, self.servers[name]) for name in ROWS]
        registry = Registry(
            {p.name: p for p in (*providers, ScriptedAnthropic(self.servers["claude"]))}
        )
        self.usage = store
        self._config, self._registry = config, registry
        self._limits = RateLimits(config, MemoryStorage())
        self._service()

    def _service(self) -> None:
        # A breaker that earlier examples have opened would refuse.
        router = Router(self._config, self._registry)
        threads = ThreadBudget(self._config.held_threads)
        self.chat = ChatService(
            self._config, self._registry, router, self.usage, self._limits, threads
        )

    def principal(self, budget: int, tokens: int | None = None) -> Principal:
        self._service()
        key = add_key(self.engine, user_id=1)
        return Principal(
            1,
            "user",
            key,
            monthly_budget_microusd=budget,
            tokens_per_minute=tokens,
            label=f"key:{key}",
        )

    def begin(self, principal: Principal, case: Case) -> tuple[Truth | None, ChatStream | None]:
        """Ask. The truth is None if the gateway refused, the stream is None if the call is over."""
        server = self.servers[case.body["model"].split("/")[0]]
        server.scripts[:] = [case.script]
        asked = len(server.truths)
        raw = json.dumps(case.body).encode()
        schema = MessagesRequest if case.dialect == "anthropic" else ChatCompletionRequest
        stream = None
        try:
            body = parse_json(schema, raw)
            chat = Chat(
                principal,
                body,
                raw,
                stream=body.get("stream") is True,
                dialect=case.dialect,  # type: ignore[arg-type]
            )
            if chat.stream:
                stream = self.chat.stream(chat)
            else:
                self.chat.complete(chat)
        except (AppError, ProviderError):
            pass
        assert len(server.truths) <= asked + 1
        return (server.truths[-1] if len(server.truths) > asked else None), stream


def finish(case: Case, stream: ChatStream) -> None:
    """Read as much as the case says, and close the stream."""
    if case.reads != 0:
        for number, _ in enumerate(stream, 1):
            if number == case.reads:
                break
    stream.close()


@pytest.fixture(scope="module")
def till(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Till]:
    folder: Path = tmp_path_factory.mktemp("till")
    engine = open_database(f"sqlite:///{folder / 'books.db'}")
    add_key(engine)
    prices = {f"{name}/*": PriceRow(input=PRICE, output=PRICE) for name in (*ROWS, "claude")}
    options = {"prices": Prices(prices), "default_max_tokens": 500, "batch_seconds": BATCH_SECONDS}
    with open_store(engine, folder, **options) as store:
        yield Till(engine, store)
    engine.dispose()


def spend(till: Till, principal: Principal, calls: list[Case]) -> tuple[list[Truth], int]:
    """Make the calls, some at once. Returns the cost of each, and the largest excess of calls in
    flight."""
    truths: list[Truth] = []
    running: list[tuple[Case, Truth, ChatStream]] = []
    most = 0
    for case in calls:
        truth, stream = till.begin(principal, case)
        if truth is None:
            continue
        truths.append(truth)
        if stream is not None:
            running.append((case, truth, stream))
        if stream is None or not case.waits:
            for case_, _, stream_ in running:
                finish(case_, stream_)
            most = max(
                most,
                sum(
                    each.excess
                    for each in {id(t): t for t in (truth, *(t for _, t, _ in running))}.values()
                ),
            )
            running.clear()
    for case, _, stream in running:
        finish(case, stream)
    assert till.usage.flush(30)
    return truths, max(most, sum(truth.excess for _, truth, _ in running))


BUDGETS = st.sampled_from((300, 3_000, 30_000, 150_000))
PROPERTY = settings(
    max_examples=1200,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@PROPERTY
@given(budget=BUDGETS, calls=st.lists(cases(keeps=True), min_size=1, max_size=6))
def test_a_budget_is_never_exceeded_where_providers_keep_to_the_limit_that_was_sent(
    till: Till, budget: int, calls: list[Case]
) -> None:
    principal = till.principal(budget * PRICE)
    truths, _ = spend(till, principal, calls)
    cost = sum(truth.tokens for truth in truths)
    assert principal.key_id is not None
    spent, reserved = budget_of(till.engine, principal.key_id)
    assert reserved == 0
    assert cost <= budget
    assert cost * PRICE <= spent <= budget * PRICE


@PROPERTY
@given(budget=BUDGETS, calls=st.lists(cases(), min_size=1, max_size=6))
def test_a_budget_is_exceeded_by_at_most_what_the_calls_in_flight_wrote_beyond_their_limits(
    till: Till, budget: int, calls: list[Case]
) -> None:
    principal = till.principal(budget * PRICE)
    truths, excess = spend(till, principal, calls)
    cost = sum(truth.tokens for truth in truths)
    assert principal.key_id is not None
    spent, reserved = budget_of(till.engine, principal.key_id)
    assert reserved == 0
    assert cost <= budget + excess
    assert cost * PRICE <= spent
    recorded = rows(
        till.engine,
        "SELECT SUM(cost_microusd) FROM usage_records WHERE key_id = :k",
        k=principal.key_id,
    )
    assert (recorded[0][0] or 0) == spent


@settings(PROPERTY, max_examples=400)
@given(
    tokens=st.sampled_from((50, 700, 9_000, 40_000)),
    calls=st.lists(cases(keeps=True), min_size=1, max_size=6),
)
def test_a_minute_has_no_more_tokens_than_its_key_where_providers_keep_to_the_limit_that_was_sent(
    till: Till, tokens: int, calls: list[Case]
) -> None:
    principal = till.principal(10**12, tokens)
    truths, _ = spend(till, principal, calls)
    assert sum(truth.tokens for truth in truths) <= tokens
