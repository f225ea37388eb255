"""What a provider answered, read whole: a body, an error, the beginning of a stream."""

from __future__ import annotations

from collections.abc import Callable, Container
from http import HTTPStatus

from urllib3.response import HTTPResponse

from goblin_assistant.providers.answer_limits import own_name
from goblin_assistant.providers.base import ConnectionFailed, ProviderError, broken
from goblin_assistant.providers.faults import UpstreamFailure
from goblin_assistant.providers.upstream.deadlines import Exchange
from goblin_assistant.providers.upstream.errors import (
    TRANSPORT_ERRORS,
    Timeouts,
    cut_error,
    discard,
    fault_error,
)
from goblin_assistant.providers.upstream.event_stream import READ_SIZE
from goblin_assistant.providers.upstream.responses import ChunkedResponse, Response
from goblin_assistant.providers.upstream.sse import looks_like_a_document, looks_like_events

MAX_ANSWER_BYTES = 64 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024

Classifier = Callable[[UpstreamFailure], ProviderError]


class AnswerReader:
    """Reads the answers of one provider. Shared by all threads."""

    def __init__(
        self, provider_name: str, timeouts: Timeouts, classify: Classifier, *, proxied: bool
    ) -> None:
        """`classify` turns an unsuccessful answer into an error. `proxied`: a proxy is between."""
        self._provider_name = provider_name
        self._timeouts = timeouts
        self._classify = classify
        self._proxied = proxied

    def body_of(self, response: Response, exchange: Exchange) -> bytes:
        """The whole body. Raises ProviderError or CallCancelled."""
        if not response.is_plain(MAX_ANSWER_BYTES):
            return self._read_whole(response.events(), exchange)
        try:
            data = response.whole()
        except TRANSPORT_ERRORS as error:
            raise fault_error(
                self._provider_name, error, exchange, self._timeouts, answering=True
            ) from error
        if exchange.cut:
            raise cut_error(self._provider_name, exchange, self._timeouts)
        return data

    def _read_whole(self, response: ChunkedResponse | HTTPResponse, exchange: Exchange) -> bytes:
        try:
            data = _read_up_to(response, MAX_ANSWER_BYTES + 1)
        except TRANSPORT_ERRORS as error:
            discard(response)
            raise fault_error(
                self._provider_name, error, exchange, self._timeouts, answering=True
            ) from error
        if exchange.cut:
            discard(response)
            raise cut_error(self._provider_name, exchange, self._timeouts)
        if len(data) > MAX_ANSWER_BYTES:
            discard(response)
            raise broken(
                f"{self._provider_name} sent an answer that is too large", self._provider_name
            )
        response.release_conn()
        return data

    def first_bytes(
        self, events: ChunkedResponse | HTTPResponse, exchange: Exchange, *, announced: bool
    ) -> bytes:
        """The beginning of an event stream. Raises BadResponse with the answer for what is none.

        `announced`: its type says that it is one. It is believed, unless it begins like JSON or
        HTML.
        """
        first = b""
        try:
            while (looks := looks_like_events(first)) is None:
                data = events.read1(READ_SIZE, True)
                first += data
                if not data or len(first) > READ_SIZE:
                    break
            if looks or (announced and not looks_like_a_document(first)):
                return first
            rest = _read_up_to(events, MAX_ANSWER_BYTES - len(first))
        except TRANSPORT_ERRORS as error:
            discard(events)
            raise fault_error(
                self._provider_name, error, exchange, self._timeouts, answering=True
            ) from error
        discard(events)
        if exchange.cut:
            raise cut_error(self._provider_name, exchange, self._timeouts)
        failure = broken(
            f"{self._provider_name} did not answer with an event stream", self._provider_name
        )
        failure.answer = first + rest
        raise failure

    def failure(
        self, response: HTTPResponse, exchange: Exchange, fields: Container[str]
    ) -> ProviderError:
        """The error that an unsuccessful answer means. It names no field but those in `fields`."""
        try:
            body = _read_up_to(response, MAX_ERROR_BYTES)
        except TRANSPORT_ERRORS:
            body = b""
        if not response.closed:
            discard(response)
        if exchange.cut:
            raise cut_error(self._provider_name, exchange, self._timeouts)
        if response.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED and self._proxied:
            return ConnectionFailed(
                f"the proxy for {self._provider_name} refused the request with status 407: "
                "it wants other credentials",
                provider=self._provider_name,
            )
        headers = {name.lower(): value for name, value in response.headers.items()}
        error = self._classify(UpstreamFailure(self._provider_name, response.status, headers, body))
        error.param = own_name(error.param, fields)
        return error


def _read_up_to(response: ChunkedResponse | HTTPResponse, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while size < limit:
        data = response.read1(min(READ_SIZE, limit - size), True)  # decoded
        if not data:
            break
        parts.append(data)
        size += len(data)
    return b"".join(parts)
