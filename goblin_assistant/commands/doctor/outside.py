"""Checks from outside: TLS, redirect, HSTS, /metrics, body limits."""

from __future__ import annotations

import json
import re
import socket
import ssl
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

import requests

from goblin_assistant.commands.doctor.context import Context
from goblin_assistant.commands.doctor.findings import Finding, failure, in_words, ok, warning
from goblin_assistant.commands.doctor.raw_http import connect, head, send
from goblin_assistant.commands.plain_session import plain_session

METRICS_SPELLINGS = (
    "/metrics", "/metrics/", "//metrics", "/metrics%2f", "/metrics//", "/%6detrics",
    "/%6Detrics", "/./metrics", "/x/../metrics", "/health/../metrics", "/metrics?x=1",
    "/metrics;x", "/metrics%20", "/metrics%00", "/METRICS", "/Metrics", "/%2fmetrics",
    "/metrics/.", "/metrics%3f", "\\metrics",
)  # fmt: skip
"""Spellings of the path that a proxy's rule may miss, but a server may accept."""

_EXPIRY_WARNS_DAYS = 21
_EXPIRY_FAILS_DAYS = 3
_HSTS_SECONDS = 86400
_METRICS_SAMPLE = b"http_requests_total"


def answers(context: Context) -> Iterator[Finding]:
    """/health/ready answers 200; its Date is a clock to compare with."""
    address = context.address
    try:
        # A certificate that is not trusted has its own line.
        answer = send(address, head("GET", f"{address.path}/health/ready", address))
    except OSError as error:
        yield failure(
            "ready",
            f"{context.url}: {in_words(error)}",
            "Start the server, or correct --url.",
        )
        return
    top, _, body = answer.data.partition(b"\r\n\r\n")
    if found := re.search(rb"^date: *([^\r\n]+)", top, re.I | re.M):
        try:
            then = parsedate_to_datetime(found[1].decode("latin-1")).timestamp()
        except ValueError:
            pass
        else:
            # The header has whole seconds: half a second later is its best estimate.
            context.clocks.append((context.url or "", then + 0.5 - time.time()))
    if answer.status == 200:
        yield ok("ready", f"{context.url} is ready")
        return
    try:
        reasons = "; ".join(json.loads(body)["reasons"])
    except (ValueError, KeyError, TypeError):
        reasons = "no reason given"
    yield failure(
        "ready",
        f"/health/ready answers {answer.status or 'nothing'}: {reasons}",
        "Mend what the reason names; 502 and 504 come from the proxy, which finds no instance.",
    )


def certificate(context: Context) -> Iterator[Finding]:
    """The certificate is trusted, is valid for this host, and does not expire soon."""
    address = context.address
    if address.scheme != "https":
        if address.hostname in ("localhost", "127.0.0.1", "::1"):
            yield ok("TLS", "not asked for: --url is on this machine")
        else:
            yield failure(
                "TLS",
                "--url is http: keys and prompts travel in the clear",
                "Let the proxy terminate TLS, and give its https:// address.",
            )
        return
    try:
        with connect(address, context.ca_file, verify=True) as connection:
            assert isinstance(connection, ssl.SSLSocket)
            ends = str((connection.getpeercert() or {})["notAfter"])
            version = connection.version()
    except ssl.SSLCertVerificationError as error:
        yield failure(
            "TLS",
            f"the certificate is refused: {error.verify_message}",
            "Renew it or serve the whole chain; for an authority of your own give --ca-file.",
        )
        return
    except OSError as error:
        yield failure("TLS", f"no TLS: {in_words(error)}", "See that the proxy has TLS there.")
        return
    days = (ssl.cert_time_to_seconds(ends) - time.time()) / 86400
    shown = f"{version}, the certificate lasts {days:.0f} days"
    if days < _EXPIRY_FAILS_DAYS:
        yield failure("TLS", shown, "Renew it now.")
    elif days < _EXPIRY_WARNS_DAYS:
        yield warning("TLS", shown, "Renew it; see why that did not happen by itself.")
    else:
        yield ok("TLS", shown)


def redirect(context: Context) -> Iterator[Finding]:
    """HTTP redirects to HTTPS."""
    address = context.address
    if address.scheme != "https":
        return
    plain = context.http_url or f"http://{address.hostname}"
    fix = "Let the proxy answer every plain request with 308 (or 301) to https."
    try:
        with plain_session() as session:
            answer = session.get(f"{plain}/health", timeout=5, allow_redirects=False)
    except requests.RequestException:
        yield ok("redirect", f"{plain} is closed")
        return
    leads = answer.headers.get("Location", "")
    if answer.status_code in (301, 302, 307, 308) and leads.startswith("https://"):
        yield ok("redirect", f"{plain} leads to https ({answer.status_code})")
    else:
        yield failure("redirect", f"{plain} answers {answer.status_code} without TLS", fix)


