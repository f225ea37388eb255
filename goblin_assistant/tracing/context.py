"""The trace that a request belongs to: the headers `traceparent` and `tracestate`.

W3C Trace Context, level 1: https://www.w3.org/TR/trace-context-1/

A request has one span here, and each attempt at a provider is a span below it. The attempt's span
is the parent of what goes to the provider.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

SAMPLED = 1
"""The flag that says that the caller keeps this trace."""
MAX_STATE = 512
"""Characters of a tracestate that is passed on, as many as the standard asks for. A longer one is
not read: 64 KB would take 5 ms."""

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_KEY = r"(?:[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z0-9][a-z0-9_\-*/]{0,13}|[a-z0-9][a-z0-9_\-*/]{0,255})"
_VALUE = r"[ -+\--<>-~]{0,255}[!-+\--<>-~]"
_MEMBER = re.compile(f"({_KEY})={_VALUE}")
_MOST_MEMBERS = 32
_NO_TRACE = "0" * 32
_NO_SPAN = "0" * 16


def new_trace_id() -> str:
    """A random id of 32 hex digits, never all zeros. Not from os.urandom, which releases the
    GIL: an id is no secret."""
    return f"{random.getrandbits(128) or 1:032x}"


def new_span_id() -> str:
    """A random id of 16 hex digits, never all zeros."""
    return f"{random.getrandbits(64) or 1:016x}"


@dataclass(frozen=True, slots=True)
class TraceContext:
    """One request's place in its trace.

    `span_id` is the request's own span. `parent_id` is the caller's, or empty. `sampled` is what
    the caller said, or what the share decided. `state` is the tracestate to pass on.
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
    """The fields of a log line that tie it to a request, from any thread."""
    if trace is None:
        return {"correlation_id": correlation_id}
    return {"correlation_id": correlation_id, "trace_id": trace.trace_id}


def context_from(
    parent: str | None, state: str | None = None, *, share: float = 1.0, follow: bool = True
) -> TraceContext:
    """The context of a request with these headers. A traceparent that is missing or not valid
    begins a new trace, and its tracestate is dropped.

    `share` of the new traces is sampled, from 0 to 1. Without `follow` the caller's flag does not
    count, and its traces are sampled by their share too.
    """
    if parent is not None and (match := _PARENT.fullmatch(parent)) is not None:
        version, trace_id, parent_id, flags, rest = match.groups()
        # A later version may add to the end; version 0 has none, and 255 is not allowed.
        known = version != "ff" and (rest is None or version != "00")
        if known and trace_id != _NO_TRACE and parent_id != _NO_SPAN:
            sampled = bool(int(flags, 16) & SAMPLED) if follow else _in_share(trace_id, share)
            kept = "" if state is None else _checked(state)
            return TraceContext(trace_id, new_span_id(), parent_id, sampled, kept)
    trace_id = new_trace_id()
    return TraceContext(trace_id, new_span_id(), sampled=_in_share(trace_id, share))


def _in_share(trace_id: str, share: float) -> bool:
    # By the id's last 64 bits, as OpenTelemetry's samplers: services with one share agree.
    return share >= 1.0 or int(trace_id[16:], 16) < share * 2**64


def _checked(state: str) -> str:
    """A tracestate, or empty for one that is too long or not valid."""
    if len(state) > MAX_STATE:
        return ""
    members = [member for part in state.split(",") if (member := part.strip(" \t"))]
    found = [_MEMBER.fullmatch(member) for member in members]
    keys = {match[1] for match in found if match is not None}
    if len(keys) != len(members) or len(members) > _MOST_MEMBERS:
        return ""
    return ",".join(members)
