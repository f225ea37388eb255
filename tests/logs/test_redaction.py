"""The log holds no secret: none of the process's own, and nothing that looks like one."""

from __future__ import annotations

import io
import json
import logging
import time

import pytest

from goblin_assistant.logs.json_logging import make_handler, redact, register_secrets
from goblin_assistant.logs.redaction import REDACTED, Redactor

CANARY = 'canary"with\\odd characters/é-2f61'
KEY = "canary-key-77aa31"


def logged(message: str, *args: object, exc: BaseException | None = None, **extra: object) -> str:
    stream = io.StringIO()
    handler = make_handler(stream)
    logger = logging.Logger("test")
    logger.addHandler(handler)
    register_secrets([CANARY, KEY])
    logger.error(message, *args, extra=extra or None, exc_info=exc)
    handler.close()
    text = stream.getvalue()
    json.loads(text)
    return text


def hidden(text: str) -> bool:
    return KEY not in text and "canary" not in text and "2f61" not in text


def failure() -> BaseException:
    try:
        raise RuntimeError(f"upstream said: invalid key {CANARY} or {KEY}")
    except RuntimeError as error:
        return error


def test_registered_secrets_are_hidden_everywhere() -> None:
    assert hidden(logged(f"key is {KEY}"))
    assert hidden(logged("key is %s", KEY))
    assert hidden(logged("key is %r", CANARY))
    assert hidden(logged("event", value=CANARY))
    assert hidden(logged("event", value={"deep": [{"er": (KEY, CANARY)}]}))
    assert hidden(logged("event", value=json.dumps({"k": CANARY})))
    assert hidden(logged("event", value=f"https://host/path?x={KEY}"))
    assert hidden(logged("event", exc=failure()))


def test_a_secret_that_begins_with_another_leaves_no_rest() -> None:
    redactor = Redactor(["abcdef", "abcdefghijkl"])
    assert redactor.redact("x abcdefghijkl y") == f"x {REDACTED} y"


def test_a_secret_of_six_letters_is_hidden_and_one_of_five_is_not_searched_for() -> None:
    redactor = Redactor(["abcdef", "vwxyz"])
    assert redactor.redact("abcdef vwxyz") == f"{REDACTED} vwxyz"


@pytest.mark.parametrize("secret", ["abc\x7fdef", 'abc"def', "abc\\def", "abc'def\n", 'äbc"déf'])
def test_a_secret_is_hidden_as_it_is_and_as_json_and_python_write_it(secret: str) -> None:
    redactor = Redactor([secret])
    unescaped = json.dumps(secret, ensure_ascii=False)[1:-1]
    for text in (secret, json.dumps(secret)[1:-1], unescaped, repr(secret)[1:-1]):
        assert redactor.redact(f"x{text}y") == f"x{REDACTED}y"
    once = json.dumps({"k": secret}, ensure_ascii=False)
    assert json.loads(redactor.redact(json.dumps({"k": once}))) == {"k": f'{{"k": "{REDACTED}"}}'}


def test_secrets_that_are_registered_later_are_hidden_beside_the_first_ones() -> None:
    redactor = Redactor(["abcdef"])
    redactor.register(["uvwxyz"])
    assert redactor.redact("abcdef uvwxyz") == f"{REDACTED} {REDACTED}"


def test_short_values_are_not_searched_for() -> None:
    assert Redactor(["a"]).redact("a banana") == "a banana"


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer s3cr3t-value",
        "authorization=Basic czNjcjN0LXZhbHVl",
        "bearer s3cr3t-value",
        '{"password": "s3cr3t-value"}',
        '{"password": "with \\" s3cr3t-value"}',
        '{\\"new_password\\": \\"s3cr3t-value\\"}',
        "{'api_key': 's3cr3t-value'}",
        "{'Authorization': 'Token s3cr3t-value'}",
        "password=s3cr3t-value&x=1",
        "PASSWORD: s3cr3t-value",
        "https://host/?api_key=s3cr3t-value&x=1",
        "https://host/?access_token=s3cr3t-value",
        "x-api-key: s3cr3t-value",
        "postgresql://goblin:s3cr3t-value@db/goblin",
        "redis://:s3cr3t-value@cache:6379/0",
        "key gob_s3cr3t-value0123 was used",
        "sk-s3cr3t-value0123",
        "sk-ant-s3cr3t-value0123",
        "Set-Cookie: s3cr3t-value",
        "client_secret=s3cr3t-value",
    ],
)
def test_what_looks_like_a_credential_is_hidden(text: str) -> None:
    assert "s3cr3t-value" not in redact(text)
    assert "czNjcjN0" not in redact(text)
    line = json.dumps({"message": text, "nested": {"text": text}})
    assert "s3cr3t-value" not in redact(line)
    json.loads(redact(line))


def test_json_web_tokens_are_hidden() -> None:
    token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc_DEF-123"
    assert token not in redact(f"token was {token} here")
    assert "eyJzdWIi" not in redact(token)


@pytest.mark.parametrize(
    "text",
    [
        '{"message":"chat_completed","prompt_tokens":12,"token_source":"provider",'
        '"principal":"key:7"}',
        '{"path":"/auth/password","method":"POST"}',
        '{"message":"the monkey: eats","max_tokens":5}',
        "https://host:8001/path",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_the_credentials_of_a_field_are_replaced_whole() -> None:
    assert json.loads(redact('{"password":"a\\"b\\\\","next":"kept"}')) == {
        "password": REDACTED,
        "next": "kept",
    }


@pytest.mark.parametrize(
    "text",
    ["password" + "a" * 100_000, "a" * 100_000 + " password", "-password" * 10_000, "eyJ-" * 20_000,
    "://" * 30_000,
     "api_key=" * 10_000, '\\"password' * 10_000, "bearer " * 10_000],
    ids=range(8),
)  # fmt: skip
def test_a_text_made_for_it_does_not_make_redaction_slow(text: str) -> None:
    begun = time.process_time()
    redact(text)
    # A quadratic pattern takes minutes here; a linear one some milliseconds.
    assert time.process_time() - begun < 5
