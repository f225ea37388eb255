"""Limits on the command line: an option for each, made from the table of limits."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import click

from goblin_assistant.database.key_limits import MAX_COUNT, Limit
from goblin_assistant.money import to_microusd
from goblin_assistant.schemas.limits import USD_PATTERN

NONE = "none"
"""What takes a limit away."""


class Usd(click.ParamType):
    """US dollars with at most six decimals, or `none` where removable. The value: micro-dollars."""

    name = "usd"

    def __init__(self, removable: bool = False) -> None:
        self._removable = removable

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        """Whole micro-dollars, exactly."""
        if isinstance(value, int) or (self._removable and value == NONE):
            return value  # type: ignore[no-any-return]
        if not re.fullmatch(USD_PATTERN, value):
            self.fail(
                f"{value!r} is no amount; accepted: 25 or 12.50, at most six decimals", param, ctx
            )
        return to_microusd(value)


class Count(click.ParamType):
    """A whole number from 1. `none` where removable."""

    name = "number"

    def __init__(self, removable: bool = False) -> None:
        self._removable = removable

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        """The number."""
        if isinstance(value, int) or (self._removable and value == NONE):
            return value  # type: ignore[no-any-return]
        return click.IntRange(1, MAX_COUNT).convert(value, param, ctx)


def limit_options(limits: Sequence[Limit], removable: bool = False) -> list[Callable[[Any], Any]]:
    """A click option for each limit; `removable` accepts `none` as a value."""
    return [
        click.option(
            "--" + limit.api_name.replace("_", "-"),
            limit.name,
            type=Usd(removable) if limit.is_money else Count(removable),
            help=limit.help[0].upper() + limit.help[1:] + ".",
        )
        for limit in limits
    ]


def with_options(options: Sequence[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """A decorator that adds the options to a command, the first one first in its help."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
