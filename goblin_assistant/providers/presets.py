"""The well-known providers: their address, the variable with their key, and their quirks. Data, no
code. What they differ in within a chat is in wire_forms.py.

A key in the environment (or `.env`) switches a row on. A server that needs no key is switched on by
the variable with its address. `[providers.<name>]` in goblin.toml overrides any field, and adds
servers that are not listed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LEGACY_MAX_TOKENS = {"max_tokens_field": "max_tokens"}
"""For servers that know only the older name of the limit."""


@dataclass(frozen=True, slots=True)
class Preset:
    """A row's defaults. `base_url_env` is the variable that overrides the address.

    `options` are those of the row's kind, such as openai/quirks.py. `suffix` is added to an address
    without a path.
    """

    base_url: str = ""
    api_key_env: str = ""
    base_url_env: str = ""
    kind: str = "openai_compatible"
    key_required: bool = True
    suffix: str = ""
    models: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    query_env: Mapping[str, str] = field(default_factory=dict)  # query parameter -> variable
    headers: Mapping[str, str] = field(default_factory=dict)


NO_PRESET = Preset(key_required=False)
"""For a row without a preset: it has no defaults."""

OPENAI_MODELS = """
gpt-3.5-turbo gpt-4 gpt-4-turbo gpt-4o gpt-4o-mini gpt-4.1 gpt-4.1-mini gpt-4.1-nano gpt-5
gpt-5-mini gpt-5-nano gpt-5.1 gpt-5.2 gpt-5.4 gpt-5.4-mini gpt-5.4-nano gpt-5.5 o1 o3 o3-mini
o4-mini text-embedding-3-small text-embedding-3-large text-embedding-ada-002
"""

PRESETS: dict[str, Preset] = {
    # https://platform.openai.com/docs/api-reference. The list is used until the first check has
    # read GET /models. Reasoning models (o1 and later, gpt-5 and later) refuse max_tokens:
    # https://platform.openai.com/docs/api-reference/chat/create#chat-create-max_completion_tokens
    "openai": Preset(
        base_url="https://api.openai.com/v1",
        api_key_env="OPENAI_API_KEY",
        base_url_env="OPENAI_BASE_URL",
        models=tuple(OPENAI_MODELS.split()),
        options={
            "max_tokens_field": "max_completion_tokens",
            "max_tokens_models": r"(o\d|gpt-[5-9])",
            "responses_path": "/responses",
        },
    ),
    # https://docs.anthropic.com/en/api/overview; its own dialect, see anthropic/
    "anthropic": Preset(
        base_url="https://api.anthropic.com",
        api_key_env="ANTHROPIC_API_KEY",
        base_url_env="ANTHROPIC_BASE_URL",
        kind="anthropic",
    ),
    # https://ai.google.dev/gemini-api/docs/openai; GET /models names them "models/gemini-..."
    "gemini": Preset(
        base_url="https://generativelanguage.googleapis.com/v1beta/openai",
        api_key_env="GEMINI_API_KEY",
        options={"model_id_prefix": "models/"},
    ),
    # https://docs.mistral.ai/api/; refuses stream_options ("extra_forbidden") and always sends
    # usage in the last chunk: https://github.com/avante-corp/avante.nvim/issues/2347
    "mistral": Preset(
        base_url="https://api.mistral.ai/v1",
        api_key_env="MISTRAL_API_KEY",
        options={"stream_options": False, **LEGACY_MAX_TOKENS},
    ),
    # https://console.groq.com/docs/openai
    "groq": Preset(
        base_url="https://api.groq.com/openai/v1",
        api_key_env="GROQ_API_KEY",
    ),
    # https://api-docs.deepseek.com/
    "deepseek": Preset(
        base_url="https://api.deepseek.com/v1",
        api_key_env="DEEPSEEK_API_KEY",
        options=LEGACY_MAX_TOKENS,
    ),
    # https://openrouter.ai/docs/api-reference/overview; its list of models is public, so a check
    # does not test the key
    "openrouter": Preset(
        base_url="https://openrouter.ai/api/v1",
        api_key_env="OPENROUTER_API_KEY",
        headers={"X-Title": "Goblin Assistant"},
    ),
    # https://docs.together.ai/docs/openai-api-compatibility; GET /models answers with a bare list
    "together": Preset(
        base_url="https://api.together.xyz/v1",
        api_key_env="TOGETHER_API_KEY",
        options=LEGACY_MAX_TOKENS,
    ),
    # https://docs.fireworks.ai/tools-sdks/openai-compatibility
    "fireworks": Preset(
        base_url="https://api.fireworks.ai/inference/v1",
        api_key_env="FIREWORKS_API_KEY",
        options=LEGACY_MAX_TOKENS,
    ),
    # https://docs.x.ai/docs/api-reference; it prefers the Responses API to the chat API
    # (https://docs.x.ai/docs/guides/chat, read on 2026-11-27)
    "xai": Preset(
        base_url="https://api.x.ai/v1",
        api_key_env="XAI_API_KEY",
        options={"responses_path": "/responses"},
    ),
    # https://learn.microsoft.com/azure/ai-services/openai/reference; a model is the name of a
    # deployment. GET /models lists what could be deployed, so the row declares what is, or a client
    # asks for azure/<deployment>. 2024-10-21 is the last dated release for inference.
    "azure": Preset(
        api_key_env="AZURE_OPENAI_API_KEY",
        base_url_env="AZURE_OPENAI_ENDPOINT",
        query={"api-version": "2024-10-21"},
        query_env={"api-version": "AZURE_OPENAI_API_VERSION"},
        options={
            "auth_header": "api-key",
            "auth_prefix": "",
            "chat_path": "/openai/deployments/{model}/chat/completions",
            "embeddings_path": "/openai/deployments/{model}/embeddings",
            "models_path": "/openai/models",
            "learn_models": False,
            "max_tokens_field": "max_completion_tokens",
            "max_tokens_models": r"(o\d|gpt-[5-9])",
        },
    ),
    # https://github.com/ollama/ollama/blob/main/docs/openai.md
    "ollama": Preset(
        base_url="http://127.0.0.1:11434",
        base_url_env="OLLAMA_BASE_URL",
        api_key_env="OLLAMA_API_KEY",
        key_required=False,
        suffix="/v1",
        options=LEGACY_MAX_TOKENS,
    ),
    # https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
    "vllm": Preset(
        base_url="http://127.0.0.1:8000",
        base_url_env="VLLM_BASE_URL",
        api_key_env="VLLM_API_KEY",
        key_required=False,
        suffix="/v1",
    ),
    # https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
    "llamacpp": Preset(
        base_url="http://127.0.0.1:8080",
        base_url_env="LLAMACPP_BASE_URL",
        api_key_env="LLAMACPP_API_KEY",
        key_required=False,
        suffix="/v1",
        options=LEGACY_MAX_TOKENS,
    ),
    # https://lmstudio.ai/docs/app/api/endpoints/openai
    "lmstudio": Preset(
        base_url="http://127.0.0.1:1234",
        base_url_env="LMSTUDIO_BASE_URL",
        api_key_env="LMSTUDIO_API_KEY",
        key_required=False,
        suffix="/v1",
        options=LEGACY_MAX_TOKENS,
    ),
}
