"""The targets of the comparison, and whether they are met. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.results import Check, Sample, Spread, at_least, at_most, inverse, ratio
from benchmarks.rows import KEY, LIMITED, TOKEN

BARE, HTTP_CLIENT, LITELLM = ("bare", TOKEN), ("bare http.client", TOKEN), ("litellm", TOKEN)

CHATS = (
    # what, ours, baseline, its name, bound, stretch
    ("chat by API key", KEY, BARE, "the bare urllib3 function", 2.1, 1.6),
    ("chat by API key", KEY, HTTP_CLIENT, "the bare http.client function", 3.0, 2.3),
    ("chat by a key with budget and limits", LIMITED, BARE, "the bare urllib3 function", 2.6, 2.2),
)

STREAM_CONCURRENCIES = (32, 128)
"""With 10 ms between events, 32 streams leave the core mostly idle, so each event wakes a thread.

128 streams keep it busy.
"""


def compare_checks(samples: Sequence[Sample], figures: Mapping[str, Any]) -> list[Check]:
    """The checks of the comparison.

    `figures` are cold starts in seconds and resident memory in MB, by server.
    """
    checks = [
        at_most(
            f"{what}, concurrency 32: CPU per request, times {name}",
            ratio(samples, ("goblin", kind), baseline, 32),
            bound,
            "x",
            stretch,
        )
        for what, kind, baseline, name, bound, stretch in CHATS
    ]
    checks.append(
        at_least(
            "chat by API key, concurrency 32: LiteLLM's CPU per request, times ours",
            inverse(ratio(samples, ("goblin", KEY), LITELLM, 32)),
            12.0,
            "x",
            20.0,
        )
    )
    added = ratio(samples, ("goblin", KEY), BARE, 1, lambda a, b: a.p50 - b.p50)
    checks.append(at_most("chat, concurrency 1: p50 above the bare function", added, 1.0, " ms"))
    ours = ("goblin", "stream")
    for level in STREAM_CONCURRENCIES:
        over_bare = ratio(samples, ours, ("bare", "stream"), level)
        what = f"stream, concurrency {level}: CPU per event, times the bare urllib3 function"
        checks.append(at_most(what, over_bare, 1.15, "x"))
    under = inverse(ratio(samples, ours, ("litellm", "stream"), 32))
    what = "stream, concurrency 32: LiteLLM's CPU per event, times ours"
    checks.append(at_least(what, under, 12.0, "x", 20.0))
    health = ratio(samples, ("goblin", "health"), ("bare flask", "health"), 32)
    what = "GET /health, concurrency 32: CPU, times a bare Flask view"
    checks.append(at_most(what, health, 2.5, "x"))
    return checks + _process_checks(figures)


def _process_checks(figures: Mapping[str, Any]) -> list[Check]:
    starts = figures.get("cold_start", {})
    pairs = list(zip(starts.get("goblin", []), starts.get("bare flask", []), strict=False))
    times = Spread.of(ours / flask for ours, flask in pairs) if pairs else None
    memory = figures.get("rss", {}).get("goblin")
    return [
        at_most("cold start, times a bare Flask view's", times, 4.0, "x"),
        at_most(
            "resident memory after load",
            Spread.of([memory]) if memory else None,
            100.0,
            " MB",
            digits=0,
        ),
    ]
