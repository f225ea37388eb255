"""A text that counts how much of it is copied when something is added to it."""

from __future__ import annotations


class Counted(str):
    """Its sums are counted too, so that a loop of `text += more` shows the square of its size."""

    __slots__ = ()

    copied = 0
    """Characters, of all."""

    def __add__(self, other: str) -> Counted:
        return Counted._made(str.__add__(self, other))

    def __radd__(self, other: str) -> Counted:
        return Counted._made(str.__add__(other, self))

    @classmethod
    def _made(cls, text: str) -> Counted:
        cls.copied += len(text)
        return cls(text)
