"""The processes of a comparison: started one by one, made ready, paused until they are measured."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import native, rows, servers
from benchmarks.processes import Server
from tests.support.services import PostgresServer

STREAM_CHUNKS, STREAM_INTERVAL_US = 200, 10_000

Request = bytes | Sequence[bytes]
"""One request, or several that are sent in turn."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How much to measure. `seconds` is the length of one sample."""

    cache: Path
    litellm_venv: Path | None
    with_litellm: bool = True
    rounds: int = 5
    seconds: float = 2.0
    stream_seconds: float = 3.0
    starts: int = 5
    server_core: int | None = 0
    load_core: int | None = 1
    kinds: frozenset[str] = frozenset(rows.KINDS)


@dataclass(slots=True)
class Fleet:
    """Servers by name and the requests of each, by kind. `upstream` is the port of the provider
    that the pinned ones call."""

    upstream: int
    members: dict[str, Server] = field(default_factory=dict)
    requests: dict[str, Mapping[str, Request]] = field(default_factory=dict)


def has_postgres() -> bool:
    """Whether PostgreSQL is installed."""
    places = [str(path) for path in Path("/usr/lib/postgresql").glob("*/bin")]
    return shutil.which("postgres", path=os.pathsep.join([os.environ["PATH"], *places])) is not None


@contextmanager
def postgres(folder: Path, core: int | None) -> Iterator[str]:
    """Run PostgreSQL on this core; yields the address of an empty database."""
    folder.mkdir(parents=True, exist_ok=True)
    server = PostgresServer(folder)
    server.start()
    try:
        if core is not None and server.process is not None:
            # The processes of its connections inherit this.
            os.sched_setaffinity(server.process.pid, {core})
        yield server.create_database()
    finally:
        server.stop()


def prepare(
    settings: Settings, chosen: Iterable[rows.Row], stack: ExitStack, folder: Path
) -> Fleet:
    """Upstreams, and the servers of the chosen rows, none of which runs yet."""

    def upstream(core: int | None, shape: native.Shape = "providers") -> int:
        return stack.enter_context(
            native.upstream(
                settings.cache,
                chunks=STREAM_CHUNKS,
                interval_us=STREAM_INTERVAL_US,
                core=core,
                shape=shape,
            )
        )

    fleet = Fleet(upstream(settings.load_core))
    groups = {row.group for row in chosen}
    places = {"": (fleet.upstream, settings.server_core)}
    if "lean" in groups:
        places[", lean"] = (upstream(settings.load_core, "lean"), settings.server_core)
    if "unpinned" in groups:
        places[", unpinned"] = (upstream(None), None)
    if "postgres" in groups:
        places[", PostgreSQL"] = (fleet.upstream, settings.server_core)
    for process in dict.fromkeys(row.process for row in chosen):
        kind, _, place = process.partition(",")
        port, core = places[place and f",{place}"]
        if place == " PostgreSQL":
            url = stack.enter_context(postgres(folder / "postgres", settings.load_core))
            fleet.members[process] = servers.goblin(
                port, folder, core, name=process, DATABASE_URL=url
            )
        else:
            fleet.members[process] = _MAKERS[kind](settings, process, port, folder, core)
    return fleet


def _bare(kind: str) -> Callable[[Settings, str, int, Path, int | None], Server]:
    def make(settings: Settings, name: str, port: int, folder: Path, core: int | None) -> Server:
        return servers.bare(kind, port, folder, core, name=name)

    return make


def _goblin(settings: Settings, name: str, port: int, folder: Path, core: int | None) -> Server:
    return servers.goblin(port, folder, core, name=name)


def _litellm(settings: Settings, name: str, port: int, folder: Path, core: int | None) -> Server:
    venv = servers.litellm_venv(settings.cache, settings.litellm_venv)
    return servers.litellm(venv, port, folder, core, name=name)


_MAKERS: Mapping[str, Callable[[Settings, str, int, Path, int | None], Server]] = {
    "bare": _bare("chat"),
    "bare http.client": _bare("http-client"),
    "bare flask": _bare("flask"),
    "bare login": _bare("login"),
    "goblin": _goblin,
    "litellm": _litellm,
}


def requests_of(process: str, port: int, kinds: Iterable[str]) -> Mapping[str, Request]:
    """What a running server is asked, by kind; accounts and keys are created for these kinds."""
    kind = process.partition(",")[0]
    if kind == "litellm":
        return servers.litellm_requests()
    if kind.startswith("bare"):
        return servers.bare_requests()
    credentials = servers.register(port)
    requests: dict[str, Request] = dict(servers.goblin_requests(credentials))
    if rows.LIMITED in kinds:
        requests[rows.LIMITED] = servers.chat_by(servers.limited_key(port, credentials.token))
    if rows.CALLERS in kinds:
        requests[rows.CALLERS] = [
            servers.chat_by(credential, host=HOSTS[number % len(HOSTS)])
            for number, credential in enumerate(servers.many_callers(port))
        ]
    return requests


HOSTS = ("api.example.com", "chat.example.com", "127.0.0.1")
"""Of the many callers."""
