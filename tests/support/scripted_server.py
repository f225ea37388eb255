"""A provider's server that knows the true cost of each call: it counts its output and its reports.

By its script it keeps to the limit of the request or not, reports usage honestly, early, late,
absurdly or never, and breaks off. It speaks OpenAI's and Anthropic's dialects. In place of an
UpstreamClient it needs no socket; `tests/usage/test_money_http.py` puts it behind one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

TOKEN = 4
"""Bytes of text in a token."""
GLYPH = "漢"
"""The glyph of all texts: three bytes in UTF-8."""
LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens", "n_predict")

ABSURD: tuple[Any, ...] = (
    {"prompt_tokens": -5, "completion_tokens": -5},
    {"prompt_tokens": 0, "completion_tokens": 0},
    {"prompt_tokens": 2**40, "completion_tokens": 2**40},
    {"prompt_tokens": 2**39, "completion_tokens": 2**39},
    {"prompt_tokens": 1, "completion_tokens": 30_000_000},
    {"prompt_tokens": "12", "completion_tokens": "7"},
    {"prompt_tokens": True, "completion_tokens": False},
    {"prompt_tokens": None, "completion_tokens": None},
    {"prompt_tokens": 0.5, "completion_tokens": 1e300},
    {"completion_tokens": []},
    "none",
    [],
)

Report = Literal["honest", "absent", "every", "early", "absurd", "before", "stopped", "zeroed"]
"""`before`: a closing count before the text. `stopped`: a finish reason and a count after the first
piece. `zeroed`: an early count, and 0 at the end."""
REPORTS: tuple[Report, ...] = get_args(Report)
UNLIMITED = 10_000
"""Tokens each that a server may write without a limit in the one field that it reads."""


@dataclass
class Script:
    """The script of the next call.

    `pieces` are (field, number of glyphs). The stream breaks off before the piece `breaks_at`.
    `hidden` is the share of the limit that is generated and not shown.
    """

    pieces: list[tuple[str, int]]
    report: Report = "honest"
    absurd: Any = None
    keeps: bool = True
    breaks_at: int | None = None
    hidden: float = 0.0


@dataclass
class Truth:
    """The tokens of one call. `at_limit` is the highest number that the limit sent allows."""

    prompt: int = 0
    reported_prompt: int = 0
    reported: int = 0
    delivered: int = 0
    limit: int = 0
    sent: dict[str, Any] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """The prompt, and the larger of the last report and a quarter of the bytes delivered.

        Nothing for a call that broke off before it reported or sent anything.
        """
        if not (self.delivered or self.reported_prompt):
            return 0
        return max(self.prompt, self.reported_prompt) + max(
            self.reported, -(-self.delivered // TOKEN)
        )

    @property
    def excess(self) -> int:
        """Tokens beyond the limit that was sent."""
        return max(0, self.tokens - self.prompt - self.limit)


def prompt_of(value: Any) -> int:
    """Bytes of a request's text that a model reads: all but settings. An image counts as one."""
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, list):
        return sum(map(prompt_of, value))
    if not isinstance(value, dict):
        return 0
    if value.get("type") in ("image_url", "image") and ("image_url" in value or "source" in value):
        return 1600 * TOKEN
    return sum(
        prompt_of(inner) for key, inner in value.items() if key not in ("model", "type", "role")
    )


