"""Turns samples into figures, ratios and a verdict on the targets. Pure: no process, no clock.

Machines are noisy, so figures are never compared across runs. A ratio is taken within each round,
between samples that followed each other. The median over the rounds counts; the range is shown
beside it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Outcome = Literal["met", "stretch met", "MISSED", "not measured"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement of one server.

    CPU in microseconds of user and system time per request (kind "stream": per event); times in
    milliseconds.
    """

    server: str
    kind: str
    concurrency: int
    round: int
    cpu_us: float
    rate: float
    p50: float
    p95: float
    first_p50: float = 0.0


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with its range."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """The spread of at least one value."""
        ordered = sorted(values)
        return cls(statistics.median(ordered), ordered[0], ordered[-1])

    def text(self, digits: int = 0) -> str:
        """As text: `606 (590-640)`."""
        if self.low == self.high:
            return f"{self.median:.{digits}f}"
        return f"{self.median:.{digits}f} ({self.low:.{digits}f}-{self.high:.{digits}f})"


def select(samples: Iterable[Sample], server: str, kind: str, concurrency: int) -> list[Sample]:
    """The rounds of one measurement, in order."""
    found = [s for s in samples if (s.server, s.kind, s.concurrency) == (server, kind, concurrency)]
    return sorted(found, key=lambda sample: sample.round)


def spread(
    samples: Iterable[Sample],
    server: str,
    kind: str,
    concurrency: int,
    figure: Callable[[Sample], float],
) -> Spread | None:
    """Median and range of a figure; None where nothing was measured."""
    found = select(samples, server, kind, concurrency)
    return Spread.of(figure(sample) for sample in found) if found else None


def ratio(
    samples: Sequence[Sample],
    above: tuple[str, str],
    below: tuple[str, str],
    concurrency: int,
    combine: Callable[[Sample, Sample], float] = lambda a, b: a.cpu_us / b.cpu_us,
) -> Spread | None:
    """Compare two (server, kind) round by round; None without a round that has both."""
    lower = {sample.round: sample for sample in select(samples, *below, concurrency)}
    pairs = [
        (sample, lower[sample.round])
        for sample in select(samples, *above, concurrency)
        if sample.round in lower
    ]
    return Spread.of(combine(a, b) for a, b in pairs) if pairs else None


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the verdict."""

    what: str
    measured: str
    target: str
    outcome: Outcome


def at_most(
    what: str,
    value: Spread | None,
    bound: float,
    unit: str = "",
    stretch: float | None = None,
    digits: int = 2,
) -> Check:
    """Check that `value` is at most `bound`."""
    target = f"<= {bound:g}{unit}" + (
        f" (stretch {stretch:g}{unit})" if stretch is not None else ""
    )
    if value is None:
        return Check(what, "-", target, "not measured")
    outcome: Outcome = "met" if value.median <= bound else "MISSED"
    if stretch is not None and value.median <= stretch:
        outcome = "stretch met"
    return Check(what, value.text(digits) + unit, target, outcome)


def at_least(
    what: str,
    value: Spread | None,
    bound: float,
    unit: str = "",
    stretch: float | None = None,
    digits: int = 1,
) -> Check:
    """Check that `value` is at least `bound`."""
    target = f">= {bound:g}{unit}" + (
        f" (stretch {stretch:g}{unit})" if stretch is not None else ""
    )
    if value is None:
        return Check(what, "-", target, "not measured")
    outcome: Outcome = "met" if value.median >= bound else "MISSED"
    if stretch is not None and value.median >= stretch:
        outcome = "stretch met"
    return Check(what, value.text(digits) + unit, target, outcome)


def inverse(value: Spread | None) -> Spread | None:
    """1/x, for "times less"."""
    return None if value is None else Spread(1 / value.median, 1 / value.high, 1 / value.low)


STREAM_CONCURRENCIES = (32, 128)
"""With 10 ms between events, 32 streams leave the core mostly idle, so each event wakes a thread.

128 streams keep it busy.
"""


