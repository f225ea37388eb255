"""Reads log lines back from where operators keep them.

Each of these is understood, line by line and also mixed in one file:

 * this product's JSON as it was written
 * `journalctl -o json`: the line is the text of MESSAGE, or a list of its bytes
 * a line behind a prefix: `journalctl`, syslog, the container runtimes of Kubernetes
 * Docker's json-file driver: the line is the text of `log`; it cuts lines at 16 KiB
 * any of these compressed by gzip
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, cast

import orjson

_GZIP = b"\x1f\x8b"
_MOST_PIECES = 1024
"""Of one line that Docker has cut: 16 MiB."""


def open_lines(file: BinaryIO) -> Iterable[bytes]:
    """The lines of a file, which may be compressed by gzip."""
    if isinstance(file, io.BufferedReader):
        buffered = file
    else:  # in memory
        buffered = io.BufferedReader(cast(io.RawIOBase, file))
    return gzip.GzipFile(fileobj=buffered) if buffered.peek(2)[:2] == _GZIP else buffered


def parsed_lines(lines: Iterable[bytes], needle: bytes = b"") -> Iterator[dict[str, Any]]:
    """The log lines of this product among `lines`, parsed; others are skipped.

    `needle` is a part of the wanted lines that no encoding changes, such as a correlation id. Lines
    without it are skipped before they are parsed, which is most of the work.
    """
    pieces: list[bytes] = []
    for line in lines:
        if _cut_by_docker(line):
            pieces.append(line)
            if len(pieces) < _MOST_PIECES:
                continue
        if pieces:
            line = _joined([*pieces, line])
            pieces = []
        if needle in line or b'"MESSAGE"' in line:
            found = _unwrap(line, 0)
            if found is not None:
                yield found


def _cut_by_docker(line: bytes) -> bool:
    # Docker ends the last piece of a line with the line's own newline.
    return line.startswith(b'{"log":"') and b'\\n","stream":' not in line


def _joined(pieces: list[bytes]) -> bytes:
    texts = []
    for piece in pieces:
        parsed = _object(piece)
        text = parsed.get("log") if parsed is not None else None
        texts.append(text if isinstance(text, str) else "")
    return "".join(texts).encode("utf-8", "replace")


def _unwrap(line: bytes, depth: int) -> dict[str, Any] | None:
    start = line.find(b"{")
    if start < 0 or depth > 3:
        return None
    found = _object(line[start:])
    if found is None:
        return None
    if "correlation_id" in found:
        return found
    inner = found.get("MESSAGE", found.get("log"))
    if isinstance(inner, list):
        inner = _text_of_bytes(inner)
    return _unwrap(inner.encode("utf-8", "replace"), depth + 1) if isinstance(inner, str) else None


def _text_of_bytes(values: list[Any]) -> str:
    # journalctl writes a message with unprintable characters as the numbers of its bytes.
    try:
        return bytes(values).decode("utf-8", "replace")
    except (TypeError, ValueError):
        return ""


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None
