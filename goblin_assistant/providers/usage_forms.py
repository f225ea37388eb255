"""How each preset reports usage: where it stands, and what is inside what. Data, no code.

`openai/wire.py` and `anthropic/response.py` read these forms; `usage/rates.py` and
`usage/prices.py` price them. docs/providers.md has the same table, and a test compares them. A
reference was read on the day given; "not found" is said where no reference says it.
"""

from __future__ import annotations

from dataclasses import dataclass

LAST_CHUNK = "a chunk of its own before `[DONE]`, because we ask with `include_usage`"
INSIDE = "inside `completion_tokens`"
OUTSIDE = "outside `completion_tokens`; `total_tokens` holds them"
IN_DETAILS = "read: `prompt_tokens_details.cached_tokens`, inside `prompt_tokens`"


@dataclass(frozen=True, slots=True)
class UsageForm:
    """One preset's usage. `streamed` says where it stands in a stream, `reasoning` and `cache` what
    holds those tokens, `price` what else changes the price of a token."""

    streamed: str
    reasoning: str
    cache: str
    price: str
    reference: str
    read_on: str


USAGE_FORMS: dict[str, UsageForm] = {
    "openai": UsageForm(
        LAST_CHUNK,
        INSIDE + ", as rejected predictions are",
        IN_DETAILS + "; written: `cache_write_tokens` beside it",
        "`service_tier`; audio tokens in both details; 10 % more at a regional address for models "
        "from 2026-03-05 on",
        "https://developers.openai.com/api/docs/guides/data-residency, "
        "https://developers.openai.com/api/docs/guides/prompt-caching",
        "2026-11-27",
    ),
    "anthropic": UsageForm(
        "`message_start` (prompt) and each `message_delta` (totals so far)",
        "inside `output_tokens`",
        "`cache_read_input_tokens` and `cache_creation_input_tokens`, outside `input_tokens`; the "
        "hour's part in `cache_creation.ephemeral_1h_input_tokens`",
        "`usage.speed`; 10 % more where `usage.inference_geo` is `us`",
        "https://platform.claude.com/docs/en/about-claude/pricing, "
        "https://platform.claude.com/docs/en/build-with-claude/data-residency",
        "2026-11-27",
    ),
    "gemini": UsageForm(
        LAST_CHUNK,
        OUTSIDE,
        IN_DETAILS,
        "`service_tier`; audio tokens in `prompt_tokens_details`",
        "https://ai.google.dev/gemini-api/docs/openai (the form of usage not found there); "
        "https://github.com/mozilla-ai/any-llm/issues/1290",
        "2026-11-27",
    ),
    "mistral": UsageForm(
        "the last chunk, beside its finish reason, unasked",
        INSIDE,
        IN_DETAILS,
        "audio is billed by its seconds, which are not priced here",
        "https://docs.mistral.ai/resources/release-note/2024-01-16-token-usage-in-streaming-requests"
        ", https://getlago.com/docs/guide/ai-agents/agent-sdk/mistral",
        "2026-11-27",
    ),
    "groq": UsageForm(
        LAST_CHUNK + "; also `x_groq.usage` beside the finish reason",
        INSIDE,
        IN_DETAILS + "; writing is free",
        "none found",
        "https://console.groq.com/docs/prompt-caching, https://github.com/vercel/ai/issues/1651",
        "2026-11-27",
    ),
    "deepseek": UsageForm(
        LAST_CHUNK,
        INSIDE,
        "read: `prompt_cache_hit_tokens`, inside `prompt_tokens`",
        "the hour of the call",
        "https://api-docs.deepseek.com/guides/kv_cache, "
        "https://docs.rs/crate/deepseek-sdk/0.7.0/source/src/chat/response.rs",
        "2026-11-27",
    ),
    "openrouter": UsageForm(
        "the last event, always",
        INSIDE,
        IN_DETAILS + "; written: `cache_write_tokens` beside it",
        "the provider that it chose; its own `cost` is not read",
        "https://openrouter.ai/docs/use-cases/usage-accounting",
        "2026-11-27",
    ),
    "together": UsageForm(
        LAST_CHUNK,
        INSIDE + " (not found; OpenAI's form)",
        "read: `cached_tokens` of usage itself or of its details, inside `prompt_tokens` (not "
        "found)",
        "25 % more at a regional address",
        "https://docs.together.ai/docs/serverless/geo-specific-inference",
        "2026-11-27",
    ),
    "fireworks": UsageForm(
        LAST_CHUNK,
        INSIDE + " (not found; OpenAI's form)",
        IN_DETAILS,
        "none found",
        "https://docs.fireworks.ai/guides/prompt-caching, "
        "https://docs.stigg.io/documentation/ai-agents/providers/fireworks",
        "2026-11-27",
    ),
    "xai": UsageForm(
        "every chunk or the last ones, totals so far",
        OUTSIDE,
        IN_DETAILS,
        "long prompts",
        "https://docs.x.ai/docs/key-information/consumption-and-rate-limits, "
        "https://github.com/vercel/ai/pull/12425",
        "2026-11-27",
    ),
    "azure": UsageForm(
        LAST_CHUNK,
        INSIDE,
        IN_DETAILS,
        "`service_tier`; audio tokens in both details (regional prices: in goblin.toml)",
        "OpenAI's form; a reference of its own not found",
        "2026-11-27",
    ),
    "ollama": UsageForm(
        LAST_CHUNK + ", from version 0.5.2 on",
        INSIDE,
        "not reported",
        "no list price",
        "https://github.com/ollama/ollama/issues/5200, https://github.com/ollama/ollama-js/issues/279",
        "2026-11-27",
    ),
    "vllm": UsageForm(
        LAST_CHUNK + "; with `continuous_usage_stats` every chunk, totals so far",
        INSIDE,
        IN_DETAILS + ", with `--enable-prompt-tokens-details`",
        "no list price",
        "https://docs.nvidia.com/aiperf/latest/reference/vendor-usage-field-reference",
        "2026-11-27",
    ),
    "llamacpp": UsageForm(
        LAST_CHUNK,
        INSIDE,
        IN_DETAILS,
        "no list price",
        "https://github.com/ggml-org/llama.cpp/issues/16048, "
        "https://github.com/ggml-org/llama.cpp/pull/22081",
        "2026-11-27",
    ),
    "lmstudio": UsageForm(
        LAST_CHUNK + "; older versions send none",
        INSIDE + "; one token less than the limit where it was reached",
        "not reported",
        "no list price",
        "https://github.com/lmstudio-ai/lmstudio-bug-tracker/issues/2335, "
        "https://github.com/lmstudio-ai/lmstudio-bug-tracker/issues/2390",
        "2026-11-27",
    ),
}  # fmt: skip

