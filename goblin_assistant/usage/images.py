"""How many tokens an image of a request may take, by width and height. Pure functions.

    estimate, for bills     width x height / 750, at most 1,600: Anthropic's rule for a standard
                            image, above OpenAI's 1,445 for eight tiles and Gemini's 258 a tile
    most, for reservations  width x height / 400, at most 4,800: gpt-4.1-nano counts 2.46 tokens for
                            32 x 32 pixels, Anthropic's high resolution ends at 4,784
    both                    at least 260: OpenAI's 255 at low detail, Gemini's 258

An image of unknown size (an address, a file id, an unknown format) counts the maximum. gpt-4o-mini
counts an image 33.3 times as high as gpt-4o does. Sources:
https://platform.claude.com/docs/en/build-with-claude/vision,
https://platform.openai.com/docs/guides/images-vision, https://ai.google.dev/gemini-api/docs/tokens.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from typing import Any

IMAGE_TOKENS = 1600
MOST_IMAGE_TOKENS = 4800
LEAST_IMAGE_TOKENS = 260
DEAR_FACTOR = 34
"""gpt-4o-mini: 2,833 and 5,667 a tile for gpt-4o's 85 and 170."""

IMAGE_KINDS = ("image", "image_url", "input_image")
MEASURED_IMAGES = 300
"""Images of a request whose size is read. The others count as images of unknown size."""

_PIXELS, _MOST_PIXELS = 750, 400
_LONG_HEAD = 256 * 1024
"""Characters of base64 that are searched for a JPEG's size, which comes after the camera's
metadata."""
_SHORT_HEAD = 1024
_SEGMENTS = 64
_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_FILLING = re.compile(rb"\xff+")


def image_in(part: Mapping[str, Any]) -> tuple[str, str] | None:
    """(field name, text) of the image in a content part; None without an image.

    The text is a data URL, an address, base64, or a file's id. OpenAI's `image_url` and
    `input_image`, Anthropic's `image`.
    """
    kind = part.get("type")
    if kind not in IMAGE_KINDS:
        return None
    if kind == "image":
        source = part.get("source")
        if type(source) is not dict:
            return None
        name = {"base64": "data", "url": "url", "file": "file_id"}.get(str(source.get("type")))
        value = source.get(name) if name is not None else None
        return ("source", value) if isinstance(value, str) else None
    value = part.get("image_url")
    if kind == "image_url" and type(value) is dict:
        value = value.get("url")
    if kind == "input_image" and value is None and isinstance(part.get("file_id"), str):
        return "file_id", part["file_id"]
    if not isinstance(value, str):
        return None
    return (
        ("image_url", value) if value.startswith(("data:image/", "https://", "http://")) else None
    )


def image_tokens(size: tuple[int, int] | None, *, most: bool) -> int:
    """Tokens of an image of this width and height, or of unknown size."""
    limit, pixels = (MOST_IMAGE_TOKENS, _MOST_PIXELS) if most else (IMAGE_TOKENS, _PIXELS)
    if size is None:
        return limit
    return max(LEAST_IMAGE_TOKENS, min(limit, -(-size[0] * size[1] // pixels)))


def image_size(image: str) -> tuple[int, int] | None:
    """Width and height in pixels of a PNG, JPEG, GIF or WebP, as data URL or base64; or None."""
    start = 0
    if image.startswith("data:"):
        start = image.find(";base64,") + 8
        if start < 8 or start > 200:
            return None
    try:
        size = _size_of(image, start)
    except (binascii.Error, ValueError, IndexError):
        return None
    return size if size is not None and size[0] > 0 and size[1] > 0 else None


def _decoded(image: str, start: int, length: int) -> bytes:
    piece = image[start : start + length]
    return binascii.a2b_base64(piece[: len(piece) // 4 * 4], strict_mode=True)


def _size_of(image: str, start: int) -> tuple[int, int] | None:
    head = _decoded(image, start, 40)
    if len(head) < 30:
        return None
    if head.startswith(b"\x89PNG\r\n\x1a\n") and head[12:16] == b"IHDR":
        return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
    if head.startswith((b"GIF87a", b"GIF89a")):
        return int.from_bytes(head[6:8], "little"), int.from_bytes(head[8:10], "little")
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return _webp_size(head)
    if head.startswith(b"\xff\xd8\xff"):
        return _jpeg_size(image, start)
    return None


def _webp_size(head: bytes) -> tuple[int, int] | None:
    # https://developers.google.com/speed/webp/docs/riff_container
    kind = head[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        return (
            int.from_bytes(head[26:28], "little") & 0x3FFF,
            int.from_bytes(head[28:30], "little") & 0x3FFF,
        )
    return None


def _jpeg_size(image: str, start: int) -> tuple[int, int] | None:
    # https://www.w3.org/Graphics/JPEG/itu-t81.pdf, B.1 and B.2
    data, whole = _decoded(image, start, _SHORT_HEAD), False
    at = 2
    for _ in range(_SEGMENTS):
        if at + 9 > len(data) and not whole:
            data, whole = _decoded(image, start, _LONG_HEAD), True
        if data[at] != 0xFF:
            return None
        if data[at + 1] == 0xFF:
            filled = _FILLING.match(data, at)
            at = filled.end() - 1 if filled is not None else at + 1
            continue
        code = data[at + 1]
        if code in _JPEG_SIZES:
            found = data[at + 5 : at + 9]
            if len(found) < 4:
                return None
            return int.from_bytes(found[2:], "big"), int.from_bytes(found[:2], "big")
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None
