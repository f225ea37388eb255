"""Refuses JSON whose structure would take too much memory, before it is parsed.

Short text can be large in memory: `[],` is 3 bytes on the wire and 72 in memory, `{"a":1},` 8 and
200. The counts of brackets, commas and colons outside strings give the cost in advance. Strings
cost their own size and are not counted: a program or a picture in a string is never too much.
"""

from __future__ import annotations

import gc
import itertools
import json
import math
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
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
_DEEPEST = 254
"""The levels that orjson writes."""
_HEADROOM = 32
"""The levels that a translation may add."""
_BRACKETS = _DEEPEST - _HEADROOM
_LARGE = 64 * 1024
_HEAVY = 1024 * 1024
"""Texts of this size are read one at a time."""
_MOST_REST_SECONDS = 0.25
_AT_ONCE = nullcontext()
_PIECE = 64 * 1024
_BACKSLASH = 0x5C
_AS_ZEROS = bytes.maketrans(b"123456789.", b"0" * 10)
_RUN = b"0" * 19
"""In a text of which each digit and point became 0: as long as an integer that may be beyond 64
bits, or a float of more than 17 digits. A search for it is fifty times as fast as _LONG."""
_LONG = re.compile(rb"(?:^|[\[:,\s])-?[0-9][0-9.]{18}").search
_FLOAT_DIGITS = 17
"""Significant digits that tell a double from its neighbours (IEEE 754, section 5.12.2)."""
_NOT_COUNTED = bytes(set(range(256)) - set(b'"[{:,'))


class TooMuchStructure(ValueError):
    """The text has too many values."""


class TooDeep(ValueError):
    """The text is nested too deeply to be written again."""


class LongFloat(float):
    """A float that was written with more digits than it has, and `text`, as which it is written
    again."""

    __slots__ = ("text",)
    text: str


def long_float(value: Any) -> orjson.Fragment:
    """Write a LongFloat. For orjson's `default`."""
    if isinstance(value, LongFloat):
        return orjson.Fragment(value.text)
    raise TypeError(type(value).__name__)


