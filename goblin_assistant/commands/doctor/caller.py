"""Checks that need an API key: the client address that the server sees, and streaming."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterator

import requests

from goblin_assistant.commands.doctor.context import Context
from goblin_assistant.commands.doctor.findings import Finding, failure, in_words, ok, warning
from goblin_assistant.commands.doctor.outside import local_address
from goblin_assistant.commands.plain_session import plain_session

FORGED = "198.51.100.77"
"""From a range reserved for documentation (RFC 5737): no client has this address."""
_PROMPT = "one two three four five six seven eight nine ten"
_FALLBACK = "echo/echo"
_PACED_ROW = (
    'Add [providers.sim] with kind = "echo" and options = { tokens_per_second = 10 } '
    "to goblin.toml, or give --stream-model."
)
_KEY_FOR_ECHO = (
    "Give a key whose model list names it: "
    "goblin-assistant keys create EMAIL --name doctor --scope chat --model {}"
)
_LONG_ENOUGH = 0.5
_SPREAD = 0.5
"""In an unbuffered stream, at least this share of the time lies between first and last event."""


def client_address(context: Context) -> Iterator[Finding]:
    """The server sees the client's own address. Limits and logs use it."""
    if context.key is None:
        yield _no_key("client address")
        return
    with _session(context) as session:
        answer = session.get(
            f"{context.url}/settings/", headers={"X-Forwarded-For": FORGED}, timeout=5
        )
    if answer.status_code != 200:
        yield _refused("client address", answer)
        return
    seen, own = str(answer.json()["client_address"]), local_address(context)
    if seen == FORGED:
        yield failure(
            "client address",
            "the server believed an address that this request made up: limits can be evaded",
            "Let the outermost proxy set X-Forwarded-For (nginx: $remote_addr), and set "
            "GOBLIN_TRUSTED_PROXY_COUNT to the number of proxies.",
        )
    elif seen == own:
        yield ok("client address", f"the server sees {seen}, this machine's")
    elif _is_proxys(context, seen):
        yield failure(
            "client address",
            f"the server sees {seen}, the proxy's: all callers share one limit",
            f"Set GOBLIN_TRUSTED_PROXY={seen}, and let the proxy set X-Forwarded-For.",
        )
    else:
        yield warning(
            "client address",
            f"the server sees {seen}; this machine calls itself {own}",
            "Right if a router translates addresses (NAT) between here and there; "
            "otherwise that is a proxy's address.",
        )


def _is_proxys(context: Context, seen: str) -> bool:
    try:
        return ipaddress.ip_address(seen).is_loopback or seen == context.config.trusted_proxy
    except ValueError:
        return True  # not an address at all


def streaming(context: Context) -> Iterator[Finding]:
    """Events arrive one by one. Measured with a simulated provider that sends slowly."""
    if context.key is None:
        yield _no_key("streams")
        return
    model = context.stream_model or _paced_model(context)
    try:
        with (
            _session(context) as session,
            session.post(
                f"{context.url}/v1/chat/completions",
                json={
                    "model": model,
                    "stream": True,
                    "messages": [{"role": "user", "content": _PROMPT}],
                },
                stream=True,
                timeout=60,
            ) as answer,
        ):
            if answer.status_code == 403 and model == _FALLBACK:
                yield warning("streams", f"not tried: this key may not use {model}", _PACED_ROW)
                return
            if answer.status_code != 200:
                yield _refused("streams", answer, f" (model {model})", _KEY_FOR_ECHO.format(model))
                return
            began = time.monotonic()
            moments = [
                time.monotonic() - began
                for line in answer.iter_lines(chunk_size=1)
                if line.startswith(b"data:")
            ]
    except requests.RequestException as error:
        yield failure("streams", in_words(error), "Look for the request in the server's log.")
        return
    yield stream_line(answer.elapsed.total_seconds(), moments, model)


def stream_line(first_byte: float, moments: list[float], model: str) -> Finding:
    """The finding for the times at which events arrived. `moments` are seconds after the response
    headers, which arrived `first_byte` seconds after the request."""
    spread = moments[-1] - moments[0] if moments else 0.0
    whole = first_byte + (moments[-1] if moments else 0.0)
    if whole < _LONG_ENOUGH:
        return warning(
            "streams",
            f"{model} answered within {whole * 1000:.0f} ms, too fast to tell",
            _PACED_ROW,
        )
    shown = f"{len(moments)} events over {spread:.1f} of {whole:.1f} s"
    if spread < whole * _SPREAD:
        return failure(
            "streams",
            f"{shown}: they arrive together, so something on the way holds them back",
            "nginx: proxy_buffering off; and gzip off; for the chat routes.",
        )
    return ok("streams", shown)


def _paced_model(context: Context) -> str:
    for name, row in context.config.file.providers.items():
        if row.kind == "echo" and (row.options or {}).get("tokens_per_second"):
            return f"{name}/echo"
    return _FALLBACK


def _session(context: Context) -> requests.Session:
    session = plain_session()
    session.verify = context.verify
    session.headers["Authorization"] = f"Bearer {context.key}"
    return session


def _no_key(subject: str) -> Finding:
    return warning(subject, "not tried: it needs an API key", "Give --key, or set DOCTOR_API_KEY.")


def _refused(
    subject: str, answer: requests.Response, what: str = "", fix: str = "Give a key that is good."
) -> Finding:
    return failure(subject, f"the request was refused with {answer.status_code}{what}", fix)
