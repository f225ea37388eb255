"""The verdict on a promise, and the report on all promises."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Word = Literal["kept", "broken", "not tried"]


class Broken(Exception):
    """The promise was not kept. `str(error)` says what was seen."""


class NotTried(Exception):
    """The promise could not be tried. `str(error)` says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The evidence for a promise that was kept: a sentence, and figures by name."""

    text: str
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line of the report. `seconds` is how long it took."""

    name: str
    promise: str
    word: Word
    seen: str
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)


def exit_code(verdicts: Sequence[Verdict]) -> int:
    """1 when a promise is broken, else 0."""
    return int(any(verdict.word == "broken" for verdict in verdicts))


def as_json(url: str, began: str, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """The report as an object."""
    counts = Counter(verdict.word for verdict in verdicts)
    return {
        "url": url,
        "began": began,
        "kept": counts["kept"],
        "broken": counts["broken"],
        "not_tried": counts["not tried"],
        "promises": [
            {
                "name": verdict.name,
                "promise": verdict.promise,
                "verdict": verdict.word,
                "seen": verdict.seen,
                "seconds": round(verdict.seconds, 1),
                "figures": verdict.figures,
            }
            for verdict in verdicts
        ],
    }


def as_markdown(url: str, began: str, verdicts: Sequence[Verdict]) -> str:
    """The report as a page."""
    counts = Counter(verdict.word for verdict in verdicts)
    lines = [
        "# Promises, tried",
        "",
        f"{url}, {began}: {counts['kept']} kept, {counts['broken']} broken, "
        f"{counts['not tried']} not tried.",
        "",
        "| | promise | seen | verdict | seconds |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| `{one.name}` | {_cell(one.promise)} | {_cell(one.seen)} | "
        f"{'**broken**' if one.word == 'broken' else one.word} | {one.seconds:.1f} |"
        for one in verdicts
    ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
