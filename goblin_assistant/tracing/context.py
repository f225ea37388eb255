"""Trace context: reads and writes the headers `traceparent` and `tracestate`.

W3C Trace Context, level 1: https://www.w3.org/TR/trace-context-1/

A request has one span here, and each attempt at a provider is a child span. The attempt's span is
the parent that the provider receives.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

SAMPLED = 1
"""The bit of trace-flags that says that the caller samples this trace."""
MAX_STATE = 512
"""Characters of a tracestate that is passed on; the standard asks for at least 512. A longer one is
dropped unread: to check 64 KB would take 5 ms."""

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_KEY = r"(?:[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z0-9][a-z0-9_\-*/]{0,13}|[a-z0-9][a-z0-9_\-*/]{0,255})"
_VALUE = r"[ -+\--<>-~]{0,255}[!-+\--<>-~]"
_MEMBER = re.compile(f"({_KEY})={_VALUE}")
_MOST_MEMBERS = 32
_NO_TRACE = "0" * 32
_NO_SPAN = "0" * 16


def new_trace_id() -> str:
    """A random id of 32 hex digits, never all zeros. os.urandom would release the GIL,
    and an id needs no secrecy."""
    return f"{random.getrandbits(128) or 1:032x}"


def new_span_id() -> str:
    """A random id of 16 hex digits, never all zeros."""
    return f"{random.getrandbits(64) or 1:016x}"


@dataclass(frozen=True, slots=True)
class TraceContext:
    """One request's place in its trace.

    `span_id` is the request's own span. `parent_id` is the caller's, or empty. `sampled` is the
    caller's flag, or was decided by the share. `state` is the tracestate to pass on.
    """

    trace_id: str
    span_id: str
    parent_id: str = ""
    sampled: bool = True
    state: str = ""

    def headers_for(self, span_id: str) -> dict[str, str]:
        """The headers of a request that is sent from the span `span_id`."""
        headers = {"traceparent": f"00-{self.trace_id}-{span_id}-0{int(self.sampled)}"}
        if self.state:
            headers["tracestate"] = self.state
        return headers


def log_ids(correlation_id: str, trace: TraceContext | None) -> dict[str, str]:
    """The log fields that identify a request, for use in any thread."""
    if trace is None:
        return {"correlation_id": correlation_id}
    return {"correlation_id": correlation_id, "trace_id": trace.trace_id}


def context_from(
    parent: str | None, state: str | None = None, *, share: float = 1.0, follow: bool = True
) -> TraceContext:
    """The context of a request with these headers.

    Without a valid traceparent a new trace begins, and the tracestate is dropped. `share` (0 to 1)
    of new traces is sampled. Without `follow`, the caller's flag is ignored and the share decides
    for its traces too.
    """
    if parent is not None and (match := _PARENT.fullmatch(parent)) is not None:
        version, trace_id, parent_id, flags, rest = match.groups()
        # Later versions may append fields; version 00 may not, and ff is invalid.
        known = version != "ff" and (rest is None or version != "00")
        if known and trace_id != _NO_TRACE and parent_id != _NO_SPAN:
            sampled = bool(int(flags, 16) & SAMPLED) if follow else _in_share(trace_id, share)
            kept = "" if state is None else _checked(state)
            return TraceContext(trace_id, new_span_id(), parent_id, sampled, kept)
    trace_id = new_trace_id()
    return TraceContext(trace_id, new_span_id(), sampled=_in_share(trace_id, share))


def _in_share(trace_id: str, share: float) -> bool:
    # By the id's last 64 bits, as OpenTelemetry does: services with the same share agree.
    return share >= 1.0 or int(trace_id[16:], 16) < share * 2**64


def _checked(state: str) -> str:
    """The tracestate, or empty if it is too long or invalid."""
    if len(state) > MAX_STATE:
        return ""
    members = [member for part in state.split(",") if (member := part.strip(" \t"))]
    found = [_MEMBER.fullmatch(member) for member in members]
    keys = {match[1] for match in found if match is not None}
    if len(keys) != len(members) or len(members) > _MOST_MEMBERS:
        return ""
    return ",".join(members)
