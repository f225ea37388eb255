"""Usage reports as CSV that is safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io
import unicodedata
from typing import Any

from goblin_assistant.usage.reports import Report, columns_of

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "%")
"""Characters that may start a formula (https://owasp.org/www-community/attacks/CSV_Injection)."""
_INVISIBLE = frozenset({"Cc", "Cf", "Cn", "Co", "Me", "Mn", "Zl", "Zp", "Zs"})
"""Unicode's categories of what may show nothing: controls, formats, marks, spaces."""
_FILLERS = "\u115f\u1160\u3164\uffa0\u2800"
"""Letters that show nothing: Hangul fillers and the blank pattern of Braille."""


def as_csv(page: Report) -> str:
    """The rows as CSV (RFC 4180) with a header.

    An apostrophe is put before a text that a spreadsheet would read as a formula.
    """
    columns = columns_of(page.group_by)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(columns)
    for row in page.rows:
        writer.writerow([_cell(row[column]) for column in columns])
    return text.getvalue()


def _is_formula(text: str) -> bool:
    # Spreadsheets skip spaces and invisible characters, and treat full-width signs as normal ones
    # (as NFKC does).
    if text.startswith(_FORMULA):
        return True
    first = next((letter for letter in text if not _is_invisible(letter)), "")
    return unicodedata.normalize("NFKC", first).startswith(_FORMULA)


def _is_invisible(letter: str) -> bool:
    return unicodedata.category(letter) in _INVISIBLE or letter in _FILLERS


def _cell(value: Any) -> Any:
    if isinstance(value, str) and _is_formula(value):
        return "'" + value
    return "" if value is None else value
