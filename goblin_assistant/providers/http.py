"""The one place with upstream I/O: connections, timeouts, event streams, and faults turned into ProviderErrors.

A `requests` Session without the environment's proxies and .netrc holds the adapter; its urllib3 pool is called directly, because
`Session.request` costs twice the CPU of the call itself. Headers are prepared once per provider. Bytes pass as they came.

Timeouts: connect; for streams the first event and then the silence between bytes; for everything the call's deadline, which the
watchdog enforces even while nothing comes (see watchdog.py).

**A reused connection** may have been closed by the server just before the request went out. When a connection that has carried a
request before is closed without a byte of an answer, and at once, the request is sent again over a new connection, once, and nobody hears of it.
RFC 9112 section 9.3.1 leaves a client of a non-idempotent method only this way: what fails within a second of sending on an idle connection is,
but for a server that crashed in that very second, a connection that was closed for being idle, and a request that was never read.
"""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import urlencode, urlsplit

import orjson
import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.response import HTTPResponse
from urllib3.util.retry import Retry

from goblin_assistant.providers.base import (
    BadResponse,
    Call,
    CallCancelled,
    ConnectionFailed,
    ProviderError,
    Timeout,
)
from goblin_assistant.providers.faults import UpstreamFailure, error_for
from goblin_assistant.providers.sse import Blocks, EventTooLarge, is_comment
from goblin_assistant.providers.watchdog import Exchange, TrackedPool, TrackedTLSPool, carry, watchdog

MAX_ANSWER_BYTES = 64 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
READ_SIZE = 65536
STALE_SECONDS = 1.0
"""A reused connection that dies later than this after sending was not stale: the server may have been at work."""
END_SECONDS = 0.05
"""How long the last, empty chunk of a finished stream may take; with it the connection can be used again."""

Classifier = Callable[[UpstreamFailure], ProviderError]

_NO_RETRIES = Retry(False, redirect=False)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to connect, to a stream's first event, of silence within a stream."""

    connect: float = 5.0
    first_token: float = 60.0
    idle: float = 60.0


