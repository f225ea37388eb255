"""Documents, sounds and films in a request: what counts as data, and how many tokens it is.

PDF documents and audio are 2,000 tokens, or a token for 16 characters of base64 if that is more: a
scanned page has about 100 KB and 2,000 tokens. Other files count as text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from goblin_assistant.usage.documents import UNSEEN_TOKENS, Documents

ATTACHMENT_TOKENS = 2000
ATTACHMENT_BYTES_PER_TOKEN = 16

ATTACHMENT_KINDS = frozenset(
    {"file", "document", "input_audio", "input_file", "video_url", "audio_url", "file_url"}
)
_MARKS = frozenset({"type", "media_type", "detail", "format", "filename", "cache_control"})
_DATA_FIELDS = frozenset({"data", "url", "file_data", "file_id", "file_url"})
_FETCHED = frozenset({"url", "file_id", "file_url", "video_url", "audio_url"})
_SOUNDS = frozenset({"input_audio", "audio_url", "video_url"})


class Attachments:
    """Counts the attachments of one request: `tokens` for bills, `most` for reservations."""

    def __init__(self) -> None:
        self.tokens = 0
        self.most = 0
        self._documents = Documents()

    def add(self, part: Mapping[str, Any], kind: str) -> list[Any]:
        """Count the data of a content part by its length. Returns what counts as text."""
        data, most = 0, 0
        texts: list[Any] = []
        for name, value in part.items():
            for key, text in value.items() if type(value) is dict else ((name, value),):
                if key in _DATA_FIELDS and type(text) is str:
                    most += self._most_attached(key, text, kind)
                    if _is_binary(text, kind):
                        data += len(text)
                        continue
                if not is_mark(key, text):
                    texts.append(text)
        tokens = max(ATTACHMENT_TOKENS, -(-data // ATTACHMENT_BYTES_PER_TOKEN))
        self.tokens += tokens
        self.most += max(tokens, most)
        return texts

    def _most_attached(self, name: str, text: str, kind: str) -> int:
        if text.startswith(("http://", "https://")) or (
            name in _FETCHED and not text.startswith("data:")
        ):
            return UNSEEN_TOKENS
        # A sound's length says how long it lasts.
        return 0 if kind in _SOUNDS else self._documents.tokens(text)


def is_mark(name: str, value: Any) -> bool:
    """Whether a field names an image or file or says how to read it: not shown to the model."""
    return name in _MARKS and (
        name == "cache_control" or (isinstance(value, str) and len(value) <= 64)
    )


_BINARY = ("JVBERi0", "data:application/pdf;base64,", "data:audio/", "data:video/", "data:image/")


def _is_binary(text: Any, kind: str) -> bool:
    return isinstance(text, str) and (
        kind in _SOUNDS or text.startswith(_BINARY) or len(text) <= 64
    )
