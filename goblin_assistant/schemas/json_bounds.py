"""JSON whose structure costs more memory than its text is refused before it is parsed.

A value costs the same whatever its text: `[],` is 3 bytes on the wire and 72 in memory, `{"a":1},` is 8 and 200. The
counts of brackets, commas and colons outside strings give the cost before anything is made. Text costs its own size
and is not counted, so a program, a table or a picture inside a string is never too much.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable
from typing import Any, NamedTuple

import orjson

MAX_STRUCTURE = 48 * 1024 * 1024
"""Bytes that the structure of one body may cost: 520,000 values, 220,000 lists or 100,000 messages."""
ANSWER_PER_BYTE = 16
"""A provider's answer may cost this much for each byte too: embeddings are millions of numbers, 8 to 20 bytes each."""

# Measured with CPython 3.11 and orjson 3.13: what each costs, its place in a list or an object included.
# A list costs more than its memory: the garbage collector looks at every one, several times.
LIST, OBJECT, KEY, VALUE = 130, 200, 50, 96

_DENSEST = 100
"""The densest text, `{},`, costs 99 times its size: what is short enough needs no count."""
_LARGE = 64 * 1024
_PIECE = 256 * 1024
_BACKSLASH = 0x5C


class TooMuchStructure(ValueError):
    """The text has more values than may be made of it."""


class Structure(NamedTuple):
    """How many brackets, colons and commas a text has."""

    lists: int
    objects: int
    keys: int
    values: int

    @property
    def cost(self) -> int:
        """Bytes of memory, about."""
        return LIST * self.lists + OBJECT * self.objects + KEY * self.keys + VALUE * self.values


def loads(raw: bytes, *, most: int = MAX_STRUCTURE, per_byte: int = 0) -> Any:
    """The JSON value in `raw`. Raises ValueError: TooMuchStructure, or what orjson found.

    The structure may cost `most` bytes, or `per_byte` for each byte of a large text if that is more.
    """
    limit = max(most, per_byte * len(raw))
    # The count of the whole takes what is inside strings too: it is quicker, and nearly always enough.
    if len(raw) * _DENSEST > limit and _count(raw).cost > limit and structure(raw).cost > limit:
        raise TooMuchStructure("the JSON has too many values")
    if len(raw) < _LARGE or not gc.isenabled():
        return orjson.loads(raw)
    # The collector would start again and again while the values are made, and find nothing: JSON has no cycles.
    # Half of the time, and all of it without a turn for other threads.
    gc.disable()
    try:
        return orjson.loads(raw)
    finally:
        gc.enable()


def check_together(texts: Iterable[str]) -> None:
    """Raise TooMuchStructure for JSON texts inside one body that would cost too much together: to the body they are
    text, which is not counted."""
    large = [text for text in texts if len(text) > 2]
    if (
        sum(map(len, large)) * _DENSEST > MAX_STRUCTURE
        and sum(structure(text.encode()).cost for text in large) > MAX_STRUCTURE
    ):
        raise TooMuchStructure("the JSON has too many values")


def structure(raw: bytes) -> Structure:
    """What is outside strings. Exact for valid JSON, and up to the first fault of any other text.

    Works in pieces: each is done in microseconds, and other threads have their turn between two.
    """
    lists = objects = keys = values = 0
    start, inside, size = 0, False, len(raw)
    while start < size:
        end = _end_of_piece(raw, start + _PIECE)
        piece = raw[start:end]
        start = end
        if b"\\" in piece:
            piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
        parts = piece.split(b'"')
        counts = _count(b"".join(parts[1::2] if inside else parts[::2]))
        lists, objects, keys, values = (
            lists + counts.lists,
            objects + counts.objects,
            keys + counts.keys,
            values + counts.values,
        )
        inside ^= len(parts) % 2 == 0
    return Structure(lists, objects, keys, values)


def _count(text: bytes) -> Structure:
    return Structure(text.count(b"["), text.count(b"{"), text.count(b":"), text.count(b","))


def _end_of_piece(raw: bytes, end: int) -> int:
    # An escape must not lie across two pieces. Behind a run of backslashes stands the last one's letter.
    if end >= len(raw) or raw[end - 1] != _BACKSLASH:
        return end
    run = len(raw[end:]) - len(raw[end:].lstrip(b"\\"))
    return min(end + run + 1, len(raw))
