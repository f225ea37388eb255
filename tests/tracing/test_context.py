"""traceparent and tracestate, read strictly: whatever is not valid begins a new trace."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goblin_assistant.tracing.context import MAX_STATE, context_from

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
ID = re.compile(r"[0-9a-f]{32}").fullmatch
HEADER = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]").fullmatch


@pytest.mark.parametrize(
    ("parent", "sampled"),
    [
        (PARENT, True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f"00-{TRACE}-{SPAN}-fe", False),
        (f"01-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what.a.later.version.adds", True),
    ],
)
def test_a_valid_traceparent_is_continued(parent: str, sampled: bool) -> None:
    context = context_from(parent)
    assert (context.trace_id, context.parent_id) == (TRACE, SPAN)
    assert context.sampled is sampled
    assert context.span_id != SPAN
    assert context.headers_for("1" * 16) == {
        "traceparent": f"00-{TRACE}-{'1' * 16}-0{int(sampled)}"
    }


@pytest.mark.parametrize(
    "parent",
    [
        None,
        "",
        TRACE,
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN.upper()}-01",
        f"00-{TRACE}-{SPAN}-0F",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-",
        f"00-{TRACE}-{SPAN}-01-more",
        f"01-{TRACE}-{SPAN}-01more",
        f"ff-{TRACE}-{SPAN}-01",
        f"0-{TRACE}-{SPAN}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}0-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00_{TRACE}_{SPAN}_01",
        f" {PARENT}",
        f"{PARENT}\n",
        f"{PARENT},{PARENT}",
        f"{PARENT}, {PARENT}",
        f"00-{TRACE[:-1]}\u0663-{SPAN}-01",
    ],
)
def test_any_other_traceparent_begins_a_new_trace(parent: str | None) -> None:
    context = context_from(parent, "vendor=1")
    assert context.trace_id != TRACE
    assert ID(context.trace_id)
    assert (context.parent_id, context.state, context.sampled) == ("", "", True)


@given(st.text(), st.text())
def test_whatever_comes_in_a_valid_header_goes_out(parent: str, state: str) -> None:
    context = context_from(parent, state)
    assert HEADER(context.headers_for(context.span_id)["traceparent"])
    for value in context_from(PARENT, state).headers_for(SPAN).values():
        assert value.isascii()
        assert value.isprintable()
        assert len(value) <= MAX_STATE


@pytest.mark.parametrize(
    ("state", "kept"),
    [
        ("vendor=1", "vendor=1"),
        ("a=1,b=2", "a=1,b=2"),
        (" a=1 ,\tb=2,", "a=1,b=2"),
        ("tenant@system=x:y;z", "tenant@system=x:y;z"),
        ("a=with spaces inside", "a=with spaces inside"),
        ("", ""),
        (",", ""),
        ("a", ""),
        ("a=", ""),
        ("A=1", ""),
        ("a=1=2", ""),
        ("a=1,a=2", ""),
        ("a=\u00e9", ""),
        ("a=1\r\nX-Evil: 1", ""),
        (",".join(f"k{n}=1" for n in range(33)), ""),
        (",".join(f"k{n}=1" for n in range(32)), ",".join(f"k{n}=1" for n in range(32))),
    ],
)
def test_a_tracestate_that_is_not_valid_is_dropped_alone(state: str, kept: str) -> None:
    context = context_from(PARENT, state)
    assert (context.trace_id, context.state) == (TRACE, kept)


@pytest.mark.parametrize(
    "state",
    [
        ",".join(f"k{number}={'x' * 250}" for number in range(3)),
        "a=1," + " " * 512,
        "a=1," * 16_384,
    ],
)
def test_a_tracestate_that_is_too_long_is_dropped_unread(state: str) -> None:
    context = context_from(PARENT, state)
    assert (context.trace_id, context.state) == (TRACE, "")


def test_a_tracestate_of_the_standards_length_passes() -> None:
    state = f"a={'x' * 250},b={'y' * 256}"
    assert len(state) < MAX_STATE
    assert context_from(PARENT, state).state == state
