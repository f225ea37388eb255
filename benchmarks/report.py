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
    compare_checks,
    markdown_table,
    samples_table,
)

EXPERIMENT_TITLES = {
    "fast_streams": "256 streams, 10 ms between chunks",
    "slow_streams": "500 streams at a model's pace",
    "addresses": "Client addresses in the limiter",
    "flood": "A million addresses pass by",
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
        f"{check.outcome:>12}  {check.what}: {check.measured}  [{check.target}]" for check in checks
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
    both = [("bare", "chat"), ("goblin", "chat"), ("goblin", "chat, API key"), ("litellm", "chat")]
    text = [
        "## Side by side",
        _about(part["about"]),
        "Medians over the rounds, with ranges. Each server is one process on one core.",
    ]
    text += [
        "### POST /v1/chat/completions, answer in one piece",
        samples_table(samples, "chat", both, levels),
    ]
    text += [
        "On `echo`, without an upstream:",
        samples_table(samples, "echo", [("goblin", "echo")], levels),
    ]
    streams = [(name, "stream") for name in ("bare", "goblin", "litellm")]
    text += [
        "### POST /v1/chat/completions, streamed",
        "A stream has 200 events, 10 ms apart. CPU per event includes the cost of the request.",
        samples_table(samples, "stream", streams, levels),
    ]
    health = [(name, "health") for name in ("bare flask", "goblin", "litellm")]
    text += ["### GET /health", samples_table(samples, "health", health, levels)]
    login = [("bare login", "login"), ("goblin", "login")]
    text += ["### POST /auth/login", samples_table(samples, "login", login, levels)]
    figures = part["figures"]
    rows = [
        (
            name,
            ", ".join(f"{value:.2f}" for value in figures["cold_start"].get(name, [])),
            f"{figures['rss_idle'].get(name, 0):.0f}",
            f"{figures['rss'].get(name, 0):.0f}",
        )
        for name in figures["rss"]
    ]
    text += [
        "### Start and memory",
        markdown_table(("server", "cold starts, s", "MB at start", "MB after load"), rows),
    ]
    return [piece for piece in text if piece]


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
