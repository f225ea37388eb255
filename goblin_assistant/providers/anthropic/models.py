"""What Anthropic's models accept, as data: limits, thinking, effort, sampling.

`check()` learns limits, thinking and effort from `GET /v1/models`. The rules by version below are
used until then, and for sampling, which the list does not hold. Sources:
https://platform.claude.com/docs/en/about-claude/models/overview (windows, longest answers),
https://platform.claude.com/docs/en/build-with-claude/thinking (4.6 and later think adaptively;
fable, mythos and Opus 5.5 always),
https://platform.claude.com/docs/en/build-with-claude/effort (levels),
https://platform.claude.com/docs/en/api/migration-2026-10-21 (4.7 and later sample at their defaults
only).
Field names as in `anthropic.types.ModelInfo` of the SDK, 2.12.0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from goblin_assistant.providers.base import Model

Thinking = Literal["none", "budget", "adaptive", "always"]
Sampling = Literal["both", "one", "none"]

CAPABILITIES = frozenset({"chat", "vision", "tools"})

ALL_EFFORTS = ("low", "medium", "high", "xhigh", "max")

_VERSION = re.compile(
    r"claude-(?P<line>[a-z]+)-(?P<major>\d{1,2})(?:[-.](?P<minor>\d{1,2})(?!\d))?(?!\d)"
)
_OLD_VERSION = re.compile(r"claude-(?P<major>\d)(?:[-.](?P<minor>\d)(?!\d))?")


@dataclass(frozen=True, slots=True)
class Traits:
    """What one model accepts. `max_tokens` is its longest answer, in tokens.

    thinking: none; budget (`enabled` with a number of tokens); adaptive; always (adaptive, and
    cannot be switched off). sampling: both temperature and top_p; one of them at a time; none (only
    the defaults).
    """

    max_tokens: int
    context_window: int | None
    thinking: Thinking
    sampling: Sampling
    efforts: tuple[str, ...] = ()


FOREIGN = Traits(8192, None, "budget", "both")
"""For models without "claude" in their name, on a server that speaks Anthropic's dialect: what
every such server should accept."""

NEWEST = Traits(128_000, 1_000_000, "adaptive", "none", ALL_EFFORTS)


def traits_of(model: str) -> Traits:
    """The traits by the version in the name, as in `claude-sonnet-4-5-20250929`,
    `claude-3-7-sonnet-latest` or `anthropic.claude-opus-5-v1`."""
    if "claude" not in model:
        return FOREIGN
    found = _VERSION.search(model)
    line = found["line"] if found else ""
    found = found or _OLD_VERSION.search(model)
    if found is None:
        return replace(NEWEST, thinking="always") if "mythos" in model else NEWEST
    version = (int(found["major"]), int(found["minor"] or 0))
    if version < (3, 5):
        return Traits(4096, 200_000, "none", "both")
    if version < (3, 7):
        return Traits(8192, 200_000, "none", "both")
    if version < (4, 6):
        longest = 32_000 if line == "opus" and version < (4, 5) else 64_000
        return Traits(longest, 200_000, "budget", "one" if version >= (4, 1) else "both")
    if version < (4, 7):
        longest = 128_000 if line == "opus" else 64_000
        return Traits(longest, 1_000_000, "adaptive", "one", ("low", "medium", "high", "max"))
    always = line in ("fable", "mythos") or (line == "opus" and version >= (5, 5))
    return replace(NEWEST, thinking="always") if always else NEWEST


def learned(row: Mapping[str, Any]) -> tuple[Model, Traits] | None:
    """The model in one item of `GET /v1/models`; None if it is retired or its id is invalid."""
    name = row.get("id")
    if (
        not isinstance(name, str)
        or not 0 < len(name) <= 200
        or not name.isprintable()
        or row.get("lifecycle") == "retired"
    ):
        return None
    traits = traits_of(name)
    window, longest = row.get("max_input_tokens"), row.get("max_tokens")
    if isinstance(window, int) and window > 0:
        traits = replace(traits, context_window=window)
    if isinstance(longest, int) and longest > 0:
        traits = replace(traits, max_tokens=longest)
    capabilities = row.get("capabilities")
    if isinstance(capabilities, dict):
        kinds = _part(_part(capabilities, "thinking"), "types")
        if kinds:
            traits = replace(traits, thinking=_thinking(kinds))
        efforts = _part(capabilities, "effort")
        if efforts:
            traits = replace(
                traits, efforts=tuple(level for level in ALL_EFFORTS if _supported(efforts, level))
            )
    return Model(name, CAPABILITIES, traits.context_window), traits


def _thinking(kinds: Mapping[str, Any]) -> Thinking:
    if _supported(kinds, "adaptive"):
        return "adaptive" if _supported(kinds, "disabled") else "always"
    return "budget" if _supported(kinds, "enabled") else "none"


def _part(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    inner = value.get(name)
    return inner if isinstance(inner, dict) else {}


def _supported(value: Mapping[str, Any], name: str) -> bool:
    return _part(value, name).get("supported") is True


CATALOGUE: tuple[Model, ...] = tuple(
    Model(name, CAPABILITIES, traits_of(name).context_window)
    for name in (
        "claude-fable-5-2",
        "claude-fable-5-1",
        "claude-fable-5",
        "claude-opus-5-5",
        "claude-opus-5",
        "claude-opus-4-8",
        "claude-opus-4-7",
        "claude-opus-4-6",
        "claude-opus-4-5",
        "claude-opus-4-5-20251101",
        "claude-sonnet-5-5",
        "claude-sonnet-5",
        "claude-sonnet-4-6",
        "claude-sonnet-4-5",
        "claude-sonnet-4-5-20250929",
        "claude-haiku-5-5",
        "claude-haiku-4-5",
        "claude-haiku-4-5-20251001",
    )
)
"""The models that the SDK names (`anthropic.types.Model`) and that are open to everyone. Used until
`check()` has learned the list."""
