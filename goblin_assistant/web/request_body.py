"""Reads a JSON body: bytes in; a checked object out, or a 400 that names the fault but no value.

orjson refuses invalid UTF-8, NaN and Infinity, lone surrogates, nesting beyond 1024, and data
after the value. Added here: a bound on the number of values (schemas/json_bounds.py), repeated
keys, nesting that orjson cannot write again, and NUL in stored text.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from pydantic import BaseModel, ValidationError

from goblin_assistant.errors import BadRequest, ValidationFailed
from goblin_assistant.providers.answer_limits import CHOICE_FIELDS, LIMIT_FIELDS
from goblin_assistant.schemas import json_bounds

MAX_PROBLEMS = 10
"""How many wrong fields a response names."""
MAX_STORED_STRUCTURE = 1024 * 1024
"""Bytes that the structure of a stored object may cost (schemas/json_bounds.py). An API key with a
hundred models takes 8,000."""
MAX_FIELDS = 100
"""How many fields a stored object may have. Pydantic makes an error of each unknown one: a million
would cost gigabytes."""

GUARDED_KEYS = (
    "model",
    "messages",
    "stream",
    "input",
    "max_tokens",
    "max_completion_tokens",
    "n",
    "best_of",
    "system",
    "max_output_tokens",
    "instructions",
    "store",
    "max_new_tokens",
    "n_predict",
    "service_tier",
    "speed",
    "inference_geo",
    "prediction",
    "tools",
    "stream_options",
    "background",
    "conversation",
    "previous_response_id",
    "prompt",
    "models",
    "fallbacks",
    "preset",
    "plugins",
)
"""Keys of a chat that decisions depend on (allow-list, price, budget, what is kept at a provider).
If one is repeated, the provider could read another value than we do."""

PRICED_KEYS = (
    *LIMIT_FIELDS,
    *CHOICE_FIELDS,
    "service_tier",
    "speed",
    "inference_geo",
    "prediction",
    "conversation",
    "prompt",
    "models",
    "fallbacks",
    "preset",
    "plugins",
)
"""Keys outside the schemas that a chat's cost or its model depends on, or what a provider keeps."""

_QUOTED = tuple(f'"{key}"'.encode() for key in GUARDED_KEYS)
_ESCAPED_LETTER = re.compile(rb"\\u00[4-7]")  # "mod\u0065l" is a guarded key too
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,39}")
_PIECE = 1024 * 1024
_SMALL = 64 * 1024


def parse_json(model: type[BaseModel], raw: bytes) -> dict[str, Any]:
    """The body of a chat route, validated by `model`. Raises BadRequest or ValidationFailed.

    The dict is the client's, not the model's: nothing is coerced, dropped or filled in.
    """
    with json_bounds.turn_of(raw):
        return _parse(model, raw)


def _parse(model: type[BaseModel], raw: bytes) -> dict[str, Any]:
    body = load(raw)
    if type(body) is not dict:
        raise BadRequest("the body must be a JSON object")
    try:
        model.__pydantic_validator__.validate_python(body)
    except ValidationError as error:
        raise validation_failed(error) from None
    _refuse_other_letters(_known_keys(model), body)
    for key, quoted in zip(GUARDED_KEYS, _QUOTED, strict=True):
        if key in body and _occurrences(raw, quoted) != 1:
            _refuse_repeated_keys(raw, body)
            break
    else:
        if _has_escaped_letter(raw):
            _refuse_repeated_keys(raw, body)
    whole: dict[str, Any] = json_bounds.exact(raw, body)
    return whole


