"""Money: whole micro-dollars inside, US dollars as decimal strings outside."""

from __future__ import annotations

from decimal import Decimal


def to_microusd(amount: str) -> int:
    """Whole micro-dollars of US dollars as a decimal string. Further decimals are cut off."""
    return int(Decimal(amount).scaleb(6))


def from_microusd(amount: int) -> str:
    """US dollars as a decimal string: `12.50`, `0.000023`."""
    cents, rest = divmod(amount, 10_000)
    return f"{cents // 100}.{cents % 100:02d}" + f"{rest:04d}".rstrip("0")
