"""HTTP requests sent byte for byte. A library would normalise the paths and wait for bodies."""

from __future__ import annotations

import re
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult

SECONDS = 5.0
_MOST = 65536


@dataclass(frozen=True, slots=True)
class RawResponse:
    """The status and the bytes of a response. `status` 0: the connection closed without one."""

    status: int
    data: bytes


def connect(address: SplitResult, ca_file: Path | None, *, verify: bool) -> socket.socket:
    """A connection to the host of a URL, with TLS for https. Raises OSError (TLS: ssl.SSLError)."""
    tls = address.scheme == "https"
    host = address.hostname or ""
    plain = socket.create_connection((host, address.port or (443 if tls else 80)), SECONDS)
    if not tls:
        return plain
    context = ssl.create_default_context(cafile=str(ca_file) if ca_file is not None else None)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        return context.wrap_socket(plain, server_hostname=host)
    except OSError:
        plain.close()
        raise


def send(address: SplitResult, request: str) -> RawResponse:
    """Send a head and return the first answer, which may be an interim one (100).

    The certificate is not checked: no secret is sent, and another check names a bad one.
    """
    with connect(address, None, verify=False) as connection:
        connection.sendall(request.encode("latin-1"))
        data = b""
        try:
            while len(data) < _MOST and (piece := connection.recv(_MOST)):
                data += piece
                if _is_whole(data):
                    break
        except TimeoutError:
            pass  # what has arrived so far is the answer
        except OSError:
            pass  # reset after the answer, because the body was not sent
    found = re.match(rb"HTTP/1\.[01] (\d{3})", data)
    return RawResponse(int(found[1]) if found else 0, data)


def _is_whole(data: bytes) -> bool:
    # A proxy that has refused a body keeps the connection open for some seconds.
    top, end, body = data.partition(b"\r\n\r\n")
    if not end:
        return False
    length = re.search(rb"^content-length: *(\d+)", top, re.I | re.M)
    return top.startswith((b"HTTP/1.1 100 ", b"HTTP/1.0 100 ")) or (
        length is not None and len(body) >= int(length[1])
    )


def head(method: str, target: str, address: SplitResult, *lines: str) -> str:
    """The head of a request with `Connection: close`."""
    name = address.netloc.rpartition("@")[2]
    return "\r\n".join(
        [f"{method} {target} HTTP/1.1", f"Host: {name}", "Connection: close", *lines, "", ""]
    )