def compare_checks(samples: Sequence[Sample], figures: Mapping[str, Any]) -> list[Check]:
    """The checks of the comparison.

    `figures` are cold starts in seconds and resident memory in MB, by server.
    """
    checks = []
    for kind in ("chat", "chat, API key"):
        over_bare = ratio(samples, ("goblin", kind), ("bare", "chat"), 32)
        under = inverse(ratio(samples, ("goblin", kind), ("litellm", "chat"), 32))
        checks.append(
            at_most(
                f"{kind}, concurrency 32: CPU per request, times the bare function",
                over_bare,
                2.0,
                "x",
                1.5,
            )
        )
        checks.append(
            at_least(
                f"{kind}, concurrency 32: LiteLLM's CPU per request, times ours",
                under,
                9.0,
                "x",
                15.0,
            )
        )
    added = ratio(samples, ("goblin", "chat"), ("bare", "chat"), 1, lambda a, b: a.p50 - b.p50)
    checks.append(at_most("chat, concurrency 1: p50 above the bare function", added, 1.0, " ms"))
    for concurrency in STREAM_CONCURRENCIES:
        checks.append(
            at_most(f"stream, concurrency {concurrency}: CPU per event, times the bare function",
                    ratio(samples, ("goblin", "stream"), ("bare", "stream"), concurrency), 1.3, "x")
        )  # fmt: skip
        checks.append(
            at_least(f"stream, concurrency {concurrency}: LiteLLM's CPU per event, times ours",
                     inverse(
                         ratio(samples, ("goblin", "stream"), ("litellm", "stream"), concurrency)
                     ), 12.0, "x")
        )  # fmt: skip
    checks.append(
        at_most("GET /health, concurrency 32: CPU, times a bare Flask view",
                ratio(samples, ("goblin", "health"), ("bare flask", "health"), 32), 2.5, "x")
    )  # fmt: skip
    starts = figures.get("cold_start", {}).get("goblin")
    checks.append(at_most("cold start", Spread.of(starts) if starts else None, 1.0, " s"))
    memory = figures.get("rss", {}).get("goblin")
    checks.append(
        at_most(
            "resident memory after load",
            Spread.of([memory]) if memory else None,
            90.0,
            " MB",
            digits=0,
        )
    )
    return checks


def as_dicts(samples: Iterable[Sample]) -> list[dict[str, Any]]:
    """As dictionaries for a JSON file."""
    return [asdict(sample) for sample in samples]


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is aligned left, the others right."""
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def checks_table(checks: Iterable[Check]) -> str:
    """The verdict as Markdown."""
    rows = [
        (c.what, c.measured, c.target, f"**{c.outcome}**" if c.outcome == "MISSED" else c.outcome)
        for c in checks
    ]
    return markdown_table(("what", "measured", "target", "outcome"), rows)


def samples_table(
    samples: Sequence[Sample],
    kind: str,
    servers: Sequence[tuple[str, str]],
    concurrencies: Sequence[int],
) -> str:
    """One kind of request: one row per server and concurrency. `servers` are (server, kind)."""
    rows = []
    unit = "event" if kind == "stream" else "request"
    for concurrency in concurrencies:
        for server, its_kind in servers:
            cpu = spread(samples, server, its_kind, concurrency, lambda s: s.cpu_us)
            if cpu is None:
                continue
            others = [
                spread(samples, server, its_kind, concurrency, figure)
                for figure in (
                    lambda s: s.rate,
                    lambda s: s.first_p50 if kind == "stream" else s.p50,
                    lambda s: s.p95,
                )
            ]
            label = server if its_kind == kind else f"{server} ({its_kind})"
            texts = [
                value.text(digits) if value else "-"
                for value, digits in zip(others, (0, 2, 2), strict=True)
            ]
            rows.append((f"{concurrency}", label, cpu.text(), *texts))
    p50 = "first event p50 ms" if kind == "stream" else "p50 ms"
    return markdown_table(
        ("concurrency", "server", f"CPU us per {unit}", f"{unit}s/s", p50, "p95 ms"), rows
    )
