"""What each preset's usage means: the same call whole and streamed, to the token and the
micro-dollar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from goblin_assistant.config import Config
from goblin_assistant.config.goblin_file import GoblinFile
from goblin_assistant.providers import build_registry
from goblin_assistant.providers.base import ChatRequest, Completed, Dialect, Provider, Usage
from goblin_assistant.providers.openai.wire import parse_usage
from goblin_assistant.providers.presets import PRESETS
from goblin_assistant.providers.wire_forms import WIRE_FORMS
from goblin_assistant.providers.wire_tables import usage_table
from goblin_assistant.usage.prices import Prices
from tests.support.fake_upstream import FakeUpstream, Reply
from tests.support.usage_cases import CASES, LLAMA, PRICES, streamed
from tests.support.wire_bodies import anthropic_events, anthropic_message, openai_chat

DOCS = Path(__file__).resolve().parents[2] / "docs"
Make = Callable[..., Provider]


@pytest.fixture
def make(fake_upstream: FakeUpstream, tmp_path: Path) -> Iterator[Make]:
    """A preset at the fake upstream."""
    made = []

    def provider(name: str) -> Provider:
        row = {"base_url": fake_upstream.url, "api_key": "k", "models": ["m"]}
        config = Config.load(
            {"file": GoblinFile.model_validate({"providers": {name: row}})},
            environ={"SECRET_KEY": "x" * 40},
            dotenv=tmp_path / "absent.env",
        )
        registry = build_registry(config)
        made.append(registry)
        return registry.get(name)

    yield provider
    for registry in made:
        registry.close()


def both_ways(
    provider: Provider, upstream: FakeUpstream, whole: Any, events: list[bytes], dialect: Dialect
) -> list[Usage]:
    """The usage of a whole answer and of a stream."""
    body: dict[str, Any] = {
        "model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]
    }  # fmt: skip
    upstream.reply(Reply.json(200, whole), Reply.sse(events))
    answer = provider.complete(ChatRequest("m", body, dialect=dialect))
    *_, completed = provider.stream(ChatRequest("m", body, stream=True, dialect=dialect))
    assert isinstance(completed, Completed)
    assert answer.usage is not None
    assert completed.usage is not None
    return [answer.usage, completed.usage]


def parts(usage: Usage) -> tuple[int, int, int, int, int]:
    return (
        usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens,
        usage.cache_write_tokens, usage.reasoning_tokens,
    )  # fmt: skip


@pytest.mark.parametrize("preset", CASES)
def test_a_presets_usage_is_booked_to_the_token_and_the_micro_dollar(
    make: Make, fake_upstream: FakeUpstream, preset: str
) -> None:
    place, usage, expected = CASES[preset]
    whole = openai_chat(usage=usage)
    prompt, completion, cached, written, _ = expected
    cost = (prompt - cached - written) * 10 + cached + written * 13 + completion * 100
    for found in both_ways(make(preset), fake_upstream, whole, streamed(place, usage), "openai"):
        assert parts(found) == expected
        assert Prices(PRICES).cost_microusd(preset, "m", found) == cost


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_anthropics_usage_is_booked_to_the_token_and_the_micro_dollar(
    make: Make, fake_upstream: FakeUpstream, dialect: Dialect
) -> None:
    usage = {
        "input_tokens": 25, "cache_creation_input_tokens": 300, "cache_read_input_tokens": 75,
        "cache_creation": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 100},
        "output_tokens": 150, "output_tokens_details": {"thinking_tokens": 90},
        "inference_geo": "us", "service_tier": "standard",
    }  # fmt: skip
    whole = anthropic_message(usage=usage)
    events = anthropic_events(usage=usage)
    for found in both_ways(make("anthropic"), fake_upstream, whole, events, dialect):
        assert parts(found)[:4] == (400, 150, 75, 300)
        assert found.region == "us"
        # claude-opus-4-8: $5, $6.25 and $10 to write, $0.50 to read, $25; 1.1 times in the US
        dear = 1.1 * (25 * 5 + 200 * 6.25 + 100 * 10 + 75 * 0.5 + 150 * 25)
        cost = Prices({}).cost_microusd("anthropic", "claude-opus-4-8", found)
        assert cost == -(-dear // 1)


def test_every_preset_has_a_form_of_usage_with_its_reference_and_a_case() -> None:
    assert set(WIRE_FORMS) == set(PRESETS) == {*CASES, "anthropic"}
    references = [form.usage.source.reference for form in WIRE_FORMS.values()]
    assert all("https://" in found or "not found" in found for found in references)
    assert usage_table() in (DOCS / "providers.md").read_text()


@pytest.mark.parametrize(
    ("usage", "completion"),
    [
        pytest.param({"total_tokens": 331}, 319, id="the total is more"),
        pytest.param({"total_tokens": 14}, 2, id="the total is the sum"),
        pytest.param({"total_tokens": 3}, 2, id="the total is less"),
        pytest.param({"total_tokens": "331"}, 2, id="the total is no count"),
        pytest.param({"completion_tokens": None, "total_tokens": 20}, 8, id="only the total"),
        pytest.param(
            {"completion_tokens_details": {"reasoning_tokens": 317}}, 319, id="more reasoning"
        ),
        pytest.param(
            {"total_tokens": 14, "completion_tokens_details": {"reasoning_tokens": 2}}, 2,
            id="all of it is reasoning",
        ),
    ],
)  # fmt: skip
def test_what_was_generated_beside_the_completion_counts(
    usage: dict[str, Any], completion: int
) -> None:
    found = parse_usage({"prompt_tokens": 12, "completion_tokens": 2, **usage})
    assert found is not None
    assert (found.prompt_tokens, found.completion_tokens) == (12, completion)


def test_audio_tokens_have_their_own_price() -> None:
    usage = {
        "prompt_tokens": 100, "completion_tokens": 60, "total_tokens": 160,
        "prompt_tokens_details": {"audio_tokens": 30}, "completion_tokens_details":
        {"audio_tokens": 50},
    }  # fmt: skip
    found = parse_usage(usage)
    assert found is not None
    # gpt-audio: $2.50 and $10 for text, $32 and $64 for audio
    expected = 70 * 2.5 + 30 * 32 + 10 * 10 + 50 * 64
    assert Prices({}).cost_microusd("openai", "gpt-audio", found) == expected
    rates = Prices({}).rates("openai", "gpt-audio")
    assert rates is not None
    assert rates.most_microusd(100, 60, audio=True) == 100 * 32 + 60 * 64
    assert rates.most_microusd(100, 60) == 100 * 2.5 + 60 * 10


@pytest.mark.parametrize(
    ("provider", "url", "model", "percent"),
    [
        ("openai", "https://eu.api.openai.com/v1", "gpt-5.4", 110),
        ("openai", "https://eu.api.openai.com/v1", "gpt-4o", 100),
        ("openai", "https://api.openai.com/v1", "gpt-5.4", 100),
        ("together", "https://us-api.together.ai/v1", LLAMA, 125),
    ],
)  # fmt: skip
def test_a_regional_address_has_its_own_prices(
    provider: str, url: str, model: str, percent: int
) -> None:
    usage = Usage(100_000, 10_000)
    listed = Prices({}).cost_microusd(provider, model, usage)
    assert listed is not None
    found = Prices({}, {provider: url}).cost_microusd(provider, model, usage)
    assert found == -(-listed * percent // 100)
    rates = Prices({}, {provider: url}).rates(provider, model)
    assert rates is not None
    assert rates.most_microusd(100_000, 10_000) == found
