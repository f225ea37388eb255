"""The files of the page in static/page: read, hashed and compressed once.

All files share one hash, which is a part of every URL. So modules can import each other by relative
paths. A hash for each file would need a build step that rewrites the imports.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from types import MappingProxyType

TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Content types by file extension. Other files, such as licences, are not served."""

INDEX = "index.html"


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file: `plain` bytes, and `packed` with gzip."""

    plain: bytes
    packed: bytes
    content_type: str


@dataclass(frozen=True, slots=True)
class PageFiles:
    """All files by their paths below static/page, and their common hash."""

    hash: str
    files: Mapping[str, PageFile]
    index: str
    """index.html, with the placeholders that `index_with` fills in."""

    def index_with(self, values: Mapping[str, str]) -> str:
        """index.html with `{{name}}` replaced by each value. Values must be safe in HTML."""
        text = self.index.replace("{{files}}", f"/static/{self.hash}")
        for name, value in values.items():
            text = text.replace("{{" + name + "}}", value)
        return text


def packed(plain: bytes) -> bytes:
    """Compress with gzip, without a timestamp: the same input gives the same bytes."""
    return gzip.compress(plain, 9, mtime=0)


@cache
def page_files() -> PageFiles:
    """All files. They are read at the first request, so not at all if nobody opens the page."""
    found = dict(sorted(_below(resources.files("goblin_assistant").joinpath("static/page"), "")))
    index = found.pop(INDEX)
    digest = hashlib.sha256(index)
    files = {}
    for name, plain in found.items():
        kind = TYPES.get("." + name.rpartition(".")[2])
        if kind is not None:
            digest.update(name.encode() + b"\0" + plain)
            files[name] = PageFile(plain, packed(plain), kind)
    return PageFiles(digest.hexdigest()[:16], MappingProxyType(files), index.decode())


def _below(folder: Traversable, prefix: str) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _below(entry, f"{prefix}{entry.name}/")
        else:
            found.append((prefix + entry.name, entry.read_bytes()))
    return found
