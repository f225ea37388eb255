"""What a region costs beside the list price. Data, no code; `usage/` reads it.

Sources: https://platform.claude.com/docs/en/build-with-claude/data-residency,
https://developers.openai.com/api/docs/guides/data-residency,
https://docs.together.ai/docs/serverless/geo-specific-inference (read on 2026-11-27).
"""

from __future__ import annotations

from dataclasses import dataclass

REGION_PERCENT = {"us": 110}
"""What a region that an answer reports costs, in percent of the list price. Anthropic: 1.1 for
every kind of token, only where `inference_geo` is `us`."""


@dataclass(frozen=True, slots=True)
class RegionalAddress:
    """Hosts with prices of their own: regular expressions of the host and of the models that cost
    `percent` of the list price there."""

    host: str
    models: str
    percent: int


REGIONAL_ADDRESSES = (
    RegionalAddress(r"[a-z]{2}\.api\.openai\.com", r"gpt-(5\.([4-9]|\d\d)|[6-9]|\d\d)", 110),
    RegionalAddress(r"(us|ca)-api\.together\.(ai|xyz)", r".*", 125),
)
"""OpenAI's data residency: models from 2026-03-05 on, which gpt-5.4 began. Together: 1.25 times."""
