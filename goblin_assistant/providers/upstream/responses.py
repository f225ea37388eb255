"""A provider's response: its status, and a body that is read in one piece or as it comes."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping

from urllib3 import HTTPHeaderDict
from urllib3.response import HTTPResponse

from goblin_assistant.providers.upstream.chunked import ChunkedBody
from goblin_assistant.providers.upstream.lease import Lease

READ_BYTES = 65536


class Response:
    """A response whose head has been read. Read its body once: with `whole()` if `is_plain`, else
    with `events()` or `stream()`."""

    __slots__ = ("_lease", "_raw", "status")

    def __init__(self, lease: Lease, raw: http.client.HTTPResponse) -> None:
        self._lease = lease
        self._raw = raw
        self.status = raw.status

    def is_plain(self, limit: int) -> bool:
        """Whether the body has a known length of at most `limit` bytes, and no encoding."""
        length = self._raw.length
        return (
            length is not None and length <= limit and not self._raw.headers.get("content-encoding")
        )

    def whole(self) -> bytes:
        """The body of a plain response. Gives the connection back. Raises OSError or
        HTTPException."""
        missing = self._raw.length or 0
        pieces = []
        try:
            # A byte more than is missing: so bytes behind the body show, without waiting for any.
            read1 = self._raw.fp.read1  # type: ignore[attr-defined]
            while missing > 0:
                piece = read1(min(missing + 1, READ_BYTES))
                if not piece:
                    raise http.client.IncompleteRead(b"", missing)
                pieces.append(piece)
                missing -= len(piece)
        except BaseException:
            self._raw.close()
            self._lease.drop()
            raise
        self._raw.close()
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        # Bytes behind the body belong to no response. The pool notices them on the socket before it
        # reuses the connection, but not those that have been read or decrypted already.
        sock = self._lease.connection.sock
        if missing < 0 or not data or (isinstance(sock, ssl.SSLSocket) and sock.pending()):
            self._lease.connection.close()
        self._lease.give_back()
        return data[:missing] if missing < 0 else data

    def events(self) -> ChunkedResponse | HTTPResponse:
        """The body, to be read as it arrives."""
        raw = self._raw
        if raw.chunked and not raw.headers.get("content-encoding"):
            return ChunkedResponse(self._lease, raw)
        return self.stream()

    def stream(self) -> HTTPResponse:
        """The same as urllib3's response, which handles every framing and encoding."""
        raw = self._raw
        return HTTPResponse(
            body=raw,  # type: ignore[arg-type]
            headers=HTTPHeaderDict(raw.headers.items()),
            status=raw.status,
            version=raw.version,
            reason=raw.reason,
            preload_content=False,
            original_response=raw,  # type: ignore[arg-type]
            pool=self._lease.pool,  # type: ignore[arg-type]
            connection=self._lease.connection,  # type: ignore[arg-type]
        )


class ChunkedResponse:
    """A chunked response, with those methods of urllib3's response that an event stream calls."""

    __slots__ = ("_body", "_lease", "_raw", "headers")

    def __init__(self, lease: Lease, raw: http.client.HTTPResponse) -> None:
        self._lease: Lease | None = lease
        self._raw = raw
        self._body = ChunkedBody(raw.fp.read1)  # type: ignore[attr-defined]
        self.headers: Mapping[str, str] = raw.headers  # type: ignore[assignment]

    def read1(self, amount: int, decode: bool) -> bytes:
        """What has arrived, waiting for it; b"" at the end. Both arguments are ignored. Raises
        OSError or HTTPException."""
        return self._body.read1()

    def close(self) -> None:
        """Close the connection."""
        self._raw.close()
        if self._lease is not None:
            self._lease.connection.close()

    def release_conn(self) -> None:
        """Give the connection back. It is closed unless the response has been read to its end."""
        lease, self._lease = self._lease, None
        if lease is not None:
            self._raw.close()
            if not self._body.at_end:
                lease.connection.close()
            lease.give_back()
