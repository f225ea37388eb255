"""What each known server takes in the messages of a chat, beyond OpenAI's API: a table.

A conversation may have begun with another provider, and clients send back what that one wrote.
messages.py fits a chat to a row of this table. Each row names its source and when it was read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

ReasoningField = Literal["reasoning_content", "reasoning", "thinking_parts", ""]


@dataclass(frozen=True, slots=True)
class WireForm:
    """One server's form.

    `reasoning_field`: where an assistant's message has its reasoning; thinking_parts: in its
    content, as Mistral writes it; empty: nowhere, it is left out; None: as the client sends it.
    `reasoning_required`: after a tool call the field has to be there, empty at least.
    `reasoning_details`: OpenRouter's list of them is taken. `thought_signatures`: tool calls need
    Google's signature back. `tool_name_limit`: a longer name is shortened on the way. `id_limit`:
    the same for a tool call's id. `cache_control`: Anthropic's cache marks are taken.
    `cache_marks`: they are read, so a translation of Anthropic's dialect keeps them.
    """

    reasoning_field: ReasoningField | None = None
    reasoning_required: bool = False
    reasoning_details: bool = True
    thought_signatures: bool = False
    tool_name_limit: int | None = None
    id_limit: int | None = None
    cache_control: bool = True
    cache_marks: bool = False


ANY = WireForm()
"""For servers that are not known: everything passes as the client sends it."""

_OPENAI = WireForm(
    reasoning_field="",
    reasoning_details=False,
    tool_name_limit=64,
    id_limit=40,
    cache_control=False,
)

# Read on 2026-11-27: OpenAI, Gemini, Mistral, Groq, DeepSeek, Moonshot and OpenRouter. Not compared
# with its page yet: xAI, Together, Fireworks, Ollama, vLLM, llama.cpp and LM Studio.
FORMS: Mapping[str, WireForm] = {
    # Names: https://platform.openai.com/docs/api-reference/chat/create (64 characters). Ids: 40, of
    # newer models 64: https://github.com/openclaw/openclaw/pull/875. It has no field for reasoning.
    "openai": _OPENAI,
    "azure": _OPENAI,
    # https://ai.google.dev/gemini-api/docs/thought-signatures; its JSON is read strictly.
    "gemini": WireForm(
        reasoning_field="",
        reasoning_details=False,
        thought_signatures=True,
        tool_name_limit=64,
        cache_control=False,
    ),
    # https://docs.mistral.ai/capabilities/reasoning/; forbids other fields:
    # https://github.com/avante-corp/avante.nvim/issues/2347
    "mistral": WireForm(
        reasoning_field="thinking_parts",
        reasoning_details=False,
        tool_name_limit=64,
        cache_control=False,
    ),
    # "property 'reasoning_content' is unsupported": https://github.com/janhq/jan/issues/8136;
    # `reasoning` is refused by models that do not reason: https://github.com/vercel/ai/pull/8057
    "groq": WireForm(
        reasoning_field="", reasoning_details=False, tool_name_limit=64, cache_control=False
    ),
    # https://api-docs.deepseek.com/guides/thinking_mode: after a tool call each message needs it;
    # without thinking it is ignored.
    "deepseek": WireForm(
        reasoning_field="reasoning_content",
        reasoning_required=True,
        reasoning_details=False,
        tool_name_limit=64,
    ),
    # https://openrouter.ai/docs/use-cases/reasoning-tokens#preserving-reasoning-blocks,
    # https://openrouter.ai/docs/features/prompt-caching
    "openrouter": WireForm(reasoning_field="reasoning", tool_name_limit=64, cache_marks=True),
    # https://docs.x.ai/docs/guides/reasoning
    "xai": WireForm(reasoning_field="reasoning_content", tool_name_limit=64),
    # https://docs.together.ai/docs/inference-openai-compatibility
    "together": WireForm(reasoning_field="reasoning", tool_name_limit=64),
    # https://docs.fireworks.ai/guides/reasoning
    "fireworks": WireForm(reasoning_field="reasoning_content", tool_name_limit=64),
    # https://docs.ollama.com/openai: a message's `reasoning`
    "ollama": WireForm(reasoning_field="reasoning"),
    # https://docs.vllm.ai/en/latest/features/reasoning_outputs.html: takes both names
    "vllm": WireForm(),
    # https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
    "llamacpp": WireForm(reasoning_field="reasoning_content"),
    # https://lmstudio.ai/docs/app/api/endpoints/openai
    "lmstudio": WireForm(reasoning_field="reasoning_content"),
}
"""By the names of presets. `anthropic` has its own translation."""
