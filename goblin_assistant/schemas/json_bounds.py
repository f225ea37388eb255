"""Refuses JSON whose structure would take too much memory, before it is parsed.

Short text can be large in memory: `[],` is 3 bytes on the wire and 72 in memory, `{"a":1},` 8 and
200. The counts of brackets, commas and colons outside strings give the cost in advance. Strings
cost their own size and are not counted: a program or a picture in a string is never too much.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterable
from typing import Any, NamedTuple

import orjson

MAX_STRUCTURE = 48 * 1024 * 1024
"""Bytes that the structure of one body may cost: 520,000 values, 220,000 lists or 100,000
messages."""
ANSWER_PER_BYTE = 16
"""The cost that a provider's answer may have per byte: embeddings are millions of numbers of 8 to
20 bytes."""

# Bytes for each, with its place in a list or an object; measured with CPython 3.11 and orjson 3.13.
# A list counts more than its memory, because the garbage collector visits it several times.
LIST, OBJECT, KEY, VALUE = 130, 200, 50, 96

_DENSEST = 100
"""The densest text, `{},`, costs 99 times its size, so that a short text needs no count."""
_BRACKETS = 200  # orjson writes 254 levels, and a translation may add some
_HEADROOM = 32
_LARGE = 64 * 1024
_HEAVY = 1024 * 1024
"""Texts of this size are read one at a time."""
_heavy = threading.Lock()
_PIECE = 256 * 1024
_BACKSLASH = 0x5C


class TooMuchStructure(ValueError):
    """The text has too many values."""


class TooDeep(ValueError):
    """The text is nested too deeply to be written again."""


class Structure(NamedTuple):
    """How many brackets, colons and commas a text has."""

    lists: int
    objects: int
    keys: int
    values: int

    @property
    def cost(self) -> int:
        """Bytes of memory, approximately."""
        return LIST * self.lists + OBJECT * self.objects + KEY * self.keys + VALUE * self.values


def loads(raw: bytes, *, most: int = MAX_STRUCTURE, per_byte: int = 0) -> Any:
    """The JSON value in `raw`. Raises ValueError: TooMuchStructure, or what orjson found.

    The structure may cost `most` bytes, or `per_byte` for each byte of a large text if that is
    more.
    """
    limit = max(most, per_byte * len(raw))
    if len(raw) < _HEAVY:
        return _loads(raw, limit)
    # All of this holds the interpreter's lock: two at once take as long as one after the other, and
    # each more delays every other thread, those that answer health requests too.
    with _heavy:
        return _loads(raw, limit)


def _loads(raw: bytes, limit: int) -> Any:
    _check_structure(raw, limit)
    if len(raw) < _LARGE or not gc.isenabled():
        return orjson.loads(raw)
    # Without the garbage collector, which takes half of the time, blocks other threads and finds
    # nothing: JSON has no cycles.
    gc.disable()
    try:
        return orjson.loads(raw)
    finally:
        gc.enable()


def _check_structure(raw: bytes, limit: int) -> None:
    # First a count that includes strings: it is quicker, and nearly always enough.
    if len(raw) * _DENSEST > limit and _rough_cost(raw) > limit and structure(raw).cost > limit:
        raise TooMuchStructure("the JSON has too many values")


def _rough_cost(raw: bytes) -> int:
    """The cost with what is inside strings. In pieces, so that other threads can run in between."""
    return sum(_count(raw[start : start + _PIECE]).cost for start in range(0, len(raw), _PIECE))


def check_depth(value: Any, brackets: int) -> None:
    """Raise TooDeep if `value`, whose text has so many opening brackets, cannot be written again
    within the values that a translation puts around it."""
    if brackets <= _BRACKETS:
        return
    for _ in range(_HEADROOM):
        value = [value]
    try:
        orjson.dumps(value)
    except TypeError:
        raise TooDeep("the JSON is nested too deeply") from None


def check_together(texts: Iterable[str]) -> None:
    """Raise TooMuchStructure if JSON texts in the strings of one body would cost too much together.

    The body's own count leaves them out.
    """
    large = [text for text in texts if len(text) > 2]
    if (
        sum(map(len, large)) * _DENSEST > MAX_STRUCTURE
        and sum(structure(text.encode()).cost for text in large) > MAX_STRUCTURE
    ):
        raise TooMuchStructure("the JSON has too many values")


def structure(raw: bytes) -> Structure:
    """The counts outside strings. Exact for valid JSON, and up to the first fault of other text.

    It works in pieces of microseconds, so that other threads can run in between.
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
    # A piece must not end inside an escape: include a run of backslashes and the next character.
    if end >= len(raw) or raw[end - 1] != _BACKSLASH:
        return end
    run = len(raw[end:]) - len(raw[end:].lstrip(b"\\"))
    return min(end + run + 1, len(raw))


def _reset_after_fork() -> None:
    global _heavy
    _heavy = threading.Lock()  # the thread that held it is the parent's


os.register_at_fork(after_in_child=_reset_after_fork)
