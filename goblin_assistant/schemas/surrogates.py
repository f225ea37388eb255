"""Joins surrogate pairs that a stream has cut: one half at the end of a text, the other half at the
beginning of the next. RFC 8259, section 8.2, allows halves in JSON, and UTF-8 has none."""

from __future__ import annotations

from itertools import pairwise


class PairJoiner:
    """The texts of one stream, one after the other."""

    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held = ""
        """A first half that waits for its second."""

    def join(self, text: str) -> str:
        """The text without a first half at its end, which the next text gets."""
        if not self.held and not _is_first(text[-1:]):
            return text
        text, self.held = self.held + text, ""
        if _is_first(text[-1:]):
            text, self.held = text[:-1], text[-1]
        if any(_is_first(one) and "\udc00" <= two <= "\udfff" for one, two in pairwise(text)):
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        return text

    def rest(self) -> str:
        """The half whose other half did not come."""
        held, self.held = self.held, ""
        return held


def _is_first(letter: str) -> bool:
    return "\ud800" <= letter <= "\udbff"
