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
    """One line of the verdict.

    `within_noise`: the target lies within the range of the rounds, so another run may judge
    otherwise.
    """

    what: str
    measured: str
    target: str
    outcome: Outcome
    within_noise: bool = False

    @property
    def said(self) -> str:
        """The outcome for a reader."""
        return self.outcome + (", within the run's noise" if self.within_noise else "")


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
    judged_by = stretch if stretch is not None and outcome == "stretch met" else bound
    return Check(what, value.text(digits) + unit, target, outcome, _spans(value, judged_by))


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
    judged_by = stretch if stretch is not None and outcome == "stretch met" else bound
    return Check(what, value.text(digits) + unit, target, outcome, _spans(value, judged_by))


def _spans(value: Spread, bound: float) -> bool:
    return value.low < bound < value.high


FLAT_PERCENT = 20.0
"""How much a flat figure may grow: fixed, because a bound that grows with the noise forgives it."""


def flat(what: str, spreads: Mapping[str, Spread]) -> Check:
    """Check that no point's median is more than FLAT_PERCENT above that of an earlier point.

    A growth that is less than the widest range of a single point is within the run's noise.
    """
    medians = [spread.median for spread in spreads.values()]
    grown = 100 * max(
        (later / earlier - 1 for n, earlier in enumerate(medians) for later in medians[n + 1 :]),
        default=0.0,
    )
    noise = 100 * max((s.high - s.low) / s.median for s in spreads.values())
    shown = ", ".join(f"{name}: {spread.text()} us" for name, spread in spreads.items())
    return Check(
        what,
        f"{grown:+.1f} % at most ({shown})",
        f"flat: <= {FLAT_PERCENT:g} % between any two points",
        "met" if grown <= FLAT_PERCENT else "MISSED",
        within_noise=abs(grown) < noise,
    )


def inverse(value: Spread | None) -> Spread | None:
    """1/x, for "times less"."""
    return None if value is None else Spread(1 / value.median, 1 / value.high, 1 / value.low)


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
        (c.what, c.measured, c.target, f"**{c.said}**" if c.outcome == "MISSED" else c.said)
        for c in checks
    ]
    return markdown_table(("what", "measured", "target", "outcome"), rows)


def samples_table(
    samples: Sequence[Sample],
    servers: Sequence[tuple[str, str]],
    concurrencies: Sequence[int],
    *,
    baseline: tuple[str, str] | None = None,
    unit: str = "request",
) -> str:
    """One row per (server, kind) and concurrency. With a baseline: how many times its CPU."""
    rows = []
    for concurrency in concurrencies:
        for server, kind in servers:
            cpu = spread(samples, server, kind, concurrency, lambda s: s.cpu_us)
            if cpu is None:
                continue
            others = [
                spread(samples, server, kind, concurrency, figure)
                for figure in (
                    lambda s: s.rate,
                    lambda s: s.first_p50 if unit == "event" else s.p50,
                    lambda s: s.p95,
                )
            ]
            texts = [
                value.text(digits) if value else "-"
                for value, digits in zip(others, (0, 2, 2), strict=True)
            ]
            if baseline is not None:
                times = ratio(samples, (server, kind), baseline, concurrency)
                texts.insert(0, times.text(2) if times else "-")
            label = f"{server} ({kind.partition(', ')[2]})" if ", " in kind else server
            rows.append((f"{concurrency}", label, cpu.text(), *texts))
    times_head = () if baseline is None else (f"times {baseline[0]}",)
    p50 = "first event p50 ms" if unit == "event" else "p50 ms"
    return markdown_table(
        ("concurrency", "server", f"CPU us per {unit}", *times_head, f"{unit}s/s", p50, "p95 ms"),
        rows,
    )
