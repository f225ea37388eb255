"""Renders docs/performance.md from the figures of a run. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.page import paragraph
from benchmarks.results import (
    Check,
    Sample,
    as_dicts,
    checks_table,
    markdown_table,
    samples_table,
)
from benchmarks.rows import CALLERS, KEY, LEAN, LIMITED, POSTGRES, TOKEN, UNPINNED
from benchmarks.targets import compare_checks

EXPERIMENT_TITLES = {
    "fast_streams": "256 streams, 10 ms between chunks",
    "slow_streams": "500 streams at a model's pace",
    "addresses": "Client addresses in the limiter",
    "flood": "Half a million addresses pass by",
    "usage_rows": "Usage records in the database",
    "loadtest": "The guide's targets, all at once",
}

samples_as_dicts = as_dicts


def checks_as_dicts(checks: Iterable[Check]) -> list[dict[str, Any]]:
    """As dictionaries for a JSON file."""
    return [asdict(check) for check in checks]


def all_checks(results: Mapping[str, Any]) -> list[Check]:
    """The checks of all parts that have been measured."""
    checks: list[Check] = []
    if "compare" in results:
        checks += compare_checks(_samples(results), results["compare"]["figures"])
    for name in EXPERIMENT_TITLES:
        if name in results:
            checks += [Check(**check) for check in results[name]["checks"]]
    return checks


def _samples(results: Mapping[str, Any]) -> list[Sample]:
    return [Sample(**sample) for sample in results["compare"]["samples"]]


def verdict(results: Mapping[str, Any]) -> str:
    """The verdict for a terminal."""
    checks = all_checks(results)
    lines = [
        f"{check.said:>35}  {check.what}: {check.measured}  [{check.target}]" for check in checks
    ]
    if problems := results.get("compare", {}).get("problems"):
        lines += ["", "Problems during the run:", *problems]
    return "\n".join(lines)


def page(results: Mapping[str, Any]) -> str:
    """The whole page."""
    parts = [
        "# Performance",
        paragraph(
            "Written by `make bench`; do not edit. How it is measured and how to read it: "
            "[benchmarks/README.md](../benchmarks/README.md)."
        ),
        "## Targets",
        checks_table(all_checks(results)),
    ]
    if "compare" in results:
        parts += _comparison(results)
    for name, title in EXPERIMENT_TITLES.items():
        if name in results:
            parts += [
                f"## {title}",
                _about(results[name]["about"]),
                _figures(results[name]["figures"]),
            ]
    if "machine" in results:
        rows = [(name, value) for name, value in results["machine"].items()]
        parts += [
            "## Machine and versions",
            markdown_table(("what", "which"), rows).replace("---:", "---"),
        ]
    return "\n\n".join(parts) + "\n"


def _about(about: Mapping[str, Any]) -> str:
    text = (
        f"Measured {about['when']} at revision {about['revision']}, "
        f"load average before it {about['load_average']}"
    )
    return text + (
        f", {about['rounds']} rounds of {about['seconds']:g} s." if "rounds" in about else "."
    )


def _figures(figures: Mapping[str, Any]) -> str:
    rows = [(name.replace("_", " "), _number(value)) for name, value in figures.items()]
    return markdown_table(("figure", "value"), rows)


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)


def _comparison(results: Mapping[str, Any]) -> Sequence[str]:
    samples = _samples(results)
    part = results["compare"]
    levels = sorted({sample.concurrency for sample in samples})
    return [
        "## Side by side",
        _about(part["about"]),
        paragraph(
            "Medians over the rounds, with ranges. A ratio is taken within each round. The "
            "upstream answers as OpenAI's API does: 22 headers, chunked, in several TCP segments. "
            "Unless a row says otherwise, each server is one process on one core, by API key, "
            "with its records in SQLite."
        ),
        *_problems(part["problems"]),
        *_chats(samples, levels),
        "### POST /v1/chat/completions, streamed",
        paragraph(
            "A stream has 200 events, 10 ms apart, each with another text. CPU per event includes "
            "the cost of the request. The text and the end of each server's stream are those of "
            "the upstream's, and each measured stream has as many events and bytes and its [DONE]."
        ),
        samples_table(
            samples,
            [(name, "stream") for name in ("bare", "bare http.client", "goblin", "litellm")],
            levels,
            baseline=("bare", "stream"),
            unit="event",
        ),
        "### GET /health",
        samples_table(
            samples,
            [(name, "health") for name in ("bare flask", "goblin", "litellm")],
            levels,
            baseline=("bare flask", "health"),
        ),
        "### POST /auth/login",
        samples_table(
            samples,
            [("bare login", "login"), ("goblin", "login")],
            levels,
            baseline=("bare login", "login"),
        ),
        *_processes(part["figures"]),
    ]


def _problems(problems: Sequence[str]) -> list[str]:
    if not problems:
        return []
    return [
        "Failed, and without a figure for that reason:",
        "\n".join(f"- {problem}" for problem in problems),
    ]


def _chats(samples: Sequence[Sample], levels: Sequence[int]) -> list[str]:
    ours = [("goblin", kind) for kind in (TOKEN, KEY, LIMITED, CALLERS)]
    stored = [("goblin", kind + POSTGRES) for kind in (KEY, LIMITED)]
    text = [
        "### POST /v1/chat/completions, answer in one piece",
        samples_table(
            samples,
            [("bare", TOKEN), ("bare http.client", TOKEN), *ours, *stored, ("litellm", TOKEN)],
            levels,
            baseline=("bare", TOKEN),
        ),
        paragraph(
            f'`goblin` without an addition is a chat by access token. "{LIMITED[6:]}": a key with '
            "a monthly budget, requests and tokens a minute, and chats at once, none of which is "
            f'reached. "{CALLERS[6:]}": 500 API keys and 500 access tokens of 20 accounts in '
            "turn, on three hosts. PostgreSQL's own CPU is not in its rows."
        ),
    ]
    for title, end in (
        ("An upstream that answers with two headers and a Content-Length in one segment:", LEAN),
        ("Not pinned: server, client and upstream share two cores as the kernel likes:", UNPINNED),
    ):
        text += [
            title,
            samples_table(
                samples,
                [
                    ("bare", TOKEN + end),
                    ("bare http.client", TOKEN + end),
                    ("goblin", KEY + end),
                    ("litellm", TOKEN + end),
                ],
                levels,
                baseline=("bare", TOKEN + end),
            ),
        ]
    return [
        *text,
        "On `echo`, without an upstream:",
        samples_table(samples, [("goblin", "echo")], levels),
    ]


def _processes(figures: Mapping[str, Any]) -> list[str]:
    rows = [
        (
            name,
            ", ".join(f"{value:.2f}" for value in figures["cold_start"].get(name, [])) or "-",
            f"{figures['rss_idle'].get(name, 0):.0f}",
            f"{figures['rss'].get(name, 0):.0f}",
            f"{figures.get('threads', {}).get(name, '-')}",
            figures.get("scheduling", {}).get(name, "-"),
        )
        for name in figures["rss"]
    ]
    head = ("server", "cold starts, s", "MB at start", "MB after load", "threads", "scheduling")
    return ["### Start, memory and scheduling", markdown_table(head, rows)]


BODIES = "## What a request body may cost"


def bodies_section(part: Mapping[str, Any]) -> str:
    """The section of benchmarks/nasty_bodies.py: a row for each body, with its highest figures."""
    sizes = sorted({row["megabytes"] for row in part["rows"]})
    names = dict.fromkeys(row["name"].partition(", ")[0] for row in part["rows"])
    rows = []
    for name in names:
        mine = [row for row in part["rows"] if row["name"].partition(", ")[0] == name]
        cells = []
        for size in sizes:
            of_size = [row for row in mine if row["megabytes"] == size]
            cpu = max(row["cpu_ms"] for row in of_size) / size
            cells.append(f"{cpu:.0f} ms/MB, {max(row['peak_mb'] for row in of_size):.0f} MB")
        problems = sorted({problem for row in mine for problem in row["problems"]})
        statuses = ", ".join(map(str, sorted({row["status"] for row in mine})))
        rows.append(
            (name, *cells, statuses, f"**MISSED: {', '.join(problems)}**" if problems else "met")
        )
    head = ("body", *(f"{size} MB" for size in sizes), "statuses", "outcome")
    about = part["about"]
    return "\n\n".join(
        [
            BODIES,
            paragraph(
                "Written by `make bench-bodies`; do not edit. CPU for each megabyte of the body, "
                "and the rise of peak memory: the highest of all routes that were tried. Bounds: "
                "60 ms of CPU for a megabyte; memory of 15 times the size or 50 MB. Measured "
                f"{about['when']} at revision {about['revision']}, load average before it "
                f"{about['load_average']}."
            ),
            checks_table(Check(**check) for check in part["checks"]),
            markdown_table(head, rows),
        ]
    )
