"""Durations on the command line: 90d, 12h, 30m, 45s."""

from __future__ import annotations

import re
from typing import Any

import click

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_LONGEST = 36_500 * 86_400


class Duration(click.ParamType):
    """A whole number and a unit (s, m, h, d, w); the value is in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Seconds. A number without a unit is refused as ambiguous."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"([0-9]{1,9})([smhdw])", value.strip())
        if found is None:
            self.fail(f"{value!r} is no duration; accepted: 90d, 12h, 30m, 45s", param, ctx)
        seconds = int(found.group(1)) * _SECONDS[found.group(2)]
        if seconds > _LONGEST:
            self.fail(f"{value!r} is longer than a hundred years", param, ctx)
        return seconds
