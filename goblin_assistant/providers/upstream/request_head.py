"""The heads of requests, of which http.client checks and encodes the common part once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set

from urllib3.connection import HTTPConnection

MAX_HEADS = 256
"""How many prepared heads are kept. With some servers the path holds the model, and a client can
invent models."""
CALL_HEADERS = frozenset({"x-correlation-id", "traceparent", "tracestate"})
"""Headers that say to which request a call belongs. An operator's own ones stand in their place."""
_NONE: frozenset[str] = frozenset()


class _Recorder:
    """The part of a socket to which http.client sends a head."""

    data = b""

    def sendall(self, data: bytes) -> None:
        self.data += data


class RequestHead:
    """The common part of similar requests' heads: request line and headers, checked and encoded
    once by http.client."""

    __slots__ = ("_known",)

    def __init__(
        self, connection: HTTPConnection, method: str, target: str, headers: Mapping[str, str]
    ) -> None:
        """`connection` is one to the same server; it sends nothing, and is of no use afterwards.
        Raises ValueError for what cannot be sent."""
        names = {name.lower() for name in headers}
        connection.putrequest(
            method,
            target,
            skip_host="host" in names,
            skip_accept_encoding="accept-encoding" in names,
        )
        for name, value in headers.items():
            connection.putheader(name, value)
        sent = _Recorder()
        connection.sock = sent  # type: ignore[assignment]
        connection.endheaders()
        self._known = sent.data.removesuffix(b"\r\n\r\n")

    def render(self, headers: Mapping[str, str], body: bytes | None) -> bytes:
        """The whole head of one request. Raises ValueError for a value that cannot be sent."""
        lines = [f"{name}: {value}" for name, value in headers.items()]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        if not lines:
            return self._known + b"\r\n\r\n"
        text = "\r\n".join(lines)
        if not len(lines) == text.count("\r") + 1 == text.count("\n") + 1 or "\0" in text:
            raise ValueError("a header holds a line break")
        return b"%b\r\n%b\r\n\r\n" % (self._known, text.encode("latin-1"))


class RequestHeads:
    """The heads of one client's requests, each prepared at the first request that needs it."""

    def __init__(
        self,
        connection: Callable[[], HTTPConnection],
        prefix: str,
        query: str,
        headers: Mapping[str, str],
    ) -> None:
        """`connection` makes one to the client's server. `prefix` comes before every path, `query`
        after it. `headers` go with every request."""
        self._connection = connection
        self._prefix = prefix
        self._query = query
        self._headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "User-Agent": "goblin-assistant",
            **headers,
        }
        self._sse_headers = {**self._headers, "Accept": "text/event-stream"}
        self._own_names = {name.lower() for name in self._headers}
        self._named = self._own_names.intersection(CALL_HEADERS)  # by the operator
        self._heads: dict[tuple[str, str, bool, frozenset[str]], RequestHead] = {}

    def render(
        self,
        method: str,
        path: str,
        streamed: bool,
        call_headers: dict[str, str],
        further: Mapping[str, str] | None,
        body: bytes | None,
    ) -> bytes:
        """The whole head of one request.

        `call_headers` identify the call; those that the operator has set are left out. `further`,
        by lower-case name, stand in place of the client's own. Raises ValueError for what cannot be
        sent.
        """
        if self._named:
            call_headers = {k: v for k, v in call_headers.items() if k.lower() not in self._named}
        replaced: Set[str] = _NONE
        if further:
            call_headers.update(further)
            replaced = self._own_names.intersection(further)
        return self._head(method, path, streamed, replaced).render(call_headers, body)

    def _head(self, method: str, path: str, streamed: bool, replaced: Set[str]) -> RequestHead:
        """The prepared head without the headers in `replaced`."""
        key = (method, path, streamed, frozenset(replaced))
        head = self._heads.get(key)
        if head is None:
            headers = {
                name: value
                for name, value in (self._sse_headers if streamed else self._headers).items()
                if name.lower() not in replaced
            }
            target = self._prefix + path + self._query
            head = RequestHead(self._connection(), method, target, headers)
            if len(self._heads) >= MAX_HEADS:
                self._heads.clear()
            self._heads[key] = head
        return head
