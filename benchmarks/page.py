"""Sections of docs/performance.md, each written by its own command.

A section stands between two HTML comments, which readers do not see. A command that rewrites the
page keeps the other sections by `with_sections_of`.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

_SECTION = re.compile(r"<!-- begin (?P<name>[\w-]+) -->\n.*?<!-- end (?P=name) -->\n", re.DOTALL)


def paragraph(text: str) -> str:
    """`text` in lines of at most 100 columns."""
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


def section(name: str, text: str) -> str:
    """The text between the two marks. `name` is letters, digits, `-` and `_`."""
    return f"<!-- begin {name} -->\n{text.strip()}\n<!-- end {name} -->\n"


def with_section(page: str, name: str, text: str) -> str:
    """The page with this section in place of the old one of that name, or at the end."""
    new = section(name, text)
    for found in _SECTION.finditer(page):
        if found["name"] == name:
            return page[: found.start()] + new + page[found.end() :]
    return f"{page.rstrip()}\n\n{new}" if page.strip() else new


def with_sections_of(page: str, old: str) -> str:
    """The page with the marked sections of its older version at the end."""
    for found in _SECTION.finditer(old):
        page = f"{page.rstrip()}\n\n{found[0]}"
    return page


def replace_section(path: Path, name: str, text: str) -> None:
    """Write the section into the file and keep the rest. The file may be missing."""
    old = path.read_text() if path.exists() else ""
    path.write_text(with_section(old, name, text))
