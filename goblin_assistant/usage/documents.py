"""How many tokens a document may take that its length does not show. For reservations.

A PDF of a few kilobytes may have hundreds of pages, and each is billed as a text and an image:
1,500 to 3,000 tokens (https://platform.claude.com/docs/en/build-with-claude/pdf-support).
"""

from __future__ import annotations

import binascii
import re
import zlib

UNSEEN_TOKENS = 200_000
"""What is reserved for something that this product does not see: the usual context window."""
PAGE_TOKENS = 3000
DOCUMENT_BYTES_PER_TOKEN = 4

_HEAD = 1_400_000
"""Characters of base64 of one document that are searched: about 1 MB."""
_MOST_READ = 8_000_000
_MOST_UNPACKED = 2_000_000
"""Bytes of all documents of a request that are searched, and of their object streams."""
_EACH = 20_000
"""What a document uses of that at least, so that a few hundred are searched."""
_PACKED, _UNPACKED = 65_536, 262_144
_MARK = re.compile(rb"/Type\s*/ObjStm\b")
_PAGE = re.compile(rb"/Type\s*/Page\b")
_COUNT = re.compile(rb"/Count\s+(\d{1,9})\b")
_KIDS = re.compile(rb"/Kids\s*\[([^\]/]*)")


class Documents:
    """Counts the documents of one request, and reads no more of them than is allowed."""

    def __init__(self) -> None:
        self._left = _MOST_READ
        self._unpackable = _MOST_UNPACKED

    def tokens(self, text: str) -> int:
        """The most tokens of a document: base64, or a data URL."""
        start = text.find(",", 0, 200) + 1
        size = -(-(len(text) - start) // DOCUMENT_BYTES_PER_TOKEN)
        if self._left <= 0:
            return max(size, UNSEEN_TOKENS)
        pages = self._pages(text[start : start + _HEAD])
        return max(size, UNSEEN_TOKENS if pages is None else pages * PAGE_TOKENS)

    def _pages(self, base64: str) -> int | None:
        """0 for a document that is no PDF, None for one whose pages cannot be counted."""
        self._left -= len(base64) + _EACH
        try:
            data = binascii.a2b_base64(base64[: len(base64) // 4 * 4])
        except (binascii.Error, ValueError):
            return None
        if b"%PDF" not in data[:2048]:
            return 0
        # Whole lists at once: a PDF that unpacks to many marks costs no turn for each.
        pages, kids, count = 0, 0, 0
        for part in [data, *self._unpacked(data)]:
            pages += len(_PAGE.findall(part))
            kids += b"".join(_KIDS.findall(part)).count(b"R")
            count = max(count, *map(int, _COUNT.findall(part)), 0)
        return max(pages, kids, count) or None

    def _unpacked(self, data: bytes) -> list[bytes]:
        """The object streams, where PDF 1.5 and later keep their pages."""
        found = []
        for mark in _MARK.finditer(data):
            start = data.find(b"stream", mark.end(), mark.end() + 500) + len(b"stream")
            if self._unpackable <= 0 or start < mark.end():
                break
            start += 2 if data[start : start + 2] == b"\r\n" else 1
            try:
                part = zlib.decompressobj().decompress(data[start : start + _PACKED], _UNPACKED)
            except zlib.error:
                continue
            self._unpackable -= len(part) + _EACH
            found.append(part)
        return found
