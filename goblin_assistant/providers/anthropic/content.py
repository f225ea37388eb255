"""The parts of a message's content as Anthropic's blocks. Pure functions. Which part becomes which
block stands in messages.py."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from goblin_assistant.providers.base import InvalidRequest

IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
Block = dict[str, Any]


def invalid(message: str, param: str) -> InvalidRequest:
    """The error for a request that cannot be translated; `param` is the field at fault."""
    return InvalidRequest(message, param=param)


def blocks_of(message: Mapping[str, Any], where: str) -> list[Block]:
    """The blocks of a message's `content`. Raises InvalidRequest."""
    content = message.get("content")
    if isinstance(content, str):
        return marked([{"type": "text", "text": content}], message) if content.strip() else []
    blocks: list[Block] = []
    for position, part in enumerate(content or ()):
        if (
            len(part) == 2
            and part.get("type") == "text"
            and type(text := part.get("text")) is str
            and text
            and not text.isspace()
        ):  # nearly every part: there is no place to name
            blocks.append({"type": "text", "text": text})
            continue
        block = _part(part, f"{where}.content[{position}]")
        if block is not None:
            blocks += marked([block], part)
    return marked(blocks, message)


def marked(blocks: list[Block], source: Mapping[str, Any]) -> list[Block]:
    """The blocks, the last one with the cache mark of `source`, if it has one."""
    mark = source.get("cache_control")
    if mark is not None and blocks:
        blocks[-1]["cache_control"] = mark
    return blocks


def _part(part: Mapping[str, Any], where: str) -> Block | None:
    kind = part.get("type")
    if kind == "text":
        return _text(part.get("text"), where)
    if kind == "refusal":
        return _text(part.get("refusal"), where)
    if kind == "image_url":
        return {"type": "image", "source": _image_source(part.get("image_url"), where)}
    if kind == "file":
        return _document(part.get("file"), where)
    raise invalid(
        f"{where}: Anthropic's Messages API takes text, image_url and file, not this type of part",
        "messages",
    )


def _text(value: Any, where: str) -> Block | None:
    if not isinstance(value, str):
        raise invalid(f"{where} has no text", "messages")
    return {"type": "text", "text": value} if value.strip() else None


def _image_source(image: Any, where: str) -> Block:
    url = image.get("url") if isinstance(image, dict) else image
    if not isinstance(url, str):
        raise invalid(f"{where}.image_url has no url", "messages")
    if url.startswith(("https://", "http://")):
        return {"type": "url", "url": url}
    media_type, data = _data_url(url, where)
    if media_type not in IMAGE_TYPES:
        raise invalid(f"{where}: an image must be JPEG, PNG, GIF or WebP", "messages")
    return {"type": "base64", "media_type": media_type, "data": data}


def _document(file: Any, where: str) -> Block:
    if not isinstance(file, dict) or not isinstance(file.get("file_data"), str):
        raise invalid(
            f"{where}: give the file itself in file_data, as a data URL; "
            "a file_id is known only to OpenAI",
            "messages",
        )
    media_type, data = _data_url(file["file_data"], where)
    source: Block
    if media_type == "application/pdf":
        source = {"type": "base64", "media_type": media_type, "data": data}
    elif media_type == "text/plain":
        try:
            source = {
                "type": "text",
                "media_type": media_type,
                "data": base64.b64decode(data, validate=True).decode(),
            }
        except (binascii.Error, UnicodeDecodeError):
            raise invalid(f"{where}: the file is not UTF-8 text in base64", "messages") from None
    else:
        raise invalid(f"{where}: a file must be application/pdf or text/plain", "messages")
    block: Block = {"type": "document", "source": source}
    name = file.get("filename")
    if isinstance(name, str) and name:
        block["title"] = name
    return block


def _data_url(url: str, where: str) -> tuple[str, str]:
    """Media type and base64 data of a data URL (RFC 2397)."""
    head, comma, data = url.partition(",")
    if not head.startswith("data:") or not head.endswith(";base64") or not comma or not data:
        raise invalid(f"{where}: accepted: an http(s) URL or data:<type>;base64,<data>", "messages")
    return head[5:-7].split(";")[0].strip().lower(), data
