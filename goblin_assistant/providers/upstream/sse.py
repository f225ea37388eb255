"""Server-sent events as blocks of bytes. A block is one or more whole events, as they came.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream. An
event ends with an empty line. Lines end with LF or CRLF; the lone CR that the standard allows too
is not looked for, because no known provider sends it.
"""

from __future__ import annotations

import re

from goblin_assistant.schemas import json_bounds

MAX_EVENT_BYTES = 16 * 1024 * 1024
BOM = b"\xef\xbb\xbf"
"""A stream may begin with one, which is not part of its first event."""
_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")


class EventTooLarge(Exception):
    """One event is larger than MAX_EVENT_BYTES."""


def _boundary(data: bytes) -> int:
    """Where the last whole event in `data` ends; 0 if none does. CRLF CRLF is found by its last
    three bytes."""
    lf = data.rfind(b"\n\n")
    crlf = data.rfind(b"\n\r\n")
    if lf < 0 and crlf < 0:
        return 0
    return lf + 2 if lf > crlf else crlf + 3


class EventBuffer:
    """Collects the reads of a stream into whole events, however they were split."""

    __slots__ = ("_held", "_size", "_tail")

    def __init__(self) -> None:
        # Parts of the incomplete event. They are joined once: repeated joining would cost the
        # square of a huge event's size.
        self._held: list[bytes] = []
        self._size = 0
        self._tail = b""  # the last bytes held: a boundary may lie across two reads

    def feed(self, data: bytes) -> bytes:
        """The whole events that are complete with `data`; b"" if none. Raises EventTooLarge."""
        if not self._held:
            if data.endswith(b"\n\n"):  # what almost every read looks like
                return data
            end = _boundary(data)
            if end == len(data):
                return data
            self._hold(data[end:])
            return data[:end]
        end = _boundary(self._tail + data) - len(self._tail)
        if end <= 0:
            # A boundary within the tail alone was found when the tail was read.
            self._hold(data)
            return b""
        self._held.append(data[:end])
        block = b"".join(self._held)
        self._held.clear()
        self._size, self._tail = 0, b""
        if end < len(data):
            self._hold(data[end:])
        return block

    def _hold(self, data: bytes) -> None:
        self._held.append(data)
        self._size += len(data)
        if self._size > MAX_EVENT_BYTES:
            raise EventTooLarge
        self._tail = data[-2:] if len(data) > 1 else (self._tail + data)[-2:]

    def rest(self) -> bytes:
        """The last event of an ended stream, if it lacks only its empty line; else b"".

        The standard drops such an event, but some servers end with one. Half a line is never passed
        on: a last line without its end has to be a whole JSON object.
        """
        data = b"".join(self._held)
        self._held.clear()
        if not data.strip():
            return b""
        if data.strip() in (b"data: [DONE]", b"data:[DONE]"):
            return b"data: [DONE]\n\n"
        if data.endswith(b"\n"):
            return data + b"\n"
        return data + b"\n\n" if _is_object(data.rpartition(b"\n")[2]) else b""


def _is_object(line: bytes) -> bool:
    if not line.startswith(b"data:") or not line.rstrip().endswith(b"}"):
        return False
    try:
        return isinstance(json_bounds.loads(line[5:]), dict)
    except ValueError:
        return False


def looks_like_events(first: bytes) -> bool | None:
    """Whether a body that begins so is an event stream; None: that is too little to tell."""
    text = first.removeprefix(BOM).lstrip()
    if text.startswith(_FIELDS):
        return True
    if BOM.startswith(first) or any(field.startswith(text) for field in _FIELDS):
        return None
    return False


def looks_like_a_document(first: bytes) -> bool:
    """Whether a body that begins so is JSON or HTML, or empty."""
    return first.removeprefix(BOM).lstrip()[:1] in (b"", b"{", b"[", b"<")


_EVENT = re.compile(rb".*?(?:\r\n\r\n|\n\n|\r\r)|.+\Z", re.DOTALL)


def single_events(block: bytes) -> list[bytes]:
    """The events of a block, each with the empty line that ends it."""
    return _EVENT.findall(block)


def split_events(block: bytes) -> list[bytes]:
    """The events of a block without the empty lines between them. Their lines end with LF."""
    return [event for event in block.replace(b"\r\n", b"\n").split(b"\n\n") if event.strip(b"\n")]


def event_data(event: bytes) -> bytes | None:
    """The data of one event of `split_events`; None if it has none, as a comment.

    The standard joins several `data:` lines with LF.
    """
    lines = [line[5:] for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def ends_as_objects(block: bytes) -> bool:
    """Whether every event of a block ends with a closing brace."""
    return (
        block.endswith((b"}\n\n", b"}\r\n\r\n"))
        and block.count(b"\n\n") == block.count(b"}\n\n")
        and block.count(b"\r\n\r\n") == block.count(b"}\r\n\r\n")
    )


def without_first_comments(block: bytes) -> bytes:
    """A block without the comments at its beginning."""
    if not block.startswith(b":"):
        return block
    events = single_events(block)
    while len(events) > 1 and is_comment(events[0]):
        del events[0]
    return b"".join(events)


def is_comment(block: bytes) -> bool:
    """Whether a block is only comments. Some servers send these before the first token."""
    return (
        block.lstrip(b"\r\n")[:1] in (b":", b"")
        and b"\ndata" not in block
        and b"\nevent" not in block
    )
