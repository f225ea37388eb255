"""A prompt that is too long is recognised in every server's words, and told in Anthropic's."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from goblin_assistant.providers.anthropic import errors as anthropic_errors
from goblin_assistant.providers.base import (
    BadResponse,
    ContextLengthExceeded,
    InvalidRequest,
    ProviderError,
    RateLimited,
)
from goblin_assistant.providers.faults import UpstreamFailure
from goblin_assistant.providers.openai.wire import classify, stream_error

UNKNOWN = "prompt is too long for the model's context window"


def too_long(prompt: int, window: int) -> str:
    return f"prompt is too long: {prompt} tokens > {window} maximum"


def exceeds(prompt: int, answer: int, window: int) -> str:
    return (
        "prompt is too long: input length and `max_tokens` exceed context limit: "
        f"{prompt} + {answer} > {window}, decrease input length or `max_tokens` and try again"
    )


def said(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", **more}}


def flat(message: str) -> dict[str, Any]:
    return {"object": "error", "message": message, "type": "BadRequestError", "code": 400}


CASES: list[tuple[str, Any, str]] = [
    (
        "openai",
        said(
            "This model's maximum context length is 8192 tokens. However, your messages resulted "
            "in 8545 tokens. Please reduce the length of the messages.",
            code="context_length_exceeded",
            param="messages",
        ),
        too_long(8545, 8192),
    ),
    (
        "openai, newer",
        said("Your input exceeds the context window of this model. Please adjust your input."),
        UNKNOWN,
    ),
    (
        "openai, a limit of the account",
        said(
            "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in "
            "477469 tokens. Please reduce the length of the messages."
        ),
        too_long(477469, 272000),
    ),
    (
        "cerebras",
        said(
            "Please reduce the length of the messages or completion. Current length is 42328 while "
            "limit is 40000"
        ),
        too_long(42328, 40000),
    ),
    (
        "llama-cpp-python",
        said("Requested tokens (2065) exceed context window of 1800"),
        too_long(2065, 1800),
    ),
    (
        "lm studio of 2026",
        {"error": "Cannot truncate prompt with n_keep (15028) >= n_ctx (7424)"},
        too_long(15028, 7424),
    ),
    (
        "lm studio, with numbers behind",
        {
            "error": "The number of tokens to keep from the initial prompt is greater than the "
            "context length (n_keep: 5219>= n_ctx: 4096). Try a larger one."
        },
        too_long(5219, 4096),
    ),
    ("kimi without its count", said("Your request exceeded model token limit: 8192"), UNKNOWN),
    (
        "github models",
        said(
            "Request body too large for gpt-4o model. Max size: 8000 tokens.",
            code="tokens_limit_reached",
        ),
        UNKNOWN,
    ),
    (
        "anthropic's sentence without its marks",
        said("input length and max_tokens exceed context limit: 90402 + 116650 > 204648, decrease"),
        exceeds(90402, 116650, 204648),
    ),
    (
        "a provider behind openrouter",
        said(
            "Provider returned error",
            code=400,
            metadata={
                "provider_name": "x",
                "raw": orjson.dumps(said("Current length is 42328 while limit is 40000")).decode(),
            },
        ),
        too_long(42328, 40000),
    ),
    ("openai, a code alone", said("?", code="context_length_exceeded"), UNKNOWN),
    (
        "vllm and deepseek",
        flat(
            "This model's maximum context length is 16384 tokens. However, you requested 19591 "
            "tokens (9591 in the messages, 10000 in the completion). Please reduce the length."
        ),
        exceeds(9591, 10000, 16384),
    ),
    (
        "vllm, the prompt alone is too long",
        flat(
            "This model's maximum context length is 16384 tokens. However, you requested 122946 "
            "tokens (112946 in the messages, 10000 in the completion)."
        ),
        too_long(112946, 16384),
    ),
    (
        "vllm, a text whose tokens it does not count",
        said(
            "You passed 5000000 input characters and requested 100 output tokens. However, the "
            "model's context length is only 4096 tokens, resulting in a maximum input length of "
            "3996 tokens (at most 511488 characters). Please reduce the length of the input "
            "prompt. (parameter=input_text, value=5000000)"
        ),
        UNKNOWN,
    ),
    (
        "lm studio, newer",
        said(
            "The number of tokens to keep from the initial prompt is greater than the context "
            "length (n_keep: 10247 >= n_ctx: 4096). Try to load the model with a larger context "
            "length, or provide a shorter prompt."
        ),
        too_long(10247, 4096),
    ),
    (
        "vllm, max_tokens",
        said(
            "'max_tokens' or 'max_completion_tokens' is too large: 2000. This model's maximum "
            "context length is 4096 tokens and your request has 2104 input tokens "
            "(2000 > 4096 - 2104)."
        ),
        exceeds(2104, 2000, 4096),
    ),
    (
        "vllm, newer",
        said(
            "This model's maximum context length is 40960 tokens. However, you requested 1024 "
            "output tokens and your prompt contains at least 40100 input tokens, for a total of "
            "at least 41124 tokens."
        ),
        exceeds(40100, 1024, 40960),
    ),
    (
        "vllm, decoder",
        flat(
            "The decoder prompt (length 25938) is longer than the maximum model length of 4096. "
            "Make sure that `max_model_len` is no smaller than the number of text tokens."
        ),
        too_long(25938, 4096),
    ),
    (
        "sglang",
        flat("The input (61709 tokens) is longer than the model's context length (40960 tokens)."),
        too_long(61709, 40960),
    ),
    (
        "sglang, with the answer",
        flat(
            "Requested token count exceeds the model's maximum context length of 131072 tokens. "
            "You requested a total of 140000 tokens: 100000 tokens from the input messages and "
            "40000 tokens for the completion."
        ),
        exceeds(100000, 40000, 131072),
    ),
    (
        "llama.cpp",
        {
            "error": {
                "code": 400,
                "message": "the request exceeds the available context size, try increasing it",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": 9001,
                "n_ctx": 4096,
            }
        },
        too_long(9001, 4096),
    ),
    (
        "llama.cpp, newer",
        said("request (9001 tokens) exceeds the available context size (4096 tokens), try it"),
        too_long(9001, 4096),
    ),
    (
        "lmstudio",
        {
            "error": "Trying to keep the first 4932 tokens when context the overflows. However, "
            "the model is loaded with context length of only 4096 tokens, which is not enough."
        },
        too_long(4932, 4096),
    ),
    ("ollama", {"error": "the input length exceeds the context length"}, UNKNOWN),
    (
        "gemini",
        [
            said(
                "The input token count (1196265) exceeds the maximum number of tokens allowed "
                "(1048575).",
                status="INVALID_ARGUMENT",
            )
        ],
        too_long(1196265, 1048575),
    ),
    (
        "xai",
        {
            "code": "Client specified an invalid argument",
            "error": "This model's maximum prompt length is 131072 but the request contains "
            "537812 tokens.",
        },
        too_long(537812, 131072),
    ),
    (
        "mistral",
        flat(
            "Prompt contains 65536 tokens and 0 draft tokens, too large for model with 32768 "
            "maximum context length"
        ),
        too_long(65536, 32768),
    ),
    (
        "openrouter",
        said(
            "This endpoint's maximum context length is 131072 tokens. However, you requested "
            "about 132463 tokens (1463 of text input, 131000 in the output).",
            code=400,
        ),
        exceeds(1463, 131000, 131072),
    ),
    (
        "fireworks",
        said("The prompt is too long: 200000, model maximum context length: 131071"),
        too_long(200000, 131071),
    ),
    (
        "together",
        said(
            "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 8193. Given: "
            "9000 `inputs` tokens and 512 `max_new_tokens`"
        ),
        too_long(9000, 8193),
    ),
    (
        "kimi",
        said("Your request exceeded model token limit: 8192 (requested: 9000)"),
        too_long(9000, 8192),
    ),
    (
        "groq",
        said("Please reduce the length of the messages or completion.", param="messages"),
        UNKNOWN,
    ),
    (
        "vllm of 2026",
        said(
            "You passed 99073 input tokens and requested 32000 output tokens. However, the "
            "model's context length is only 131072 tokens, resulting in a maximum input length of "
            "99072 tokens. Please reduce the length of the input prompt."
        ),
        exceeds(99073, 32000, 131072),
    ),
    (
        "sglang, newer",
        flat("Input length (265330) exceeds model's maximum context length (262144)."),
        too_long(265330, 262144),
    ),
    (
        "sglang, its own limit",
        flat("Input length (5000 tokens) exceeds the maximum allowed length (4090 tokens)."),
        too_long(5000, 4090),
    ),
    (
        "poolside",
        said("Input length 131393 exceeds the maximum allowed input length of 131040 tokens."),
        too_long(131393, 131040),
    ),
    (
        "lmstudio, while it answers",
        {"error": "Reached context length of 4096 tokens with model (arch: qwen2) that does not"},
        UNKNOWN,
    ),
    ("ollama, embeddings", said("input length exceeds maximum context length"), UNKNOWN),
    (
        "ollama, newer",
        {"error": "prompt too long; exceeded max context length by 4 tokens"},
        UNKNOWN,
    ),
    (
        "vertex",
        said("the input token count is 1100000 but model only supports up to 1048576."),
        too_long(1100000, 1048576),
    ),
    (
        "text-generation-inference",
        {
            "error": "Input validation error: `inputs` must have less than 4095 tokens. "
            "Given: 5000",
            "error_type": "validation",
        },
        too_long(5000, 4095),
    ),
    (
        "groq, more than a minute's tokens",
        said(
            "Request too large for model `llama-3.3-70b-versatile` in organization `o` service "
            "tier `on_demand` on tokens per minute (TPM): Limit 12000, Requested 41000, please "
            "reduce your message size and try again.",
            code="rate_limit_exceeded",
        ),
        too_long(41000, 12000),
    ),
    (
        "github",
        said("prompt token count of 70000 exceeds the limit of 64000", code="model_max_prompt"),
        too_long(70000, 64000),
    ),
    ("dashscope", said("Range of input length should be [1, 129024]"), UNKNOWN),
    ("z.ai", said("Prompt exceeds max length", code="1261"), UNKNOWN),
    ("bedrock", {"message": "Input is too long for requested model."}, UNKNOWN),
    ("bedrock, its service", {"Message": "input is too long for requested model"}, UNKNOWN),
    ("cohere", {"message": "too many tokens: size limit exceeded by 11326 tokens."}, UNKNOWN),
    (
        "fastapi",
        {
            "detail": "Prompt contains 65673 tokens, too large for model with 32768 maximum "
            "context length"
        },
        too_long(65673, 32768),
    ),
    (
        "deepinfra",
        {
            "detail": {
                "error": "The input (9 tokens) is longer than the model's context length (8 tokens)"
            }
        },
        too_long(9, 8),
    ),
    ("fastapi, a list", {"detail": [{"msg": "prompt is too long", "input": "x"}]}, UNKNOWN),
    (
        "openrouter, the provider behind it",
        said(
            "Provider returned error",
            code=400,
            metadata={
                "provider_name": "Anthropic",
                "raw": '{"type":"error","error":{"type":"invalid_request_error","message":"prompt '
                'is too long: 213462 tokens > 200000 maximum"}}',
            },
        ),
        too_long(213462, 200000),
    ),
    ("a text alone", "prompt is too long: 9 tokens > 8 maximum", too_long(9, 8)),
    (
        "this product",
        said("prompt is too long: 213462 tokens > 200000 maximum", code="context_length_exceeded"),
        too_long(213462, 200000),
    ),
]


@pytest.mark.parametrize(("body", "sentence"), [case[1:] for case in CASES], ids=lambda _: "")
def test_a_prompt_that_is_too_long_is_told_in_anthropics_words(body: Any, sentence: str) -> None:
    failure = UpstreamFailure("p", 400, {}, orjson.dumps(body))
    found = classify(failure)
    assert isinstance(found, ContextLengthExceeded)
    assert str(found) == sentence


@pytest.mark.parametrize("status", [413, 422, 500])
def test_a_server_may_say_it_with_another_status(status: int) -> None:
    body = orjson.dumps(said("the input length exceeds the context length"))
    assert type(classify(UpstreamFailure("p", status, {}, body))) is ContextLengthExceeded


def test_a_body_without_any_form_is_read_as_text() -> None:
    failure = UpstreamFailure("p", 400, {}, b"prompt is too long: 9 tokens > 8 maximum\n")
    assert str(classify(failure)) == too_long(9, 8)
    assert str(anthropic_errors.classify(failure)) == too_long(9, 8)


def test_bedrocks_form_is_known_on_a_row_of_anthropics_kind() -> None:
    body = orjson.dumps({"message": "Input is too long for requested model."})
    found = anthropic_errors.classify(UpstreamFailure("p", 400, {}, body))
    assert isinstance(found, ContextLengthExceeded)


def test_a_failure_of_the_server_within_a_stream_is_recognised_too() -> None:
    error = {"code": 500, "message": "the request exceeds the available context size"}
    assert type(stream_error("p", error, {})) is ContextLengthExceeded
    assert type(stream_error("p", {"code": 500, "message": "?"}, {})) is BadResponse


def test_the_same_sentence_in_a_stream_is_recognised() -> None:
    error = {"message": "The input (9 tokens) is longer than the model's context length (8 tokens)"}
    found = stream_error("p", error, {})
    assert isinstance(found, ContextLengthExceeded)
    assert str(found) == too_long(9, 8)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, said("messages: at least one message is required"), InvalidRequest),
        (400, said("Invalid 'user': string too long.", code="string_above_max_length",
                   param="user"), InvalidRequest),
        (400, said("too long", code="string_above_max_length",
                   param="messages[2].tool_calls[0].id"), InvalidRequest),
        (400, said("too long", code="string_above_max_length", param="messages[2].content"),
         ContextLengthExceeded),
        (429, said("Rate limit reached: reduce the length of the messages"), RateLimited),
        (400, said(f"Invalid value: '{'x' * 5000} prompt is too long'"), InvalidRequest),
        (500, said("The server had an error"), BadResponse),
        (429, said("Request too large for model m on TPM: Limit 3, Requested 5"), RateLimited),
        (422, {"detail": [{"msg": "wrong", "input": "prompt is too long"}]}, InvalidRequest),
        (400, said(5), InvalidRequest),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_what_is_too_long_but_not_the_prompt_is_no_overflow(
    status: int, body: Any, kind: type[ProviderError]
) -> None:
    assert type(classify(UpstreamFailure("p", status, {}, orjson.dumps(body)))) is kind
