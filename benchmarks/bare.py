"""The baselines: the least that a waitress server could do.

    python -m benchmarks.bare KIND PORT UPSTREAM_PORT THREADS

chat         a WSGI function that makes one call through a pooled urllib3 connection and passes the
             bytes on; also for streams
http-client  the same with http.client and a deque of kept connections: the least that the standard
             library can do
flask        a Flask application with one view, /health
login        a WSGI function that verifies one password with the product's argon2 parameters, two at
             a time
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import waitress

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
PATH = "/v1/chat/completions"
HEADERS = {"Content-Type": "application/json", "Authorization": "Bearer sk-bench"}


def chat(upstream_port: int, threads: int) -> Wsgi:
    """One call, no checks, no records."""
    import urllib3

    pool = urllib3.HTTPConnectionPool("127.0.0.1", upstream_port, maxsize=threads)

    def pieces(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        # The cheapest way through urllib3 that passes on each event as it arrives.
        while piece := response.read1():
            yield piece
        response.release_conn()

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        body = environ["wsgi.input"].read()
        streamed = b'"stream":true' in body
        response = pool.urlopen(
            "POST",
            PATH,
            body=body,
            headers=HEADERS,
            preload_content=not streamed,
            retries=False,
        )
        if streamed:
            start_response("200 OK", [("Content-Type", "text/event-stream")])
            return pieces(response)
        return whole(response.data, start_response)

    return application


def whole(data: bytes, start_response: Callable[..., Any]) -> Iterable[bytes]:
    """An answer in one piece."""
    start_response(
        "200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(data)))]
    )
    return [data]


def chat_http_client(upstream_port: int, threads: int) -> Wsgi:
    """The same without a library: no pool's checks, no retries."""
    from http.client import HTTPConnection, HTTPResponse

    kept: deque[HTTPConnection] = deque()

    def pieces(connection: HTTPConnection, response: HTTPResponse) -> Iterator[bytes]:
        while piece := response.read1():
            yield piece
        kept.append(connection)

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        body = environ["wsgi.input"].read()
        try:
            connection = kept.pop()
        except IndexError:
            connection = HTTPConnection("127.0.0.1", upstream_port)
        connection.request("POST", PATH, body, HEADERS)
        response = connection.getresponse()
        if b'"stream":true' in body:
            start_response("200 OK", [("Content-Type", "text/event-stream")])
            return pieces(connection, response)
        data = response.read()
        kept.append(connection)
        return whole(data, start_response)

    return application


def flask_health(upstream_port: int, threads: int) -> Wsgi:
    """One view and nothing else."""
    from flask import Flask

    app = Flask("bare")

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    return app.wsgi_app


def login(upstream_port: int, threads: int) -> Wsgi:
    """One verification, with the parameters of goblin_assistant.passwords."""
    from argon2 import PasswordHasher

    hasher = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1)
    known = hasher.hash("correct horse battery staple")
    permits = threading.Semaphore(2)

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ["wsgi.input"].read()
        with permits:
            hasher.verify(known, "correct horse battery staple")
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", "2")])
        return [b"{}"]

    return application


KINDS: dict[str, Callable[[int, int], Wsgi]] = {
    "chat": chat,
    "http-client": chat_http_client,
    "flask": flask_health,
    "login": login,
}


def main(kind: str, port: str, upstream_port: str, threads: str) -> None:
    """Serve until killed."""
    application = KINDS[kind](int(upstream_port), int(threads))
    waitress.serve(
        application,
        host="127.0.0.1",
        port=int(port),
        threads=int(threads),
        connection_limit=4096,
        backlog=4096,
        clear_untrusted_proxy_headers=True,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
