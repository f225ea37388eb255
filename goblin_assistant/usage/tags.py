"""The tags of a chat. Callers use them to split their spending by team, feature or customer.

They come from the header `X-Goblin-Tags: team=search,feature=summary` and from the field `metadata`
of OpenAI's requests. The header is this product's own: errors in it are refused. `metadata` belongs
to the provider, whose rules differ: entries that are not valid tags are ignored here.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from goblin_assistant.errors import ValidationFailed

HEADER = "X-Goblin-Tags"
MAX_TAGS = 16
MAX_VALUE = 512
"""Characters. Both limits are OpenAI's (https://platform.openai.com/docs/api-reference/chat/create,
`metadata`)."""
_HEADER_BYTES = 4096
is_name = re.compile(r"[A-Za-z0-9_.-]{1,64}").fullmatch


def tags_of(header: str | None, metadata: Any) -> str | None:
    """The tags as a JSON object; None if there are none. The header wins over metadata.

    Raises ValidationFailed for a header that is not `name=value,name=value`.
    """
    if header is None and not metadata:
        return None
    tags = _in_header(header) if header is not None else {}
    for name, value in metadata.items() if isinstance(metadata, dict) else ():
        if len(tags) < MAX_TAGS and is_name(name) and _is_value(value):
            tags.setdefault(name, value)
    return orjson.dumps(tags, option=orjson.OPT_SORT_KEYS).decode() if tags else None


def _in_header(header: str) -> dict[str, str]:
    if len(header) > _HEADER_BYTES:
        raise _refused(f"at most {_HEADER_BYTES} characters")
    tags: dict[str, str] = {}
    for part in header.split(","):
        if not (part := part.strip(" \t")):
            continue
        name, equals, value = part.partition("=")
        if not equals or not is_name(name):
            raise _refused(
                "pairs such as team=search,feature=summary; a name has 1 to 64 letters, digits, "
                "'_', '.' and '-'"
            )
        if not _is_value(value) or not value.isascii():
            raise _refused(
                f"a value has 1 to {MAX_VALUE} printable ASCII characters and no comma ({name})"
            )
        if name in tags:
            raise _refused(f"each name once ({name})")
        tags[name] = value
    if len(tags) > MAX_TAGS:
        raise _refused(f"at most {MAX_TAGS} tags")
    return tags


def _is_value(value: Any) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= MAX_VALUE and value.isprintable()


def _refused(accepted: str) -> ValidationFailed:
    return ValidationFailed(f"{HEADER}: accepted: {accepted}", param=HEADER)


def is_stored_form(text: str) -> bool:
    """Whether a text has the form that `tags_of` returns. Journals and logs may be edited."""
    try:
        tags = orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return (
        isinstance(tags, dict)
        and 1 <= len(tags) <= MAX_TAGS
        and all(is_name(name) and _is_value(value) for name, value in tags.items())
    )
