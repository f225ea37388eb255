"""A proxy that reads an answer to its end, although its client has gone."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


class _Pair:
    """One client's connection and its own to the server."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.threads = [threading.Thread(target=one) for one in (self._requests, self._answers)]
        for thread in self.threads:
            thread.start()

    def _requests(self) -> None:
        with contextlib.suppress(OSError):
            while data := self.client.recv(65536):
                self.server.sendall(data)

    def _answers(self) -> None:
        with contextlib.suppress(OSError):
            while data := self.server.recv(65536):
                with contextlib.suppress(OSError):
                    self.client.sendall(data)
        with contextlib.suppress(OSError):
            self.client.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End both connections, and wait."""
        for one in (self.server, self.client):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(10)
        self.server.close()
        self.client.close()


@contextlib.contextmanager
def stubborn_proxy(port: int) -> Iterator[str]:
    """The address of such a proxy before a local port."""
    pairs: list[_Pair] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    pairs.append(_Pair(client, socket.create_connection(("127.0.0.1", port), 10)))
                    pairs[-1].server.settimeout(None)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            for pair in pairs:
                pair.close()
