"""The cost of a call: exact, rounded up once to the micro-dollar, and never 0 when unknown."""

from __future__ import annotations

import random
import tomllib
from dataclasses import replace
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal, localcontext
from types import SimpleNamespace

import genai_prices
import pytest
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelPrice, Tier, TieredPrices

from goblin_assistant.config.goblin_file import GoblinFile, PriceRow
from goblin_assistant.providers.anthropic import response
from goblin_assistant.providers.base import Usage
from goblin_assistant.providers.openai import wire
from goblin_assistant.providers.presets import PRESETS
from goblin_assistant.usage.prices import GENAI_PROVIDERS, MAX_CACHED, Prices, _Conditional
from goblin_assistant.usage.rates import FREE, Rates, rates_from, rates_of

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
WITHOUT_LIST_PRICES = {"ollama", "vllm", "llamacpp", "lmstudio"}  # servers of one's own


def prices(
    overrides: dict[str, PriceRow] | None = None, now: datetime = NOON, **urls: str
) -> Prices:
    return Prices(overrides or {}, urls, clock=lambda: now)


def row(**dollars: str) -> PriceRow:
    return PriceRow(**{name: Decimal(value) for name, value in dollars.items()})


def test_a_call_costs_its_tokens_times_their_price() -> None:
    # gpt-4o: $2.50 and $10.00 per million, $1.25 cached
    usage = Usage(prompt_tokens=1000, completion_tokens=500, cached_tokens=400)
    assert prices().cost_microusd("openai", "gpt-4o", usage) == 600 * 2.5 + 400 * 1.25 + 500 * 10


def test_reasoning_tokens_are_part_of_the_completion_and_not_counted_twice() -> None:
    plain = prices().cost_microusd("openai", "gpt-4o", Usage(0, 500))
    assert (
        prices().cost_microusd("openai", "gpt-4o", Usage(0, 500, reasoning_tokens=300))
        == plain
        == 5000
    )


def test_cache_writes_have_their_own_price() -> None:
    # claude-opus-4-5: $5 input, $6.25 cache write, $0.50 cache read
    usage = Usage(
        prompt_tokens=1000, completion_tokens=0, cached_tokens=200, cache_write_tokens=300
    )
    assert (
        prices().cost_microusd("anthropic", "claude-opus-4-5", usage)
        == 500 * 5 + 200 * 0.5 + 300 * 6.25
    )


def test_cached_tokens_without_a_price_of_their_own_cost_what_others_do() -> None:
    assert (
        prices({"a/b": row(input="2", output="3")}).cost_microusd(
            "a", "b", Usage(10, 0, cached_tokens=9)
        )
        == 20
    )


@pytest.mark.parametrize(("tokens", "expected"), [(1, 1), (6, 1), (7, 2), (13, 2), (14, 3), (0, 0)])
def test_a_fraction_of_a_micro_dollar_is_rounded_up_once_per_call(
    tokens: int, expected: int
) -> None:
    assert (
        prices({"a/b": row(input="0.15", output="1")}).cost_microusd("a", "b", Usage(tokens, 0))
        == expected
    )


def test_the_parts_of_a_call_are_added_before_they_are_rounded() -> None:
    assert prices({"a/b": row(input="0.4", output="0.4")}).cost_microusd("a", "b", Usage(1, 1)) == 1


def test_a_long_prompt_pays_the_long_context_price_for_all_of_its_tokens() -> None:
    # claude-sonnet-4-5: $3 up to 200,000 prompt tokens, $6 above; output $15 and $22.50
    some = prices()
    assert (
        some.cost_microusd("anthropic", "claude-sonnet-4-5", Usage(200_000, 100))
        == 200_000 * 3 + 100 * 15
    )
    assert (
        some.cost_microusd("anthropic", "claude-sonnet-4-5", Usage(200_001, 100))
        == 200_001 * 6 + 100 * 22.5
    )