REGION_PERCENT = {"us": 110}
"""What a region that an answer reports costs, in percent of the list price. Anthropic: 1.1 for
every kind of token, only where `inference_geo` is `us`."""


@dataclass(frozen=True, slots=True)
class RegionalAddress:
    """Hosts with prices of their own: regular expressions of the host and of the models that cost
    `percent` of the list price there."""

    host: str
    models: str
    percent: int


REGIONAL_ADDRESSES = (
    RegionalAddress(r"[a-z]{2}\.api\.openai\.com", r"gpt-(5\.([4-9]|\d\d)|[6-9]|\d\d)", 110),
    RegionalAddress(r"(us|ca)-api\.together\.(ai|xyz)", r".*", 125),
)
"""OpenAI's data residency: models from 2026-03-05 on, which gpt-5.4 began. Together: 1.25 times."""


def markdown() -> str:
    """The table of docs/providers.md."""
    lines = [
        "| preset | in a stream | reasoning | cache | price | reference, read on |",
        "|---|---|---|---|---|---|",
    ]
    for name, form in USAGE_FORMS.items():
        cells = (form.streamed, form.reasoning, form.cache, form.price)
        reference = f"{form.reference}, {form.read_on}"
        lines.append(f"| {name} | " + " | ".join((*cells, reference)) + " |")
    return "\n".join(lines)
