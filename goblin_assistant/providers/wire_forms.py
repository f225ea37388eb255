"""How the wire formats of known servers differ: one entry for each preset. Data, no code.

wire_form.py explains the fields. docs/providers.md shows the same as tables; a test compares them.
"not found" means that no reference was found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from goblin_assistant.providers.wire_form import (
    THINKING,
    MessageForm,
    OverflowForm,
    Source,
    UsageForm,
    WireForm,
)

LAST_CHUNK = "a chunk of its own before `[DONE]`, because we ask with `include_usage`"
INSIDE = "inside `completion_tokens`"
OUTSIDE = "outside `completion_tokens`; `total_tokens` holds them"
IN_DETAILS = "read: `prompt_tokens_details.cached_tokens`, inside `prompt_tokens`"

OPENAIS_NAMES = 64
"""Characters of a tool's name: https://platform.openai.com/docs/api-reference/chat/create. Other
hosted servers follow OpenAI; a reference of their own was not found."""
# OpenAI's role of developers is sent to no other known server: several refuse it, and to none it
# means more than the system's.

FOREIGN = (*THINKING, "extra_content")
"""This product's own field and Google's. Other servers do not use them."""
NO_DETAILS = (*FOREIGN, "reasoning_details")
"""The same, and OpenRouter's list of reasoning."""
STRICT = (*NO_DETAILS, "refusal", "annotations", "audio")
"""Fields of earlier assistant messages that servers with strict validation refuse."""

COLLECTED = Source(
    "https://github.com/badlogic/pi-mono/blob/main/packages/ai/src/utils/overflow.ts"
)

OPENAI = WireForm(
    MessageForm(
        # Ids: 40 characters, of newer models 64. There is no field for reasoning.
        Source(
            "https://platform.openai.com/docs/api-reference/chat/create, "
            "https://github.com/openclaw/openclaw/pull/875"
        ),
        reasoning_field="",
        refused_fields=NO_DETAILS,
        tool_name_limit=OPENAIS_NAMES,
        developer_role=True,
        id_limit=40,
        cache_control=False,
    ),
    UsageForm(
        LAST_CHUNK,
        INSIDE + ", as rejected predictions are",
        IN_DETAILS + "; written: `cache_write_tokens` beside it",
        "`service_tier`; audio tokens in both details; 10 % more at a regional address for models "
        "from 2026-03-05 on",
        Source(
            "https://developers.openai.com/api/docs/guides/data-residency, "
            "https://developers.openai.com/api/docs/guides/prompt-caching"
        ),
    ),
    OverflowForm(
        "This model's maximum context length is 8192 tokens. However, your messages resulted in "
        "8545 tokens. Please reduce the length of the messages.",
        Source("https://github.com/crewAIInc/crewAI-examples/issues/121"),
        code="context_length_exceeded",
    ),
)

