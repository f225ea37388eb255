"""CPU of counting the text of a stream: `python -m benchmarks.delivered_text`.

Microseconds an event, the least of seven rounds: for a stream that ends with the provider's count,
and for one whose text must be counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import orjson

from goblin_assistant.usage.delivered import DeliveredText

OPENAI = b"data: " + orjson.dumps({
    "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1764000000,
    "model": "gpt-4o-2024-08-06", "system_fingerprint": "fp_1",
    "choices": [
        {"index": 0, "delta": {"content": " goblin"}, "logprobs": None, "finish_reason": None}
    ],
}) + b"\n\n"  # fmt: skip
ANTHROPIC = b"event: content_block_delta\ndata: " + orjson.dumps({
    "type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": " goblin"},
}) + b"\n\n"  # fmt: skip


def microseconds(work: Callable[[], object], events: int) -> float:
    """CPU an event."""
    best = float("inf")
    for _ in range(7):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best / events * 1e6


def held(event: bytes, events: int, streams: int) -> None:
    """Streams with the provider's count."""
    for _ in range(streams):
        add = DeliveredText().add
        for _ in range(events):
            add(event)


def counted(event: bytes, events: int, streams: int) -> None:
    """Streams without a count."""
    for _ in range(streams):
        delivered = DeliveredText()
        add = delivered.add
        for _ in range(events):
            add(event)
        assert delivered.events == events
        assert delivered.tokens


def main() -> None:
    """Print the table."""
    print(
        "| event | bytes | 100 events, counted by the provider | 100, not counted "
        "| 2,000, counted or not |"
    )
    print("|---|---|---|---|---|")
    for name, event in (("OpenAI", OPENAI), ("Anthropic", ANTHROPIC)):
        short = microseconds(lambda e=event: held(e, 100, 200), 20_000)  # type: ignore[misc]
        bare = microseconds(lambda e=event: counted(e, 100, 200), 20_000)  # type: ignore[misc]
        long = microseconds(lambda e=event: counted(e, 2000, 20), 40_000)  # type: ignore[misc]
        print(f"| {name} | {len(event)} | {short:.2f} | {bare:.2f} | {long:.2f} |")


if __name__ == "__main__":
    main()
