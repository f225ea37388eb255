"""How requests are spread over time.

This module does not import Locust, because that patches the standard library.
"""

from __future__ import annotations

import argparse
import math

_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


def multiple_of_rates(text: str) -> float:
    """Parse an option's value, a multiple of the rates. Raises ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def place(number: int, first: float = 0.0) -> float:
    """The place in the period, from 0 to 1, of the user with this number (from 0).

    Multiples of the golden ratio are spread evenly, however many there are. With random places, the
    number of requests would differ by a tenth between seconds.
    """
    return (first + number * _GOLDEN_RATIO) % 1.0
