"""Request bodies that are cheap to send and dear to read: `NASTY["empty arrays"](size)`."""

from __future__ import annotations

from collections.abc import Callable

Body = Callable[[int], bytes]


def _repeated(before: bytes, piece: bytes, after: bytes) -> Body:
    def make(size: int) -> bytes:
        room = size - len(before) - len(after)
        return before + b",".join([piece] * max(1, room // (len(piece) + 1))) + after

    return make


def _deep(size: int) -> bytes:
    half = size // 2
    return b"[" * half + b"]" * half


def _numbered(before: bytes, piece: bytes, after: bytes) -> Body:
    def make(size: int) -> bytes:
        count = max(1, (size - len(before) - len(after)) // (len(piece) + 7))
        return before + b",".join([piece % index for index in range(count)]) + after

    return make


def _long_string(size: int) -> bytes:
    return b'{"model":"' + b"a" * size + b'"}'


def _invalid_utf8(size: int) -> bytes:
    return b'{"model":"' + b"\xff\xc3" * (size // 2) + b'"}'


NASTY: dict[str, Body] = {
    "empty arrays": _repeated(b'{"email":[', b"[]", b"]}"),
    "empty objects": _repeated(b'{"email":[', b"{}", b"]}"),
    "messages of empty objects": _repeated(b'{"model":"echo/echo","messages":[', b"{}", b"]}"),
    "deep": _deep,
    "many keys": _numbered(b"{", b'"%07d":1', b"}"),
    "duplicate keys": _repeated(b"{", b'"email":1', b"}"),
    "numbers": _repeated(b'{"email":[', b"1.5e300", b"]}"),
    "a long string": _long_string,
    "invalid UTF-8": _invalid_utf8,
}