def test_prices_by_the_hour_hold_at_their_hour() -> None:
    model = next(
        m
        for p in get_snapshot().providers
        if p.id == "deepseek"
        for m in p.models
        if isinstance(m.prices, list)
        and any(getattr(c.constraint, "start_time", None) for c in m.prices)
    )
    seen = set()
    for hour in range(24):
        now = NOON.replace(hour=hour, minute=31)
        usage = Usage(1_000_000, 1_000_000)
        expected = genai_prices.calc_price(
            genai_prices.Usage(input_tokens=1_000_000, output_tokens=1_000_000),
            model.id,
            provider_id="deepseek",
            genai_request_timestamp=now,
        ).total_price
        seen.add(expected)
        assert prices(now=now).cost_microusd("deepseek", model.id, usage) == expected * 1_000_000
    assert len(seen) > 1


def test_every_priced_model_costs_what_genai_prices_says() -> None:
    random.seed(4)
    some = prices()
    compared = 0
    for provider in get_snapshot().providers:
        for model in provider.models:
            rates = some.rates(provider.id, model.id)
            if rates is None or any(
                band.prompt is None or band.completion is None for band in rates.bands
            ):
                continue
            for prompt in (random.randrange(1, 5000), random.randrange(150_000, 1_200_000)):
                cached = random.randrange(0, prompt // 2 + 1)
                written = random.randrange(0, prompt // 3 + 1)
                completion = random.randrange(1, 100_000)
                reasoning = random.randrange(0, completion)
                usage = Usage(prompt, completion, cached, written, reasoning)
                theirs = genai_prices.Usage(
                    input_tokens=prompt,
                    cache_read_tokens=cached,
                    cache_write_tokens=written,
                    output_tokens=completion,
                    output_reasoning_tokens=reasoning,
                )
                found = provider.find_model(model.id, all_providers=get_snapshot().providers)
                assert found is not None
                price = found.calc_price(theirs, provider, genai_request_timestamp=NOON).total_price
                with localcontext(prec=60):
                    expected = int((price * 1_000_000).to_integral_value(ROUND_CEILING))
                    exact = price * 1_000_000
                cost = some.cost_microusd(provider.id, model.id, usage)
                assert cost is not None
                # Their sums are rounded to 28 digits; ours is rounded only at the end.
                assert cost == expected or abs(exact - exact.to_integral_value()) < Decimal(
                    "1e-9"
                ), (
                    provider.id,
                    model.id,
                )
                compared += 1
    assert compared > 1500


def test_the_reservation_covers_every_way_to_split_the_tokens() -> None:
    random.seed(5)
    some = prices()
    for provider, model in (
        ("openai", "gpt-4o"),
        ("anthropic", "claude-sonnet-4-5"),
        ("google", "gemini-2.5-pro"),
        ("deepseek", "deepseek-chat"),
    ):
        rates = some.rates(provider, model)
        assert rates is not None
        for _ in range(300):
            prompt, completion = random.randrange(0, 400_000), random.randrange(0, 50_000)
            most = rates.most_microusd(prompt, completion)
            used = random.randint(0, prompt)
            usage = Usage(
                used,
                random.randint(0, completion),
                random.randint(0, used),
                random.randint(0, used),
                random.randint(0, completion),
            )
            cost = rates.cost_microusd(usage)
            assert cost is not None
            assert most is not None
            assert cost <= most


def test_a_price_that_is_not_known_is_none_and_not_zero() -> None:
    assert prices().cost_microusd("openai", "gpt-of-my-dreams", Usage(10, 10)) is None
    assert prices().cost_microusd("ollama", "llama3", Usage(10, 10)) is None


def test_tokens_in_a_direction_without_a_price_make_the_cost_unknown() -> None:
    # text-embedding-3-small has a price for input only
    assert prices().cost_microusd("openai", "text-embedding-3-small", Usage(1000, 0)) == 20
    assert prices().cost_microusd("openai", "text-embedding-3-small", Usage(1000, 1)) is None


def test_echo_is_free_unless_it_is_given_a_price() -> None:
    assert prices().cost_microusd("echo", "echo", Usage(10, 10)) == 0
    assert (
        prices({"echo/*": row(input="1", output="1")}).cost_microusd("echo", "echo", Usage(10, 10))
        == 20
    )
    assert (
        Prices({}, free=("echo", "simulator")).cost_microusd("simulator", "fast", Usage(10, 10))
        == 0
    )


def test_goblin_toml_overrides_the_list_price_and_the_longest_pattern_wins() -> None:
    text = """
        [prices."openai/gpt-4o"]
        input = 0.1
        output = 0.2
        cached_input = 0.05
        [prices."ollama/*"]
        input = 1
        output = 1
        [prices."ollama/big-*"]
        input = 7
        output = 7
    """
    some = Prices(GoblinFile.model_validate(tomllib.loads(text)).prices)
    assert some.cost_microusd("openai", "gpt-4o", Usage(100, 100, cached_tokens=100)) == 25
    assert some.cost_microusd("ollama", "tiny", Usage(1, 0)) == 1
    assert some.cost_microusd("ollama", "big-one", Usage(1, 0)) == 7


def test_a_decimal_price_is_not_changed_on_its_way_through_toml() -> None:
    file = GoblinFile.model_validate(tomllib.loads('[prices."a/b"]\ninput = 0.1\noutput = 0.3'))
    assert file.prices["a/b"].input == Decimal("0.1")
    # 0.1 * 3 is 0.30000000000000004 with floats, and would be rounded up to 300,001
    assert Prices(file.prices).cost_microusd("a", "b", Usage(3_000_000, 0)) == 300_000


def test_a_model_that_answers_under_another_name_has_the_price_of_the_name_it_was_called_by() -> (
    None
):
    some = prices(
        {
            "azure/my-deployment": row(input="1", output="1"),
            "ollama/llama3": row(input="2", output="2"),
        }
    )
    assert some.cost_microusd("azure", "gpt-4o-2024-08-06", Usage(10, 0), "my-deployment") == 10
    assert some.cost_microusd("ollama", "llama3:latest-q4", Usage(10, 0), "llama3") == 20


def test_the_price_of_the_model_that_answered_goes_before_that_of_the_alias() -> None:
    some = prices()
    dated = some.cost_microusd("openai", "gpt-4o-2024-05-13", Usage(1000, 0))
    assert dated != some.cost_microusd("openai", "gpt-4o", Usage(1000, 0))
    assert some.cost_microusd("openai", "gpt-4o-2024-05-13", Usage(1000, 0), "gpt-4o") == dated
    assert some.cost_microusd("openai", "something-internal", Usage(1000, 0), "gpt-4o") == 2500


def test_of_two_given_prices_that_of_the_model_that_answered_holds() -> None:
    some = prices({"a/new": row(input="1", output="1"), "a/old": row(input="2", output="2")})
    assert some.cost_microusd("a", "new", Usage(10, 0), "old") == 10
    assert some.cost_microusd("a", "new", Usage(10, 0), "new") == 10


def test_a_provider_of_another_name_is_known_by_its_address() -> None:
    assert prices().cost_microusd("team-openai", "gpt-4o", Usage(1000, 0)) is None
    named = Prices(
        {}, {"team-openai": "https://api.openai.com/v1", "local": "http://127.0.0.1:1/v1"}
    )
    assert named.cost_microusd("team-openai", "gpt-4o", Usage(1000, 0)) == 2500
    assert named.cost_microusd("local", "gpt-4o", Usage(1000, 0)) is None


@pytest.mark.parametrize("name", sorted(set(PRESETS) - WITHOUT_LIST_PRICES))
def test_every_preset_with_a_price_list_is_found_in_genai_prices(name: str) -> None:
    assert GENAI_PROVIDERS.get(name, name) in {provider.id for provider in get_snapshot().providers}


def test_made_up_models_do_not_fill_the_memory() -> None:
    some = prices()
    for number in range(MAX_CACHED + 50):
        some.rates("nobody", f"model-{number}")
    assert len(some._found) <= MAX_CACHED


def test_no_thread_that_updates_prices_is_ever_started() -> None:
    import threading

    prices().rates("openai", "gpt-4o")
    assert not [thread for thread in threading.enumerate() if "price" in thread.name.lower()]


def test_a_service_tier_has_its_own_price_where_the_provider_has_one() -> None:
    # gpt-4o: priority $4.25 and $17
    some = prices()
    assert some.cost_microusd("openai", "gpt-4o", Usage(1000, 100, tier="priority")) == 4250 + 1700
    assert some.cost_microusd("openai", "gpt-4o", Usage(1000, 100)) == 2500 + 1000
    assert some.cost_microusd("azure", "gpt-4o", Usage(1000, 100, tier="priority")) == 2500 + 1000
    assert some.cost_microusd(
        "mistral", "mistral-large-latest", Usage(1000, 0, tier="priority")
    ) == some.cost_microusd("mistral", "mistral-large-latest", Usage(1000, 0))


def test_a_cache_that_is_kept_for_an_hour_costs_more() -> None:
    # claude-opus-4-5: $6.25 for five minutes, $10 for an hour
    usage = Usage(1000, 0, cache_write_tokens=300, cache_write_1h_tokens=100)
    assert (
        prices().cost_microusd("anthropic", "claude-opus-4-5", usage)
        == 700 * 5 + 200 * 6.25 + 100 * 10
    )


def test_a_provider_tells_its_tier_and_the_hour_of_its_cache() -> None:
    openai = wire.parse_usage({"prompt_tokens": 1, "completion_tokens": 1}, "priority")
    standard = wire.parse_usage({"prompt_tokens": 1, "completion_tokens": 1}, "default")
    anthropic = response.parse_usage(
        {
            "input_tokens": 1,
            "output_tokens": 1,
            "cache_creation_input_tokens": 5,
            "cache_creation": {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 3},
            "speed": "fast",
        }
    )
    assert openai is not None
    assert standard is not None
    assert anthropic is not None
    assert (openai.tier, standard.tier, anthropic.tier) == ("priority", "", "fast")
    assert (anthropic.cache_write_tokens, anthropic.cache_write_1h_tokens) == (5, 3)


def test_a_pattern_holds_for_names_that_begin_like_it_and_for_no_others() -> None:
    some = prices({"a/big-*": row(input="7", output="7")})
    assert some.cost_microusd("a", "big-one", Usage(1, 0)) == 7
    assert some.cost_microusd("a", "big", Usage(1, 0)) is None
    assert some.cost_microusd("a", "bigger", Usage(1, 0)) is None
    assert (some.overridden("a", "big-one"), some.overridden("a", "big")) == (True, False)


def test_prices_are_found_anew_when_there_is_no_more_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("goblin_assistant.usage.prices.MAX_CACHED", 3)
    some = prices()
    sizes = []
    for number in range(5):
        some.rates("nobody", f"model-{number}")
        some.rates("nobody", f"model-{number}")
        sizes.append(len(some._found))
    assert sizes == [1, 2, 3, 1, 2]


def test_a_region_that_an_answer_reports_costs_a_tenth_more_rounded_up_once() -> None:
    some = prices({"a/b": row(input="1.1", output="1")})
    assert some.cost_microusd("a", "b", Usage(9, 0)) == 10
    assert some.cost_microusd("a", "b", Usage(9, 0, region="us")) == 11  # 9.9 * 1.1 = 10.89
    assert some.cost_microusd("a", "b", Usage(100, 0, region="us")) == 121
    assert some.cost_microusd("openai", "gpt-of-my-dreams", Usage(1, 0, region="us")) is None


@pytest.mark.parametrize(
    ("address", "model", "percent"),
    [
        ("https://us-api.together.ai/v1", "meta-llama/Llama-3.3-70B-Instruct-Turbo", 125),
        ("https://api.together.xyz/v1", "meta-llama/Llama-3.3-70B-Instruct-Turbo", 100),
    ],
)
def test_a_regional_address_costs_its_percents_of_the_list_price(
    address: str, model: str, percent: int
) -> None:
    usage = Usage(100_000, 10_000)
    listed = prices().cost_microusd("together", model, usage)
    assert listed is not None
    assert prices(together=address).cost_microusd("together", model, usage) == -(
        -listed * percent // 100
    )


def test_a_regional_address_costs_its_percents_in_every_tier() -> None:
    usage = Usage(100_000, 10_000, tier="priority")
    listed = prices().cost_microusd("openai", "gpt-5.4", usage)
    assert listed is not None
    assert listed > (prices().cost_microusd("openai", "gpt-5.4", Usage(100_000, 10_000)) or 0)
    there = prices(openai="https://eu.api.openai.com/v1")
    assert there.cost_microusd("openai", "gpt-5.4", usage) == -(-listed * 110 // 100)


@pytest.mark.parametrize("field", ["cached_tokens", "cache_write_tokens", "reasoning_tokens"])
def test_a_part_that_exceeds_its_total_costs_no_more_than_the_total(field: str) -> None:
    rates = dollars(input=4, output=4, cache_read=1, cache_write=5, reasoning=6)
    one = {"cached_tokens": 1, "cache_write_tokens": 5, "reasoning_tokens": 6}[field]
    usage = Usage(10, 0) if field != "reasoning_tokens" else Usage(0, 10)
    assert rates.cost_microusd(replace(usage, **{field: 99})) == 10 * one
    assert rates.cost_microusd(replace(usage, **{field: 3})) == 7 * 4 + 3 * one


def test_what_is_written_to_the_cache_is_at_most_what_was_not_read_from_it() -> None:
    rates = dollars(input=4, output=4, cache_read=1, cache_write=5)
    usage = Usage(10, 0, cached_tokens=4, cache_write_tokens=99)
    assert rates.cost_microusd(usage) == 4 * 1 + 6 * 5


def test_sounds_without_a_price_of_their_own_cost_what_other_tokens_do() -> None:
    usage = Usage(10, 10, audio_prompt_tokens=5, audio_completion_tokens=5)
    assert dollars(input=1, output=2).cost_microusd(usage) == 30


def test_what_is_free_costs_nothing_whatever_its_tokens_are() -> None:
    usage = Usage(
        100, 100, cached_tokens=20, cache_write_tokens=30, cache_write_1h_tokens=10,
        reasoning_tokens=40, audio_prompt_tokens=5, audio_completion_tokens=5,
    )  # fmt: skip
    assert FREE.cost_microusd(usage) == 0
    assert FREE.most_microusd(100, 100, audio=True) == 0


def test_a_direction_that_is_free_adds_nothing_to_a_reservation() -> None:
    assert dollars(input=0, output=5).most_microusd(10, 10, audio=True) == 50
    assert dollars(input=5, output=0).most_microusd(10, 10, audio=True) == 50


def test_sounds_that_exceed_what_is_left_of_the_prompt_cost_no_more_than_that() -> None:
    rates = dollars(input=4, output=4, cache_read=1, cache_write=5, audio=9, audio_answer=8)
    usage = Usage(10, 0, cached_tokens=2, cache_write_tokens=3, audio_prompt_tokens=99)
    assert rates.cost_microusd(usage) == 2 * 1 + 3 * 5 + 5 * 9
    answer = Usage(0, 10, reasoning_tokens=4, audio_completion_tokens=99)
    assert rates.cost_microusd(answer) == 4 * 4 + 6 * 8


def test_each_step_of_a_price_holds_from_its_own_length_on() -> None:
    steps = [Tier(start=1000, price=Decimal(2)), Tier(start=3000, price=Decimal(5))]
    price = ModelPrice(
        input_mtok=TieredPrices(base=Decimal(1), tiers=steps), output_mtok=Decimal(4)
    )
    rates = rates_of(price)
    assert rates is not None
    for prompt, each in ((1000, 1), (1001, 2), (3000, 2), (3001, 5)):
        assert rates.cost_microusd(Usage(prompt, 0)) == prompt * each


def test_steps_of_prompt_and_answer_may_begin_at_different_lengths() -> None:
    def steps(start: int, dear: int) -> TieredPrices:
        return TieredPrices(base=Decimal(1), tiers=[Tier(start=start, price=Decimal(dear))])

    rates = rates_of(ModelPrice(input_mtok=steps(1000, 2), output_mtok=steps(2000, 3)))
    assert rates is not None
    for prompt, cost in ((1000, 1001), (1001, 2003), (2000, 4001), (2001, 4005)):
        assert rates.cost_microusd(Usage(prompt, 1)) == cost


def test_prices_in_powers_of_ten_are_read() -> None:
    rates = rates_from({0: {"input": Decimal("1E+2"), "output": Decimal("2E+1")}})
    assert rates.cost_microusd(Usage(1, 1)) == 120
    assert rates.per_million() == {"input": "100", "output": "20"}


def test_a_reservation_is_rounded_up_to_the_next_micro_dollar() -> None:
    rates = rates_from({0: {"input": Decimal("0.15"), "output": Decimal(1)}})
    assert [rates.most_microusd(tokens, 0) for tokens in (1, 6, 7, 13, 14, 20)] == [
        1, 1, 2, 2, 3, 3,
    ]  # fmt: skip


def test_a_prompt_whose_cached_part_alone_has_a_price_has_no_known_cost() -> None:
    parts = {name: Decimal(1) for name in ("output", "cache_read", "cache_write")}
    assert rates_from({0: parts}).cost_microusd(Usage(10, 1, cached_tokens=5)) is None


def test_an_answer_whose_reasoning_alone_has_a_price_has_no_known_cost() -> None:
    rates = rates_from({0: {"input": Decimal(1), "reasoning": Decimal(3)}})
    assert rates.cost_microusd(Usage(10, 5, reasoning_tokens=2)) is None
    assert rates.cost_microusd(Usage(10, 0)) == 10


def test_a_price_that_is_none_of_tokens_is_unknown_at_a_regional_address_too() -> None:
    model = SimpleNamespace(get_prices=lambda *_: ModelPrice(requests_kcount=Decimal(1)))
    for percent in (100, 110):
        assert _Conditional(model, True, percent).at(NOON) is None


def test_a_model_without_tiers_is_never_asked_for_the_price_of_one() -> None:
    asked: list[tuple[object, ...]] = []
    price = ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(1))

    def get_prices(*given: object) -> ModelPrice:
        asked.append(given)
        return price

    model = SimpleNamespace(get_prices=get_prices)
    for tiers in (False, True):
        found = _Conditional(model, tiers, 100)
        found.at(NOON, "priority")
        found.at(NOON)
    tier = {"service_tier": "priority", "speed": "priority"}
    assert asked == [(NOON,), (NOON,), (NOON, tier), (NOON,)]


def test_a_list_price_that_is_none_of_tokens_is_unknown_at_a_regional_address_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = SimpleNamespace(prices=ModelPrice(requests_kcount=Decimal(1)), price_variants=None)
    provider = SimpleNamespace(find_model=lambda *_, **__: model, models=[])
    for address in ("https://api.openai.com/v1", "https://eu.api.openai.com/v1"):
        some = prices(openai=address)
        monkeypatch.setattr(some, "_genai_provider", lambda _: provider)
        assert some.rates("openai", "gpt-5.4") is None


def test_rates_of_some_directions_only_reserve_nothing_for_the_others() -> None:
    rates = rates_from({0: {"input": Decimal(2), "output": None}})
    assert rates.most_microusd(10, 0) == 20
    assert rates.most_microusd(10, 1) is None
    assert rates.most_microusd(0, 0) == 0
    output = rates_from({0: {"input": None, "output": Decimal(3)}})
    assert output.most_microusd(0, 10) == 30
    assert output.most_microusd(1, 10) is None
    assert output.cost_microusd(Usage(0, 10)) == 30
    assert output.cost_microusd(Usage(1, 10)) is None


def dollars(**per_million: int) -> Rates:
    """Rates of one band, by the names of rates_from()."""
    return rates_from({0: {name: Decimal(value) for name, value in per_million.items()}})


@pytest.mark.parametrize(
    ("dearest", "prompt", "completion"),
    [
        ({"cache_read": 9}, 9, 2),
        ({"cache_write": 9}, 9, 2),
        ({"cache_write_1h": 9}, 9, 2),
        ({"reasoning": 9}, 1, 9),
        ({"reasoning": 1, "cache_read": 0, "cache_write": 0, "cache_write_1h": 0}, 1, 2),
    ],
)
def test_the_dearest_kind_of_token_is_reserved_for(
    dearest: dict[str, int], prompt: int, completion: int
) -> None:
    rates = dollars(**{"input": 1, "output": 2, **dearest})
    assert rates.most_microusd(10, 0) == 10 * prompt
    assert rates.most_microusd(0, 10) == 10 * completion
    assert rates.most_microusd(10, 100) == 10 * prompt + 100 * completion


@pytest.mark.parametrize(("audio", "answer"), [(30, 40), (1, 1)])
def test_the_price_of_sounds_is_reserved_only_where_there_may_be_some(
    audio: int, answer: int
) -> None:
    rates = dollars(input=3, output=4, audio=audio, audio_answer=answer)
    assert rates.most_microusd(10, 100) == 30 + 400
    assert rates.most_microusd(10, 100, audio=True) == 10 * max(3, audio) + 100 * max(4, answer)
    usage = Usage(10, 100, audio_prompt_tokens=4, audio_completion_tokens=50)
    assert rates.cost_microusd(usage) == 6 * 3 + 4 * audio + 50 * 4 + 50 * answer


def test_the_dearest_band_that_a_prompt_may_reach_is_reserved_for() -> None:
    rates = rates_from(
        {
            0: {"input": Decimal(5), "output": Decimal(5)},
            100: {"input": Decimal(1), "output": Decimal(1)},
            200: {"input": Decimal(9), "output": Decimal(9)},
        }
    )
    assert rates.most_microusd(100, 0) == 500
    assert rates.most_microusd(101, 0) == 505, "fewer tokens than asked for may be used"
    assert rates.most_microusd(200, 1) == 1005
    assert rates.most_microusd(201, 1) == 9 * 202
    assert rates.cost_microusd(Usage(150, 0)) == 150


def test_a_price_per_call_is_added_to_every_call() -> None:
    rates = dollars(input=1, output=1, per_call=2)
    assert rates.cost_microusd(Usage(10, 10)) == 2000 + 20
    assert rates.most_microusd(10, 10) == 2000 + 20
    assert rates.times(50).cost_microusd(Usage(10, 10)) == 1010


@pytest.mark.parametrize(
    ("price", "text"),
    [("0.1", "0.1"), ("100", "100"), ("0.0000125", "0.0000125"), ("12.50", "12.5"), ("0", "0")],
)
def test_a_price_is_written_without_exponent_and_trailing_zeros(price: str, text: str) -> None:
    rates = rates_from({0: {"input": Decimal(price), "output": Decimal(3)}})
    assert rates.per_million() == {"input": text, "output": "3"}


@pytest.mark.parametrize("missing", ["input", "output"])
def test_half_a_price_is_no_list_price(missing: str) -> None:
    half = {"input": Decimal(1), "output": Decimal(1), missing: None}
    assert rates_from({0: half}).per_million() is None


def test_the_list_price_is_that_of_a_short_prompt() -> None:
    rates = prices().rates("anthropic", "claude-sonnet-4-5")
    assert rates is not None
    assert len(rates.bands) == 2
    assert rates.per_million() == {"input": "3", "output": "15"}
