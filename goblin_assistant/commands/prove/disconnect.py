"""Tests that a call to the provider ends when its client disconnects."""

from __future__ import annotations

import time

from goblin_assistant.commands.prove.deployment import Deployment
from goblin_assistant.commands.prove.verdicts import Broken, NotTried, Seen

PROMISE = "When a client goes away, its call to the provider ends"
WORDS = 600
"""A minute of stream. Nothing here waits for its end."""
_READ = 5
_SECONDS = 12.0


def disconnect(deployment: Deployment) -> Seen:
    """Leave in the middle of a stream and look at its usage record.

    The record is written when the call ends. It says whether the chat was completed, and counts the
    words that the provider had sent. If the call continued, the record would come after a minute,
    with all words.
    """
    before = deployment.settled_usage()
    with (
        deployment.session() as session,
        deployment.good(
            deployment.post(session, "word " * WORDS, streamed=True, paced=True, max_tokens=WORDS)
        ) as answer,
    ):
        began, read = time.monotonic(), 0
        for line in answer.iter_lines(chunk_size=1):
            read += line.startswith(b"data:")
            if read == _READ:
                break
        else:
            raise NotTried("the stream ended before its client could leave; see `streams`")
    left = time.monotonic()
    added = deployment.usage_since(before, 1, _SECONDS)
    after = time.monotonic() - left
    if not added.requests:
        raise Broken(
            f"no usage record within {after:.0f} s after the client had gone: the call goes on "
            "(nginx: proxy_ignore_client_abort off;)"
        )
    text = (
        f"the client left after {left - began:.1f} s; the record came within {after:.1f} s, with "
        f"{added.completion_tokens} of {WORDS} tokens, as "
        f"{'not completed' if added.failed else 'completed'}"
    )
    if not added.failed or added.completion_tokens > WORDS / 2:
        raise Broken(text)
    return Seen(text, {"within_s": round(after, 1), "tokens": added.completion_tokens})
