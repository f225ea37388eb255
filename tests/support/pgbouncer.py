"""A real pgbouncer in front of a test's PostgreSQL."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

from tests.conftest import wait_until
from tests.support.services import find_binary, free_port


def with_limits(url: str) -> str:
    """The database's URL, after its users were given the time limits of docs/scaling.md there."""
    import psycopg

    name = urlsplit(url).path.removeprefix("/")
    with psycopg.connect(url, autocommit=True) as connection:
        for limit in ("statement_timeout", "lock_timeout"):
            statement = f"ALTER ROLE CURRENT_USER IN DATABASE \"{name}\" SET {limit} = '5s'"
            connection.execute(statement.encode())
    return url


class PgBouncer:
    """pgbouncer with few connections to PostgreSQL, so that clients have to share them.

    `mode` is pool_mode; `more` are further lines of pgbouncer.ini. It refuses to run as root, so
    root becomes `postgres`.
    """

    def __init__(self, folder: Path, database_url: str, mode: str, more: str = "") -> None:
        self._binary = find_binary("pgbouncer")
        self._folder = folder
        self._target = urlsplit(database_url)
        self._mode, self._more = mode, more
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """DATABASE_URL of the same database, through the pooler."""
        return f"postgresql://{self._target.username}@127.0.0.1:{self.port}{self._target.path}"

    def __enter__(self) -> PgBouncer:
        self._folder.mkdir(parents=True)
        for parent in (self._folder, *self._folder.parents):  # pytest's are private to root
            if parent.stat().st_uid == 0 and str(parent).startswith(("/tmp/", "/var/tmp/")):
                parent.chmod(parent.stat().st_mode | 0o011)
        for _ in range(5):  # another may take the port first
            self._start()
            wait_until(lambda: self._answers() or self._ended(), 60, "pgbouncer to answer")
            if not self._ended():
                return self
        raise AssertionError((self._folder / "log").read_text())

    def _start(self) -> None:
        self.port = free_port()
        name = self._target.path.removeprefix("/")
        (self._folder / "pgbouncer.ini").write_text(
            f"[databases]\n{name} = host=127.0.0.1 port={self._target.port}"
            f" user={self._target.username} dbname={name}\n"
            "[pgbouncer]\nlisten_addr = 127.0.0.1\nunix_socket_dir =\nauth_type = any\n"
            f"listen_port = {self.port}\npool_mode = {self._mode}\ndefault_pool_size = 5\n"
            f"max_client_conn = 300\nquery_wait_timeout = 60\n{self._more}\n"
        )
        become: list[str] = []
        if os.geteuid() == 0:
            account = pwd.getpwnam("postgres")
            become = [
                find_binary("setpriv"),
                f"--reuid={account.pw_uid}",
                f"--regid={account.pw_gid}",
                "--clear-groups",
                "--pdeathsig=KILL",  # a test run that is killed leaves no server behind
            ]
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*become, self._binary, str(self._folder / "pgbouncer.ini")],
                stdout=log,
                stderr=log,
                cwd="/",
            )

    def _ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url, connect_timeout=10).close()
        except psycopg.OperationalError:
            return False
        return True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
