"""Files that pages, comments and docstrings name exist, so that a reader finds them."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

FOLDERS = ("docs", "ops", "benchmarks", "examples")
PAGES = sorted([*ROOT.glob("*.md"), *(page for f in FOLDERS for page in (ROOT / f).rglob("*.md"))])
PACKAGES = ("goblin_assistant", "tests", "benchmarks", "loadtest", "gameday")
MODULES = sorted(module for folder in PACKAGES for module in (ROOT / folder).rglob("*.py"))
STARTS = (ROOT, ROOT / "goblin_assistant", ROOT / "tests", ROOT / "ops", ROOT / "docs")

IN_BACKTICKS = re.compile(r"`([\w./-]+\.(?:py|md|yml|toml|cfg|txt|sh))(?:::[\w:]+)?`")
IN_TEXT = re.compile(r"(?<![\w/.*<-])((?:\w+/)*[a-z]\w*\.py)\b")
THE_OPERATORS = {"goblin.toml"}


def exists(name: str, beside: Path) -> bool:
    return any((folder / name).exists() for folder in (*STARTS, beside.parent))


def comments_of(module: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of each comment and docstring."""
    source = module.read_text()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        # A string that stands alone documents what it is in or behind.
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.lineno, str(node.value.value)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page: Path) -> None:
    named = set(IN_BACKTICKS.findall(page.read_text())) - THE_OPERATORS
    assert [name for name in sorted(named) if not exists(name, page)] == []


def test_files_that_comments_and_docstrings_name_exist() -> None:
    missing = [
        f"{module.relative_to(ROOT)}:{line} names {name}"
        for module in MODULES
        for line, text in comments_of(module)
        for name in IN_TEXT.findall(text)
        if not exists(name, module)
    ]
    assert missing == []
