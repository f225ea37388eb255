"""What is billed: each rule of docs/usage.md, through the application and a provider's server."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from sqlalchemy import Engine

from goblin_assistant import metrics
from goblin_assistant.config.goblin_file import GoblinFile
from tests.conftest import MakeApp, register, wait_until
from tests.support.books import rows
from tests.support.fake_upstream import CUT, FakeUpstream, Reply
from tests.support.wire_bodies import openai_chat, openai_events, openai_usage

BODY: dict[str, Any] = {"model": "fake/gpt-4o", "messages": [{"role": "user", "content": "x" * 85}]}
PROMPT_ESTIMATE = 28  # 15 bytes of names and 85 of text at four bytes a token, and 3
PROMPT_CEILING = 37  # at three bytes a token


class Bench:
    """An application with one provider at `upstream`, at 10 micro-dollars a prompt token and 100 a
    completion token."""

    def __init__(self, make_app: MakeApp, fake_upstream: FakeUpstream, **settings: Any) -> None:
        file = {
            "providers": {
                "fake": {
                    "base_url": f"{fake_upstream.url}/v1",
                    "api_key": "sk-test",
                    "models": ["gpt-4o"],
                }
            },
            "prices": {"fake/gpt-4o": {"input": 10, "output": 100, "cached_input": 1}},
        }
        self.app: Flask = make_app(file=GoblinFile.model_validate(file), retries=0, **settings)
        self.client = self.app.test_client()
        self.user = {"Authorization": f"Bearer {register(self.client)['access_token']}"}
        # The monitor's first check of the provider must not take a scripted reply.
        wait_until(lambda: self.app.extensions["goblin"].monitor.report("fake")["last_check"])
        self.engine: Engine = self.app.extensions["goblin"].engine

    def key(self, budget: str) -> dict[str, str]:
        made = self.client.post(
            "/auth/keys",
            json={"name": "k", "scopes": ["chat"], "monthly_budget_usd": budget},
            headers=self.user,
        )
        return {"Authorization": f"Bearer {made.get_json()['key']}"}

    def chat(self, headers: dict[str, str] | None = None, **fields: Any) -> Any:
        answer = self.client.post(
            "/chat/completions",
            json={**BODY, **fields},
            headers=headers or self.user,
            buffered=True,
        )
        answer.close()
        return answer

    def record(self) -> tuple[Any, ...]:
        """(prompt, completion, source, cost, completed, status) of the one record."""
        found = rows(
            self.engine,
            "SELECT prompt_tokens, completion_tokens, token_source, cost_microusd, completed, "
            "status_code FROM usage_records",
        )
        assert len(found) == 1
        return found[0]

    def budget(self) -> tuple[int, int]:
        (found,) = rows(self.engine, "SELECT spent_microusd, reserved_microusd FROM budget_periods")
        return found[0], found[1]


@pytest.fixture
def bench(make_app: MakeApp, fake_upstream: FakeUpstream) -> Bench:
    """With the settings' defaults."""
    return Bench(make_app, fake_upstream)


def test_an_answer_is_billed_by_the_providers_count(
    bench: Bench, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.json(200, openai_chat(usage=openai_usage(100, 7, 40, 2))))
    assert bench.chat().status_code == 200
    assert bench.record() == (100, 7, "provider", 60 * 10 + 40 * 1 + 7 * 100, 1, 200)


def test_a_stream_is_billed_by_the_providers_count_whether_or_not_the_client_asked_for_it(
    bench: Bench, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.sse(openai_events(usage=openai_usage(100, 7))))
    assert bench.chat(stream=True).data.endswith(b"data: [DONE]\n\n")
    assert bench.record() == (100, 7, "provider", 1700, 1, 200)


def test_an_answer_that_nobody_counted_is_estimated(
    bench: Bench, fake_upstream: FakeUpstream
) -> None:
    answer = openai_chat(text="y" * 400)
    del answer["usage"]
    fake_upstream.reply(Reply.json(200, answer))
    bench.chat()
    prompt, completion, source, cost, completed, _ = bench.record()
    assert (prompt, source, completed) == (PROMPT_ESTIMATE, "estimated", 1)
    assert 100 <= completion <= 103  # "assistant" is one of the answer's texts
    assert cost == prompt * 10 + completion * 100


def test_a_stream_that_nobody_counted_has_a_token_for_each_event(
    bench: Bench, fake_upstream: FakeUpstream
) -> None:
    events = openai_events(text="a b c d e", include_usage=False)
    fake_upstream.reply(Reply.sse(events))
    bench.chat(stream=True)
    prompt, completion, source, cost, completed, _ = bench.record()
    assert (prompt, source, completed) == (PROMPT_ESTIMATE, "estimated", 1)
    assert completion == len(events) - 1  # all but [DONE]
    assert cost == prompt * 10 + completion * 100


def test_an_estimate_is_never_above_what_the_request_allowed(
    bench: Bench, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.sse(openai_events(text="a b c d e", include_usage=False)))
    bench.chat(stream=True, max_tokens=3)
    assert bench.record()[1] == 3


def test_a_stream_that_the_provider_cut_is_billed_for_what_came(
    bench: Bench, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.sse([*openai_events(text="a b c d e")[:4], CUT]))
    assert b'"error"' in bench.chat(stream=True).data
    assert bench.record() == (PROMPT_ESTIMATE, 4, "estimated", PROMPT_ESTIMATE * 10 + 400, 0, 200)