class ScriptedServer:
    """Answers by its scripts, in order."""

    def __init__(self) -> None:
        self.scripts: list[Script] = []
        self.truths: list[Truth] = []
        self.anthropic = False
        self.reads = "max_tokens"

    # -- what UpstreamClient offers ------------------------------------------------------------
    def post(self, path: str, body: bytes, call: Any = None, **_: Any) -> bytes:
        """A whole answer."""
        script, truth = self._begin(body)
        pieces = self._fit(script, truth)
        truth.delivered = sum(3 * size for _, size in pieces)
        answer = self._whole(pieces)
        usage = self._usage(script, truth, last=True)
        if usage is not None:
            answer["usage"] = usage
        return json.dumps(answer, ensure_ascii=False).encode()

    def post_sse(self, path: str, body: bytes, call: Any = None, **_: Any) -> Events:
        """A streamed one."""
        script, truth = self._begin(body)
        return Events(self._stream(script, truth))

    def close(self) -> None:
        """Nothing to close."""

    # -- the call --------------------------------------------------------------------------------
    def _begin(self, body: bytes) -> tuple[Script, Truth]:
        sent = json.loads(body)
        named = [name for name in LIMITS if sent.get(name) is not None]
        assert len(named) == 1, f"one limit is sent, not {named}"
        # As servers in Go read it: in any letters, the last of several.
        read = {name.casefold(): value for name, value in sent.items()}
        each = read.get(self.reads)
        if each is None:  # other names are ignored
            each = UNLIMITED
        assert type(each) is int, each
        answers = max(read.get("n") or 1, read.get("best_of") or 1)
        truth = Truth(-(-prompt_of(sent) // TOKEN), limit=each * answers, sent=sent)
        self.truths.append(truth)
        return self.scripts.pop(0), truth

    def _fit(self, script: Script, truth: Truth) -> list[tuple[str, int]]:
        if not script.keeps:
            return script.pieces
        left = truth.limit * TOKEN // 3
        fitting = []
        for kind, size in script.pieces:
            fitting.append((kind, min(size, left)))
            left -= fitting[-1][1]
        return fitting

    def _usage(self, script: Script, truth: Truth, *, last: bool) -> Any:
        if script.report == "absent" or (script.report == "honest" and not last):
            return None
        if script.report == "absurd":
            return self._named(script.absurd) if last else None
        if script.report in ("before", "stopped"):
            return None
        if script.report == "zeroed" and last:
            return self._named({"prompt_tokens": truth.prompt, "completion_tokens": 0})
        if script.report in ("early", "zeroed") and truth.reported:
            return None
        return self._count(script, truth, last=last)

    def _count(self, script: Script, truth: Truth, *, last: bool) -> Any:
        most = truth.limit if script.keeps else truth.limit * 2
        hidden = int(most * script.hidden) // (1 if last else 2)
        truth.reported = max(-(-truth.delivered // TOKEN), hidden)
        truth.reported_prompt = truth.prompt
        return self._named({"prompt_tokens": truth.prompt, "completion_tokens": truth.reported})

    def _named(self, usage: Any) -> Any:
        if not self.anthropic or not isinstance(usage, dict):
            return usage
        names = {"prompt_tokens": "input_tokens", "completion_tokens": "output_tokens"}
        return {names[name]: value for name, value in usage.items()}

    def _stream(self, script: Script, truth: Truth) -> Iterator[bytes]:
        pieces = self._fit(script, truth)
        if self.anthropic:
            usage = self._usage(script, truth, last=False)
            message = {
                "id": "m",
                "type": "message",
                "role": "assistant",
                "model": "m",
                "content": [],
            }
            yield _event({"type": "message_start", "message": {**message, "usage": usage}})
            yield _event(
                {
                    "type": "content_block_start",
                    "index": 0,
                    "content_block": {"type": "text", "text": ""},
                }
            )
            tool = {"type": "tool_use", "id": "t", "name": "", "input": {}}
            yield _event({"type": "content_block_start", "index": 1, "content_block": tool})
        if script.report == "before":
            yield self._closing(self._count(script, truth, last=False))
        for at, (kind, size) in enumerate(pieces):
            if script.breaks_at == at:
                return
            truth.delivered += 3 * size
            yield self._piece(kind, GLYPH * size, self._usage(script, truth, last=False))
            if script.report == "stopped" and at == 0:
                yield self._closing(self._count(script, truth, last=False), "stop")
        if self.anthropic:
            usage = self._usage(script, truth, last=True)
            yield _event(
                {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}
            )
            yield _event({"type": "message_stop"})
            return
        yield _event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if (usage := self._usage(script, truth, last=True)) is not None:
            yield _event({"choices": [], "usage": usage})
        yield b"data: [DONE]\n\n"

    def _closing(self, usage: Any, reason: str | None = None) -> bytes:
        if self.anthropic:
            delta = {"stop_reason": "end_turn"}
            return _event({"type": "message_delta", "delta": delta, "usage": usage})
        choice = {"index": 0, "delta": {}, "finish_reason": reason}
        return _event({"choices": [choice] if reason else [], "usage": usage})

    def _piece(self, kind: str, text: str, usage: Any) -> bytes:
        if self.anthropic:
            names = {
                "content": "text",
                "reasoning_content": "thinking",
                "arguments": "partial_json",
                "refusal": "text",
            }
            forms = {
                "text": "text_delta",
                "thinking": "thinking_delta",
                "partial_json": "input_json_delta",
            }
            name = names[kind]
            index = 1 if kind == "arguments" else 0
            event = _event(
                {
                    "type": "content_block_delta",
                    "index": index,
                    "delta": {"type": forms[name], name: text},
                }
            )
            return event + (
                _event({"type": "message_delta", "delta": {}, "usage": usage}) if usage else b""
            )
        delta: dict[str, Any] = {kind: text}
        if kind == "arguments":
            delta = {
                "tool_calls": [{"index": 0, "id": "c", "function": {"name": "", "arguments": text}}]
            }
        chunk: dict[str, Any] = {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        return _event({**chunk, "usage": usage} if usage is not None else chunk)

    def _whole(self, pieces: list[tuple[str, int]]) -> dict[str, Any]:
        texts = {kind: "" for kind, _ in pieces}
        for kind, size in pieces:
            texts[kind] += GLYPH * size
        if self.anthropic:
            blocks: list[dict[str, Any]] = [
                {"type": "text", "text": text} for text in texts.values()
            ]
            return {
                "id": "m",
                "type": "message",
                "model": "m",
                "content": blocks,
                "stop_reason": "end_turn",
            }
        arguments = texts.pop("arguments", None)
        message: dict[str, Any] = {"role": "assistant", "content": None, **texts}
        if arguments is not None:
            message["tool_calls"] = [
                {"id": "c", "type": "function", "function": {"name": "", "arguments": arguments}}
            ]
        return {
            "id": "m",
            "object": "chat.completion",
            "choices": [{"index": 0, "message": message}],
        }


class Events:
    """The interface of an EventStream."""

    def __init__(self, events: Iterator[bytes]) -> None:
        self._events = events

    def __iter__(self) -> Iterator[bytes]:
        return self._events

    def __next__(self) -> bytes:
        return next(self._events)

    def finish(self) -> None:
        """The connection would be kept."""

    def close(self) -> None:
        """The connection would be closed."""


def _event(value: Any) -> bytes:
    return (
        b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
    )
