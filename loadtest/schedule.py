"""How requests are spread over time. No Locust in here: it patches the standard library when it is imported."""

from __future__ import annotations

import argparse
import math

_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


def multiple_of_rates(text: str) -> float:
    """An option's value: so many times the rates. Raises ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def place(number: int, first: float = 0.0) -> float:
    """Where in the period, from 0 to 1, the user with this number (from 0) has its place. Multiples of the golden ratio
    are spread evenly however many there are; random places would put a tenth more or fewer requests into one second
    than into another."""
    return (first + number * _GOLDEN_RATIO) % 1.0
