"""The HTTP response of a chat: whole or streamed, and kept for its Idempotency-Key. And that of a
count of tokens."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any

from flask import Response, after_this_request, request

from goblin_assistant.calls.idempotency import Claim, Recording, StoredResponse
from goblin_assistant.calls.request import Chat
from goblin_assistant.calls.stream import ChatStream, broken_off
from goblin_assistant.dialects.table import DIALECTS
from goblin_assistant.errors import AppError, ClientGone, label_of
from goblin_assistant.metrics import stream_incomplete_total
from goblin_assistant.providers.base import Dialect, ProviderError
from goblin_assistant.runtime import runtime
from goblin_assistant.usage.tags import tags_of
from goblin_assistant.web.auth import current_principal
from goblin_assistant.web.keep_alive import keep_alive
from goblin_assistant.web.request_info import RequestInfo, request_info

logger = logging.getLogger("goblin_assistant.chat")

_STREAM_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    # nginx and others hold a stream back without it:
    # https://nginx.org/en/docs/http/ngx_http_proxy_module.html#proxy_buffering
    "X-Accel-Buffering": "no",
}


def respond(body: dict[str, Any], raw: bytes, *, dialect: Dialect, operation: str) -> Response:
    """Run a chat and make its response. Raises AppError or ProviderError.

    `body` is `raw` parsed. What the chat holds is given back when the response is closed.
    """
    info = request_info()
    held = _begin_idempotent(raw)
    if isinstance(held, StoredResponse):
        return _replay(held)
    ends: list[Callable[[], None]] = []
    try:
        _after_response(ends)
        if held is not None:
            ends.append(held.abandon)  # does nothing after finish()
        chat = _chat(
            body,
            raw,
            info,
            dialect,
            operation,
            stream=body.get("stream") is True and operation == "chat_completion",
            tags=tags_of(
                request.environ.get("HTTP_X_GOBLIN_TAGS"),
                None if dialect == "anthropic" else body.get("metadata"),
            ),
            limit=info.limit,
            defer=ends.append,
        )
        if chat.stream:
            return _stream(chat, info, held, ends)
        return _whole(chat, info, held)
    except BaseException as error:
        if isinstance(error, ClientGone):
            info.incomplete = True
        if not isinstance(error, Exception):  # no handler makes a response of it
            _end_all(ends)
        elif held is not None:
            held.abandon()
        raise


def count(body: dict[str, Any], raw: bytes) -> Response:
    """Count the tokens of a request in Anthropic's dialect. Raises AppError or ProviderError."""
    info = request_info()
    chat = _chat(body, raw, info, "anthropic", "count_tokens")
    try:
        result = runtime().chat.token_counts.count(chat)
    except ClientGone:
        info.incomplete = True
        raise
    info.headers.extend(result.headers.items())
    return Response(result.body, content_type="application/json")


def _chat(
    body: dict[str, Any],
    raw: bytes,
    info: RequestInfo,
    dialect: Dialect,
    operation: str,
    **more: Any,
) -> Chat:
    return Chat(
        principal=current_principal(),
        body=body,
        raw=raw,
        correlation_id=info.correlation_id,
        trace=info.trace,
        spans=info.spans,
        dialect=dialect,
        operation=operation,
        headers=request.headers,  # type: ignore[arg-type]
        client_gone=request.environ.get("waitress.client_disconnected"),
        started=info.started,
        **more,
    )


# -- answers --------------------------------------------------------------------------------------
def _whole(chat: Chat, info: RequestInfo, claim: Claim | None) -> Response:
    result = runtime().chat.complete(chat)
    response = Response(result.body, content_type="application/json")
    info.headers.extend(result.headers.items())
    if claim is not None:
        claim.finish(StoredResponse("application/json", result.body, result.headers))
    return response


def _stream(
    chat: Chat, info: RequestInfo, claim: Claim | None, ends: list[Callable[[], None]]
) -> Response:
    silent = keep_alive(chat.dialect, _STREAM_HEADERS)
    if silent is not None:
        chat.begun = silent.arrived
    try:
        stream = runtime().chat.stream(chat)
    except Exception as error:
        if not chat.begun():
            raise
        return _broken_stream(chat, info, error)
    ends.append(stream.close)
    chat.begun()  # the first event is there

    def on_incomplete(error_type: str) -> None:
        info.error_type = error_type
        info.incomplete = True

    stream.on_incomplete = on_incomplete
    headers = {**_STREAM_HEADERS, **stream.headers}
    if claim is None:
        return Response(iter(stream), headers=headers)
    return Response(_recorded(stream, claim, headers, info), headers=headers)


def _broken_stream(chat: Chat, info: RequestInfo, error: Exception) -> Response:
    """The rest of a stream that began with a comment and has no answer: its error event."""
    info.incomplete = True
    told: ProviderError | AppError
    if isinstance(error, ClientGone):  # nobody reads the event; no failure of ours
        told = error
        stream_incomplete_total.labels("shutdown" if runtime().monitor.draining else "client").inc()
    else:
        told = broken_off(error)
        info.error_type = label_of(error)
    event = DIALECTS[chat.dialect].error_event(told, chat.correlation_id)
    return Response(iter([event]), headers=_STREAM_HEADERS)


# -- idempotency ----------------------------------------------------------------------------------
def _begin_idempotent(raw: bytes) -> Claim | StoredResponse | None:
    key = request.environ.get("HTTP_IDEMPOTENCY_KEY")
    if key is None:
        return None
    return runtime().idempotency.begin(current_principal().label, key, request.path, raw)


def _replay(stored: StoredResponse) -> Response:
    headers = {**stored.headers, "Idempotent-Replayed": "true"}
    return Response(stored.body, content_type=stored.content_type, headers=headers)


def _recorded(
    stream: ChatStream, claim: Claim, headers: dict[str, str], info: RequestInfo
) -> Iterator[bytes]:
    recording = Recording()
    for piece in stream:
        recording.add(piece)
        yield piece
    # What is too long to keep frees its key when the response is closed, not before.
    if not info.incomplete and (body := recording.body()) is not None:
        claim.finish(StoredResponse(headers["Content-Type"], body, headers))


# -- after the last byte --------------------------------------------------------------------------
def _after_response(ends: list[Callable[[], None]]) -> None:
    # After whatever is sent: the answer, or the error that a handler makes of an exception. If the
    # first response is lost to an exception, Flask makes a second, which ends what is left.
    @after_this_request
    def attach(response: Response) -> Response:
        if ends:
            response.call_on_close(functools.partial(_end_all, ends))
        return response


def _end_all(ends: list[Callable[[], None]]) -> None:
    # Taken out: what ends a chat leads to the chat, and the chat leads to this list. Such a circle
    # would wait for the garbage collector.
    while ends:
        end = ends.pop()
        try:
            end()
        except Exception:
            logger.exception("chat_end_failed")
