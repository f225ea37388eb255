"""JSON schemas as Anthropic's structured outputs take them. Pure functions.

    objects                   closed: Anthropic accepts no open ones
    oneOf                     anyOf
    bounds, lengths, formats that it does not know, and whatever else it refuses
                              a note in the description, which the model reads

Sources: https://platform.claude.com/docs/en/build-with-claude/structured-outputs, and
`anthropic.lib._parse._transform` of the SDK, 2.12.0, which does the same for its callers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from goblin_assistant.providers.openai.wire import encode
from goblin_assistant.schemas.field_names import shown

_VALUES = frozenset({"enum", "const", "default"})
_SCHEMAS = frozenset({"properties", "$defs", "definitions"})
_KEPT = frozenset({
    "type", "title", "description", "required", "items", "anyOf", "allOf", "pattern",
    *_VALUES, *_SCHEMAS,
})  # fmt: skip
"""Keywords that are sent, beside those that begin with $."""
FORMATS = frozenset({
    "date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid",
})  # fmt: skip


def narrowed(schema: Any, noted: set[str]) -> Any:
    """The schema in this form. `noted` gets the names of the keywords that are only a note now."""
    if isinstance(schema, list):
        return [narrowed(item, noted) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept: dict[str, Any] = {}
    notes: list[str] = []
    for key, value in schema.items():
        if key in _SCHEMAS and isinstance(value, dict):
            kept[key] = {name: narrowed(inner, noted) for name, inner in value.items()}
        elif key == "oneOf" and "anyOf" not in schema:
            kept["anyOf"] = narrowed(value, noted)
        elif key in _VALUES:
            kept[key] = value
        elif _is_kept(key, value):
            kept[key] = narrowed(value, noted)
        else:
            noted.add(shown("response_format", key))
            notes.append(f"{key}: {encode(value).decode()}")
    if _is_object(schema):
        kept["additionalProperties"] = False
    if notes:
        about = kept.get("description")
        before = f"{about}\n\n" if isinstance(about, str) and about else ""
        kept["description"] = f"{before}{{{', '.join(notes)}}}"
    return kept


def fits(schema: Any) -> bool:
    """Whether Anthropic takes a schema as it is."""
    return bool(narrowed(schema, set()) == schema)


def _is_kept(key: str, value: Any) -> bool:
    if key == "additionalProperties":
        return not isinstance(value, dict)  # a form for names that are not known
    if key == "format":
        return isinstance(value, str) and value in FORMATS
    if key == "minItems":
        return value in (0, 1)
    return key in _KEPT or key.startswith("$")


def _is_object(schema: Mapping[str, Any]) -> bool:
    kind = schema.get("type")
    return (
        kind == "object"
        or (isinstance(kind, list) and "object" in kind)
        or isinstance(schema.get("properties"), dict)
    )