class _Adapter(HTTPAdapter):
    """requests' adapter with pools whose connections the watchdog can shut down."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": TrackedPool, "https": TrackedTLSPool}


class UpstreamClient:
    """The connections to one provider. Shared by all threads.

    `base_url` may have a path; `query` is added to every address. `headers` go with every request. `classify` turns an answer that is no
    success into an error; the default goes by the status alone. `verify` is requests': True, or the path of a CA bundle.
    """

    def __init__(
        self,
        provider_name: str,
        base_url: str,
        headers: Mapping[str, str],
        timeouts: Timeouts,
        pool_size: int,
        query: Mapping[str, str] | None = None,
        *,
        classify: Classifier = error_for,
        verify: bool | str = True,
    ) -> None:
        self.provider_name = provider_name
        self.timeouts = timeouts
        self._classify = classify
        self._query = f"?{urlencode(query)}" if query else ""
        self._session = requests.Session()
        self._session.trust_env = False
        adapter = _Adapter(pool_connections=1, pool_maxsize=pool_size)
        self._session.mount(base_url, adapter)
        prepared = requests.Request("POST", base_url).prepare()
        self._pool = adapter.get_connection_with_tls_context(prepared, verify=verify)
        self._prefix = urlsplit(base_url).path.rstrip("/")
        self._headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "User-Agent": "goblin-assistant",
            **headers,
        }
        self._sse_headers = {**self._headers, "Accept": "text/event-stream"}

    # -- calls --------------------------------------------------------------------------------
    def post(
        self,
        path: str,
        body: bytes,
        call: Call,
        *,
        headers: Mapping[str, str] | None = None,
        fields: Container[str] = (),
    ) -> bytes:
        """POST and return the whole body of a 2xx answer. Raises ProviderError or CallCancelled.

        `headers` are added to the prepared ones. `fields` are the client's own request fields: an error names no other.
        """
        exchange = watchdog.watch(call)
        try:
            response = self._send("POST", path, body, exchange, self._with(self._headers, call, headers), None)
            if not 200 <= response.status < 300:
                raise self._failure(response, exchange, fields)
            return self._read_whole(response, exchange)
        finally:
            watchdog.release(exchange)

    def post_sse(
        self,
        path: str,
        body: bytes,
        call: Call,
        *,
        headers: Mapping[str, str] | None = None,
        fields: Container[str] = (),
    ) -> EventStream:
        """POST and return the answer's events; the request is sent at once. Raises ProviderError or CallCancelled, then and while reading."""
        exchange = watchdog.watch(call)
        first_token = time.monotonic() + self.timeouts.first_token
        if first_token < call.deadline:
            exchange.limit = first_token
            exchange.waits_for_first_token = True
        try:
            response = self._send(
                "POST", path, body, exchange, self._with(self._sse_headers, call, headers), self.timeouts.first_token
            )
            if not 200 <= response.status < 300:
                raise self._failure(response, exchange, fields)
            kind = response.headers.get("content-type", "")
            if kind and not kind.lower().startswith("text/event-stream"):
                _discard(response)
                raise BadResponse(
                    f"{self.provider_name} did not answer with an event stream", provider=self.provider_name
                )
            return EventStream(self, response, exchange)
        except BaseException:
            watchdog.release(exchange)
            raise

    def get_json(self, path: str, timeout: float = 3.0) -> Any:
        """GET, within `timeout` seconds altogether, and return the parsed body. Raises ProviderError."""
        call = Call(deadline=time.monotonic() + timeout)
        exchange = watchdog.watch(call)
        try:
            response = self._send("GET", path, None, exchange, self._headers, None)
            if not 200 <= response.status < 300:
                raise self._failure(response, exchange, ())
            try:
                return orjson.loads(self._read_whole(response, exchange))
            except orjson.JSONDecodeError:
                raise BadResponse(
                    f"{self.provider_name} did not answer with JSON", provider=self.provider_name
                ) from None
        finally:
            watchdog.release(exchange)

    def close(self) -> None:
        """Close all idle connections."""
        self._session.close()

    # -- inside -------------------------------------------------------------------------------
    @staticmethod
    def _with(prepared: dict[str, str], call: Call, further: Mapping[str, str] | None) -> dict[str, str]:
        headers = {**prepared, "X-Correlation-ID": call.correlation_id} if call.correlation_id else prepared
        return {**headers, **further} if further else headers

    def _send(
        self,
        method: str,
        path: str,
        body: bytes | None,
        exchange: Exchange,
        headers: dict[str, str],
        read_timeout: float | None,
    ) -> HTTPResponse:
        remaining = exchange.call.remaining()
        if remaining <= 0:
            exchange.cut = "deadline"
            self._raise_cut(exchange)
        read = remaining if read_timeout is None else min(read_timeout, remaining)
        timeout = urllib3.Timeout(connect=min(self.timeouts.connect, remaining), read=read)
        target = self._prefix + path + self._query
        carry(exchange)
        sent = time.monotonic()
        try:
            while True:
                try:
                    return self._pool.urlopen(  # type: ignore[return-value]
                        method,
                        target,
                        body,
                        headers,
                        _NO_RETRIES,
                        False,
                        False,
                        timeout,
                        preload_content=False,
                    )
                except ProtocolError as error:
                    if (
                        exchange.cut
                        or exchange.fresh
                        or not exchange.reused
                        or not _closed_silently(error)
                        or time.monotonic() - sent > STALE_SECONDS
                    ):
                        self._raise_fault(error, exchange)
                    exchange.fresh = True
                except (HTTPError, OSError, http.client.HTTPException, ValueError) as error:
                    self._raise_fault(error, exchange)
        finally:
            carry(None)

    def _read_whole(self, response: HTTPResponse, exchange: Exchange) -> bytes:
        try:
            length = response.length_remaining
            if length is not None and length <= MAX_ANSWER_BYTES and not response.headers.get("content-encoding"):
                data = response.read(decode_content=False)
            else:
                data = _read_up_to(response, MAX_ANSWER_BYTES + 1)
        except (HTTPError, OSError, http.client.HTTPException) as error:
            _discard(response)
            self._raise_fault(error, exchange, answering=True)
        if exchange.cut:
            _discard(response)
            self._raise_cut(exchange)
        if len(data) > MAX_ANSWER_BYTES:
            _discard(response)
            raise BadResponse(f"{self.provider_name} sent an answer that is too large", provider=self.provider_name)
        return data

    def _failure(self, response: HTTPResponse, exchange: Exchange, fields: Container[str]) -> ProviderError:
        try:
            body = _read_up_to(response, MAX_ERROR_BYTES)
        except (HTTPError, OSError, http.client.HTTPException):
            body = b""
        if not response.closed:
            _discard(response)
        if exchange.cut:
            self._raise_cut(exchange)
        headers = {name.lower(): value for name, value in response.headers.items()}
        error = self._classify(UpstreamFailure(self.provider_name, response.status, headers, body))
        if error.param is not None and error.param not in fields:
            error.param = None
        return error

    def _raise_cut(self, exchange: Exchange) -> NoReturn:
        name = self.provider_name
        if exchange.cut == "client_gone":
            raise CallCancelled
        if exchange.cut == "first_token":
            raise Timeout(f"{name} sent nothing within {self.timeouts.first_token:g} s", provider=name)
        raise Timeout(f"{name} did not finish before the request's deadline", provider=name)

    def _raise_fault(self, error: Exception, exchange: Exchange, *, answering: bool = False) -> NoReturn:
        """Turn a fault of the transport into ours. `answering`: the headers of a success have arrived."""
        if exchange.cut:
            self._raise_cut(exchange)
        name = self.provider_name
        if isinstance(error, (NameResolutionError, socket.gaierror)):
            raise ConnectionFailed(f"{name} cannot be found: its host name does not resolve", provider=name) from error
        if isinstance(error, ConnectTimeoutError) and not isinstance(error, NewConnectionError):
            raise Timeout(f"{name} could not be reached in time", provider=name) from error
        if isinstance(error, NewConnectionError):
            raise ConnectionFailed(f"{name} cannot be reached: no connection", provider=name) from error
        if isinstance(error, SSLError):
            raise ConnectionFailed(f"{name} cannot be reached: TLS failed", provider=name) from error
        if isinstance(error, (ReadTimeoutError, TimeoutError)):
            if exchange.call.remaining() < 0.1:
                exchange.cut = "deadline"
            elif exchange.waits_for_first_token:
                exchange.cut = "first_token"
            else:
                raise Timeout(f"{name} was silent for {self.timeouts.idle:g} s", provider=name) from error
            self._raise_cut(exchange)
        if answering:
            raise BadResponse(f"{name}'s answer ended before its end", provider=name) from error
        if isinstance(error, ProtocolError) and not isinstance(
            _cause(error), (OSError, http.client.RemoteDisconnected)
        ):
            raise BadResponse(f"{name} did not answer in HTTP", provider=name) from error
        if isinstance(error, ValueError) and not isinstance(error, HTTPError):
            raise BadResponse(f"{name}'s answer could not be read", provider=name) from error
        raise ConnectionFailed(f"{name} closed the connection without an answer", provider=name) from error


