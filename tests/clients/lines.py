"""The configuration that docs/clients.md shows: the tests run it."""

from __future__ import annotations

import re

from tests.conftest import ROOT


def lines_of_the_page(mark: str, language: str) -> str:
    """The block with this mark."""
    page = (ROOT / "docs" / "clients.md").read_text()
    found = re.findall(rf"^```{language} {mark}\n(.*?)^```", page, re.S | re.M)
    assert len(found) == 1, mark
    assert "http://localhost:8001" in found[0]
    return str(found[0])