def load_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in `raw`, for routes with small bodies that are stored.

    Repeated keys and NUL in a text are refused. 5.0 is an integer, as JSON Schema says
    (https://json-schema.org/draft/2020-12/json-schema-core#section-4.2.3). Raises BadRequest or
    ValidationFailed.
    """
    body = load(raw, MAX_STORED_STRUCTURE)
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object")
    if len(body) > MAX_FIELDS:
        raise ValidationFailed(f"the body has too many fields; accepted: at most {MAX_FIELDS}")
    _refuse_repeated_keys(raw, body)
    if b"\\u0000" in raw and any("\0" in text for text in _texts(body)):
        raise BadRequest("the body contains a NUL character")
    return {key: _integral(value) for key, value in body.items()}


def load(raw: bytes, most: int = json_bounds.MAX_STRUCTURE) -> Any:
    """The JSON value in `raw`, whose structure may cost `most` bytes. Raises BadRequest."""
    if not raw:
        raise BadRequest("the body is empty; send a JSON object")
    try:
        body = json_bounds.loads(raw, most=most)
        json_bounds.check_depth(body, raw.count(b"{") + raw.count(b"["))
    except orjson.JSONDecodeError as error:
        raise BadRequest(_not_json(error)) from None
    except json_bounds.TooMuchStructure:
        raise BadRequest(
            f"the body has too many values: at most about {most // json_bounds.VALUE // 1000},000 "
            "numbers or texts, and fewer lists and objects; what is inside a text does not count"
        ) from None
    except json_bounds.TooDeep:
        raise BadRequest("the body is nested too deeply") from None
    return body


def _not_json(error: orjson.JSONDecodeError) -> str:
    # orjson's own sentences hold nothing of the body.
    if error.msg.startswith("str is not valid UTF-8"):
        return "the body is not valid JSON: its text is not UTF-8"
    place = f"line {error.lineno} column {error.colno}"
    return f"the body is not valid JSON: {error.msg}: {place}"


def validation_failed(error: ValidationError) -> ValidationFailed:
    """Pydantic's findings as our error. Values are left out, because they may be secrets."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    meant: list[tuple[str, str]] = []
    kinds: dict[str, list[str]] = {}
    """Of fields with alternatives, such as text or a list: those that the value is none of."""
    for item in found:
        field, kind = field_name(item["loc"]), str(item["type"])
        if kind.endswith("_type") and any(map(_is_alternative, item["loc"][-1:])):
            kinds.setdefault(field, []).append(_KINDS.get(kind, kind.removesuffix("_type")))
        else:
            meant.append((field, _plain(kind, str(item["msg"]))))
    # A list with a wrong item is meant as a list: it is not told that text would do.
    wrong = [*(field for field, _ in meant), *kinds]
    alternatives = [
        (field, "Input should be a valid " + " or ".join(dict.fromkeys(names)))
        for field, names in kinds.items()
        if not any(other.startswith((f"{field}.", f"{field}[")) for other in wrong)
        and not any(field == other for other, _ in meant)
    ]
    return from_problems([*alternatives, *meant])


_KINDS = {"dict_type": "object", "model_type": "object"}
_COUNTED = re.compile(r" after validation, not \S+$")


def _plain(kind: str, message: str) -> str:
    # Without the words of Python and pydantic.
    return "Input should be an object" if kind in _KINDS else _COUNTED.sub("", message)


def _is_alternative(part: str | int) -> bool:
    return isinstance(part, str) and (part in _UNION_TAGS or "[" in part)


def from_problems(found: Iterable[tuple[str, str]]) -> ValidationFailed:
    """The error for (field, message) pairs; its `fields` is a list of {"field", "message"}."""
    merged: dict[str, str] = {}
    more = 0
    for field, message in found:
        # A union reports each of its members; the first is enough.
        if field in merged:
            continue
        if len(merged) == MAX_PROBLEMS:
            more += 1
            continue
        merged[field] = message.removeprefix("Value error, ")
    problems = [{"field": field, "message": message} for field, message in merged.items()]
    text = "; ".join(
        f"{field}: {message}" if field else message for field, message in merged.items()
    )
    if more:
        text += f"; and {more} more"
    param = next((field for field in merged if field), None)
    return ValidationFailed(
        text or "the request is not valid", param=param, extra={"fields": problems}
    )


def field_name(location: Iterable[str | int]) -> str:
    """`messages[0].content` for ("messages", 0, "content").

    The names of union members that pydantic puts into the path (`str`, `list[ContentPart]`) are
    left out. A client's unknown key is shown only if it looks like a name.
    """
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif _is_alternative(part):
            continue
        else:
            path += ("." if path else "") + (part if _FIELD.fullmatch(part) else "?")
    return path


_UNION_TAGS = frozenset(
    {"str", "int", "float", "bool", "none", "constrained-str", "constrained-int", "ContentPart"}
)


@functools.cache
def _known_keys(model: type[BaseModel]) -> frozenset[str]:
    return frozenset({*model.model_fields, *PRICED_KEYS})


def _refuse_other_letters(known: frozenset[str], body: dict[str, Any]) -> None:
    # Servers in Go read "Max_Tokens" as max_tokens, and take the last of both. Their comparison
    # folds letters beyond ASCII as well (the Kelvin sign is a k), as casefold() does.
    for key in body:
        if key not in known and (meant := key.casefold()) in known:
            raise BadRequest(f"the field {meant} has to be written exactly so", param=meant)


def _occurrences(raw: bytes, text: bytes) -> int:
    # In pieces, because one count of 20 MB would block all other threads. Each piece has the rest
    # of an occurrence that begins in it.
    if len(raw) <= _PIECE:
        return raw.count(text)
    rest = len(text) - 1
    return sum(
        raw.count(text, start, start + _PIECE + rest) for start in range(0, len(raw), _PIECE)
    )


def _has_escaped_letter(raw: bytes) -> bool:
    # In pieces as well. An escape has six bytes.
    starts = range(0, len(raw), _PIECE)
    return any(
        _ESCAPED_LETTER.search(raw, start, start + _PIECE + 5) is not None for start in starts
    )


def _refuse_repeated_keys(raw: bytes, body: dict[str, Any]) -> None:
    # `body` has each key once, so that it has fewer colons than `raw` if a key was repeated. Not
    # json.loads with object_pairs_hook: it takes ten times the time and memory.
    if json_bounds.structure(raw).keys != json_bounds.structure(orjson.dumps(body)).keys:
        name = _repeated_key(raw)
        which = f": {name}" if name is not None else ""
        raise BadRequest("the body has the same key twice in one object" + which)


def _repeated_key(raw: bytes) -> str | None:
    """The first name that an object of `raw` has twice. A large body is not read again for it."""
    found: list[str] = []

    def look(pairs: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                found.append(key)
            seen.add(key)

    if len(raw) <= _SMALL:
        json.loads(raw, object_pairs_hook=look)
    return next(filter(_FIELD.fullmatch, found), None)


def _integral(value: Any) -> Any:
    if isinstance(value, float):
        # Beyond 2**53 a float may differ from the digits that were sent (RFC 8259, 6).
        return int(value) if value.is_integer() and abs(value) <= 2**53 else value
    if isinstance(value, dict):
        return {key: _integral(item) for key, item in value.items()}
    return [_integral(item) for item in value] if isinstance(value, list) else value


def _texts(value: Any) -> Iterable[str]:
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, Mapping):
            pending.extend(item.keys())
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