class EventStream(Iterator[bytes]):
    """The blocks of one streamed answer, each of one or more whole events. Close it, or read it to its end.

    After the protocol's own end marker call `finish()`: it takes the connection back for the next call where that can be done at once.
    """

    __slots__ = ("_blocks", "_client", "_decode", "_exchange", "_over", "_response", "_started")

    def __init__(self, client: UpstreamClient, response: HTTPResponse, exchange: Exchange) -> None:
        self._client = client
        self._response = response
        self._exchange = exchange
        self._blocks = Blocks()
        self._decode = bool(response.headers.get("content-encoding"))
        self._started = False
        self._over = False

    @property
    def headers(self) -> Mapping[str, str]:
        """The answer's headers."""
        return self._response.headers

    def __next__(self) -> bytes:
        if self._over:
            raise StopIteration
        name = self._client.provider_name
        while True:
            try:
                data = self._response.read1(READ_SIZE, self._decode)
                block = self._blocks.feed(data)
            except EventTooLarge:
                self.close()
                raise BadResponse(f"{name} sent an event that is too large", provider=name) from None
            except (HTTPError, OSError, http.client.HTTPException) as error:
                self.close()
                self._client._raise_fault(error, self._exchange, answering=True)
            if self._exchange.cut:
                self.close()
                self._client._raise_cut(self._exchange)
            if not data:
                self._end()
                block = self._blocks.rest()
                if not block:
                    raise StopIteration
                return block
            if block:
                if self._started:
                    return block
                if not is_comment(block):
                    self._start()
                    return block

    def finish(self) -> None:
        """The protocol's end has been read: keep the connection if nothing else comes, and at once; else close it."""
        if self._over:
            return
        try:
            self._settimeout(END_SECONDS)
            if self._response.read1(READ_SIZE, False) == b"" and not self._exchange.cut:
                self._end()
                return
        except (HTTPError, OSError, http.client.HTTPException, RuntimeError):
            pass
        self.close()

    def close(self) -> None:
        """Close the connection unless the answer has been read to its end."""
        if not self._over:
            _discard(self._response)
            self._end()

    def __del__(self) -> None:
        self.close()

    def _start(self) -> None:
        self._started = True
        self._exchange.waits_for_first_token = False
        self._exchange.limit = self._exchange.call.deadline
        self._settimeout(self._client.timeouts.idle)

    def _settimeout(self, seconds: float) -> None:
        connection = self._exchange.connection
        if connection is not None and connection.live is not None:
            connection.live.settimeout(seconds)

    def _end(self) -> None:
        self._over = True
        self._response.release_conn()
        watchdog.release(self._exchange)


def _read_up_to(response: HTTPResponse, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while size < limit:
        data = response.read(min(READ_SIZE, limit - size), decode_content=True)
        if not data:
            break
        parts.append(data)
        size += len(data)
    return b"".join(parts)


def _discard(response: HTTPResponse) -> None:
    """Close the connection and give its place in the pool back."""
    response.close()
    response.release_conn()


def _cause(error: ProtocolError) -> object:
    return error.args[1] if len(error.args) > 1 else None


def _closed_silently(error: ProtocolError) -> bool:
    """Whether the connection was closed before any byte of an answer."""
    return isinstance(_cause(error), (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError))
