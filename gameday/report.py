"""The report: a table, and for each fault a plot of what was answered when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from gameday.play import Outcome

_WIDTH, _HEIGHT, _LEFT = 900, 46, 170


def as_json(
    outcomes: Sequence[Outcome], not_played: Mapping[str, str], factor: float
) -> dict[str, Any]:
    """The report as an object."""
    return {
        "kept": not any(one.broken for one in outcomes),
        "times_divided_by": factor,
        "faults": [
            {key: value for key, value in asdict(one).items() if key != "timeline"}
            for one in outcomes
        ],
        "not_played": dict(not_played),
    }


def as_markdown(
    outcomes: Sequence[Outcome], not_played: Mapping[str, str], factor: float, plot: str
) -> str:
    """The report as a page. `plot` is the name of the picture's file."""
    broken = [one for one in outcomes if one.broken]
    lines = [
        "# Game day",
        "",
        f"{len(outcomes)} faults on three instances behind nginx, with PostgreSQL and Redis, under "
        f"load; {len(broken)} broke a promise. The times of the alert rules and of Alertmanager's "
        f"routes were divided by {factor:g}.",
        "",
        f"![What was answered when]({plot})",
        "",
        "| fault | promised | requests | failed | lost | records lost | doubled | paged after | "
        "mended | recovered | verdict |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| `{one.name}` | {one.promise} | {one.requests} | {one.failed} | {one.lost} | "
        f"{_records(one)} | {one.rows_doubled} | {_seconds(one.paged_at)} | "
        f"{_seconds(one.mended_at)} | {_seconds(one.recovered_at)} | "
        f"{'**broken**: ' + '; '.join(one.broken) if one.broken else 'kept'} |"
        for one in outcomes
    ]
    lines += ["", "Seconds count from the fault's beginning.", ""]
    lines += ["## Alerts that began during the fault", ""]
    lines += [
        f"* `{one.name}`: {', '.join(f'`{alert}`' for alert in one.alerts) or 'none'}"
        for one in outcomes
    ]
    if found := [one for one in outcomes if one.lost_lines]:
        lines += ["", "## What the logs say of lost requests", ""]
        for one in found:
            lines += [f"`{one.name}`:", "", "```text", *one.lost_lines, "```", ""]
    if not_played:
        lines += ["", "## Not played", ""]
        lines += [f"* `{name}`: {why}" for name, why in not_played.items()]
    return "\n".join(lines) + "\n"


def _records(one: Outcome) -> str:
    excused = f" (and {one.rows_excused} by the promise)" if one.rows_excused else ""
    return f"{one.rows_lost}{excused}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


def as_svg(outcomes: Sequence[Outcome]) -> str:
    """A row for each fault: answers per second upwards, failures in red; the fault is shaded."""
    height = _HEIGHT * len(outcomes) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
    ]
    for number, one in enumerate(outcomes):
        parts += _row(one, 5 + number * _HEIGHT)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _row(one: Outcome, top: float) -> list[str]:
    good = Counter(int(at // 1) for at, answered in one.timeline if answered)
    bad = Counter(int(at // 1) for at, answered in one.timeline if not answered)
    seconds = sorted({*good, *bad}) or [0]
    first, count = seconds[0], seconds[-1] - seconds[0] + 1
    most = max((good[at] + bad[at] for at in seconds), default=1)
    wide, tall = (_WIDTH - _LEFT - 10) / count, _HEIGHT - 8
    bottom = top + tall
    start = _LEFT - first * wide
    parts = [
        f'<text x="4" y="{top + tall / 2 + 4:.0f}">{one.name}</text>',
        f'<rect x="{start:.1f}" y="{top:.1f}" width="{max(1.0, one.mended_at * wide):.1f}" '
        f'height="{tall}" fill="#eee"/>',
    ]
    for at in seconds:
        x, up, red = start + at * wide, good[at] / most * tall, bad[at] / most * tall
        parts.append(
            f'<rect x="{x:.1f}" y="{bottom - up:.1f}" width="{wide * 0.8:.1f}" '
            f'height="{up:.1f}" fill="#58a"/>'
        )
        if red:
            parts.append(
                f'<rect x="{x:.1f}" y="{bottom - up - red:.1f}" width="{wide * 0.8:.1f}" '
                f'height="{red:.1f}" fill="#c33"/>'
            )
    return parts