def hsts(context: Context) -> Iterator[Finding]:
    """Responses have Strict-Transport-Security, refusals too."""
    if context.address.scheme != "https":
        return
    fix = 'nginx: add_header Strict-Transport-Security "max-age=31536000" always;'
    for path in ("/health/live", "/no-such-page"):
        answer = send(context.address, head("GET", path, context.address))
        found = re.search(
            rb"^strict-transport-security:.*max-age=\"?(\d+)", answer.data, re.I | re.M
        )
        if not found:
            yield failure("HSTS", f"{path} has no Strict-Transport-Security", fix)
            return
        if int(found[1]) < _HSTS_SECONDS:
            yield warning("HSTS", f"max-age={int(found[1])} is less than a day", fix)
            return
    yield ok("HSTS", "on answers and refusals")


def metrics(context: Context) -> Iterator[Finding]:
    """The proxy refuses /metrics in every spelling; the instance itself answers."""
    if not context.through_proxy:
        yield _scraped(context)
        return
    opened = []
    for spelling in METRICS_SPELLINGS:
        answer = send(context.address, head("GET", spelling, context.address))
        if answer.status == 200 and _METRICS_SAMPLE in answer.data:
            opened.append(spelling)
    if opened:
        yield failure(
            "metrics",
            f"everybody can read {', '.join(opened)} through the proxy",
            "Close the prefix (nginx: location ^~ /metrics { return 404; }), "
            "or set GOBLIN_METRICS_TOKEN.",
        )
    else:
        yield ok("metrics", f"closed, in {len(METRICS_SPELLINGS)} spellings")


def _scraped(context: Context) -> Finding:
    config = context.config
    if config.metrics_port is not None:
        address = context.address._replace(
            netloc=f"{context.address.hostname}:{config.metrics_port}"
        )
    else:
        address = context.address
    token = config.metrics_token
    lines = [f"Authorization: Bearer {token.get_secret_value()}"] if token is not None else []
    try:
        answer = send(address, head("GET", "/metrics?name[]=http_requests_total", address, *lines))
    except OSError as error:
        return failure("metrics", in_words(error), "Start the server, or correct --url.")
    if answer.status == 200 and _METRICS_SAMPLE in answer.data:
        return ok("metrics", "Prometheus can scrape /metrics")
    return failure(
        "metrics",
        f"/metrics answers {answer.status or 'nothing'}",
        "Give doctor the server's own GOBLIN_METRICS_TOKEN and GOBLIN_METRICS_PORT.",
    )


def body_limits(context: Context) -> Iterator[Finding]:
    """Bodies of up to GOBLIN_MAX_BODY_BYTES pass. Much larger ones are refused unsent."""
    limit = context.config.max_body_bytes
    try:
        allowed, beyond = _announce(context, limit), _announce(context, 10 * limit)
    except OSError as error:
        yield failure("bodies", in_words(error), "See the line `ready`.")
        return
    if allowed == 413:
        yield failure(
            "bodies",
            f"a chat of {limit} bytes, which GOBLIN_MAX_BODY_BYTES allows, is refused on the way",
            f"nginx: client_max_body_size {limit // (1024 * 1024) or 1}m;",
        )
    elif beyond != 413:
        yield warning(
            "bodies",
            f"a body of {10 * limit} bytes is not refused at its head ({beyond or 'no answer'})",
            "Set the proxy's limit to GOBLIN_MAX_BODY_BYTES (nginx: client_max_body_size).",
        )
    else:
        yield ok("bodies", f"up to {limit} bytes pass, ten times that is refused")


def _announce(context: Context, length: int) -> int:
    # With Expect: 100-continue, the server answers the headers alone: no body has to be sent.
    return send(
        context.address,
        head(
            "POST", "/chat/completions", context.address, "Content-Type: application/json",
            f"Content-Length: {length}", "Expect: 100-continue",
        ),
    ).status  # fmt: skip


def local_address(context: Context) -> str:
    """The address of this machine on its way to `url`."""
    with connect(context.address, None, verify=False) as connection:
        name = connection.getsockname()
    return str(name[0]) if connection.family != socket.AF_UNIX else ""
