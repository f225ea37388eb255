"""Tests that a good correlation id reaches the provider, and that a bad one is replaced."""

from __future__ import annotations

import uuid

import requests

from goblin_assistant.commands.prove.deployment import Deployment
from goblin_assistant.commands.prove.verdicts import Broken, Seen

PROMISE = "A good correlation id is kept and returned; a bad one is replaced, never repeated"
HEADER = "X-Correlation-ID"

BAD_IDS = (
    '{"level":"ERROR","message":"forged"}',
    "a b; rm -rf /",
    "x" * 500,
)
"""Ids that must not reach a log: with quotes, with spaces, longer than 128 characters."""


def correlation(deployment: Deployment) -> Seen:
    """Send good and bad ids. The embedded provider puts the id that it received into the answer's
    id. So the answer shows what arrived, and the header shows what was returned."""
    own = f"prove-{uuid.uuid4().hex}"
    with deployment.session() as session:
        kept = deployment.good(deployment.post(session, headers={HEADER: own}))
        _same(kept, own)
        made = deployment.good(deployment.post(session))
        _same(made, _header(made))
        for bad in BAD_IDS:
            answer = deployment.good(deployment.post(session, headers={HEADER: bad}))
            if _header(answer) == bad:
                raise Broken(f"the bad id {bad[:40]!r} came back")
            _same(answer, _header(answer))
        missing = session.get(
            deployment.url + "/prove/no-such-page", headers={HEADER: own}, timeout=60
        )
        if missing.headers.get(HEADER) != own:
            raise Broken(f"a 404 came back with {HEADER} {missing.headers.get(HEADER)!r}")
    return Seen(
        f"{own} arrived at the provider and came back, also with a 404; a request without one got "
        f"{_header(made)}; {len(BAD_IDS)} bad ones were replaced"
    )


def _header(answer: requests.Response) -> str:
    found = answer.headers.get(HEADER)
    if found is None:
        raise Broken(f"an answer came without {HEADER}: does the proxy drop it?")
    return found


def _same(answer: requests.Response, wanted: str) -> None:
    arrived = str(answer.json().get("id", "")).removeprefix("chatcmpl-")
    if _header(answer) != wanted or arrived != wanted:
        raise Broken(
            f"sent {wanted}; the provider got {arrived}, the answer has {_header(answer)}: "
            f"does the proxy drop or set {HEADER}?"
        )
