"""Redis Sentinel: a primary, its replica, and the sentinels that watch them, on free ports."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.conftest import wait_until
from tests.support.services import find_binary, free_port

SERVICE = "goblin"
PATIENCE = 120.0
NEVER_MS, SOON_MS = 3_600_000, 1000
"""After which silence a server counts as down: before `notice` and after it. So nothing is promoted
until a test has seen what it wants to see without a primary."""


class _Process:
    """One redis-server, with or without `--sentinel`."""

    def __init__(self, folder: Path, password: str = "") -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.password = password
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, config: str, *options: str) -> None:
        """Start it; at the first start on another port if that is taken. `{port}` is filled in."""
        fixed = self.port
        for _ in range(5):
            self.port = fixed or free_port()
            file = self.folder / "redis.conf"
            file.write_text(config.replace("{port}", str(self.port)))
            with (self.folder / "output").open("ab") as output:
                self.process = subprocess.Popen(
                    [find_binary("redis-server"), str(file), *options],
                    cwd=self.folder,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            wait_until(lambda: self.ended() or self.answers(), PATIENCE, "redis-server")
            if not self.ended():
                return
        raise AssertionError((self.folder / "output").read_text())

    def ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def client(self) -> redis.Redis:
        """A client; close it."""
        return redis.Redis(
            port=self.port,
            password=self.password or None,
            socket_timeout=10,
            decode_responses=True,
            retry=Retry(NoBackoff(), 0),
        )

    def answers(self) -> bool:
        with self.client() as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class SentinelServers:
    """`url` is what REDIS_URL takes. Passwords are of the servers, and of the sentinels."""

    def __init__(
        self, folder: Path, *, sentinels: int = 3, password: str = "", sentinel_password: str = ""
    ) -> None:
        self.servers = [_Process(folder / f"redis{number}", password) for number in range(2)]
        self.sentinels = [
            _Process(folder / f"sentinel{number}", sentinel_password) for number in range(sentinels)
        ]
        self.password = password
        self.sentinel_password = sentinel_password

    @property
    def hosts(self) -> str:
        """The sentinels as a URL lists them."""
        return ",".join(f"127.0.0.1:{one.port}" for one in self.sentinels)

    @property
    def url(self) -> str:
        """With the credentials that there are."""
        user = f":{self.password}@" if self.password else ""
        more = f"?sentinel_password={self.sentinel_password}" if self.password else ""
        return f"redis+sentinel://{user}{self.hosts}/{SERVICE}{more}"

    def start(self) -> None:
        """Start all, and wait until every sentinel knows the replica and its fellows."""
        self._start_server(0)
        self._start_server(1, replica_of=self.servers[0])
        for sentinel in self.sentinels:
            sentinel.run(self._sentinel_config(), "--sentinel")
        wait_until(lambda: all(map(self._knows_all, self.sentinels)), PATIENCE, "the sentinels")

    def _start_server(self, number: int, replica_of: _Process | None = None) -> None:
        lines = [
            "port {port}",
            "bind 127.0.0.1",
            'save ""',
            "appendonly no",
            "repl-diskless-sync-delay 0",
        ]
        if self.password:
            lines += [f"requirepass {self.password}", f"masterauth {self.password}"]
        if replica_of is not None:
            lines += [f"replicaof 127.0.0.1 {replica_of.port}"]
        self.servers[number].run("\n".join(lines) + "\n")

    def _sentinel_config(self) -> str:
        quorum = len(self.sentinels) // 2 + 1
        lines = [
            "port {port}",
            "bind 127.0.0.1",
            f"sentinel monitor {SERVICE} 127.0.0.1 {self.servers[0].port} {quorum}",
            f"sentinel down-after-milliseconds {SERVICE} {NEVER_MS}",
            f"sentinel failover-timeout {SERVICE} 10000",
        ]
        if self.password:
            lines += [f"sentinel auth-pass {SERVICE} {self.password}"]
        if self.sentinel_password:
            lines += [f"requirepass {self.sentinel_password}"]
        return "\n".join(lines) + "\n"

    def _knows_all(self, sentinel: _Process) -> bool:
        state = self._state(sentinel)
        return (
            state.get("num-slaves") == 1
            and state.get("num-other-sentinels") == len(self.sentinels) - 1
            and self._is_up_to_date(self.servers[1])
        )

    def _is_up_to_date(self, server: _Process) -> bool:
        with server.client() as client:
            try:
                return bool(client.info("replication").get("master_link_status") == "up")
            except redis.RedisError:
                return False

    def _state(self, sentinel: _Process) -> dict[str, object]:
        with sentinel.client() as client:
            try:
                state: dict[str, object] = client.sentinel_masters().get(SERVICE, {})
            except redis.RedisError:
                return {}
        return state

    def primary(self) -> _Process | None:
        """The server that says of itself that it is the primary; None if none or both do."""
        found = [server for server in self.servers if self._role(server) == "master"]
        return found[0] if len(found) == 1 else None

    def _role(self, server: _Process) -> str:
        with server.client() as client:
            try:
                return str(client.info("replication")["role"])
            except redis.RedisError:
                return ""

    def kill_primary(self) -> None:
        """SIGKILL. The sentinels do nothing yet: see `notice`."""
        primary = self.primary()
        assert primary is not None
        primary.kill()

    def notice(self) -> None:
        """The sentinels take a server that does not answer for down, and promote the replica."""
        self._down_after(SOON_MS)

    def ignore(self) -> None:
        """As before `notice`."""
        self._down_after(NEVER_MS)

    def _down_after(self, milliseconds: int) -> None:
        for sentinel in self.sentinels:
            with sentinel.client() as client:
                client.sentinel_set(SERVICE, "down-after-milliseconds", milliseconds)

    def wait_for_promotion(self) -> None:
        """Until the server that is left is the primary, and every sentinel says so."""
        wait_until(self._promoted, PATIENCE, "the replica to be promoted")

    def _promoted(self) -> bool:
        primary = self.primary()
        return primary is not None and all(
            self._state(one).get("port") == primary.port for one in self.sentinels
        )

    def start_killed(self) -> None:
        """Start the server that was killed again, as the other one's replica."""
        for number, server in enumerate(self.servers):
            if server.ended():
                self._start_server(number, replica_of=self.servers[1 - number])

    def start_killed_as_primary(self) -> None:
        """Start the server that was killed again, empty, as what it was."""
        for number, server in enumerate(self.servers):
            if server.ended():
                self._start_server(number)

    def wait_for_replica(self) -> None:
        """Until the replica has everything, and every sentinel knows it."""
        wait_until(self._replicated, PATIENCE, "the replica")

    def _replicated(self) -> bool:
        return any(map(self._is_up_to_date, self.servers)) and all(
            self._state(one).get("num-slaves") for one in self.sentinels
        )

    def pause_primary(self) -> None:
        """SIGSTOP."""
        primary = self.primary()
        assert primary is not None
        assert primary.process is not None
        primary.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT to whoever is stopped."""
        for server in self.servers:
            if server.process is not None:
                server.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Kill all."""
        for one in (*self.sentinels, *self.servers):
            one.kill()