WIRE_FORMS: Mapping[str, WireForm] = {
    "openai": OPENAI,
    "anthropic": WireForm(
        None,
        UsageForm(
            "`message_start` (prompt) and each `message_delta` (totals so far)",
            "inside `output_tokens`",
            "`cache_read_input_tokens` and `cache_creation_input_tokens`, outside `input_tokens`; "
            "the hour's part in `cache_creation.ephemeral_1h_input_tokens`",
            "`usage.iterations`: summaries, advisors and models that declined after they had "
            "begun, which the other counts do not hold, each at its model's price; `usage.speed`; "
            "10 % more where `usage.inference_geo` is `us`",
            Source(
                "https://platform.claude.com/docs/en/about-claude/pricing, "
                "https://platform.claude.com/docs/en/build-with-claude/data-residency, "
                "https://platform.claude.com/docs/en/build-with-claude/compaction, "
                "https://platform.claude.com/docs/en/build-with-claude/refusals-and-fallback, "
                "https://platform.claude.com/docs/en/agents-and-tools/tool-use/advisor-tool"
            ),
        ),
        OverflowForm(
            "prompt is too long: 213462 tokens > 200000 maximum",
            Source("https://platform.claude.com/docs/en/build-with-claude/context-windows"),
        ),
    ),
    "gemini": WireForm(
        MessageForm(
            Source("https://ai.google.dev/gemini-api/docs/thought-signatures"),
            reasoning_field="",
            # Its JSON is read strictly. extra_content of its tool calls is what it wants back.
            refused_fields=tuple(name for name in STRICT if name != "extra_content"),
            thought_signatures=True,
            tool_name_limit=OPENAIS_NAMES,
            cache_control=False,
        ),
        UsageForm(
            LAST_CHUNK,
            OUTSIDE,
            IN_DETAILS,
            "`service_tier`; audio tokens in `prompt_tokens_details`",
            Source(
                "https://ai.google.dev/gemini-api/docs/openai (the form of usage not found there); "
                "https://github.com/mozilla-ai/any-llm/issues/1290"
            ),
        ),
        OverflowForm(
            "The input token count (1196265) exceeds the maximum number of tokens allowed "
            "(1048575).",
            COLLECTED,
        ),
    ),
    "mistral": WireForm(
        MessageForm(
            # It forbids other fields, and "Tool call id was ... but must be a-z, A-Z, 0-9, with a
            # length of 9". "Unexpected role 'user' after role 'tool'".
            Source(
                "https://docs.mistral.ai/capabilities/reasoning/, "
                "https://github.com/avante-corp/avante.nvim/issues/2347, "
                "https://github.com/langchain-ai/langchain/pull/24668, "
                "https://github.com/Gage-Technologies/mistral-go/pull/2, "
                "https://github.com/avante-corp/avante.nvim/pull/2695"
            ),
            reasoning_field="thinking_parts",
            refused_fields=STRICT,
            tool_name_limit=OPENAIS_NAMES,
            names=False,
            tool_call_ids="[A-Za-z0-9]{9}",
            bridge="I have read the result.",
            cache_control=False,
        ),
        UsageForm(
            "the last chunk, beside its finish reason, unasked",
            INSIDE,
            IN_DETAILS,
            "audio is billed by its seconds, which are not priced here",
            Source(
                "https://docs.mistral.ai/resources/release-note/"
                "2024-01-16-token-usage-in-streaming-requests, "
                "https://getlago.com/docs/guide/ai-agents/agent-sdk/mistral"
            ),
        ),
        OverflowForm(
            "Prompt contains 65536 tokens and 0 draft tokens, too large for model with 32768 "
            "maximum context length",
            COLLECTED,
        ),
    ),
    "groq": WireForm(
        MessageForm(
            # "property 'reasoning_content' is unsupported"; `reasoning` is refused by models that
            # do not reason.
            Source(
                "https://github.com/janhq/jan/issues/8136, https://github.com/vercel/ai/pull/8057"
            ),
            reasoning_field="",
            refused_fields=STRICT,
            tool_name_limit=OPENAIS_NAMES,
            cache_control=False,
        ),
        UsageForm(
            LAST_CHUNK + "; also `x_groq.usage` beside the finish reason",
            INSIDE,
            IN_DETAILS + "; writing is free",
            "none found",
            Source(
                "https://console.groq.com/docs/prompt-caching, "
                "https://github.com/vercel/ai/issues/1651"
            ),
        ),
        OverflowForm("Please reduce the length of the messages or completion.", COLLECTED),
    ),
    "deepseek": WireForm(
        MessageForm(
            # After a tool call each message needs it; without thinking it is ignored.
            # "unknown variant `developer`, expected one of `system`, `user`, ..."
            Source(
                "https://api-docs.deepseek.com/guides/thinking_mode, "
                "https://github.com/earendil-works/pi/issues/1048"
            ),
            reasoning_field="reasoning_content",
            reasoning_required=True,
            refused_fields=NO_DETAILS,
            tool_name_limit=OPENAIS_NAMES,
        ),
        UsageForm(
            LAST_CHUNK,
            INSIDE,
            "read: `prompt_cache_hit_tokens`, inside `prompt_tokens`",
            "the hour of the call",
            Source(
                "https://api-docs.deepseek.com/guides/kv_cache, "
                "https://docs.rs/crate/deepseek-sdk/0.7.0/source/src/chat/response.rs"
            ),
        ),
        OverflowForm(
            "This model's maximum context length is 65536 tokens. However, you requested 75591 "
            "tokens (67591 in the messages, 8000 in the completion). Please reduce the length of "
            "the messages or completion.",
            Source("https://github.com/evalstate/fast-agent/issues/621"),
        ),
    ),
    "openrouter": WireForm(
        MessageForm(
            Source(
                "https://openrouter.ai/docs/use-cases/reasoning-tokens, "
                "https://openrouter.ai/docs/features/prompt-caching"
            ),
            reasoning_field="reasoning",
            refused_fields=FOREIGN,
            tool_name_limit=OPENAIS_NAMES,
            cache_marks=True,
        ),
        UsageForm(
            "the last event, always",
            INSIDE,
            IN_DETAILS + "; written: `cache_write_tokens` beside it",
            "the provider that it chose; its own `cost` is not read",
            Source("https://openrouter.ai/docs/use-cases/usage-accounting"),
        ),
        OverflowForm(
            "This endpoint's maximum context length is 131072 tokens. However, you requested about "
            "132463 tokens (1463 of text input, 131000 in the output).",
            Source("https://github.com/danny-avila/LibreChat/issues/8417"),
        ),
    ),
    "together": WireForm(
        MessageForm(
            # An answer's field is `reasoning`. Whether a request's is read: not found.
            Source(
                "https://docs.together.ai/docs/kimi-k2-thinking-quickstart, "
                "https://github.com/togethercomputer/openapi/pull/132"
            ),
            reasoning_field="reasoning",
            refused_fields=FOREIGN,
            tool_name_limit=OPENAIS_NAMES,
        ),
        UsageForm(
            LAST_CHUNK,
            INSIDE + " (not found; OpenAI's form)",
            "read: `cached_tokens` of usage itself or of its details, inside `prompt_tokens`",
            "25 % more at a regional address",
            Source(
                "https://docs.together.ai/docs/serverless/geo-specific-inference, "
                "https://docs.stigg.io/documentation/ai-agents/providers/together"
            ),
        ),
        OverflowForm(
            "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 8193. Given: "
            "9000 `inputs` tokens and 512 `max_new_tokens`",
            Source("https://github.com/BerriAI/litellm/issues/4934"),
        ),
    ),
    "fireworks": WireForm(
        MessageForm(
            Source("https://docs.fireworks.ai/guides/reasoning"),
            reasoning_field="reasoning_content",
            refused_fields=FOREIGN,
            tool_name_limit=OPENAIS_NAMES,
        ),
        UsageForm(
            LAST_CHUNK,
            INSIDE + " (not found; OpenAI's form)",
            IN_DETAILS,
            "none found",
            Source(
                "https://docs.fireworks.ai/guides/prompt-caching, "
                "https://docs.stigg.io/documentation/ai-agents/providers/fireworks"
            ),
        ),
        OverflowForm(
            "The prompt is too long: 40177, model maximum context length: 32767",
            Source("https://github.com/fw-ai/cookbook/issues/134"),
        ),
    ),
    "xai": WireForm(
        MessageForm(
            # Its chat API is deprecated and has no field for encrypted reasoning; the Responses
            # API has. An answer's field is `reasoning_content`. Whether it is read: not found.
            Source("https://docs.x.ai/developers/model-capabilities/text/best-practices"),
            reasoning_field="reasoning_content",
            refused_fields=FOREIGN,
            tool_name_limit=OPENAIS_NAMES,
        ),
        UsageForm(
            "every chunk or the last ones, totals so far",
            OUTSIDE,
            IN_DETAILS,
            "long prompts",
            Source(
                "https://docs.x.ai/developers/advanced-api-usage/prompt-caching/usage-and-pricing, "
                "https://github.com/vercel/ai/pull/12425"
            ),
        ),
        OverflowForm(
            "This model's maximum prompt length is 131072 but the request contains 537812 tokens.",
            Source("https://github.com/cline/cline/issues/3120"),
        ),
    ),
    "azure": replace(
        OPENAI,
        usage=UsageForm(
            LAST_CHUNK,
            INSIDE,
            IN_DETAILS,
            "`service_tier`; audio tokens in both details (regional prices: in goblin.toml)",
            Source(
                "https://learn.microsoft.com/en-us/azure/ai-foundry/openai/how-to/prompt-caching, "
                "https://docs.memberjunction.org/api/interfaces/"
                "_memberjunction_ai-azure.AzureTokenUsage.html"
            ),
        ),
    ),
    "ollama": WireForm(
        MessageForm(
            # The structure Message. What it does not know is not read.
            Source("https://github.com/ollama/ollama/blob/main/openai/openai.go"),
            reasoning_field="reasoning",
            refused_fields=FOREIGN,
        ),
        UsageForm(
            LAST_CHUNK + ", from version 0.5.2 on",
            INSIDE,
            "not reported",
            "no list price",
            Source(
                "https://github.com/ollama/ollama/issues/5200, "
                "https://github.com/ollama/ollama-js/issues/279"
            ),
        ),
        # As a rule it cuts the prompt without a word. Some models are answered as llama.cpp does.
        OverflowForm(
            "the input length exceeds the context length",
            Source(
                "https://github.com/lfnovo/open-notebook/issues/350, "
                "https://github.com/ollama/ollama/issues/17889"
            ),
        ),
    ),
    "vllm": WireForm(
        # Both names are taken. From 0.11.1 on its own is `reasoning`.
        MessageForm(
            Source(
                "https://docs.vllm.ai/en/v0.26.0/features/reasoning_outputs/, "
                "https://huggingface.co/froggeric/Qwen-Fixed-Chat-Templates/discussions/88"
            )
        ),
        UsageForm(
            LAST_CHUNK + "; with `continuous_usage_stats` every chunk, totals so far",
            INSIDE,
            IN_DETAILS + ", with `--enable-prompt-tokens-details`",
            "no list price",
            Source("https://docs.nvidia.com/aiperf/latest/reference/vendor-usage-field-reference"),
        ),
        OverflowForm(
            "This model's maximum context length is 40960 tokens. However, you requested 1024 "
            "output tokens and your prompt contains at least 40100 input tokens, for a total of at "
            "least 41124 tokens.",
            Source(
                "https://github.com/vllm-project/vllm/blob/main/vllm/renderers/params.py; this "
                "sentence is an older version's"
            ),
        ),
    ),
    "llamacpp": WireForm(
        MessageForm(
            Source("https://github.com/ggml-org/llama.cpp/pull/16934"),
            reasoning_field="reasoning_content",
            refused_fields=FOREIGN,
        ),
        UsageForm(
            LAST_CHUNK,
            INSIDE,
            IN_DETAILS,
            "no list price",
            Source(
                "https://github.com/ggml-org/llama.cpp/issues/16048, "
                "https://github.com/ggml-org/llama.cpp/pull/22081"
            ),
        ),
        OverflowForm(
            "request (9001 tokens) exceeds the available context size (4096 tokens), try "
            "increasing it",
            Source("https://github.com/unslothai/unsloth/pull/6164"),
        ),
    ),
    "lmstudio": WireForm(
        MessageForm(
            # Its own client of such servers sends it under this name. Whether its server reads it:
            # not found.
            Source("https://lmstudio.ai/hxyy/openai-compat-endpoint"),
            reasoning_field="reasoning_content",
            refused_fields=FOREIGN,
        ),
        UsageForm(
            LAST_CHUNK + "; older versions send none",
            INSIDE + "; one token less than the limit where it was reached",
            "not reported",
            "no list price",
            Source(
                "https://github.com/lmstudio-ai/lmstudio-bug-tracker/issues/2335, "
                "https://github.com/lmstudio-ai/lmstudio-bug-tracker/issues/2390"
            ),
        ),
        OverflowForm(
            "Trying to keep the first 4932 tokens when context the overflows. However, the model "
            "is loaded with context length of only 4096 tokens, which is not enough.",
            Source(
                "https://github.com/lmstudio-ai/lmstudio-bug-tracker/issues/546, "
                "https://github.com/tinyhumansai/openhuman/issues/3550"
            ),
        ),
    ),
}
"""By the names of presets."""