def test_a_client_that_leaves_a_stream_pays_for_what_it_was_sent(
    bench: Bench, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.sse(openai_events(text="a b c d e f g h")))
    answer = bench.client.post(
        "/chat/completions", json={**BODY, "stream": True}, headers=bench.user, buffered=False
    )
    pieces = iter(answer.response)
    next(pieces)
    answer.close()
    prompt, completion, source, cost, completed, status = bench.record()
    assert (prompt, source, completed, status) == (PROMPT_ESTIMATE, "estimated", 0, 499)
    assert completion >= 1
    assert cost == prompt * 10 + completion * 100


def test_a_call_that_failed_costs_nothing(bench: Bench, fake_upstream: FakeUpstream) -> None:
    fake_upstream.reply(Reply.json(500, {"error": {"message": "no"}}))
    assert bench.chat().status_code == 502
    assert bench.record() == (0, 0, "none", 0, 0, 502)


def test_an_unknown_price_is_recorded_with_its_tokens_and_without_a_cost(
    make_app: MakeApp, fake_upstream: FakeUpstream
) -> None:
    bench = Bench(make_app, fake_upstream)
    fake_upstream.reply(Reply.json(200, openai_chat(usage=openai_usage(100, 7))))
    bench.app.extensions["goblin"].usage.prices._exact.clear()
    bench.chat()
    assert bench.record() == (100, 7, "provider", None, 1, 200)


@pytest.mark.parametrize(
    ("fields", "reserved"),
    [
        ({"max_tokens": 9}, PROMPT_CEILING * 10 + 900),
        ({"max_completion_tokens": 9, "n": 2}, PROMPT_CEILING * 10 + 1800),
        ({}, PROMPT_CEILING * 10 + 409_600),
    ],
)
def test_what_is_reserved_is_the_most_that_the_request_can_cost(
    bench: Bench, fake_upstream: FakeUpstream, fields: dict[str, Any], reserved: int
) -> None:
    from goblin_assistant.money import from_microusd

    short = bench.key(from_microusd(reserved - 1))
    refused = bench.chat(short, **fields)
    assert refused.status_code == 402
    assert refused.get_json()["needed_usd"] == from_microusd(reserved)
    assert [request.method for request in fake_upstream.requests] == ["GET"]  # the health check
    enough = bench.key(from_microusd(reserved))
    fake_upstream.reply(Reply.json(200, openai_chat(usage=openai_usage(30, 5))))
    assert bench.chat(enough, **fields).status_code == 200


@pytest.mark.parametrize(
    ("reply", "spent"),
    [
        (Reply.json(200, openai_chat(usage=openai_usage(30, 5))), 800),
        (Reply.json(500, {"error": {"message": "no"}}), 0),
        (Reply.json(400, {"error": {"message": "no", "type": "invalid_request_error"}}), 0),
        (Reply.json(429, {"error": {"message": "no"}}), 0),
        (Reply.raw(b""), 0),
    ],
)
def test_a_reservation_ends_with_its_chat_however_that_ends(
    bench: Bench, fake_upstream: FakeUpstream, reply: Reply, spent: int
) -> None:
    fake_upstream.reply(reply, reply)
    bench.chat(bench.key("1.00"))
    assert bench.budget() == (spent, 0)
    assert rows(bench.engine, "SELECT COUNT(*) FROM budget_reservations") == [(0,)]


def test_a_reservation_ends_when_the_client_leaves(
    bench: Bench, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.sse(openai_events(text="a b c d e f g h")))
    answer = bench.client.post(
        "/chat/completions",
        json={**BODY, "stream": True},
        headers=bench.key("1.00"),
        buffered=False,
    )
    next(iter(answer.response))
    assert bench.budget()[1] > 0
    answer.close()
    spent, reserved = bench.budget()
    assert reserved == 0
    assert spent == bench.record()[3]


def test_embeddings_are_billed_for_their_prompt(bench: Bench, fake_upstream: FakeUpstream) -> None:
    fake_upstream.reply(
        Reply.json(
            200,
            {
                "object": "list",
                "model": "gpt-4o",
                "data": [{"object": "embedding", "index": 0, "embedding": [0.1]}],
                "usage": {"prompt_tokens": 4, "total_tokens": 4},
            },
        )
    )
    made = bench.client.post(
        "/auth/keys",
        json={"name": "e", "scopes": ["embeddings"], "monthly_budget_usd": "0.001"},
        headers=bench.user,
    )
    answer = bench.client.post(
        "/v1/embeddings",
        json={"model": "fake/gpt-4o", "input": "four words are here"},
        headers={"Authorization": f"Bearer {made.get_json()['key']}"},
    )
    assert answer.status_code == 200, answer.get_data(as_text=True)
    assert bench.record() == (4, 0, "provider", 40, 1, 200)
    assert bench.budget() == (40, 0)


def test_a_model_that_answers_under_a_dated_name_is_counted_under_the_name_of_the_catalogue(
    bench: Bench, fake_upstream: FakeUpstream
) -> None:
    counter = metrics.chat_cost_usd_total.labels("fake", "gpt-4o")
    before = counter._value.get()
    fake_upstream.reply(
        Reply.json(200, openai_chat(usage=openai_usage(100, 1), model="gpt-4o-2024-08-06"))
    )
    bench.chat()
    assert counter._value.get() - before == pytest.approx(0.0011)
    assert rows(bench.engine, "SELECT model FROM usage_records") == [("gpt-4o-2024-08-06",)]
