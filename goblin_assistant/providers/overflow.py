"""Recognises the error "the prompt is too long" by its text. Pure functions.

Most servers have no code for this error. Clients recognise Anthropic's sentence; they compact the
conversation and continue. So the provider's sentence is replaced by Anthropic's, with the same
numbers. No other text of a provider is interpreted (ADR 0015).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from goblin_assistant.providers.base import token_count

MOST_TEXT = 2000
"""Characters of a message that are searched. Such sentences are short; others quote the prompt."""

STATUSES = frozenset({400, 413, 422, 500})
"""The text is searched only with one of these. Ollama and llama.cpp use 500."""

_PLACES = ("message", "Message", "error", "detail", "msg", "metadata", "raw")
"""Fields that hold an error's text, or an object with one: OpenAI's, Bedrock's, that of Ollama, xAI
and text-generation-inference, FastAPI's two, and OpenRouter's, which has the body of the provider
behind it in `error.metadata.raw`."""
_MOST_PLACES = 20


@dataclass(frozen=True, slots=True)
class Overflow:
    """The numbers of a prompt that is too long, in tokens; None: not given. `answer` is the limit
    of the answer, where prompt and answer share the window."""

    prompt: int | None = None
    answer: int | None = None
    window: int | None = None

    @property
    def sentence(self) -> str:
        """Anthropic's sentence. Both of its forms start the same way here, because some clients
        recognise only the first."""
        if self.window is None or self.prompt is None:
            return "prompt is too long for the model's context window"
        if self.answer is not None and self.prompt <= self.window:
            return (
                "prompt is too long: input length and `max_tokens` exceed context limit: "
                f"{self.prompt} + {self.answer} > {self.window}, "
                "decrease input length or `max_tokens` and try again"
            )
        return f"prompt is too long: {self.prompt} tokens > {self.window} maximum"


# Each with its source; wire_forms.py has the dates. What only a list collected was not compared
# with a server's answer.
_SENTENCES = tuple(
    re.compile(text, re.IGNORECASE)
    for text in (
        # Anthropic, https://platform.claude.com/docs/en/build-with-claude/context-windows; the
        # second one: https://github.com/anthropics/claude-code/issues/42
        r"prompt is too long: (?P<prompt>\d+) tokens > (?P<window>\d+) maximum",
        r"input length and `?max_tokens`? exceed context limit: "
        r"(?P<prompt>\d+) \+ (?P<answer>\d+) > (?P<window>\d+)",
        # OpenAI, DeepSeek, older vLLM: https://github.com/vllm-project/vllm/issues/20409
        r"maximum context length is (?P<window>\d+) tokens.{0,20}you requested \d+ tokens "
        r"\((?P<prompt>\d+) in (?:the messages|your prompt)[,;] (?P<answer>\d+) (?:in|for) the "
        r"completion",
        r"maximum context length is (?P<window>\d+) tokens.{0,20}your messages resulted in "
        r"(?P<prompt>\d+) tokens",
        # OpenAI: https://github.com/archi-physics/archi/issues/497
        r"input tokens exceed the configured limit of (?P<window>\d+) tokens.{0,20}your messages "
        r"resulted in (?P<prompt>\d+) tokens",
        # vLLM: vllm.renderers.params, vllm.entrypoints.openai.serving_engine
        r"is too large: (?P<answer>\d+)\. This model's maximum context length is "
        r"(?P<window>\d+) tokens and your request has (?P<prompt>\d+) input tokens",
        r"maximum context length is (?P<window>\d+) tokens.{0,20}you requested (?P<answer>\d+) "
        r"output tokens and your prompt contains (?:at least )?(?P<prompt>\d+) input tokens",
        r"maximum context length is (?P<window>\d+) tokens.{0,20}your request has "
        r"(?P<prompt>\d+) input tokens",
        r"prompt \((?:total )?length (?P<prompt>\d+)\) is (?:longer than the maximum model length "
        r"of|too long to fit into the model \(context length) (?P<window>\d+)",
        # OpenRouter, https://github.com/danny-avila/LibreChat/issues/8417
        r"maximum context length is (?P<window>\d+) tokens.{0,20}you requested about \d+ tokens "
        r"\((?P<prompt>\d+) of text input, (?P<answer>\d+) in the output",
        # Cerebras: https://github.com/cline/cline/issues/5140
        r"current length is (?P<prompt>\d+) while limit is (?P<window>\d+)",
        r"maximum context length is (?P<window>\d+) tokens.{0,20}you requested (?:about )?"
        r"(?P<prompt>\d+) tokens",
        r"maximum context length is (?P<window>\d+)",
        # vLLM of 2026 and NVIDIA's, https://github.com/NVIDIA/NemoClaw/issues; the window has room
        # for the answer already
        r"you passed (?P<prompt>\d+) input tokens and requested (?P<answer>\d+) output tokens\. "
        r"However, the model's context length is only (?P<window>\d+) tokens",
        # Of a text so long that vLLM does not count its tokens: vllm.renderers.params
        r"you passed \d+ input characters and requested (?P<answer>\d+) output tokens\. "
        r"However, the model's context length is only (?P<window>\d+) tokens",
        # SGLang: sglang.srt.managers.tokenizer_manager
        r"input length \(?(?P<prompt>\d+)(?: tokens)?\)? exceeds (?:the )?(?:model's )?maximum "
        r"(?:context|allowed(?: input)?) length (?:of )?\(?(?P<window>\d+)",
        r"the input \((?P<prompt>\d+) tokens\) is longer than the model'?s context length "
        r"\((?P<window>\d+) tokens\)",
        r"requested token count exceeds the model'?s maximum context length of (?P<window>\d+) "
        r"tokens\. You requested a total of \d+ tokens: (?P<prompt>\d+) tokens from the input "
        r"messages and (?P<answer>\d+) tokens for the completion",
        # llama.cpp, tools/server/server-context.cpp; its body has the numbers too
        r"request \((?P<prompt>\d+) tokens\) exceeds the available context size "
        r"\((?P<window>\d+) tokens\)",
        r"exceeds the available context size",
        r"input (?:\((?P<prompt>\d+) tokens\) )?is too large to process\. increase the physical "
        r"batch size(?: \(current batch size: (?P<window>\d+)\))?",
        # llama-cpp-python: https://github.com/run-llama/llama_index/issues/8046
        r"requested tokens \((?P<prompt>\d+)\) exceed context window of (?P<window>\d+)",
        # LM Studio, https://github.com/lmstudio-ai/lmstudio-bug-tracker/issues/237, .../2256,
        # https://github.com/anomalyco/opencode/issues/11141
        r"n_keep:? \(?(?P<prompt>\d+)\)? ?>= n_ctx:? \(?(?P<window>\d+)",
        r"trying to keep the first (?P<prompt>\d+) tokens when context the overflows\. However, "
        r"the model is loaded with context length of only (?P<window>\d+) tokens",
        # and https://github.com/tinyhumansai/openhuman/issues/3550
        r"is greater than the context length \(n_keep: (?P<prompt>\d+) >= n_ctx: "
        r"(?P<window>\d+)\)",
        r"is greater than the context length",
        r"reached context length of (?P<window>\d+) tokens with model",
        # Ollama, server/routes.go, runner/ollamarunner
        r"input length exceeds (?:the|maximum) context length",
        r"prompt too long; exceeded (?:max )?context length",
        # Google, https://ai.google.dev/gemini-api/docs/troubleshooting
        r"input token count \((?P<prompt>\d+)\) exceeds the maximum number of tokens allowed "
        r"\(?(?P<window>\d+)",
        r"input token count .{0,40}exceeds the maximum number of tokens",
        r"input token count is (?P<prompt>\d+) but (?:the )?model only supports up to "
        r"(?P<window>\d+)",
        # xAI, Mistral, Kimi, Fireworks: as collected in
        # https://github.com/badlogic/pi-mono/blob/main/packages/ai/src/utils/overflow.ts
        r"maximum prompt length is (?P<window>\d+) but the request contains (?P<prompt>\d+) tokens",
        r"prompt contains (?P<prompt>\d+) tokens.{0,80}too large for model with (?P<window>\d+) "
        r"maximum context length",
        r"exceeded model token limit: (?P<window>\d+)(?: \(requested: (?P<prompt>\d+)\))?",
        r"prompt is too long: (?P<prompt>\d+), model maximum context length: (?P<window>\d+)",
        # Together and text-generation-inference, router/src/validation.rs
        r"tokens \+ `max_new_tokens` must be <= (?P<window>\d+)\. Given: (?P<prompt>\d+) `inputs` "
        r"tokens and (?P<answer>\d+) `max_new_tokens`",
        r"`inputs` must have less than (?P<window>\d+) tokens\. Given: (?P<prompt>\d+)",
        # GitHub Copilot, Cohere, DashScope, Z.ai: as collected there too
        r"prompt token count of (?P<prompt>\d+) exceeds the limit of (?P<window>\d+)",
        r"too many tokens: (?:size limit exceeded|total number of tokens)",
        r"range of input length should be \[1, (?P<window>\d+)\]",
        r"prompt exceeds max length",
        # GitHub Models: https://github.com/eslint/tsc-meetings/pull/593
        r"request body too large for .{0,100} model\. Max size: (?P<window>\d+) tokens",
        # Groq, of a request that is larger than a minute's tokens, with 413:
        # https://console.groq.com/docs/errors. OpenAI says the same with 429, which is a limit.
        r"request too large for model .{0,200}limit (?P<window>\d+), requested (?P<prompt>\d+)",
        # OpenAI's newer models, Groq, Bedrock, MiniMax: without numbers
        r"exceeds the context window",
        r"reduce the length of the messages",
        r"input is too long for requested model",
        r"context window exceeds limit",
        r"prompt is too long",
    )
)


def overflow_of(error: Any) -> Overflow | None:
    """The numbers of an error about a prompt that is too long, in any server's form; None for any
    other error."""
    for text in _texts(error):
        for sentence in _SENTENCES:
            if (found := sentence.search(text)) is not None:
                return _numbers(found.groupdict(), error if isinstance(error, Mapping) else {})
    return None


def _texts(error: Any) -> Iterator[str]:
    """The texts of an error. Other fields are not searched: they may quote the prompt."""
    pending = [error]
    for _ in range(_MOST_PLACES):
        if not pending:
            return
        item = pending.pop(0)
        if isinstance(item, str):
            yield item[:MOST_TEXT]
        elif isinstance(item, Mapping):
            pending.extend(item[name] for name in _PLACES if name in item)
        elif isinstance(item, list):
            pending.extend(item[:_MOST_PLACES])


def numbers_of(error: Mapping[str, Any]) -> Overflow:
    """The same for an error object whose code already says that the prompt is too long."""
    return overflow_of(error) or _numbers({}, error)


def _numbers(found: Mapping[str, str | None], error: Mapping[str, Any]) -> Overflow:
    prompt, answer, window = (
        token_count(int(text)) if (text := found.get(name)) and len(text) < 16 else None
        for name in ("prompt", "answer", "window")
    )
    # llama.cpp has them as fields: https://github.com/ggml-org/llama.cpp/blob/master/tools/server
    return Overflow(
        prompt if prompt is not None else token_count(error.get("n_prompt_tokens")),
        answer,
        window if window is not None else token_count(error.get("n_ctx")),
    )
