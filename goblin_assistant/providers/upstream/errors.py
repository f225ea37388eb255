"""Faults between us and a provider's HTTP server, as ProviderErrors. Messages hold the provider's
name and the fault only."""

from __future__ import annotations

import http.client
import re
import socket
import time
from dataclasses import dataclass

from urllib3.exceptions import (
    ConnectTimeoutError,
    DecodeError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    SSLError,
)
from urllib3.response import HTTPResponse

from goblin_assistant.providers.base import (
    BadResponse,
    CallCancelled,
    ConnectionFailed,
    ProviderError,
    Reach,
    Timeout,
)
from goblin_assistant.providers.upstream.deadlines import Exchange
from goblin_assistant.providers.upstream.responses import ChunkedResponse

TRANSPORT_ERRORS = (HTTPError, OSError, http.client.HTTPException)
"""What urllib3 and the layers below it raise."""


STALE_SECONDS = 1.0
"""A connection that is closed later than this after sending was not closed unread: the server may
have processed the request."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds to connect, until a stream's first event, of silence within a stream, for an answer
    in one piece, and until the first event of a stream that sends comments meanwhile."""

    connect: float = 5.0
    first_token: float = 60.0
    idle: float = 60.0
    answer: float = 240.0
    comments: float = 240.0


def cut_error(name: str, exchange: Exchange, timeouts: Timeouts) -> ProviderError | CallCancelled:
    """The error for a call that was cut."""
    if exchange.cut == "client_gone":
        return CallCancelled()
    return Timeout(
        {
            "first_token": f"{name} sent nothing within {timeouts.first_token:g} s",
            "comments": f"{name} sent only comments within {timeouts.comments:g} s",
            "answer": f"{name} did not answer within {timeouts.answer:g} s",
            "idle": f"{name} was silent for {timeouts.idle:g} s",
            "unwatched": f"the call to {name} was ended: its time limit could not be watched",
        }.get(exchange.cut, f"{name} did not finish before the request's deadline"),
        provider=name,
        reach=Reach.NOT_REACHED if exchange.sent_at is None else Reach.SILENT,
    )


def fault_error(
    name: str, error: Exception, exchange: Exchange, timeouts: Timeouts, *, answering: bool = False
) -> ProviderError | CallCancelled:
    """The error for a fault of the transport. `answering`: the response's head has arrived."""
    if exchange.cut:
        return cut_error(name, exchange, timeouts)
    if isinstance(error, ProxyError):
        found = _proxy_error(name, error.original_error)
    else:
        way = " (through its proxy)" if exchange.proxied else ""
        found = _fault(name, error, way, answering)
    found.reach = _reach(exchange, answering or _began(error))
    return found


def _began(error: Exception) -> bool:
    """Whether bytes came that are no head of an answer: half a status line, or another protocol's.
    Their server has read the request."""
    fault = _cause(error) if isinstance(error, ProtocolError) else error
    return isinstance(fault, http.client.HTTPException) and not isinstance(fault, OSError)


def _reach(exchange: Exchange, answering: bool) -> Reach:
    if exchange.sent_at is None:
        return Reach.NOT_REACHED
    if answering:
        return Reach.BROKEN
    late = time.monotonic() - exchange.sent_at > STALE_SECONDS
    return Reach.SILENT if late else Reach.UNREAD


def _fault(name: str, error: Exception, way: str, answering: bool) -> ProviderError:
    if isinstance(error, (NameResolutionError, socket.gaierror)):
        return ConnectionFailed(
            f"{name} cannot be found: its host name does not resolve{way}", provider=name
        )
    # TimeoutError comes from a TLS handshake: connected sockets have no timeout.
    if isinstance(error, (ConnectTimeoutError, TimeoutError)) and not isinstance(
        error, NewConnectionError
    ):
        return Timeout(f"{name} could not be reached in time{way}", provider=name)
    if isinstance(error, NewConnectionError):
        return ConnectionFailed(f"{name} cannot be reached: no connection{way}", provider=name)
    if isinstance(error, SSLError):
        return ConnectionFailed(f"{name} cannot be reached: TLS failed{way}", provider=name)
    if isinstance(error, DecodeError):
        return BadResponse(f"{name}'s answer could not be decompressed{way}", provider=name)
    if answering:
        return BadResponse(f"{name}'s answer ended before its end{way}", provider=name)
    if isinstance(error, ProtocolError) and not isinstance(_cause(error), OSError):
        return BadResponse(f"{name} did not answer in HTTP{way}", provider=name)
    return ConnectionFailed(f"{name} closed the connection without an answer{way}", provider=name)


def _proxy_error(name: str, error: Exception) -> ProviderError:
    """For a call that did not get through the proxy. The proxy's address is kept out: it may hold
    credentials."""
    proxy = f"the proxy for {name}"
    if isinstance(error, (NameResolutionError, socket.gaierror)):
        message = f"{proxy} cannot be found: its host name does not resolve"
    elif isinstance(error, NewConnectionError):
        message = f"{proxy} cannot be reached: no connection"
    elif isinstance(error, (ConnectTimeoutError, TimeoutError)):
        return Timeout(f"{name} could not be reached in time through its proxy", provider=name)
    elif refused := _TUNNEL_REFUSED(str(error)):
        status = refused[1]
        why = "it wants other credentials" if status == "407" else "see its log"
        message = f"{proxy} refused the connection with status {status}: {why}"
    else:
        message = f"{proxy} did not answer in HTTP, or closed the connection"
    return ConnectionFailed(message, provider=name)


_TUNNEL_REFUSED = re.compile(r"Tunnel connection failed: (\d{3})").match
"""http.client has the proxy's status in the text of its OSError only."""


def closed_silently(error: ProtocolError) -> bool:
    """Whether the connection was closed before the first byte of a response."""
    # http.client's RemoteDisconnected is a ConnectionResetError.
    return isinstance(_cause(error), (ConnectionResetError, BrokenPipeError))


def _cause(error: ProtocolError) -> object:
    return error.args[1] if len(error.args) > 1 else None


def discard(response: ChunkedResponse | HTTPResponse) -> None:
    """Close the connection and free its place in the pool."""
    response.close()
    response.release_conn()
