"""UpstreamClient: requests to one provider. Faults become ProviderErrors.

A `requests` Session without the environment's proxies and .netrc holds the adapter. A proxy is an
argument. Its urllib3 pool is called directly (connections.py), because `Session.request` costs
twice the CPU of the call itself. Headers are prepared once for each client. Bodies are not changed.

Timeouts: to connect; for streams, until the first event and between two reads; for every call its
deadline. deadlines.py enforces all but the first, even while a provider sends nothing.

**A reused connection** may have been closed by the server just before the request is sent. When a
used connection is closed within a second of sending and before any byte of a response, the request
is sent again, once, over a new connection. RFC 9112, section 9.3.1, lets a client repeat a
non-idempotent request only if it knows that the first one was not processed. That is all but
certain here: the server closed an idle connection without reading the request. The exception is a
server that crashed within that second.
"""

from __future__ import annotations

import time
from collections.abc import Container, Mapping
from typing import Any, cast
from urllib.parse import urlencode, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import ProtocolError

from goblin_assistant.providers.base import Call
from goblin_assistant.providers.faults import error_for
from goblin_assistant.providers.json_answers import parse_list
from goblin_assistant.providers.upstream.answers import AnswerReader, Classifier
from goblin_assistant.providers.upstream.connections import TrackedPool, TrackedTLSPool
from goblin_assistant.providers.upstream.deadlines import Exchange, deadlines
from goblin_assistant.providers.upstream.errors import (
    STALE_SECONDS,
    TRANSPORT_ERRORS,
    Timeouts,
    closed_silently,
    cut_error,
    fault_error,
)
from goblin_assistant.providers.upstream.event_stream import EventStream
from goblin_assistant.providers.upstream.request_head import RequestHeads
from goblin_assistant.providers.upstream.responses import Response

__all__ = ["EventStream", "Timeouts", "UpstreamClient"]

_POOLS = {"http": TrackedPool, "https": TrackedTLSPool}


class _Adapter(HTTPAdapter):
    """requests' adapter with our pools."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def pool_to(self, prepared: requests.PreparedRequest, verify: bool | str, proxy: str) -> Any:
        """The pool for a request's host, through a proxy."""
        host, tls = self.build_connection_pool_key_attributes(prepared, verify)
        manager = self.proxy_manager_for(proxy)
        manager.pool_classes_by_scheme = _POOLS
        return manager.connection_from_host(**host, pool_kwargs=tls)


class UpstreamClient:
    """The connections to one provider. Shared by all threads.

    `base_url` may have a path; `query` is added to every address. `headers` go with every request.
    `classify` turns an unsuccessful answer into an error; the default reads only the status.
    `verify` is True, or the path of a CA bundle. `proxy` is an http:// URL, maybe with credentials.
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
        proxy: str | None = None,
    ) -> None:
        self.provider_name = provider_name
        self.timeouts = timeouts
        self._session = requests.Session()
        self._session.trust_env = False
        adapter = _Adapter(pool_connections=1, pool_maxsize=pool_size)
        self._session.mount(base_url, adapter)
        prepared = requests.Request("POST", base_url).prepare()
        found = (
            adapter.pool_to(prepared, verify, proxy)
            if proxy
            else adapter.get_connection_with_tls_context(prepared, verify=verify)
        )
        self._pool = cast(TrackedPool, found)
        parts = urlsplit(base_url)
        usual = 443 if parts.scheme == "https" else 80
        self.address = (parts.hostname or "", parts.port or usual)
        self._proxied = bool(proxy)
        self._answers = AnswerReader(provider_name, timeouts, classify, proxied=self._proxied)
        prefix = parts.path.rstrip("/")
        by_proxy: Mapping[str, str] = {}
        if proxy and base_url.startswith("https:"):
            self._pool.tunnelled = True
        elif proxy:  # the proxy sends the request on, and so needs the whole address
            prefix = base_url.rstrip("/")
            by_proxy = self._pool.proxy_headers
        self._heads = RequestHeads(
            lambda: self._pool.ConnectionCls(self._pool.host, self._pool.port),
            prefix,
            f"?{urlencode(query)}" if query else "",
            {**by_proxy, **headers},
        )

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

        `headers`, by lower-case name, are added to the prepared ones and stand in place of those of
        the same name. `fields` are the request fields that the client sent: an error names no
        other.
        """
        exchange = deadlines.watch(call)
        exchange.limit = time.monotonic() + self.timeouts.answer
        exchange.limit_means = "answer"
        try:
            response = self._send("POST", path, body, exchange, headers)
            if not 200 <= response.status < 300:
                raise self._answers.failure(response.stream(), exchange, fields)
            return self._answers.body_of(response, exchange)
        finally:
            deadlines.release(exchange)

    def post_sse(
        self,
        path: str,
        body: bytes,
        call: Call,
        *,
        headers: Mapping[str, str] | None = None,
        fields: Container[str] = (),
    ) -> EventStream:
        """POST at once, and return the answer's events. Raises ProviderError or CallCancelled, here
        and while the events are read. Arguments as for `post`."""
        exchange = deadlines.watch(call)
        exchange.limit = time.monotonic() + self.timeouts.first_token
        try:
            response = self._send("POST", path, body, exchange, headers, streamed=True)
            if not 200 <= response.status < 300:
                raise self._answers.failure(response.stream(), exchange, fields)
            events = response.events()
            kind = events.headers.get("content-type", "")
            announced = not kind or kind.lower().startswith("text/event-stream")
            first = self._answers.first_bytes(events, exchange, announced=announced)
            return EventStream(self.provider_name, self.timeouts, events, exchange, first)
        except BaseException:
            deadlines.release(exchange)
            raise

    def get_json(self, path: str, timeout: float = 3.0) -> Any:
        """GET and return the parsed body. `timeout` is in seconds, for the whole call. Raises
        ProviderError."""
        call = Call(deadline=time.monotonic() + timeout)
        exchange = deadlines.watch(call)
        try:
            response = self._send("GET", path, None, exchange, None)
            if not 200 <= response.status < 300:
                raise self._answers.failure(response.stream(), exchange, ())
            return parse_list(self.provider_name, self._answers.body_of(response, exchange))
        finally:
            deadlines.release(exchange)

    def close(self) -> None:
        """Close all idle connections."""
        self._session.close()

    # -- inside -------------------------------------------------------------------------------
    def _send(
        self,
        method: str,
        path: str,
        body: bytes | None,
        exchange: Exchange,
        further: Mapping[str, str] | None,
        *,
        streamed: bool = False,
    ) -> Response:
        remaining = exchange.call.remaining()
        if remaining <= 0:
            exchange.cut = "deadline"
            raise cut_error(self.provider_name, exchange, self.timeouts)
        exchange.proxied = self._proxied
        connect = min(self.timeouts.connect, remaining)
        try:
            own = exchange.call.headers()
            head = self._heads.render(method, path, streamed, own, further, body)
        except ValueError as error:
            raise fault_error(self.provider_name, error, exchange, self.timeouts) from error
        sent = time.monotonic()
        while True:
            try:
                return self._pool.send_request(exchange, method, head, body, connect)
            except ProtocolError as error:
                if (
                    exchange.cut
                    or exchange.fresh
                    or not exchange.reused
                    or not closed_silently(error)
                    or time.monotonic() - sent > STALE_SECONDS
                ):
                    raise fault_error(self.provider_name, error, exchange, self.timeouts) from error
                exchange.fresh = True
            except TRANSPORT_ERRORS as error:
                raise fault_error(self.provider_name, error, exchange, self.timeouts) from error
