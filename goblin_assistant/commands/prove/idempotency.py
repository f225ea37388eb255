"""Tests that concurrent requests with one Idempotency-Key run once and get the same answer."""

from __future__ import annotations

import time
import uuid

import requests

from goblin_assistant.commands.prove.deployment import Deployment, at_once
from goblin_assistant.commands.prove.verdicts import Broken, Seen

PROMISE = "Requests with one Idempotency-Key run once, over all instances"
REQUESTS = 12
_PAUSE_SECONDS = 0.5
_MOST_TRIES = 20


def idempotency(deployment: Deployment) -> Seen:
    """Send REQUESTS at once; repeat each that gets 409. All must receive the same bytes, and the
    usage must grow by one record."""
    name = f"prove-{uuid.uuid4().hex}"
    before = deployment.settled_usage()

    def ask(_: int) -> tuple[requests.Response, int]:
        with deployment.session() as session:
            for tries in range(_MOST_TRIES):
                answer = deployment.post(session, headers={"Idempotency-Key": name})
                if answer.status_code != 409:
                    return deployment.good(answer), tries
                time.sleep(_PAUSE_SECONDS)
        raise Broken(f"still 409 after {_MOST_TRIES * _PAUSE_SECONDS:g} s")

    answers = at_once(REQUESTS, ask)
    bodies = {answer.content for answer, _ in answers}
    replayed = sum(answer.headers.get("Idempotent-Replayed") == "true" for answer, _ in answers)
    added = deployment.usage_since(before, 1)
    figures = {
        "requests": REQUESTS,
        "told_to_wait": sum(tries > 0 for _, tries in answers),
        "replayed": replayed,
        "different_answers": len(bodies),
        "usage_records": added.requests,
    }
    text = (
        f"{REQUESTS} at once: {len(bodies)} different answer(s), {replayed} replayed, "
        f"{figures['told_to_wait']} first told to wait, {added.requests} usage record(s)"
    )
    if len(bodies) != 1 or added.requests != 1 or replayed != REQUESTS - 1:
        raise Broken(f"{text}: do all instances have the same REDIS_URL, and is Redis up?")
    return Seen(text, figures)
