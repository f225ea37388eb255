"""Tests that streams pass through the proxy unbuffered."""

from __future__ import annotations

import time
from itertools import pairwise

from goblin_assistant.commands.prove.deployment import ROWS, Deployment
from goblin_assistant.commands.prove.verdicts import Broken, NotTried, Seen

PROMISE = "The words of a stream arrive while the provider is still sending"
WORDS = 20
_TRIES = 3
_LONG_ENOUGH = 0.5
_WAVE_SECONDS = 0.02
"""Events that are at least this far apart belong to different waves."""


def streams(deployment: Deployment) -> Seen:
    """Read a stream of ten words a second. If it is buffered, all words arrive at the end.

    A machine that pauses for a second looks the same, so a bad result is tried again.
    """
    for _ in range(_TRIES - 1):
        try:
            return judge(*_arrivals(deployment))
        except Broken:
            pass
    return judge(*_arrivals(deployment))


def _arrivals(deployment: Deployment) -> tuple[list[float], float]:
    """When each word arrived, and how long the whole stream took; in seconds."""
    began = time.monotonic()
    with (
        deployment.session() as session,
        deployment.good(
            deployment.post(session, "one two three", streamed=True, paced=True, max_tokens=WORDS)
        ) as answer,
    ):
        moments = [
            time.monotonic() - began
            for line in answer.iter_lines(chunk_size=1)
            if line.startswith(b"data:") and b'"content":"' in line
        ]
    return moments, time.monotonic() - began


def judge(moments: list[float], whole: float) -> Seen:
    """The verdict on the times at which events arrived. All times are seconds since the request;
    `whole` is its end."""
    if not moments:
        raise Broken("no event of the stream arrived")
    if whole < _LONG_ENOUGH:
        raise NotTried(
            f"the model answered within {whole * 1000:.0f} ms, too fast to tell. "
            f"Add to goblin.toml: {ROWS}"
        )
    waves = 1 + sum(after - before > _WAVE_SECONDS for before, after in pairwise(moments))
    spread = moments[-1] - moments[0]
    text = (
        f"{len(moments)} events arrived in {waves} waves, the first {moments[0]:.2f} s and the "
        f"last {moments[-1]:.2f} s after the request"
    )
    if spread < whole / 2 or waves < len(moments) / 2:
        raise Broken(
            f"{text}: something on the way holds them back (nginx: proxy_buffering off; gzip off;)"
        )
    return Seen(
        text,
        {
            "events": len(moments),
            "waves": waves,
            "first_s": round(moments[0], 3),
            "last_s": round(moments[-1], 3),
        },
    )
