"""Bodies of any size that are cheap to send and expensive to read, and bodies that people send.

`NASTY` are values inside an object (`inside`); `NASTY_WHOLE` are whole bodies; `HONEST` and
`ESTIMATED` are chats.
Used by tests/web/test_nasty_bodies.py and `python -m benchmarks.nasty_bodies`.
"""

from __future__ import annotations

import base64
import itertools
import random
import zlib
from collections.abc import Callable, Iterator

import orjson

Make = Callable[[int], bytes]

MESSAGES = b'[{"role":"user","content":"hello"}]'


def inside(field: str, value: bytes, **others: bytes) -> bytes:
    """An object with `value` under `field`. The values of `others` are JSON too."""
    members = {**{name: text for name, text in others.items() if name != field}, field: value}
    return (
        b"{"
        + b",".join(b'"%b":%b' % (name.encode(), text) for name, text in members.items())
        + b"}"
    )


def repeated(unit: bytes, opening: bytes = b"[", closing: bytes = b"]") -> Make:
    """`unit` and a comma, as often as they fit."""

    def make(size: int) -> bytes:
        return opening + b",".join([unit] * max(1, size // (len(unit) + 1))) + closing

    return make


def distinct(member: Callable[[int], bytes], opening: bytes = b"{", closing: bytes = b"}") -> Make:
    """Members with different keys."""

    def members(size: int) -> Iterator[bytes]:
        taken = 0
        for number in itertools.count():
            made = member(number)
            taken += len(made) + 1
            if taken > size:
                return
            yield made

    return lambda size: opening + b",".join(members(size)) + closing


def quoted(unit: bytes) -> Make:
    """One string."""
    return lambda size: b'"' + unit * (size // len(unit)) + b'"'


def nested(opening: bytes, closing: bytes, most: int | None = None) -> Make:
    """As many levels as fit, or `most` of them repeated in a list."""

    def make(size: int) -> bytes:
        levels = size // (len(opening) + len(closing)) if most is None else most
        value = opening * levels + b"1" + closing * levels
        return value if most is None else repeated(value)(size)

    return make


NASTY: dict[str, Make] = {
    "empty lists": repeated(b"[]"),
    "empty objects": repeated(b"{}"),
    "lists of one": repeated(b"[1]"),
    "lists in lists": repeated(b"[[]]"),
    "objects of one": repeated(b'{"a":1}'),
    "objects of empty keys": repeated(b'{"":0}'),
    "objects of lists": repeated(b'{"a":[]}'),
    "small records": repeated(b'{"id":1,"ok":true,"at":null}'),
    "digits": repeated(b"1"),
    "numbers": repeated(b"300"),
    "fractions": repeated(b"1.5"),
    "exponents": repeated(b"1e300"),
    "numbers beyond 64 bits": repeated(b"123456789012345678901234567890"),
    "numbers of 4,300 digits": repeated(b"1" * 4300),
    "one number": lambda size: b"-0." + b"3" * size,
    "letters": repeated(b'"a"'),
    "short strings": repeated(b'"ab"'),
    "short strings of two bytes a letter": repeated('"é"'.encode()),
    "empty strings": repeated(b'""'),
    "literals": repeated(b"null"),
    "a thousand levels": nested(b"[", b"]", 1000),
    "two hundred levels": nested(b"[", b"]", 200),
    "deep lists": nested(b"[", b"]"),
    "deep objects": nested(b'{"a":', b"}"),
    "deep and open": lambda size: b"[" * size,
    "many keys": distinct(lambda number: b'"%x":1' % number),
    "many keys of lists": distinct(lambda number: b'"%x":[]' % number),
    "long keys": distinct(lambda number: b'"%01000d":1' % number),
    "the same key": repeated(b'"model":1', b"{", b"}"),
    "objects with a key twice": repeated(b'{"model":1,"model":2}'),
    "one key": lambda size: b'{"' + b"k" * size + b'":1}',
    "a long string": quoted(b"goblin "),
    "an open string": lambda size: b'"' + b"x" * size,
    "escapes": quoted(rb"\n"),
    "escaped letters": quoted(rb"\u00e9"),
    "backslashes": quoted(rb"\\"),
    "lone surrogates": quoted(rb"\ud800"),
    "NUL": quoted(rb"\u0000"),
    "invalid UTF-8": quoted(b"\xff"),
    "UTF-8 that is too long": quoted(b"\xc0\xaf"),
    "a string whose letters take four bytes": quoted("goblin \U0001f47a".encode()),
    "blanks": lambda size: b" " * size + b"[]",
    "blanks between": repeated(b"\t\n 1 "),
    "commas": lambda size: b"[" + b"," * size + b"]",
    "colons": lambda size: b"{" + b":" * size + b"}",
    "NaN": repeated(b"NaN"),
    "wrong messages": repeated(b'{"role":"wizard","content":1}'),
    "messages of a letter": repeated(b'{"role":"user","content":"a"}'),
    "parts of a letter": repeated(
        b'{"type":"text","text":"a"}', b'[{"role":"user","content":[', b"]}]"
    ),
    "wrong parts": repeated(b"{}", b'[{"role":"user","content":[', b"]}]"),
    "tool calls": repeated(
        b'{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}',
        b'[{"role":"assistant","content":null,"tool_calls":[',
        b"]}]",
    ),
    "arguments of empty lists": lambda size: (
        b'[{"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function","function":'
        b'{"name":"f","arguments":"{\\"a\\":' + repeated(b"[]")(size) + b'}"}}]}]'
    ),
}

NASTY_WHOLE: dict[str, Make] = {
    "nothing but blanks": lambda size: b" " * size,
    "a byte order mark": lambda size: b"\xef\xbb\xbf" + inside("messages", quoted(b"x")(size)),
    "UTF-16": lambda size: inside("messages", quoted(b"x")(size // 2)).decode().encode("utf-16"),
    "zeros": lambda size: b"\0" * size,
    "many values": lambda size: b"{}" * (size // 2),
    "a list": repeated(b"{}"),
    "a string": quoted(b"x"),
    "open objects": lambda size: b'{"a":' * (size // 5),
    "many unknown keys": distinct(lambda number: b'"k%x":1' % number),
    "many keys of a guarded name": distinct(
        lambda number: b'"model%x":1' % number, b'{"model":"a","model":"b",'
    ),
    "the end is missing": lambda size: inside(
        "messages", repeated(b'{"role":"user","content":"x"}')(size)
    )[:-1],
}


def _code(size: int) -> str:
    line = (
        "    if items[index] == {'a': [1, 2], \"b\": (3, 4)}:  # é\n"
        "\t\tprint(f\"{index}\\n\", end=',')\n"
    )
    return line * (size // (len(line) + 15))


def _chat(content: object) -> bytes:
    return orjson.dumps({"messages": [{"role": "user", "content": content}], "max_tokens": 16})


def _images(size: int) -> bytes:
    picture = base64.b64encode(random.Random(1).randbytes(750_000)).decode()
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + picture}}
    return _chat([{"type": "text", "text": "What is this?"}, *[part] * max(1, size // 1_000_100)])


def _history(size: int) -> bytes:
    text = _code(size // 2000)
    turn = [
        {"role": "user", "content": text},
        {"role": "assistant", "content": [{"type": "text", "text": text}]},
    ]
    return orjson.dumps({"messages": [*turn * 1000, turn[0]], "max_tokens": 16})


def _json(size: int) -> bytes:
    table = orjson.dumps(
        [{"id": number, "tags": [], "at": {"x": 1.5}} for number in range(size // 50)]
    )
    return _chat(table.decode())


HONEST: dict[str, Make] = {
    "pasted code": lambda size: _chat(_code(size)),
    "pasted JSON": _json,
    "pasted table of numbers": lambda size: _chat("1,2,3,4,5,6,7,8,9\n" * (size // 19)),
    "pictures in base64": _images,
    "a history of 2,000 messages": _history,
    "text of many scripts": lambda size: _chat(
        "Ein Kobold, 一只地精, гоблин \U0001f47a. " * (size // 55)
    ),
}

EMBEDDINGS: dict[str, Make] = {
    "token ids": lambda size: orjson.dumps(
        {
            "model": "echo",
            "input": [random.Random(1).randrange(100_000) for _ in range(min(size // 6, 300_000))],
        }
    ),
    "lists of token ids": lambda size: orjson.dumps(
        {"model": "echo", "input": [[12345] * min(200, size // 12_500)] * 2048}
    ),
}

_TWO_ROLES = b'{"role":"user","content":"a"},{"role":"assistant","content":"b"}'


def translated(model: str) -> dict[str, Make]:
    """Chats of many small pieces for a model whose provider speaks another dialect."""
    opening = b'{"model":"%b","max_tokens":5,"messages":[' % model.encode()
    return {
        "messages of two roles": repeated(_TWO_ROLES, opening, b"]}"),
        "parts of a letter": repeated(
            b'{"type":"text","text":"a"}', opening + b'{"role":"user","content":[', b"]}]}"
        ),
    }


def _parts(part: object) -> Make:
    """A message of as many parts as fit."""
    return repeated(orjson.dumps(part), b'{"messages":[{"role":"user","content":[', b"]}]}")


def _picture(kind: str, data: bytes) -> Make:
    url = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return _parts({"type": "image_url", "image_url": {"url": url}})


def _pdf(data: bytes) -> Make:
    text = base64.b64encode(b"%PDF-1.5\n" + data).decode()
    return _parts({"type": "file", "file": {"file_data": "data:application/pdf;base64," + text}})


_UNPACKS = b"1 0 obj<</Type/ObjStm>>stream\n" + zlib.compress(b"/Type /Kids[" * 30_000)

ESTIMATED: dict[str, Make] = {
    "JPEGs of filling bytes": _picture("jpeg", b"\xff\xd8\xff" + b"\xff" * 80),
    "JPEGs of empty segments": _picture("jpeg", b"\xff\xd8" + b"\xff\xe0\x00\x02" * 66),
    "JPEGs of long metadata": _picture("jpeg", b"\xff\xd8\xff\xe0\x40\x00" + bytes(0x4000)),
    "PNGs of a pixel": _picture(
        "png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\2\0\0\0xxxx"
    ),
    "PDFs of a line": _pdf(b""),
    "PDFs of page marks": _pdf(b"/Type /Kids[" * 3000),
    "PDFs that unpack": _pdf(_UNPACKS * 60),
    "tools": repeated(
        b'{"type":"function","function":{"name":"f","parameters":{}}}',
        b'{"messages":[{"role":"user","content":"a"}],"tools":[',
        b"]}",
    ),
    "messages of two roles": repeated(_TWO_ROLES, b'{"messages":[', b"]}"),
}
"""Chats whose prompt is dear to count, for a key that has a budget."""
