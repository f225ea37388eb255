"""Strategies for requests that cost money, and for providers' behaviour with them."""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from tests.support.scripted_server import ABSURD, LIMITS, REPORTS, Script

PNG = base64.b64encode(
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 640, 480) + b"\x08\x06\0\0\0"
).decode()
SIZES = st.sampled_from((0, 1, 7, 90, 4000))
GLYPHS = st.sampled_from((0, 1, 2, 14, 300, 6000, 12_000))
LONG = st.sampled_from((6000, 12_000))
LARGE = st.tuples(st.just("content"), st.sampled_from((300, 6000)))
READS = st.sampled_from((None, None, 0, 1, 2, 4))
MODELS = ("plain/m", "older/m", "newer/m", "claude/m")
FIELDS = st.sampled_from(("content", "reasoning_content", "refusal", "arguments"))
LIMIT = st.sampled_from((None, 1, 3, 40, 2500))
FOREIGN = st.sampled_from((None, None, None, -1, 0, 1, 60, 2.5, "7", "abc", True, [1]))
"""Values of limits that no schema checks."""
LETTERS = ("Max_Tokens", "MAX_COMPLETION_TOKENS", "N_Predict", "Best_Of", "max_to\u212aens")
"""Keys that some servers read as a limit or a number of answers."""


@dataclass
class Case:
    """One call. `reads` is the number of pieces after which the client leaves; None: it stays."""

    body: dict[str, Any]
    dialect: str
    script: Script
    reads: int | None
    waits: bool


@st.composite
def texts(draw: st.DrawFn) -> str:
    """A text; some look like the URL of an image."""
    start = draw(
        st.sampled_from(("", "data:image/png;base64,", "data:application/pdf;base64,", "{"))
    )
    return start + draw(st.sampled_from(("x", "é", "漢"))) * draw(SIZES)


@st.composite
def contents(draw: st.DrawFn, dialect: str) -> Any:
    """A message's content."""
    if draw(st.booleans()):
        return draw(texts())
    parts: list[dict[str, Any]] = [{"type": "text", "text": draw(texts())}]
    if draw(st.booleans()):
        source = {"type": "base64", "media_type": "image/png", "data": PNG}
        openai = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + PNG}}
        parts.append({"type": "image", "source": source} if dialect == "anthropic" else openai)
    return parts


@st.composite
def bodies(draw: st.DrawFn, dialect: str, model: str) -> dict[str, Any]:
    """A request in one dialect, with optional further fields."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": draw(contents(dialect))}],
    }
    if dialect == "anthropic":
        body["max_tokens"] = draw(st.sampled_from((1, 3, 40, 2500)))
        if draw(st.booleans()):
            body["system"] = draw(texts())
        if draw(st.booleans()):
            body["tools"] = [
                {"name": "f", "description": draw(texts()), "input_schema": {"type": "object"}}
            ]
        if model.startswith("claude/"):
            extra = {
                "max_completion_tokens": draw(LIMIT),
                "n": draw(st.sampled_from((None, 2))),
                "documents": draw(texts()),
            }
            body |= {name: value for name, value in extra.items() if value is not None}
        return body | draw(other_letters())
    extra = {
        "max_tokens": draw(LIMIT),
        "max_completion_tokens": draw(LIMIT),
        "n": draw(st.sampled_from((None, 1, 3))),
        "tools": [{"type": "function", "function": {"name": "f", "description": draw(texts())}}],
    }
    if not model.startswith("claude/"):
        more = {
            "n_predict": draw(FOREIGN),
            "max_output_tokens": draw(FOREIGN),
            "max_new_tokens": draw(FOREIGN),
            "best_of": draw(st.sampled_from((None, None, 4))),
            "prediction": {"type": "content", "content": draw(texts())},
            "documents": [{"text": draw(texts())}],
        }
        extra |= {name: value for name, value in more.items() if draw(st.booleans())}
    given = {
        name: value for name, value in extra.items() if value is not None or draw(st.booleans())
    }
    return body | given | draw(other_letters())


@st.composite
def other_letters(draw: st.DrawFn) -> dict[str, Any]:
    """Mostly nothing, else a field in other letters."""
    name = draw(st.sampled_from((None,) * 12 + LETTERS))
    return {} if name is None else {name: 2500}


@st.composite
def general(draw: st.DrawFn, keeps: bool | None) -> Case:
    """Any request and any answer."""
    dialect = draw(st.sampled_from(("openai", "anthropic")))
    model = draw(st.sampled_from(MODELS))
    pieces = draw(st.lists(st.tuples(FIELDS, GLYPHS), max_size=5))
    report = draw(st.sampled_from(REPORTS))
    script = Script(
        pieces,
        report,
        draw(st.sampled_from(ABSURD)) if report == "absurd" else None,
        keeps=draw(st.booleans()) if keeps is None else keeps,
        breaks_at=draw(st.sampled_from((None, None, 0, 1, 3))),
        hidden=draw(st.sampled_from((0.0, 1.0))),
    )
    body = draw(bodies(dialect, model))
    if draw(st.booleans()):
        body["stream"] = True
    return Case(body, dialect, script, draw(READS), draw(st.booleans()))


@st.composite
def one_limit(draw: st.DrawFn, keeps: bool | None) -> Case:
    """A short question with one small limit, often under a name that its row does not read, and a
    long answer."""
    model = draw(st.sampled_from(("plain/m", "plain/m", "older/m", "newer/m")))
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": "x"}],
        draw(st.sampled_from(LIMITS)): draw(st.sampled_from((1, 3, 40))),
    }
    if draw(st.booleans()):
        body["stream"] = True
    script = Script(
        [("content", draw(LONG))],
        draw(st.sampled_from(("honest", "absent"))),
        keeps=draw(st.booleans()) if keeps is None else keeps,
    )
    return Case(body, "openai", script, None, draw(st.booleans()))


@st.composite
def early_count(draw: st.DrawFn, keeps: bool | None) -> Case:
    """A stream that reports a count before most of its text, and often breaks off or is left."""
    dialect = draw(st.sampled_from(("openai", "anthropic")))
    body: dict[str, Any] = {
        "model": draw(st.sampled_from(MODELS)),
        "messages": [{"role": "user", "content": "x"}],
        "max_tokens": 2500,
        "stream": True,
    }
    script = Script(
        [("content", draw(st.sampled_from((1, 14)))), *draw(st.lists(LARGE, min_size=1))],
        draw(st.sampled_from(("early", "before", "stopped", "zeroed"))),
        keeps=draw(st.booleans()) if keeps is None else keeps,
        breaks_at=draw(st.sampled_from((None, 2, 3))),
    )
    return Case(body, dialect, script, draw(READS), draw(st.booleans()))


def cases(*, keeps: bool | None = None) -> st.SearchStrategy[Case]:
    """A request and its answer: half of them any, half of a kind that random ones seldom are."""
    return st.one_of(general(keeps), general(keeps), one_limit(keeps), early_count(keeps))