class Turns:
    """Lets one thread in at a time; the same thread may nest. After each turn the next waits for as
    long as that one computed.

    Reading a large text holds the interpreter's lock, for 50 ms at once in orjson's parser. Without
    the rest one text follows another, and a health request, which needs that lock several times,
    meets two or three of them.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        self._began = 0.0
        self._rests_until = 0.0

    def __enter__(self) -> None:
        self._lock.acquire()
        self._depth += 1
        if self._depth == 1:
            time.sleep(max(0.0, self._rests_until - time.monotonic()))
            self._began = time.thread_time()

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            computed = time.thread_time() - self._began
            self._rests_until = time.monotonic() + min(computed, _MOST_REST_SECONDS)
        self._lock.release()


_heavy = Turns()


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
    with turn_of(raw):
        limit = max(most, per_byte * len(raw))
        _check_structure(raw, limit)
        if len(raw) < _LARGE or not gc.isenabled():
            return orjson.loads(raw)
        # Without the garbage collector, which takes half of the time, blocks other threads and
        # finds nothing: JSON has no cycles.
        gc.disable()
        try:
            return orjson.loads(raw)
        finally:
            gc.enable()


def exact(raw: bytes, value: Any) -> Any:
    """`value`, which `loads` made of `raw`, with integers beyond 64 bits and floats of many digits
    as they are. orjson makes other numbers of them. For what is written again."""
    if _RUN not in raw.translate(_AS_ZEROS) or _LONG(raw) is None:
        return value
    try:
        with turn_of(raw):
            return json.loads(raw, parse_float=_as_written)
    except (ValueError, RecursionError):  # more digits than Python reads, or too deep for it
        return value


def read_text(text: str) -> Any:
    """The JSON value in a text that was checked already, exactly. Raises ValueError.

    Also with half a surrogate pair, which orjson refuses. NaN and numbers beyond a float's are
    refused: they could not be written again.
    """
    raw = text.encode("utf-8", "surrogatepass")
    try:
        return exact(raw, orjson.loads(raw))
    except orjson.JSONDecodeError:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = _as_written(digits)
    return number if math.isfinite(number) else _refuse(digits)


def _as_written(digits: str) -> float:
    plain = float(digits)
    if len(digits) <= _FLOAT_DIGITS or repr(plain) == digits:
        return plain
    number = LongFloat(plain)
    number.text = digits
    return number


def turn_of(raw: bytes) -> AbstractContextManager[object]:
    """Held while `raw` is read: large texts take turns, small ones do not wait."""
    return _heavy if len(raw) >= _HEAVY else _AT_ONCE


def _check_structure(raw: bytes, limit: int) -> None:
    # First a count that includes strings: it is quicker, and nearly always enough.
    if (
        len(raw) * _DENSEST > limit
        and _exceeds(_pieces(raw), limit)
        and _exceeds(_outside(raw), limit)
    ):
        raise TooMuchStructure("the JSON has too many values")


def _exceeds(texts: Iterable[bytes], limit: int) -> bool:
    """Whether they cost more together. The rest is not counted then."""
    cost = 0
    for text in texts:
        cost += _count(text).cost
        if cost > limit:
            return True
    return False


def _pieces(raw: bytes) -> Iterator[bytes]:
    return (raw[start : start + _PIECE] for start in range(0, len(raw), _PIECE))


def check_depth(value: Any, brackets: int) -> None:
    """Raise TooDeep if `value`, whose text has so many opening brackets, cannot be written again
    within the values that a translation puts around it."""
    if brackets <= _BRACKETS:
        return
    wrapped = value
    for _ in range(_HEADROOM):
        wrapped = [wrapped]
    try:
        orjson.dumps(wrapped, default=long_float)
    except TypeError:
        # Or for another reason, such as an integer beyond 64 bits: json writes it then.
        if _depth_exceeds(value, _DEEPEST - _HEADROOM):
            raise TooDeep("the JSON is nested too deeply") from None


def _depth_exceeds(value: Any, most: int) -> bool:
    level = [value]
    for _ in range(most + 1):
        level = [item for item in level if isinstance(item, dict | list)]
        if not level:
            return False
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return True


def check_together(texts: Iterable[str]) -> None:
    """Raise TooMuchStructure if JSON texts in the strings of one body would cost too much together.

    The body's own count leaves them out.
    """
    large = [text for text in texts if len(text) > 2]
    if sum(map(len, large)) * _DENSEST > MAX_STRUCTURE and _exceeds(
        itertools.chain.from_iterable(_outside(text.encode()) for text in large), MAX_STRUCTURE
    ):
        raise TooMuchStructure("the JSON has too many values")


def structure(raw: bytes) -> Structure:
    """The counts outside strings. Exact for valid JSON, and up to the first fault of other text."""
    counts = [_count(text) for text in _outside(raw)]
    return Structure(*map(sum, zip(*counts, strict=True))) if counts else Structure(0, 0, 0, 0)


def _outside(raw: bytes) -> Iterator[bytes]:
    """What is outside strings, without the characters that are not counted.

    In pieces that take a fraction of a millisecond, so that other threads can run in between.
    """
    start, inside, size = 0, False, len(raw)
    while start < size:
        piece = raw[start : start + _PIECE]
        if _ends_in_escape(piece):
            piece = raw[start : start + _PIECE + 1]
        start += len(piece)
        if b"\\" in piece:
            piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
        # Two quotes side by side then are a string in which nothing counts, as most are.
        parts = piece.translate(None, _NOT_COUNTED).replace(b'""', b"").split(b'"')
        yield b"".join(parts[1::2] if inside else parts[::2])
        inside ^= len(parts) % 2 == 0


def _count(text: bytes) -> Structure:
    return Structure(text.count(b"["), text.count(b"{"), text.count(b":"), text.count(b","))


def _ends_in_escape(piece: bytes) -> bool:
    """Whether the character after `piece` is escaped. `piece` does not begin inside an escape."""
    return piece[-1] == _BACKSLASH and (len(piece) - len(piece.rstrip(b"\\"))) % 2 == 1


def _reset_after_fork() -> None:
    global _heavy
    _heavy = Turns()  # the thread that held it is the parent's


os.register_at_fork(after_in_child=_reset_after_fork)
