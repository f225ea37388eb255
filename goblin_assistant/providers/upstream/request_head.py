"""The heads of requests, of which http.client checks and encodes the common part once."""

from __future__ import annotations

from collections.abc import Mapping

from urllib3.connection import HTTPConnection


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
